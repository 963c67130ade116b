"""The rows of Parquet and Arrow files in parts that fit into memory, whatever a file would unpack to.

A file of a few kilobytes can claim gigabytes: by compression, or by a dictionary of one value for a million rows.
What it may unpack to is bounded, in parts and in all. Nothing in a file is ever executed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clat.core.errors import ClatError
from clat.data.tree import ending

_FLOOR = 2**28
"""Bytes that any file may unpack to."""
_GROWTH = 20
"""How many times its own size a larger file may unpack to: encoded images hardly shrink."""
_PART = 2**27
"""Bytes of a part, unless a single row is larger."""
_ROWS = 1024
"""Rows of a part, at most."""


def read_schema(path: Path) -> pa.Schema:
    """Return the schema of a file, without reading its rows.

    Args:
        path: a .parquet file, else an Arrow file, as a stream or in the file format.

    Returns:
        The columns with their types, and what the writer noted beside them.
    """
    if ending(path.name) == ".parquet":
        return pq.read_schema(path)
    with pa.memory_map(str(path)) as file:
        return _reader(file).schema


def read_batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield all rows of a file, `columns` alone.

    Args:
        path: a .parquet file, else an Arrow file.
        columns: names of columns that the file has.

    Yields:
        Rows in the file's order, so few at a time that they fit into memory.

    Raises:
        ClatError: a file that unpacks to more than any file of images would, or an Arrow file that is compressed.
    """
    unpacked, limit = 0, _limit(path)
    for batch in (_parquet if ending(path.name) == ".parquet" else _arrow)(path, columns):
        unpacked += batch.nbytes
        if unpacked > limit:
            raise _bomb(path, unpacked)
        yield batch.select(columns)


def _parquet(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a Parquet file, few at a time.

    A column's dictionary can make many rows of one stored value: so few rows are read at a time that they fit even
    if each is as large as all stored values of its group together.
    """
    with pq.ParquetFile(path, pre_buffer=False) as file:
        about = file.metadata
        stored = []
        for number in range(about.num_row_groups):
            group = about.row_group(number)
            chunks = [group.column(place) for place in range(group.num_columns)]
            wanted = [
                chunk
                for chunk in chunks
                if chunk.path_in_schema.split(".")[0] in columns or chunk.path_in_schema in columns
            ]
            stored.append(sum(chunk.total_uncompressed_size for chunk in wanted))
        claimed = max(sum(stored), 8 * len(columns) * about.num_rows)
        if claimed > _limit(path):
            raise _bomb(path, claimed)
        for number, size in enumerate(stored):
            rows = min(max(_PART // max(size, 1), 1), _ROWS)
            yield from file.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False)


def _arrow(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a mapped file, which take no memory as they are not compressed."""
    _refuse_compressed(path)
    with pa.memory_map(str(path)) as file:
        reader = _reader(file)
        batches = reader if hasattr(reader, "__iter__") else map(reader.get_batch, range(reader.num_record_batches))
        for batch in batches:
            chosen = batch.select(columns)
            chosen.validate(full=True)
            yield chosen


def _reader(file: Any) -> Any:
    """Return the reader of an Arrow file, of the stream or of the file format."""
    try:
        return pa.ipc.open_stream(file)
    except (OSError, pa.ArrowInvalid):
        file.seek(0)
        return pa.ipc.open_file(file)


def _limit(path: Path) -> int:
    return max(_FLOOR, _GROWTH * path.stat().st_size)


def _bomb(path: Path, size: int) -> ClatError:
    return ClatError(
        f"{path.name} holds {path.stat().st_size:,} bytes and would unpack to {size:,} or more: no file of images"
    )


def _refuse_compressed(path: Path) -> None:
    """Raise ClatError if a batch of an Arrow file is compressed: how much it unpacks to, only unpacking shows."""
    with pa.memory_map(str(path)) as file:
        if file.read(8) != b"ARROW1\0\0":
            file.seek(0)
        reader = pa.ipc.MessageReader.open_stream(file)
        while True:
            try:
                message = reader.read_next_message()
            except StopIteration:
                return
            if message.type == "record batch" and _compression(message.metadata.to_pybytes()):
                raise ClatError(f"{path.name} is compressed inside: write it without, or as parquet")


def _compression(metadata: bytes) -> bool:
    """Return True if a record batch says that it is compressed.

    Its header, a flatbuffer (Arrow's format/Message.fbs), then has the table `compression`.
    """

    def field(table: int, number: int) -> int:
        """Return where a table's field lies; 0 if it is absent."""
        vtable = table - struct.unpack_from("<i", metadata, table)[0]
        if 4 + 2 * number >= struct.unpack_from("<H", metadata, vtable)[0]:
            return 0
        offset = struct.unpack_from("<H", metadata, vtable + 4 + 2 * number)[0]
        return table + offset if offset else 0

    header = field(struct.unpack_from("<I", metadata)[0], 2)
    return bool(field(header + struct.unpack_from("<I", metadata, header)[0], 3))

"""Files that lie about their size, carry code, or are broken beside sound pixels: one line, in bounded memory."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clat.core.errors import ClatError
from clat.data import ImageSet, batches, generated, load_split, open_generated

from .conftest import WriteParquet, encoded, picture, write_images
from .test_folders import refused

MIB = 2**20


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, and whose pixels are those of one row."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(3 * width + 1) if width < 10**6 else b""))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lowers the limits to 4 MiB; fills up with the bytes of each part that is read of a table."""
    for limit in ("_FLOOR", "_PART"):
        monkeypatch.setattr(batches, limit, 4 * MIB)
    read, sizes = batches._parquet, []

    def watched(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in read(path, columns):
            sizes.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(batches, "_parquet", watched)
    return sizes


def write_zeros(path: Path, mebibytes: int) -> None:
    """An .npz of black images, 32x32."""
    header = io.BytesIO()
    shape = (mebibytes * MIB // 3072, 32, 32, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    labels = io.BytesIO()
    np.save(labels, np.zeros(shape[0], np.int64))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("image.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            left = 3072 * shape[0]
            while left:
                left -= member.write(bytes(min(left, MIB)))
        archive.writestr("label.npy", labels.getvalue())


class TestBombs:
    @pytest.mark.parametrize(
        ("size", "image_size"),
        [((100_000, 100_000), None), ((100_000, 100_000), 32), ((2**31 - 1, 1), 32), ((20_000, 8_000), 32),
         ((5000, 5000), None)],
    )  # fmt: skip
    def test_headers_of_huge_images(self, tmp_path: Path, size: tuple[int, int], image_size: int | None) -> None:
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat/1.png").write_bytes(png(*size))
        said = refused(tmp_path, image_size=image_size)
        assert "cat/1.png" in said
        assert "pixels" in said

    def test_a_strip_that_grows_when_it_is_resized(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        Image.new("L", (60_000, 2)).save(tmp_path / "cat/1.png")
        assert "too narrow" in refused(tmp_path, image_size=224)

    def test_parquet_that_unpacks_to_much(self, tmp_path: Path, parts: list[int]) -> None:
        table = pa.table({"image": [bytes(16 * MIB)], "label": [0]})
        pq.write_table(table, tmp_path / "train.parquet", compression="zstd")
        said = refused(tmp_path)
        assert "train.parquet holds" in said
        assert "would unpack to 16," in said
        assert not parts

    @pytest.mark.parametrize("size", [MIB // 32, MIB])
    def test_parquet_with_one_value_for_many_rows(self, tmp_path: Path, size: int, parts: list[int]) -> None:
        value = pa.array([os.urandom(size)], pa.binary())
        rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4096, np.int32)), value)
        table = pa.table({"image": rows, "label": np.zeros(4096, np.int64)})
        pq.write_table(table, tmp_path / "train.parquet", store_schema=False)
        assert (tmp_path / "train.parquet").stat().st_size < size + MIB
        assert "would unpack to" in refused(tmp_path)
        assert max(parts) < 5 * MIB
        assert sum(parts) < 9 * MIB + 20 * (tmp_path / "train.parquet").stat().st_size

    def test_parquet_with_many_rows_of_nothing(self, tmp_path: Path, parts: list[int]) -> None:
        table = pa.table({"image": pa.nulls(MIB, pa.binary()), "label": np.zeros(MIB, np.int64)})
        pq.write_table(table, tmp_path / "train.parquet")
        assert "would unpack to 16,777,216" in refused(tmp_path)
        assert not parts

    @pytest.mark.slow
    def test_the_memory_of_a_process(self, tmp_path: Path) -> None:
        """With the limits as they are: gigabytes of parquet and of zip are refused within half a gigabyte."""
        value = pa.array([os.urandom(MIB)], pa.binary())
        rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(4096, np.int32)), value)
        table = pa.table({"image": rows, "label": np.zeros(4096, np.int64)})
        pq.write_table(table, tmp_path / "train.parquet", store_schema=False)
        write_zeros(tmp_path / "extra.npz", 1024)
        program = f"""
import resource, sys, datasets, pyarrow.parquet, torch
from clat.data import ImageSet, load_split, open_generated
from clat.core.errors import ClatError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
like = ImageSet("x", "train", ("a",), torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1).long())
for read in (lambda: load_split({str(tmp_path)!r}), lambda: open_generated({str(tmp_path / "extra.npz")!r}, like)):
    try:
        read()
        sys.exit("was read")
    except ClatError as error:
        assert "unpack" in str(error), error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 512 * 1024

    def test_compressed_arrow(self, tmp_path: Path) -> None:
        table = pa.table({"image": [bytes(MIB)], "label": [0]})
        for compression in ("zstd", "lz4"):
            options = pa.ipc.IpcWriteOptions(compression=compression)
            with pa.ipc.new_file(str(tmp_path / "train.arrow"), table.schema, options=options) as writer:
                writer.write_table(table)
            assert "compressed inside" in refused(tmp_path)

    def test_a_zip_is_left_packed(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("cat/1.png", bytes(50 * MIB))
        assert "train.zip is an archive: unpack it" in refused(tmp_path)

    def test_generated_images_that_unpack_to_much(
        self, tmp_path: Path, ramp: ImageSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A million times nothing is a kilobyte a megabyte."""
        monkeypatch.setattr(generated, "_FLOOR", 4 * MIB)
        write_zeros(tmp_path / "extra.npz", 16)
        with pytest.raises(ClatError, match=r"no readable \.npz file: 'image' would unpack to 16,"):
            open_generated(tmp_path / "extra.npz", ramp)

    @pytest.mark.parametrize("compressed", [False, True])
    def test_a_shape_that_no_memory_holds(self, tmp_path: Path, ramp: ImageSet, compressed: bool) -> None:
        header = io.BytesIO()
        shape = (10**15, 6, 5, 3)
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        with zipfile.ZipFile(tmp_path / "extra.npz", "w", kind) as archive:
            archive.writestr("image.npy", header.getvalue() + bytes(90))
            archive.writestr("label.npy", b"")
        with pytest.raises(ClatError, match=r"extra\.npz"):
            open_generated(tmp_path / "extra.npz", ramp)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


class TestNothingIsExecuted:
    @pytest.mark.parametrize("stored", [False, True])
    def test_pickles_among_generated_images(self, tmp_path: Path, ramp: ImageSet, stored: bool) -> None:
        array = np.empty(40, dtype=object)
        array[:] = [Trap(tmp_path / "trap")] * 40
        for name in ("image", "label"):
            arrays = {"image": np.zeros((40, 6, 5, 3), np.uint8), "label": np.zeros(40, np.int64)} | {name: array}
            (np.savez if stored else np.savez_compressed)(tmp_path / "extra.npz", **arrays)
            with pytest.raises(ClatError, match="no readable"):
                open_generated(tmp_path / "extra.npz", ramp)
        assert not (tmp_path / "trap").exists()

    def test_objects_whose_bytes_would_be_taken_for_addresses(self, tmp_path: Path, ramp: ImageSet) -> None:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (40,)})
        with zipfile.ZipFile(tmp_path / "extra.npz", "w") as archive:
            for name in ("image", "label"):
                archive.writestr(f"{name}.npy", header.getvalue() + b"\x41" * 320)
        with pytest.raises(ClatError, match="no readable"):
            open_generated(tmp_path / "extra.npz", ramp)

    @pytest.mark.parametrize("kind", ["parquet", "arrow"])
    def test_pickles_in_tables(self, tmp_path: Path, kind: str) -> None:
        """In a column of bytes, and as the extension type that older Arrow libraries unpickled (CVE-2023-47248)."""
        trap = pickle.dumps(Trap(tmp_path / "trap"))
        marks = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": trap}
        fields = [
            pa.field("image", pa.binary()),
            pa.field("label", pa.int64(), metadata=marks),
            pa.field("more", pa.binary(), metadata=marks),
        ]
        features = b'{"info": {"features": {"label": {"_type": "Trap", "names": 3}, "image": {"_type": ["x"]}}}}'
        schema = pa.schema(fields, metadata={b"huggingface": features, b"pandas": trap})
        columns = [pa.array([encoded(picture(0))]), pa.array([0]), pa.array([trap])]
        table = pa.Table.from_arrays(columns, schema=schema)
        (tmp_path / "set").mkdir()
        if kind == "parquet":
            pq.write_table(table, tmp_path / "set/train.parquet")
        else:
            with pa.ipc.new_file(str(tmp_path / "set/train.arrow"), schema) as writer:
                writer.write_table(table)
        assert load_split(tmp_path / "set").labels.tolist() == [0]
        assert "more" in refused(tmp_path / "set", label_column="more")
        assert "not an image file" in refused(tmp_path / "set", image_column="more", label_column="label")
        assert not (tmp_path / "trap").exists()

    def test_scripts_of_other_readers(self, tmp_path: Path) -> None:
        """A data set with a script of its own name, and tar files with pickles, which other readers ran."""
        folder = tmp_path / "pets"
        write_images(folder, "cat/1.png")
        (folder / "pets.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
        assert len(load_split(folder)) == 1
        (folder / "cat/1.png").unlink()
        (folder / "train-000.tar").write_bytes(b"x")
        assert "train-000.tar is an archive" in refused(folder)
        assert not (tmp_path / "trap").exists()

    def test_formats_that_run_programs(self, tmp_path: Path) -> None:
        """PIL hands Encapsulated PostScript to Ghostscript."""
        (tmp_path / "cat").mkdir()
        text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
        (tmp_path / "cat/1.png").write_bytes(text)
        assert "not an image file" in refused(tmp_path)


class TestBrokenMetadata:
    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
    @pytest.mark.parametrize(
        "exif",
        [
            b"Exif\0\0not a TIFF header",
            b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
            b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff\xff\xff\x7f\x08\0\0\0",
            b"",
            b"\xff" * 40,
        ],
    )
    def test_broken_exif_beside_sound_pixels(self, tmp_path: Path, kind: str, exif: bytes) -> None:
        (tmp_path / "cat").mkdir()
        image = Image.fromarray(picture(0))
        plain = io.BytesIO()
        image.save(plain, kind)
        image.save(tmp_path / "cat/1.png", kind, exif=exif)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = np.asarray(Image.open(plain).convert("RGB"))
        assert (load_split(tmp_path).images[0].permute(1, 2, 0).numpy() == expected).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_sound_exif_still_turns(self, tmp_path: Path, orientation: int) -> None:
        (tmp_path / "cat").mkdir()
        image = Image.fromarray(picture(0))
        image.getexif()[0x112] = orientation
        image.save(tmp_path / "cat/1.png", exif=image.getexif())
        from PIL import ImageOps

        expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "cat/1.png")))
        assert (load_split(tmp_path).images[0].permute(1, 2, 0).numpy() == expected).all()

    def test_cut_pixels_are_still_refused(self, tmp_path: Path) -> None:
        (tmp_path / "cat").mkdir()
        image = Image.fromarray(picture(0, 64, 64))
        image.save(tmp_path / "cat/1.png", exif=b"Exif\0\0broken")
        whole = (tmp_path / "cat/1.png").read_bytes()
        (tmp_path / "cat/1.png").write_bytes(whole[: len(whole) // 2])
        assert "truncated" in refused(tmp_path)


def test_no_file_is_changed(tmp_path: Path, parquet: WriteParquet) -> None:
    folder = parquet([encoded(picture(k)) for k in range(3)])
    write_images(tmp_path / "pets", "train/cat/1.png", "test/cat/1.png")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name in (folder, tmp_path / "pets"):
        load_split(name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

"""Read foreign weight files: nothing in them is executed, and no more memory is used than they are large.

PyTorch files go through torch's restricted unpickler. What that still allows a hostile file to do is refused
before: compressed records, which may grow a thousandfold (PyTorch itself stores them as they are), records that
claim the same bytes several times, and a call for a buffer of any size. safetensors checks its own header.
"""

from __future__ import annotations

import argparse
import mmap
import pickle
import textwrap
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from clat.core.errors import ClatError

_BUFFER_CALL = b"\nbytearray\n"
"""How a pickle names the one function that the restricted unpickler would let allocate memory: in full and between
line ends, so that weights, names and texts do not hold it by accident."""

_PROGRAM = ("/constants.pkl", "/archive_format", "/serialized_exported_program.json")
"""Records of archives that hold a network's program."""


def read_content(path: Path) -> tuple[Any, dict[str, str]]:
    """Return what a weight file holds, with its tensors on the CPU, and its metadata.

    Args:
        path: A safetensors file, by name or content, or a PyTorch file (.pt, .pth, .tar, .model, .bin, ...).

    Returns:
        The content, for most files a nested dict, and the metadata that a safetensors file carries, else none.

    Raises:
        ClatError: The file is missing, a folder, unreadable, damaged, holds Python objects, or would take more
            memory than it is large.
    """
    if path.is_dir():
        raise ClatError(f"weights {path}: this is a directory; name the weight file in it")
    if not path.is_file():
        raise ClatError(f"weights {path}: no such file; check the path")
    try:
        if _is_safetensors(path):
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        refuse_bombs(path)
        # timm's own checkpoints hold their options as a Namespace, which does nothing but keep attributes.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # What the restricted unpickler cannot read of another protocol it refuses, which is told as such.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except ClatError:
        raise
    except Exception as error:  # damage shows as nearly anything: zip, pickle, key and runtime errors
        raise _unreadable(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file, of which no tensor is read.

    Args:
        path: The file.

    Returns:
        Text under text keys.

    Raises:
        ClatError: The file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # as in read_content
        raise _unreadable(path, error) from error


def refuse_bombs(path: Path) -> None:
    """Raise an error if reading this PyTorch file could take much more memory than the file is large.

    Args:
        path: An existing file. One that is no PyTorch file at all passes, for the reader to refuse.

    Raises:
        ClatError: It holds compressed records, records that claim the same bytes several times, or a bytearray.
    """
    size = path.stat().st_size
    if size == 0:
        return
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # how torch tells its zip files
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(_BUFFER_CALL) >= 0:
                raise ClatError(f"weights {path}: holds a bytearray, which no weights need; save the tensors alone")
    if not zipped:
        return
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    if any(f"/{record.filename}".endswith(_PROGRAM) for record in records):
        raise ClatError(
            f"weights {path}: a program (TorchScript, or torch.export's .pt2), which is never executed here: save "
            "the network's state_dict() with torch.save"
        )
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ClatError(
            f"weights {path}: holds compressed records, as PyTorch never writes them; save it again with torch.save"
        )
    if sum(record.file_size for record in records) > size:
        raise ClatError(f"weights {path}: its records claim more than the file holds; fetch or save it again")


def one_line(error: BaseException, most: int = 120) -> str:
    """Return an error's type and message as one line.

    Args:
        error: Any exception.
        most: The most characters that the line has.

    Returns:
        The line, with "..." where it was cut.
    """
    return textwrap.shorten(f"{type(error).__name__}: {error}", most, placeholder="...")


def _is_safetensors(path: Path) -> bool:
    """Tell by name, or by content (a JSON header after its 8-byte length), which no PyTorch file starts with."""
    with path.open("rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:] == b"{"


def _pickle_protocol(path: Path) -> int | None:
    """Return the protocol of the pickle that a PyTorch file holds; None where there is none to be found."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                name = next(one for one in archive.namelist() if one.endswith("data.pkl"))
                with archive.open(name) as record:
                    head = record.read(2)
    except (OSError, StopIteration, zipfile.BadZipFile):
        return None
    return head[1] if len(head) > 1 and head[:1] == pickle.PROTO and head[1] <= pickle.HIGHEST_PROTOCOL else None


def _unreadable(path: Path, error: Exception) -> ClatError:
    """Return the error for a file that could not be read: refused objects and damage have different cures."""
    if isinstance(error, PermissionError):
        return ClatError(f"weights {path}: permission denied; make the file readable")
    if "unsupported global" in str(error).lower():  # the restricted unpickler's words for code it will not import
        return ClatError(
            f"weights {path}: holds Python objects, which are never executed here; where you trust its "
            "source, save the network's state_dict() alone, or as safetensors"
        )
    if (protocol := _pickle_protocol(path)) not in (None, 2):
        return ClatError(
            f"weights {path}: a pickle of protocol {protocol}, of which not all can be read without running "
            "code, or damaged; save it again with torch.save as it is by default (protocol 2), or as safetensors"
        )
    # torch's own advice on these errors is to switch the protection off, so it is not passed on
    advice = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
    reason = "" if advice else f" ({one_line(error)})"
    return ClatError(f"weights {path}: damaged, or no weight file{reason}; fetch or save it again")

"""Files that are made to run code or to fill the memory: refused in one line, with little memory used."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clat.core.errors import ClatError
from clat.models import read_state

LIMIT = 64 * 2**20
"""Bytes that reading a small file may take."""


class Evil:
    """Unpickling this makes a folder, in any unpickler that runs code."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.target,)


def refusal(path: Path) -> str:
    """The line that refuses a file, after a check that little memory was touched on the way."""
    before = _peak()
    with pytest.raises(ClatError) as caught:
        read_state(path)
    assert _peak() - before < LIMIT
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def torch_zip(path: Path, pickled: bytes, records: dict[str, bytes] | None = None, **options: object) -> None:
    """A PyTorch file of these parts."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for name, record in (records or {}).items():
            archive.writestr(f"archive/data/{name}", record)


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def one_tensor(elements: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """The pickle of {"w": a float32 tensor over a storage that claims so many elements}."""
    dimensions = [b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride)]
    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(elements) + b"tQ"
    )
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(0) + dimensions[0] + dimensions[1]
    return b"\x80\x02}" + text("w") + rebuild + b"\x89ccollections\nOrderedDict\n)RtRs."


def test_the_tensor_by_hand_is_a_tensor(tmp_path: Path) -> None:
    torch_zip(tmp_path / "net.pt", one_tensor(2, (2,), (1,)), {"0": struct.pack("<2f", 1, 2)})
    assert read_state(tmp_path / "net.pt")[0]["w"].tolist() == [1, 2]


# Code


def test_programs_are_told_apart_from_weights(tmp_path: Path) -> None:
    net, x = torch.nn.Linear(2, 2), torch.rand(2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(net, x).save(str(tmp_path / "script.pt"))
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "exported.pt2")
    for name in ("script.pt", "exported.pt2"):
        assert "a program (TorchScript, or torch.export's .pt2), which is never executed" in refusal(
            tmp_path / name
        )


def in_zip(path: Path, evil: Evil) -> None:
    torch.save({"w": torch.ones(2), "evil": evil}, path)


def in_legacy(path: Path, evil: Evil) -> None:
    torch.save({"w": torch.ones(2), "evil": evil}, path, _use_new_zipfile_serialization=False)


def in_tar(path: Path, evil: Evil) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            body = pickle.dumps(evil)
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))


def in_torchscript(path: Path, evil: Evil) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/extra/evil.pkl", pickle.dumps(evil))


def in_plain_pickle(path: Path, evil: Evil) -> None:
    path.write_bytes(pickle.dumps({"w": evil}, protocol=2))


def in_metadata(path: Path, evil: Evil) -> None:
    header = json.dumps({"__metadata__": {"evil": pickle.dumps(evil, 0).decode("latin1")}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header[:-1])


FORMATS = [in_zip, in_legacy, in_tar, in_torchscript, in_plain_pickle, in_metadata]


@pytest.mark.parametrize(
    "suffix", [".pt", ".pth", ".tar", ".pth.tar", ".model", ".bin", ".ckpt", ".safetensors", ""]
)
@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Detected pickle protocol")
def test_no_format_executes_anything(make: Callable[[Path, Evil], None], suffix: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / f"evil{suffix}"
    make(path, Evil(target))
    refusal(path)
    assert not target.exists()
    assert os.listdir(tmp_path) == [path.name]


def test_the_trap_works_where_a_file_is_trusted(tmp_path: Path) -> None:
    in_zip(tmp_path / "evil.pt", Evil(tmp_path / "executed"))
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "executed").exists()


# Memory


def test_a_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    zeros = bytes(2**20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", one_tensor(2**27, (2**27,), (1,)))
        archive.writestr("archive/version", "3\n")
        with archive.open("archive/data/0", "w", force_zip64=True) as record:
            for _ in range(512):
                record.write(zeros)
    assert path.stat().st_size < 2**20
    assert "compressed" in refusal(path)


def test_a_pickle_that_is_a_zip_bomb(tmp_path: Path) -> None:
    torch_zip(tmp_path / "bomb.pth", b"\x80\x02" + b"0" * 2**28, compression=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(tmp_path / "bomb.pth")


def test_records_that_overlap(tmp_path: Path) -> None:
    """Many directory entries that all point to one record: stored, and yet more than the file holds."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", one_tensor(2, (2,), (1,)))
        archive.writestr("archive/data/0", bytes(2**20))
        first = archive.infolist()[-1]
        for copy in range(1, 300):
            entry = zipfile.ZipInfo(f"archive/data/{copy}")
            for field in ("header_offset", "CRC", "compress_size", "file_size", "external_attr"):
                setattr(entry, field, getattr(first, field))
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive._didModify = True
    assert "more than the file holds" in refusal(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_call_for_a_large_buffer(zipped: bool, tmp_path: Path) -> None:
    """torch's restricted unpickler allows bytearray(n), which takes n bytes at once."""
    call, path = b"\x80\x02cbuiltins\nbytearray\n(" + number(2**31) + b"tR.", tmp_path / "bomb.pt"
    if zipped:
        torch_zip(path, call)
    else:
        path.write_bytes(call)
    assert "bytearray" in refusal(path)


@pytest.mark.parametrize(
    ("elements", "size", "stride"),
    [
        (2**40, (2**40,), (1,)),  # a storage of 4 TiB
        (4, (2**40,), (1,)),  # a tensor larger than its storage
        (2**62, (2,), (1,)),
        (4, (2,), (2**40,)),
    ],
)
def test_tensors_that_claim_more_than_there_is(elements, size, stride, tmp_path: Path) -> None:
    torch_zip(tmp_path / "bomb.pt", one_tensor(elements, size, stride), {"0": bytes(16)})
    refusal(tmp_path / "bomb.pt")


def test_a_tensor_that_is_huge_by_repetition_costs_nothing(tmp_path: Path) -> None:
    torch_zip(tmp_path / "wide.pt", one_tensor(4, (10**6, 10**6), (0, 0)), {"0": bytes(16)})
    model = torch.nn.Linear(2, 2, bias=False)
    before = _peak()
    from clat.models import load_weights

    with pytest.raises(ClatError):
        load_weights(model, tmp_path / "wide.pt")
    assert _peak() - before < LIMIT


def header(path: Path, record: dict, body: bytes = b"", length: int | None = None) -> None:
    encoded = json.dumps(record).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + body)


@pytest.mark.parametrize(
    ("record", "length"),
    [
        ({"w": {"dtype": "F32", "shape": [100_000, 100_000], "data_offsets": [0, 4 * 10**10]}}, None),
        ({"w": {"dtype": "F32", "shape": [100_000, 100_000], "data_offsets": [0, 16]}}, None),
        ({"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}}, None),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 2**62),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, 99_000_000),
        ({"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, None),
        ({"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, None),
        ({"w": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}, None),
        ({f"w{i}": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for i in range(1000)}, None),
    ],
)
def test_safetensors_that_claim_more_than_there_is(record: dict, length: int | None, tmp_path: Path) -> None:
    header(tmp_path / "bomb.safetensors", record, bytes(16), length)
    refusal(tmp_path / "bomb.safetensors")


def test_reading_runs_in_little_memory(tmp_path: Path) -> None:
    """The bombs in a process that may not have more than 3 GiB of addresses: the limit is the kernel's own."""
    test_a_zip_bomb(tmp_path)
    code = (
        "import resource, sys, torch\nfrom clat.models import read_state\nfrom clat.core.errors import ClatError\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30))\n"
        "try:\n    read_state(sys.argv[1])\nexcept ClatError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "bomb.pth")], capture_output=True, text=True)
    assert "compressed" in done.stdout, done.stderr

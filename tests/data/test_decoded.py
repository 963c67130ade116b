"""The decoded copy of a set that is too large for memory."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from clat.core.errors import ClatError
from clat.core.notices import Notice, listening
from clat.data import ImageSet, Loader, decoded, hold_out, load_split
from clat.recipe.data_settings import DataConfig
from clat.training.prepare import read_split

from .conftest import picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """14 JPEGs of two classes and several sizes."""
    for number in range(14):
        place = tmp_path / "pets" / "train" / ("cat" if number < 6 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, 20 + number, 30 - number)).save(place / f"{number:02}.jpg")
    return tmp_path / "pets"


@pytest.fixture(autouse=True)
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setenv("CLAT_CACHE_DIR", str(tmp_path / "cache"))
    lines: list[str] = []
    with listening(lines.append):
        yield lines


def read(folder: Path, **options: object) -> ImageSet:
    return load_split(folder, "train", image_size=16, resident_limit=0, **options)


def copies(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "decoded").iterdir())


@pytest.mark.parametrize("workers", [0, 2])
def test_it_gives_what_decoding_gives_and_is_made_once(
    folder: Path, tmp_path: Path, told: list[str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "BATCH", 4)
    expected = read(folder, cache=False).load().images
    first = read(folder, decoded=True, workers=workers)
    assert isinstance(first.images, decoded.DecodedImages)
    assert not first.resident
    assert torch.equal(first.load().images, expected)
    (line,) = told
    (file,) = (one for one in copies(tmp_path) if one.suffix == ".npy")
    assert line == f"decoding the 14 images of pets/train once: 10\N{NO-BREAK SPACE}KiB in {file}"
    assert {one.suffix for one in copies(tmp_path)} <= {".npy", ".lock"}
    assert np.array_equal(np.load(file), expected.numpy()), "any program can read it"
    monkeypatch.setattr(decoded, "_write", lambda *_: pytest.fail("made again"))
    again = read(folder, decoded=True)
    assert torch.equal(again.load().images, expected)
    assert len(told) == 1


def test_batches_parts_and_other_processes_read_it(folder: Path) -> None:
    plain, copy = read(folder), read(folder, decoded=True)
    for one, other in zip(hold_out(plain, 5, 0), hold_out(copy, 5, 0), strict=True):
        assert torch.equal(one.load().images, other.load().images)
        assert torch.equal(one.labels, other.labels)
    for workers in (0, 2):
        batches = [
            list(Loader(images, 4, shuffle=True, seed=1, workers=workers).epoch(1)) for images in (plain, copy)
        ]
        for (x, y), (x_copy, y_copy) in zip(*batches, strict=True):
            assert torch.equal(x, x_copy)
            assert torch.equal(y, y_copy)
    images = copy.images
    assert isinstance(images, decoded.DecodedImages)
    images.fetch(torch.tensor([3]))
    sent = pickle.dumps(images)
    assert len(sent) < 2000, "the map does not travel"
    assert torch.equal(pickle.loads(sent).fetch(torch.tensor([3, 1])), images.fetch(torch.tensor([3, 1])))
    assert images.fetch(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 16, 16)


def test_a_small_set_stays_in_memory(folder: Path, tmp_path: Path, told: list[str]) -> None:
    assert load_split(folder, "train", image_size=16, decoded=True).resident
    assert told == []
    assert [one.suffix for one in copies(tmp_path)] == [".safetensors"]


def test_it_is_made_anew_when_a_file_changes_or_it_was_cut_off(
    folder: Path, tmp_path: Path, told: list[str]
) -> None:
    read(folder, decoded=True)
    (file,) = (one for one in copies(tmp_path) if one.suffix == ".npy")
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)
    expected = read(folder).load().images
    assert torch.equal(read(folder, decoded=True).load().images, expected)
    assert len(told) == 2
    Image.fromarray(picture(99, 40, 40)).save(folder / "train" / "cat" / "00.jpg")
    changed = read(folder, decoded=True).load().images
    assert not torch.equal(changed[0], expected[0])
    assert torch.equal(changed[1:], expected[1:])


def test_no_room_is_told_before_anything_is_decoded(
    folder: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    place = tmp_path / "cache" / "decoded"
    with pytest.raises(ClatError) as caught:
        read(folder, decoded=True)
    assert str(caught.value).replace("\N{NO-BREAK SPACE}", " ") == (
        f"the decoded images of pets/train take 10 KiB, and {place} has 1 MiB left: set CLAT_CACHE_DIR to a "
        "folder elsewhere, or leave data.decoded out"
    )
    assert told == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ClatError, match=r"cannot write to .*decoded: No space left on device: set CLAT_CACHE_DIR"):
        read(folder, decoded=True)
    assert [one for one in copies(tmp_path) if one.suffix != ".lock"] == []


def test_a_folder_that_cannot_be_made_is_one_line(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ClatError, match=r"cannot write to .*decoded: (Not a directory|File exists): set CLAT"):
        read(folder, decoded=True)


def test_an_image_that_cannot_be_read_is_named_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "dog" / "13.jpg").write_bytes(b"no image")
    with pytest.raises(ClatError, match=r"cannot read the image in row 13 of pets/train"):
        read(folder, decoded=True)
    assert [one for one in copies(tmp_path) if one.suffix != ".lock"] == []


def test_of_several_that_ask_at_once_one_decodes(folder: Path, told: list[str]) -> None:
    """Threads stand for processes: what keeps them apart is a lock on a file."""
    images = read(folder).images
    path = folder.parent / "cache" / "decoded" / "copy.npy"
    together = threading.Barrier(4)

    def ask() -> torch.Tensor:
        together.wait()
        with listening(told.append):
            return decoded.decoded_copy(images, path, name="pets", workers=0).fetch(torch.arange(14))

    with ThreadPoolExecutor(4) as threads:
        found = [one.result() for one in [threads.submit(ask) for _ in range(4)]]
    assert all(torch.equal(one, found[0]) for one in found)
    assert sum(line.startswith("decoding") for line in told) == 1


def test_a_recipe_asks_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clat.data.datasets.RESIDENT_LIMIT", 0)
    config = DataConfig(name=str(folder), image_size=16, decoded=True)
    assert isinstance(read_split(config, "train").images, decoded.DecodedImages)


def test_a_copy_that_is_gone_is_one_line(folder: Path, tmp_path: Path) -> None:
    images = read(folder, decoded=True)
    for file in copies(tmp_path):
        file.unlink()
    with pytest.raises(ClatError, match=r"the decoded images .* cannot be read"):
        images.load()


def test_without_a_listener_it_is_a_warning(folder: Path) -> None:
    with listening(None), pytest.warns(Notice, match="decoding the 14 images"):  # type: ignore[arg-type]
        read(folder, decoded=True)

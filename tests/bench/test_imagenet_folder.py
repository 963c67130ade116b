"""benchmarks/imagenet_folder.py: a folder that reads back as what it was written from."""

from __future__ import annotations

from pathlib import Path

import torch
from benchmarks.imagenet_folder import write_folder

import clat


def test_the_last_picture_of_each_kept_class_is_validation(tmp_path: Path) -> None:
    pixels = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 4, 4).contiguous()
    images = clat.ImageSet("mine", "test", ("a", "b", "c"), pixels, torch.tensor([0, 2, 0, 1, 2, 2]))

    said = write_folder(images, 2, tmp_path / "small")

    assert said.startswith("5 pictures of 2 classes")
    train, val = (clat.load_split(tmp_path / "small", split) for split in ("train", "test"))
    assert train.class_names == ("0000", "0002")
    assert (train.pixels()[:, 0, 0, 0].tolist(), train.labels.tolist()) == ([0, 1, 4], [0, 1, 1])
    assert (val.pixels()[:, 0, 0, 0].tolist(), val.labels.tolist()) == ([2, 5], [0, 1])

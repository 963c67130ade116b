"""What `inspect_data` says of a data set."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from clat.core.errors import ClatError
from clat.data import inspect_data

from .conftest import WriteParquet, encoded, picture, write_images


def test_splits_classes_counts_and_sizes(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", "train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "val/dog/4.png")
    Image.fromarray(picture(9, 7, 3)).save(tmp_path / "pets/val/dog/5.png")
    report = inspect_data(tmp_path / "pets")
    assert (report.name, report.classes, report.sound) == ("pets", ["cat", "dog"], True)
    train, val = report.splits
    assert (train.name, train.images, train.counts) == ("train", 3, {"cat": 1, "dog": 2})
    assert (val.name, val.counts, val.sizes) == ("val", {"cat": 0, "dog": 2}, {(5, 4): 1, (7, 3): 1})
    assert report.lines() == [
        "val: no image of 1 of the 2 classes: cat",
        "the images differ in size: give image_size (--image-size; in clat train --data.image_size) to train and"
        " evaluate on them",
    ]
    assert report.split_table().row_count == 2
    assert report.class_table().row_count == 2


def test_a_single_class_is_told_of(tmp_path: Path) -> None:
    write_images(tmp_path / "one", "train/images/1.png", "test/images/2.png")
    (line,) = inspect_data(tmp_path / "one").lines()
    assert line.startswith("a single class, 'images': a classifier needs two or more")


def test_every_broken_file_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    (tmp_path / "cat/2.png").write_bytes((tmp_path / "cat/2.png").read_bytes()[:60])
    (tmp_path / "dog/2.png").touch()
    (tmp_path / "dog/3.png").symlink_to("nowhere")
    report = inspect_data(tmp_path)
    (split,) = report.splits
    assert not report.sound
    assert split.images == 5
    assert [line.split(":")[0] for line in split.broken] == ["cat/2.png", "dog/2.png", "dog/3.png"]
    assert split.sizes == {(5, 4): 2}


def test_images_in_two_splits(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat/1.png", "train/cat/2.png", "test/cat/3.png")
    (tmp_path / "test/cat/other name.png").write_bytes((tmp_path / "train/cat/2.png").read_bytes())
    report = inspect_data(tmp_path)
    assert report.repeated == {("test", "train"): 1}
    assert "1 image is in test and in train" in report.lines()
    assert not report.sound


def test_a_split_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    write_images(tmp_path, "train/cat/1.png", "test/2.png")
    report = inspect_data(tmp_path)
    assert [split.name for split in report.splits] == ["train"]
    assert "no class folders" in report.unreadable["test"]
    assert not report.sound
    (tmp_path / "train/cat/1.png").rename(tmp_path / "train/1.png")
    with pytest.raises(ClatError, match="no class folders"):
        inspect_data(tmp_path)


def test_tables(parquet: WriteParquet) -> None:
    parquet([encoded(picture(0)), b"junk", None])
    folder = parquet([encoded(picture(0))], split="test")
    report = inspect_data(folder, workers=2)
    assert report.repeated == {("test", "train"): 1}
    assert report.splits[1].broken == ["row 1: not an image file", "row 2 holds no image"]


def test_large_images_and_many_lines(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("L", (5000, 3)).save(tmp_path / "cat/0.png")
    for k in range(30):
        (tmp_path / f"cat/{k + 1:02}.png").touch()
    report = inspect_data(tmp_path)
    assert report.splits[0].sizes == {(5000, 3): 1}
    assert len(report.splits[0].broken) == 30
    assert report.lines()[-2] == "train: and 10 more"
    assert report.lines()[-1].startswith("a single class, 'cat'")


def test_many_classes(tmp_path: Path) -> None:
    write_images(tmp_path, *(f"{k}/1.png" for k in range(30)))
    report = inspect_data(tmp_path)
    assert report.class_table().row_count == 20
    assert str(report.class_table().caption) == "and 10 more"
    assert len(report.to_dict()["classes"]) == 30


def test_images_without_a_label_are_no_images_of_the_first_class(tmp_path: Path) -> None:
    write_images(tmp_path, "0.png", "1.png", "2.png")
    (tmp_path / "train.csv").write_text("file_name,label\n0.png,0\n1.png,1\n")
    (tmp_path / "test.csv").write_text("file_name,label\n2.png,-1\n")
    report = inspect_data(str(tmp_path))
    test = next(split for split in report.splits if split.name == "test")
    assert (sum(test.counts.values()), test.unlabelled, test.images) == (0, 1, 1)
    assert "test: 1 of 1 images have no label (-1)" in report.lines()
    assert not report.sound

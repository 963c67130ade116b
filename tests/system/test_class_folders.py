"""A folder of class folders lists its images class by class: a part of it stands for the whole all the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

SHARE = "does not list its classes in mixed order: of 30, 6 are taken, each class by its share"


@pytest.fixture
def photos(tmp_path):
    for shade, name in enumerate(("dark", "grey", "light")):
        for number in range(10):
            file = tmp_path / "photos" / "test" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), 100 * shade + number, dtype=np.uint8)).save(file)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    "words",
    [("evaluate", "--protocol", "fgsm"), ("curve",), ("check",)],
)
def test_a_part_of_class_folders_holds_all_classes(clat, photos, tmp_path, words):
    command, *more = words
    eps = "0,0.1" if command == "curve" else "0.1"
    done = clat(
        command, *more, "--model", "own_network:Net", "--data", photos, "--eps", eps, "--num-samples", "6",
        "--out", tmp_path / "out.json",
    )  # fmt: skip
    if command != "check":  # a network at chance may be right on none of them
        assert done.code == 0, done.err
    assert SHARE in done.out + done.err
    if command == "evaluate":
        assert any(SHARE in note for note in json.loads((tmp_path / "out.json").read_text())["notes"])

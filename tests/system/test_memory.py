"""Images that do not fit into memory are streamed, whatever form they have. Each measurement is a process of its
own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SIDE = 224
NETWORK = """
import json, sys
from pathlib import Path
import torch
from torch import nn

def net(num_classes=4):
    torch.manual_seed(0)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))
    return nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.ReLU(), pool)

def firm(num_classes=2):
    "Right on every image of class 0, and fooled by none: what is measured is the work on all of them."
    model = net(num_classes)
    with torch.no_grad():
        model[2][2].weight.mul_(0.01)
        model[2][2].bias.copy_(torch.tensor([1.0, 0.0]))
    return model

def kilobytes(field):
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index(field + ":") + 1])
"""
EVALUATED = (
    NETWORK
    + """
import clat
from clat.cli import main

words = ["evaluate", "--model", "streamed:firm", "--data", sys.argv[1], "--split", "train", "--protocol", "fgsm"]
assert main([*words, "--device", "cpu"]) == 0
print(json.dumps(kilobytes("VmHWM")))
"""
)
LIMITED = (
    NETWORK
    + """
import resource
import clat
import datasets
import PIL.Image
from clat.data import load_split, as_image_set
from clat.recipe.toml import build_recipe

folder, form, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

class Pictures(torch.utils.data.Dataset):
    def __init__(self, files):
        self.files = files
        self.targets = [int(file.parent.name) for file in files]
    def __len__(self):
        return len(self.files)
    def __getitem__(self, k):
        return PIL.Image.open(self.files[k]), self.targets[k]

files = sorted(Path(folder).glob("train/*/*.jpg"))
data = {
    "folder": folder,
    "dataset": (Pictures(files), Pictures(files[:8])),
}[form]
settings = {
    "batch_size": 4,
    "stages": [{"name": "pgd", "epochs": 1, "objective": {"name": "standard"}}],
    "data": {"heldout": 8, "augment": "imagenet", "imagenet": {"by": "batch"}, "image_size": 224},
    "monitor": {"steps": 1, "num_samples": 2},
    "evaluation": {"protocol": "fgsm", "num_samples": 2, "batch_size": 2},
    "engine": {"device": "cpu", "precision": "32"},
}
recipe = build_recipe(settings)
few = (torch.zeros(64, 3, 224, 224), torch.arange(64) % 4)
clat.train(recipe, sys.argv[4] + "-before", model=net(), data=(few, few), quiet=True)  # what is loaded once
limit = kilobytes("VmData") * 1024 + left
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
done = clat.train(recipe, sys.argv[4], model=net(), data=data, quiet=True)
try:
    as_image_set(folder, "train", image_size=224, resident_limit=2**40)
except (RuntimeError, MemoryError, clat.ClatError) as error:
    print(json.dumps(done.summary["cost"]["forwards"]))
"""
)


def write_images(folder: Path, n: int, split: str = "train", classes: int = 4) -> Path:
    """Write `n` JPEG files: links to 20 pictures."""
    pictures = folder.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    for k in range(20):
        if not (pictures / f"{k}.jpg").exists():
            small = np.random.default_rng(k).integers(0, 256, (14, 14, 3), dtype=np.uint8)
            Image.fromarray(small).resize((SIDE, SIDE)).save(pictures / f"{k}.jpg")
    for k in range(n):
        file = folder / split / str(k % classes) / f"{k}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.hardlink_to(pictures / f"{k % 20}.jpg")
    return folder


def last_line(script: str, folder: Path, *words: object) -> Any:
    """Run a script in a process of its own, in a folder from which it can import its network."""
    (folder / "streamed.py").write_text(NETWORK)
    command = [sys.executable, "-c", script, *map(str, words)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_ten_times_the_images_take_no_more_memory_to_evaluate(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAT_CACHE_DIR", str(tmp_path / "cache"))
    measured = []
    for n in (100, 1000):
        folder = write_images(tmp_path / str(n), n - 1, classes=1)
        measured.append(last_line(EVALUATED, tmp_path, write_images(folder, 2, classes=2)))
    few, many = measured
    print(f"{few / 1024:.0f} MiB for 100 images, {many / 1024:.0f} MiB for 1,000")
    assert many < 1.1 * few, f"{few / 1024:.0f} MiB for 100 images, {many / 1024:.0f} MiB for 1,000"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "dataset"])
def test_training_on_four_times_the_memory_that_is_left(form, tmp_path, monkeypatch):
    """The pixels of the set are four times what the process may still take; held in memory, they do not fit."""
    monkeypatch.setenv("CLAT_CACHE_DIR", str(tmp_path / "cache"))
    left, n = 96 * 2**20, 2700
    assert n * 3 * SIDE**2 > 4 * left
    folder = write_images(write_images(tmp_path / "set", n), 8, "test")
    forwards = last_line(LIMITED, tmp_path, folder, form, left, tmp_path / "run")
    assert forwards > n - 32, "every image was trained on that is not held out"
    assert (tmp_path / "run" / "summary.json").exists()

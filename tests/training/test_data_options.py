"""Runs on augmented, mixed and generated images: the recipe's settings reach the batches, and resuming holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import clat
from clat.core.errors import ClatError
from clat.data import IDBH, Augment
from clat.objectives import PgdAT, Trades
from clat.recipe.data_settings import DataConfig, ExtraConfig
from clat.runtime.engine import EngineConfig
from clat.training import stage
from clat.training.prepare import augmentation
from helpers import runs as kit

EXTRA = "labels of the extra images are taken for 0 a, 1 b, 2 c, 3 d"
pytestmark = pytest.mark.filterwarnings(f"ignore:{EXTRA}")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (DataConfig(), Augment()),
        (DataConfig(pad=2, padding_mode="reflect", flip=False), Augment(pad=2, padding_mode="reflect", flip=False)),
        (DataConfig(pad=0, flip=False), None),
        (DataConfig(augment="none"), None),
        (DataConfig(augment="idbh-weak"), IDBH(erase=0.5)),
        (DataConfig(augment="idbh-strong", flip=False), IDBH(erase=1.0, flip=False)),
        (
            DataConfig(augment="idbh-svhn"),
            IDBH(crop_shift=8, space="shape", erase=1.0, erase_area=(0.02, 0.5)),
        ),
    ],
)
def test_the_augmentation_that_a_recipe_names(config, expected):
    assert augmentation(config) == expected


@pytest.fixture
def file(tmp_path):
    """Generated images of the kit's size and classes."""

    def write(seed=0):
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / "extra.npz", image=pixels, label=np.arange(30) % 4)
        return str(tmp_path / "extra.npz")

    return write


def mixed(file, **changes):
    """Two epochs of each of two objectives, on everything at once."""
    settings = {
        "stages": (
            kit.pgd_at(objective=PgdAT(steps=1)),
            kit.pgd_at(name="trades", objective=Trades(steps=1, label_smoothing=0.1)),
        ),
        "data": DataConfig(
            heldout=16, pad=1, padding_mode="reflect", cutmix=True, extra=ExtraConfig(file=file, fraction=0.5)
        ),
    }
    return kit.recipe(**settings | changes)


def train(out, recipe):
    return clat.train(recipe, out, model=kit.tiny(), data=kit.data(train=83), quiet=True)


def test_a_run_on_mixed_and_generated_images(tmp_path, file, monkeypatch):
    """67 images by 16: four batches alone, five full ones with extra images."""
    labels = []
    original = stage.StageRunner.train_step

    def step(self, x, y, **place):
        labels.append(y)
        return original(self, x, y, **place)

    monkeypatch.setattr(stage.StageRunner, "train_step", step)
    train(tmp_path / "run", mixed(file()))
    assert len(labels) == 4 * 5
    assert {(tuple(y.shape), y.dtype) for y in labels} == {((16, 4), torch.float32)}
    assert any((y.amax(1) < 1).any() for y in labels)
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert about["data"]["extra"] == 30
    assert EXTRA in about["notes"]


@pytest.mark.parametrize("k", [3, 5, 13])
def test_stopping_and_resuming_gives_the_same_bits(tmp_path, file, monkeypatch, k):
    recipe = mixed(file(), engine=EngineConfig(device="cpu", checkpoint_seconds=0.0))
    train(tmp_path / "whole", recipe)
    original, count = stage.StageRunner.train_step, [0]

    def step(self, *args, **place):
        count[0] += 1
        if count[0] > k:
            raise KeyboardInterrupt
        return original(self, *args, **place)

    with monkeypatch.context() as patch:
        patch.setattr(stage.StageRunner, "train_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "part", recipe)
    clat.resume(tmp_path / "part", model=kit.tiny(seed=9), data=kit.data(train=83), quiet=True)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "part")


def test_resuming_on_other_generated_images_is_refused(tmp_path, file):
    """Their labels are the same."""
    train(tmp_path / "run", mixed(file()))
    file(seed=1)
    with pytest.raises(ClatError, match="began with other images"):
        clat.resume(tmp_path / "run", model=kit.tiny(), data=kit.data(train=83), quiet=True)


def test_extra_images_without_labels_are_refused_before_the_folder_is_made(tmp_path):
    np.savez(tmp_path / "extra.npz", image=np.zeros((5, 8, 8, 3), np.uint8))
    with pytest.raises(ClatError, match="has no array 'label'"):
        train(tmp_path / "run", mixed(str(tmp_path / "extra.npz")))
    assert not (tmp_path / "run").exists()

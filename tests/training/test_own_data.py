"""Runs on images from Python, and under augmentations of every kind: the same bits, resumed or not."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import clat
from clat.core.errors import ClatError
from clat.core.notices import Notice
from clat.data import ImagenetSettings, Loader
from clat.recipe.schema import DataConfig
from clat.recipe.toml import read_recipe
from clat.runtime.engine import EngineConfig
from clat.training import stage
from helpers import runs as kit
from helpers.libraries import need


class Items(Dataset):
    """As torchvision's data sets with ToTensor, or with a random transform of the user's."""

    def __init__(self, images: Any, *, noise: float = 0.0) -> None:
        self.images, self.noise = images, noise

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> tuple[Tensor, int]:
        image = self.images.images[k].float() / 255
        return (image + self.noise * torch.rand(image.shape)) / (1 + self.noise), int(self.images.labels[k])


def one_stage(**changes: Any) -> Any:
    engine = EngineConfig(device="cpu", precision="32", checkpoint_seconds=0.0)
    return kit.recipe(stages=(kit.pgd_at(2),), engine=engine, **changes)


def train(out: Any, recipe: Any, data: Any, **given: Any) -> Any:
    return clat.train(recipe, out, model=kit.tiny(), data=data, quiet=True, **given)


def stopped_and_resumed(out: Any, monkeypatch: Any, recipe: Any, data: Any, k: int = 3, **given: Any) -> None:
    """Train until the k-th step is about to begin, and go on."""
    original, count = stage.StageRunner.train_step, [0]

    def step(self: Any, *args: Any, **place: Any) -> Any:
        count[0] += 1
        if count[0] > 3:
            raise KeyboardInterrupt
        return original(self, *args, **place)

    with monkeypatch.context() as patch:
        patch.setattr(stage.StageRunner, "train_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(out, recipe, data, **given)
    clat.resume(out, model=kit.tiny(seed=9), data=data, quiet=True, **given)


def test_every_form_gives_the_run_of_an_image_set(tmp_path):
    sets = kit.data(train=48)
    train(tmp_path / "sets", one_stage(), sets)
    tensors = [(one.images, one.labels) for one in sets]
    forms = {
        "items": tuple(Items(one) for one in sets),
        "tensors": {"train": TensorDataset(*tensors[0]), "test": DataLoader(TensorDataset(*tensors[1]))},
    }
    for name, data in forms.items():
        train(tmp_path / name, one_stage(), data)
        assert kit.same(kit.weights(tmp_path / "sets", "last"), kit.weights(tmp_path / name, "last"))
    about = json.loads((tmp_path / "items" / "run.json").read_text())
    assert about["given"] == {"model": about["given"]["model"], "data": "Items", "augment": None}


def shift(image: Tensor) -> Tensor:
    return image.roll(int(torch.randint(3, ())), 2)


AUGMENTED = {
    "a callable": (DataConfig(heldout=16, pad=1), {"augment": shift}),
    "a callable by name": (DataConfig(heldout=16, augment="own_transforms:shift"), {}),
    "imagenet": (
        DataConfig(
            heldout=16, augment="imagenet", mixup=0.4,
            imagenet=ImagenetSettings(brightness=0.3, hue=0.1, rand_augment=1, by="batch"),
        ),
        {},
    ),
    "mixup and cutmix": (DataConfig(heldout=16, pad=1, mixup=0.4, cutmix=True), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", AUGMENTED)
def test_stopping_and_resuming_gives_the_same_bits(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_transforms.py").write_text(
        "import random\n\ndef shift(image):\n    return image.roll(random.randrange(3), 2)\n"
    )
    config, given = AUGMENTED[name]
    recipe = one_stage(data=config)
    data = kit.data(train=48)
    train(tmp_path / "whole", recipe, data, **given)
    stopped_and_resumed(tmp_path / "part", monkeypatch, recipe, data, **given)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "part")
    train(tmp_path / "plain", one_stage(data=DataConfig(heldout=16, augment="none")), data)
    whole, plain = (kit.weights(tmp_path / run, "last") for run in ("whole", "plain"))
    assert any(not torch.equal(whole[key], plain[key]) for key in whole)


def test_a_random_data_set_resumes_too(tmp_path, monkeypatch):
    data = tuple(Items(one, noise=0.2) for one in kit.data(train=48))
    recipe = one_stage()
    with pytest.warns(clat.core.notices.Notice, match="drawn at random"):
        train(tmp_path / "whole", recipe, data)
    with pytest.warns(clat.core.notices.Notice, match="drawn at random"):
        stopped_and_resumed(tmp_path / "part", monkeypatch, recipe, data)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "part")


def test_torchvision_where_it_imports_and_the_run_says_so(tmp_path, monkeypatch):
    need("torchvision.transforms.v2")
    recipe = one_stage(data=DataConfig(heldout=16, augment="imagenet"))
    data = kit.data(train=48)
    train(tmp_path / "whole", recipe, data)
    assert read_recipe(tmp_path / "whole" / "recipe.toml").data.imagenet.by == "torchvision"
    stopped_and_resumed(tmp_path / "part", monkeypatch, recipe, data)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "part")


def test_an_augmentation_from_python_is_asked_for_again(tmp_path, monkeypatch):
    recipe, data = one_stage(), kit.data(train=48)
    stopped_and_resumed(tmp_path / "run", monkeypatch, recipe, data, augment=shift)
    with pytest.raises(ClatError, match=r"given its augment \(.*shift\) from Python.*augment=\.\.\."):
        clat.resume(tmp_path / "run", model=kit.tiny(), data=data, quiet=True)


def test_an_evaluation_of_anything_is_that_of_its_tensors():
    images = kit.image_set(20, "test")
    x, y = next(iter(Loader(images, 20).epoch()))
    options = {"protocol": "fgsm", "eps": "4/255"}
    expected = clat.evaluate(kit.tiny(), x, y, **options)
    for source in (images, (images.images, images.labels), Items(images), {"validation": Items(images)}):
        found = clat.evaluate(kit.tiny(), source, **options)
        assert torch.equal(found.fooled_by, expected.fooled_by)
        assert found.images == expected.images
    assert "split 'validation' stands in for 'test'" in found.notes


class Odd(Dataset):
    def __init__(self, item: Any) -> None:
        self.item = item

    def __len__(self) -> int:
        return 40

    def __getitem__(self, k: int) -> Any:
        return self.item


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Odd(torch.zeros(3, 8, 8)), "expected (image, label)"),
        (Odd((torch.zeros(3, 8, 8), 0, 0)), "is a tuple of 3"),
        (Odd((torch.zeros(3, 8, 8), -1)), "label -1"),
        (Odd((torch.zeros(3, 8, 8) + 2, 1)), "expected [0, 1]"),
        (Odd((torch.zeros(1, 8, 8), 1)), "differ: images (1, 8, 8) and (3, 8, 8)"),
        ((torch.zeros(40, 3, 4, 4), torch.arange(40) % 4), "differ: images (3, 4, 4) and (3, 8, 8)"),
        ((torch.zeros(40, 3, 8, 8), torch.arange(40) % 9), "9 and 4 classes"),
        (iter([]), "expected an ImageSet"),
        ("/nowhere/pets", "not found"),
    ],
)
def test_bad_data_is_one_line_before_a_folder_is_made(tmp_path, bad, says):
    with pytest.raises(ClatError) as caught:
        train(tmp_path / "run", one_stage(), (bad, kit.image_set(16, "test")))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("data", "given", "says"),
    [
        ({}, {"augment": lambda image: image[:, :4]}, "makes images of shape (3, 4, 8)"),
        ({}, {"augment": lambda image: (image / 255 - 0.5) / 0.2}, "lie in"),
        ({"augment": "no_such_module:shift"}, {}, "no module no_such_module in the current folder"),
        ({"augment": "json:dumpz"}, {}, "check the name after the colon"),
        ({"augment": "json:dumps"}, {}, "the augmentation failed on an image"),
        ({"mixup": 0.2}, {"model_classes": 9}, "data.mixup needs a model with the data's 4 classes: it has 9"),
    ],
)
def test_bad_augmentations_are_one_line_before_a_folder_is_made(tmp_path, data, given, says):
    model = kit.tiny(classes=given.pop("model_classes", 4))
    recipe = one_stage(data=DataConfig(heldout=16, pad=1, **data))
    with pytest.raises(ClatError) as caught:
        clat.train(recipe, tmp_path / "run", model=model, data=kit.data(train=48), quiet=True, **given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_labels_that_the_network_has_no_output_for():
    images = kit.image_set(20, "test")
    with pytest.raises(ClatError, match="a label is 3, but the model has 3 classes"):
        clat.evaluate(kit.tiny(classes=3), images, protocol="fgsm", eps="4/255")


HARDENING = {"eps": "24/255", "epochs": 1, "objective": "n-fgsm", "batch_size": 16, "heldout": 32, "quiet": True,
             "device": "cpu", "protocol": "fgsm"}  # fmt: skip


def test_a_hardening_takes_data_sets_and_an_augmentation(tmp_path):
    sets = tuple(Items(one) for one in kit.data(train=96, test=32))
    done = clat.harden(kit.nearest_colour(), *sets, tmp_path / "hard", augment="none", **HARDENING)
    assert done.plan.recipe.data.augment == "none"
    assert len(done.after.robust) == 32


def test_a_hardening_takes_an_augmentation_of_one_s_own(tmp_path):
    sets, left = kit.data(train=96, test=32), [200]

    def darker(image: Tensor) -> Tensor:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return image // 2

    clat.harden(kit.nearest_colour(), *sets, tmp_path / "plain", augment="none", **HARDENING)
    whole = clat.harden(kit.nearest_colour(), *sets, tmp_path / "whole", augment=darker, **HARDENING)
    assert left[0] <= 200 - 64, "every training image goes through it"
    assert whole.plan.recipe.data.augment == "none", "the page must not name one that was not used"
    left[0] = 20
    with pytest.raises(KeyboardInterrupt):
        clat.harden(kit.nearest_colour(), *sets, tmp_path / "part", augment=darker, **HARDENING)
    with pytest.raises(ClatError, match=r"was given its model .* and augment"):
        clat.resume(tmp_path / "part")
    clat.hardening.resume_hardening(tmp_path / "part", kit.nearest_colour(), *sets, augment=darker, quiet=True)
    plain, full, part = (kit.weights(tmp_path / run, "last") for run in ("plain", "whole", "part"))
    assert kit.same(full, part)
    assert not kit.same(full, plain)


@pytest.mark.parametrize(
    ("augment", "says"),
    [
        ("imagnet", "did you mean 'imagenet'"),
        ("no_such_module:shift", "no module no_such_module in the current folder"),
        (3, "data.augment is 3"),
        (lambda image: image[:, :4], "makes images of shape (3, 4, 8)"),
    ],
)
def test_a_hardening_refuses_an_augmentation_before_it_writes(tmp_path, augment, says):
    with pytest.raises(ClatError) as caught:
        clat.harden(
            kit.nearest_colour(), *kit.data(train=96, test=32), tmp_path / "hard", augment=augment, **HARDENING
        )
    assert says in str(caught.value)
    assert not (tmp_path / "hard").exists()


def test_the_name_of_an_augmentation_belongs_to_the_recipe(tmp_path):
    with pytest.raises(ClatError, match="the augmentation is 'imagenet': expected a callable"):
        train(tmp_path / "run", one_stage(), kit.data(train=48), augment="imagenet")
    assert not (tmp_path / "run").exists()


def test_images_that_are_held_out_and_trained_on_are_told_of(tmp_path):
    train, test = kit.data()
    oversampled = train.subset([*range(80), *range(40)])
    with pytest.warns(Notice, match=r"of the 16 held-out images are trained on as well, as the train split holds"):
        clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(), data=(oversampled, test), quiet=True)
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    assert any("held-out images are trained on as well" in note for note in notes)

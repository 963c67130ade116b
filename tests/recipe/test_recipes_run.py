"""Every built-in recipe trains: at a tiny size, one epoch a stage, to the end of the run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import clat
from clat.data import ImageSet
from clat.models import load_model, save_weights
from clat.recipe.toml import build_recipe, built_in_recipes, read_recipe, recipe_data

SMALL = {"resnet50": 4, "densenet121": 4, "wrn-34-10": 4, "wrn-70-16": 4, "dm-wrn-28-10": 4, "ra-wrn-70-16": 8}
ONE_BLOCK = ("wrn", "dm-", "ra-")


def image_set(n, split, seed, classes=10):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=generator).to(torch.uint8)
    names = tuple(f"class {number}" for number in range(classes))
    return ImageSet("noise", split, names, pixels, torch.arange(n) % classes)


def small_model(model):
    """One block a stage and few channels."""
    if model["name"] == "mixture":
        for member in ("standard", "robust"):
            model[member] = small_model(dict(model[member]))
        if "gate" in model:
            model["gate"] = model["gate"] | {"hidden": [8, 8]}
        return model
    model["width"] = SMALL.get(model["name"], 4)
    if model["name"].startswith(ONE_BLOCK):
        model["depths"] = [1, 1, 1]
    return model


def tiny(name, folder):
    """The recipe with everything small but its structure."""
    data = recipe_data(read_recipe(name))
    data["model"] = small_model(dict(data["model"]))
    if "classifier" in data["model"]:  # goes on top of a file of 1000 classes
        data["model"] |= {"input_size": 48, "weights": str(folder / "imagenet.safetensors")}
        full = load_model(data["model"]["name"], width=4, num_classes=1000, normalize=data["model"]["normalize"])
        save_weights(full, data["model"]["weights"])
    data |= {"batch_size": 8, "engine": {"device": "cpu"}}
    data["data"] |= {"heldout": 16, "train_size": 32}
    if "extra" in data["data"]:
        np.savez(folder / "extra.npz", image=np.zeros((20, 32, 32, 3), np.uint8), label=np.arange(20) % 10)
        data["data"]["extra"] = {"file": str(folder / "extra.npz"), "fraction": 0.5}
    data["monitor"] |= {"steps": 1, "num_samples": 8}
    data["evaluation"] = {"protocol": "fgsm", "num_samples": 8}
    for stage in data["stages"]:
        stage["epochs"] = 1
        if stage["objective"].get("steps", 1) > 1:
            stage["objective"]["steps"] = 1
        if "selection" in stage:
            stage["selection"]["num_samples"] = 8
            stage["selection"]["ranking"]["steps"] = 1
        for treatment in stage.get("treatments", ()):
            treatment.update({"swa": {"start": 0.0, "window": 1}, "awp": {"warmup": 0}}.get(treatment["name"], {}))
    return build_recipe(data)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:labels of the extra images are taken for")
@pytest.mark.parametrize("name", built_in_recipes())
def test_a_built_in_recipe_runs_to_its_end(name, tmp_path):
    recipe = tiny(name, tmp_path)
    classes = 100 if "cifar100" in name else 10
    data = image_set(60, "train", 0, classes), image_set(8, "test", 1, classes)
    result = clat.train(recipe, tmp_path / "run", data=data, quiet=True)
    assert len(result.summary["stages"]) == len(recipe.stages)
    assert all(torch.isfinite(value).all() for value in result.model.state_dict().values())

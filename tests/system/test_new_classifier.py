"""A run that began with a new classifier is evaluated with the one it trained."""

from __future__ import annotations

import torch

from clat.models import load_model, load_weights, save_weights

RECIPE = """
batch_size = 16

[model]
name = "resnet18"
width = 2
weights = "start.safetensors"
classifier = "new"

[data]
name = "digits"
train_size = 32
heldout = 16

[[stages]]
name = "standard"
epochs = 1
objective = { name = "standard" }

[monitor]
num_samples = 8

[evaluation]
protocol = "fgsm"
num_samples = 8
"""


def test_evaluating_a_finished_run_by_its_recipe_takes_all_of_its_weights(tmp_path, monkeypatch, capsys) -> None:
    from clat import cli
    from clat.cli import inputs

    monkeypatch.chdir(tmp_path)
    save_weights(load_model("resnet18", width=2, num_classes=7), tmp_path / "start.safetensors")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    assert cli.main(["train", "recipe.toml", "--out", "run", "--device", "cpu"]) == 0
    built = []
    monkeypatch.setattr(inputs, "check_model", lambda model, *_: built.append(model))
    words = ["evaluate", "--model", "run/recipe.toml", "--weights", "run/weights/last.safetensors"]
    assert cli.main([*words, "--protocol", "fgsm", "--num-samples", "8", "--device", "cpu"]) == 0
    trained = load_model("resnet18", width=2)
    load_weights(trained, tmp_path / "run/weights/last.safetensors")
    assert torch.equal(built[0].linear.weight.cpu(), trained.linear.weight)

"""Each example runs as it stands, and moves the critical layers alone."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.libraries import need

EXAMPLES = Path(__file__).parents[2] / "examples"
NEEDS = {
    "plain_loop": (),
    "timm_loop": ("timm",),
    "lightning_callback": ("pytorch_lightning",),
    "huggingface_trainer": ("transformers", "accelerate"),
}


def test_every_example_is_tested() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {"digits", *NEEDS}


@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.filterwarnings("ignore")  # of the other libraries
def test_an_example(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any) -> None:
    for library in NEEDS[name]:
        need(library)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    robust: list[dict[str, torch.Tensor]] = []
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        example = importlib.import_module(name)
        try:
            train = example.robust
            monkeypatch.setattr(example, "robust", lambda *args: keep(train(*args), robust))
            settings = {"enable_progress_bar": False, "enable_model_summary": False}
            model = example.main(epochs=1, **(settings if name == "lightning_callback" else {}))
        finally:
            for module in ("digits", name):
                sys.modules.pop(module, None)
    assert "robust accuracy" in capfd.readouterr().out
    (before,) = robust
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved, "something moved"
    layers = {key.rpartition(".")[0] for key in moved}
    assert len(layers) == (2 if name == "timm_loop" else 1)
    assert all(key.endswith((".weight", ".bias")) for key in moved)
    assert all(parameter.requires_grad for parameter in model.parameters()) or name == "timm_loop"


def keep(model: torch.nn.Module, states: list[dict[str, torch.Tensor]]) -> torch.nn.Module:
    """Note a network's weights and statistics."""
    states.append({name: value.clone() for name, value in model.state_dict().items()})
    return model


@pytest.mark.filterwarnings("ignore")  # of transformers
def test_accumulated_gradients_of_the_trainer_are_a_mean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """transformers takes the loss of most models for one that is scaled already, and ours is not theirs."""
    for library in NEEDS["huggingface_trainer"]:
        need(library)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    example = importlib.import_module("huggingface_trainer")
    try:
        settings = {"embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
        model = example.ResNetForImageClassification(example.ResNetConfig(**settings, num_labels=10))
        x, y = torch.rand(8, 1, 8, 8).expand(-1, 3, -1, -1), torch.arange(8)
        arguments = example.TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
        critical = example.CriticalLayers((x, y), steps=1)
        trainer = example.ClatTrainer(model, arguments, train_dataset=example.Images(x, y), critical=critical)
        assert trainer.model_accepts_loss_kwargs is False
    finally:
        for module in ("digits", "huggingface_trainer"):
            sys.modules.pop(module, None)

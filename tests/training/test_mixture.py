"""Runs on a mixture: CLAT on the robust member's layers, the gate alone, and killing the latter."""

from __future__ import annotations

import pytest
import torch

import clat
from clat.core.errors import ClatError
from clat.criticality.selection import Selection
from clat.models.settings import GateConfig, NetworkConfig
from clat.objectives import Mixing
from clat.recipe.schema import ModelConfig, StageConfig
from helpers import runs as kit

STANDARD = NetworkConfig(name="resnet18", width=2, depths=(1, 1, 1, 1))
ROBUST = NetworkConfig(name="dm-wrn-28-10", width=2, depths=(1, 1, 1))
GATE = GateConfig(standard=("layer1",), robust=("layer.0",), hidden=(4,))
MIXING = StageConfig(name="gate", epochs=2, objective=Mixing(steps=1, attack="pgd"))


def gated() -> ModelConfig:
    return ModelConfig(name="mixture", standard=STANDARD, robust=ROBUST, gate=GATE)


def changed(out, before: str, after: str) -> set[str]:
    one, two = kit.weights(out, before), kit.weights(out, after)
    return {name for name in one if not torch.equal(one[name], two[name])}


def test_clat_moves_one_layer_of_the_robust_member(tmp_path) -> None:
    selection = Selection(k=1, num_samples=8, steps=1, include=("robust.*",))
    recipe = kit.recipe(
        model=ModelConfig(name="mixture", standard=STANDARD, robust=ROBUST, alpha=0.7),
        stages=(kit.pgd_at(1), kit.clat(1, selection=selection)),
    )
    clat.train(recipe, tmp_path / "run", data=kit.data(), quiet=True)
    moved = changed(tmp_path / "run", "stage-1", "last")
    assert len(moved) == 1
    assert moved.pop().startswith("robust.layer")


def test_the_gates_stage_moves_the_gate_only_and_survives_a_kill(tmp_path, monkeypatch) -> None:
    recipe = kit.recipe(model=gated(), stages=(kit.pgd_at(1), MIXING))
    whole = tmp_path / "whole"
    clat.train(recipe, whole, data=kit.data(), quiet=True)
    moved = changed(whole, "stage-1", "last")
    assert {"gate.linear.weight", "gate.norm.running_var"} <= moved
    assert all(name.startswith("gate.") for name in moved)
    kit.train_and_stop(monkeypatch, recipe, tmp_path / "halted", after_steps=6, own_model=True)
    clat.resume(tmp_path / "halted", data=kit.data(), quiet=True)
    kit.assert_same_run(whole, tmp_path / "halted")


def test_the_gates_stage_is_refused_before_training_where_there_is_no_gate(tmp_path) -> None:
    with pytest.raises(ClatError, match="trains the gate of a mixture"):
        clat.train(kit.recipe(stages=(MIXING,)), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

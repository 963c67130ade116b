"""What joins a stage: its place in the recipe, the checks on it, and that killing a run changes nothing."""

from __future__ import annotations

import pytest

import clat
from clat.config import StageConfig
from clat.errors import ClatError
from clat.objectives import AutoLoRa, PgdAT, Twins
from clat.recipe import build_recipe, recipe_data
from clat.weights import LoRA, Reinitialise

TREATMENTS = {"lora": LoRA(classifier="full"), "reinitialise": Reinitialise(modules=("conv2",))}
"""One of each, for a stage of two epochs of the tiny network."""

OBJECTIVES = {
    "autolora": AutoLoRa(steps=1, rank=2, checkpoints=(1,), accuracy_batches=1),
    "twins": Twins(steps=1),
    "twins, trades": Twins(steps=1, form="trades"),
}
"""One of each that carries state."""

STAGES = {name: {"treatments": (treatment,)} for name, treatment in TREATMENTS.items()} | {
    name: {"objective": objective} for name, objective in OBJECTIVES.items()
}
STAGES["autolora"]["epochs"] = 3  # its rate is looked at after the second


@pytest.mark.parametrize("name", STAGES)
def test_a_stopped_and_resumed_stage_ends_with_the_same_bits(kit, tmp_path, monkeypatch, name):
    recipe = kit.recipe(stages=(kit.pgd_at(**STAGES[name]), kit.clat(1)))
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    clat.train(recipe, whole, model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, recipe, halted, after_steps=6)
    clat.resume(halted, model=kit.tiny(seed=9), data=kit.data(), quiet=True)
    kit.assert_same_run(whole, halted)


def test_adapters_one_after_the_other_and_stopped_in_the_second(kit, tmp_path, monkeypatch):
    """Their factors have the same names and other shapes: nothing of the first may reach the second."""
    stages = (
        kit.pgd_at(1, treatments=(LoRA(rank=1),)),
        kit.pgd_at(2, name="autolora", objective=AutoLoRa(steps=1, rank=2)),
        kit.pgd_at(1, name="on"),
    )
    recipe, whole, halted = kit.recipe(stages=stages), tmp_path / "whole", tmp_path / "halted"
    clat.train(recipe, whole, model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, recipe, halted, after_steps=6)
    clat.resume(halted, model=kit.tiny(seed=9), data=kit.data(), quiet=True)
    kit.assert_same_run(whole, halted)
    assert all(kit.weights(whole, name).keys() == kit.tiny().state_dict().keys() for name in ("stage-1", "stage-2"))
    momentum = {name.removeprefix("momentum.") for name in kit.state(whole) if name.startswith("momentum.")}
    assert momentum == set(dict(kit.tiny().named_parameters()))


def test_treatments_survive_a_recipe_file(kit):
    recipe = kit.recipe(stages=(kit.pgd_at(2, treatments=tuple(TREATMENTS.values())),))
    assert build_recipe(recipe_data(recipe)) == recipe


def test_a_treatment_stands_in_a_stage_once():
    twice = (Reinitialise(modules=("a",)), Reinitialise(modules=("b",)))
    with pytest.raises(ClatError, match="'reinitialise' twice"):
        StageConfig(name="x", epochs=1, objective=PgdAT(), treatments=twice)

"""What joins a stage: its place in the recipe, the checks on it, and that killing a run changes nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

import clat
from clat.core.errors import ClatError
from clat.criticality.selection import Selection
from clat.objectives import AutoLoRa, Cure, FreeAT, PgdAT, Twins
from clat.objectives.free_at import FreePerturbation
from clat.recipe.schema import StageConfig
from clat.recipe.toml import build_recipe, recipe_data
from clat.treatments import AWP, EMA, SWA, Interpolation, LoRA, Reinitialise
from helpers import runs as kit

TREATMENTS = {
    "lora": LoRA(classifier="full"),
    "reinitialise": Reinitialise(modules=("conv2",)),
    "awp": AWP(gamma=0.1, warmup=1),
    "ema": EMA(batch_norm="reestimated"),
    "swa": SWA(start=0.25, window=3, unit="batches"),
    "interpolation": Interpolation(steps=1, margin=1.0),
}
"""One of each, for a stage of two epochs of the tiny network."""

OBJECTIVES = {
    "cure": Cure(steps=1, rate=0.5, rate_end=0.3, revision_bn="stored"),
    "free-at": FreeAT(replays=2),
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
def test_a_stopped_and_resumed_stage_ends_with_the_same_bits(tmp_path, monkeypatch, name):
    recipe = kit.recipe(stages=(kit.pgd_at(**STAGES[name]), kit.clat(1)))
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    clat.train(recipe, whole, model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, recipe, halted, after_steps=6)
    clat.resume(halted, model=kit.tiny(seed=9), data=kit.data(), quiet=True)
    kit.assert_same_run(whole, halted)


def test_adapters_one_after_the_other_and_stopped_in_the_second(tmp_path, monkeypatch):
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
    kept = [name.removeprefix("optimizer.") for name in kit.state(whole) if name.startswith("optimizer.")]
    momentum = {name.removesuffix(".momentum_buffer") for name in kept}
    assert momentum == set(dict(kit.tiny().named_parameters()))


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_treatments_survive_a_recipe_file(average):
    named = ("interpolation", "reinitialise", "lora", "awp", average)
    treatments = (replace(TREATMENTS["interpolation"], end="last"), *(TREATMENTS[name] for name in named[1:]))
    recipe = kit.recipe(stages=(kit.pgd_at(2, treatments=treatments),))
    assert build_recipe(recipe_data(recipe)) == recipe


def test_a_treatment_stands_in_a_stage_once():
    twice = (Reinitialise(modules=("a",)), Reinitialise(modules=("b",)))
    with pytest.raises(ClatError, match="'reinitialise' twice"):
        StageConfig(name="x", epochs=1, objective=PgdAT(), treatments=twice)


@pytest.mark.parametrize("names", [("ema", "swa"), ("swa", "ema")])
def test_two_averages_cannot_both_be_what_a_stage_is_evaluated_as(names):
    with pytest.raises(ClatError, match=f"stage 'x' has the treatment '{names[0]}' beside '{names[1]}'"):
        StageConfig(name="x", epochs=2, objective=PgdAT(), treatments=[TREATMENTS[name] for name in names])


def test_free_at_takes_its_steps_on_each_batch_at_one_pass_each_way(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(FreePerturbation, "after_step", lambda self: seen.append(self.delta.clone()))
    recipe = kit.recipe(stages=(kit.pgd_at(1, objective=FreeAT(replays=3)),))
    result = clat.train(recipe, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert len(seen) == 4 * 3
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))
    monitor = (16 + 2 * 16, 16)  # one step of PGD, and the verdicts on clean and attacked images
    stage = result.summary["stages"][0]
    assert (stage["forwards"], stage["backwards"]) == (64 * 3 + monitor[0], 64 * 3 + monitor[1])


@pytest.mark.parametrize(
    ("treatments", "says"),
    [
        ((EMA(), Interpolation(end="last")), "stage 'x' names the treatment 'interpolation' after 'ema'"),
        ((SWA(), Interpolation(end="last")), "'interpolation' after 'swa'"),
        ((LoRA(), Interpolation(end="last")), "'interpolation' after 'lora'"),
        ((EMA(), LoRA()), "'lora' after 'ema'"),
        ((SWA(), AWP(), Reinitialise(modules=("conv2",))), "'reinitialise' after 'swa'"),
        ((LoRA(), Reinitialise(modules=("conv2",))), "'reinitialise' after 'lora'"),
        ((Interpolation(), LoRA()), "end = 'last'"),
        ((Interpolation(), EMA()), "end = 'last'"),
    ],
)
def test_an_order_in_which_one_would_undo_the_other_is_refused(treatments, says):
    with pytest.raises(ClatError, match=says):
        StageConfig(name="x", epochs=9, objective=PgdAT(), treatments=treatments)


@pytest.mark.parametrize(
    ("objective", "treatment"),
    [
        (Cure(), LoRA()),
        (Cure(masked="all"), LoRA()),
        (AutoLoRa(), LoRA()),
        (AutoLoRa(), Reinitialise(modules=("conv2",))),
    ],
)
def test_a_treatment_that_takes_an_objective_s_weights_away_is_refused(objective, treatment):
    says = f"^stage 'x': '{objective.name}' works on weights that '{treatment.name}' replaces: give '"
    for treatments in ((treatment, AWP()), (AWP(), treatment)):
        with pytest.raises(ClatError, match=says):
            StageConfig(name="x", epochs=9, objective=objective, treatments=treatments)


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_an_average_whose_accuracy_would_choose_among_weights_that_lack_it_is_refused(average):
    says = f"^stage 'x': 'autolora' goes back to weights by .*, where '{average}' has its average measured: give '"
    for treatments in ((TREATMENTS[average], AWP()), (AWP(), TREATMENTS[average])):
        with pytest.raises(ClatError, match=says):
            StageConfig(name="x", epochs=9, objective=AutoLoRa(), treatments=treatments)
    given = AutoLoRa(automatic_rate=False)
    assert StageConfig(name="x", epochs=9, objective=given, treatments=(TREATMENTS[average],)).objective == given


@pytest.mark.parametrize(
    ("objective", "treatment"),
    [(Cure(percent=0, steps=1), LoRA()), (Twins(steps=1), LoRA()), (Twins(steps=1), Reinitialise(modules=("*",)))],
)
def test_an_objective_that_leaves_weights_alone_shares_its_stage(tmp_path, objective, treatment):
    stage = kit.pgd_at(1, objective=objective, treatments=(treatment,))
    clat.train(kit.recipe(stages=(stage,)), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)


def test_awp_moves_what_lora_leaves_moving_in_either_order(tmp_path):
    for name, treatments in {"first": (AWP(gamma=0.1), LoRA()), "last": (LoRA(), AWP(gamma=0.1))}.items():
        recipe = kit.recipe(stages=(kit.pgd_at(1, treatments=treatments),))
        clat.train(recipe, tmp_path / name, model=kit.tiny(), data=kit.data(), quiet=True)
    assert kit.same(kit.weights(tmp_path / "first", "last"), kit.weights(tmp_path / "last", "last"))


@pytest.mark.parametrize("last", [LoRA(), EMA(decay=0.5), SWA(window=1)])
def test_interpolation_ends_between_the_start_and_what_the_others_leave(tmp_path, last):
    """alpha = 1 is the network as it would be without the interpolation, alpha = 0 the start."""
    ends = {}
    for alpha in (None, 0.0, 1.0):
        line = () if alpha is None else (Interpolation(alpha=alpha, end="last", steps=1),)
        recipe = kit.recipe(stages=(kit.pgd_at(2, treatments=(*line, last)),))
        clat.train(recipe, tmp_path / str(alpha), model=kit.tiny(), data=kit.data(), quiet=True)
        ends[alpha] = kit.weights(tmp_path / str(alpha), "last")
    assert kit.same(ends[1.0], ends[None])
    assert kit.same(ends[0.0], kit.tiny().state_dict())


@pytest.mark.parametrize("ranking", ["mrc", "rewinding", "rewinding-drop"])
@pytest.mark.parametrize(
    "settings", [{"treatments": (LoRA(),)}, {"objective": AutoLoRa()}, {"objective": Twins()}], ids=str
)
def test_rankings_that_read_weights_are_refused_where_the_network_is_not_plain(ranking, settings):
    stage = {"name": "x", "epochs": 1, "objective": PgdAT()} | settings
    with pytest.raises(ClatError, match=f"'{ranking}' reads the weights of a plain network"):
        StageConfig(**stage, selection=Selection(ranking=ranking))
    StageConfig(**stage, selection=Selection(ranking="activation"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"treatments": (LoRA(include=("nowhere",)),)}, "'nowhere'"),
        ({"treatments": (Reinitialise(modules=("nowhere",)),)}, "'nowhere'"),
        ({"objective": Cure(masked=("nowhere",))}, "'nowhere'"),
        ({"objective": Twins()}, "needs a network with BatchNorm"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_network_is_refused_before_the_first_stage(tmp_path, settings, says):
    net = kit.tiny()
    if "objective" in settings and says.startswith("needs"):
        net.bn1 = net.bn2 = net.bn3 = torch.nn.Identity()
    recipe = kit.recipe(stages=(kit.pgd_at(1), kit.pgd_at(1, **{"name": "second"} | settings)))
    with pytest.raises(ClatError, match=says):
        clat.train(recipe, tmp_path / "run", model=net, data=kit.data(), quiet=True)
    assert not (tmp_path / "run").exists()

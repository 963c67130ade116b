"""Treatments of the weights in a whole run: what they leave alone, what is saved, what the next stage gets."""

from __future__ import annotations

import pytest
import torch

import clat
from clat.core.errors import ClatError
from clat.criticality.selection import Selection
from clat.objectives import Standard
from clat.treatments import AWP, EMA, SWA, Interpolation
from helpers import runs as kit


def run(out, *stages):
    clat.train(kit.recipe(stages=stages), out, model=kit.tiny(), data=kit.data(), quiet=True)
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two epochs of PGD-AT and one of CLAT, untreated."""
    return run(tmp_path_factory.mktemp("runs") / "plain", kit.pgd_at(), kit.clat(1))


def losses(out):
    return [record["loss"] for record in kit.records(out, "epoch")][:2]


@pytest.mark.parametrize(
    "treatment",
    [AWP(gamma=0), EMA(decay=0.0), SWA(start=0.75, window=1, unit="batches", replace_running=False, bn_batches=1)],
    ids=lambda t: t.name,
)
def test_what_only_watches_does_not_change_the_training(plain, tmp_path, treatment):
    out = run(tmp_path / "run", kit.pgd_at(treatments=(treatment,)), kit.clat(1))
    assert losses(out) == losses(plain)
    if treatment.name == "swa":  # the average of two states is another network
        assert not kit.same(kit.weights(out, "stage-1"), kit.weights(plain, "stage-1"))
    else:
        assert kit.same(kit.weights(out, "last"), kit.weights(plain, "last"))


def test_the_average_is_checked_saved_and_handed_on(plain, tmp_path):
    """EMA's training is the plain one's; its stage-1 file is the average, with the plain run's statistics."""
    out = run(tmp_path / "run", kit.pgd_at(treatments=(EMA(start=0.0),)), kit.clat(1))
    assert losses(out) == losses(plain)
    average, last = kit.weights(out, "stage-1"), kit.weights(plain, "stage-1")
    for name, value in average.items():
        assert torch.equal(value, last[name]) == ("running" in name or "tracked" in name), name
    after = kit.weights(out, "last")
    (selected,) = kit.records(out, "selection")[0]["layers"]
    moved = {name for name in after if not torch.equal(after[name], average[name])}
    assert moved == {f"{selected}.weight", f"{selected}.bias"}


def test_awp_changes_the_training_and_leaves_what_is_frozen(plain, tmp_path):
    treated = kit.clat(1, treatments=(AWP(gamma=0.1),))
    out = run(tmp_path / "run", kit.pgd_at(), treated)
    assert kit.same(kit.weights(out, "stage-1"), kit.weights(plain, "stage-1"))
    before, after, untreated = kit.weights(out, "stage-1"), kit.weights(out, "last"), kit.weights(plain, "last")
    (selected,) = kit.records(out, "selection")[0]["layers"]
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {f"{selected}.weight", f"{selected}.bias"}
    assert not torch.equal(after[f"{selected}.weight"], untreated[f"{selected}.weight"])


def rift(**settings):
    return kit.pgd_at(
        name="rift",
        objective=Standard(),
        selection=Selection(rule="named", layers=("conv2",), every=0),
        batch_norm="update",
        treatments=(Interpolation(steps=1, **settings),),
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_rift_ends_between_its_start_and_its_end(tmp_path, alpha):
    untreated = kit.pgd_at(
        name="rift",
        objective=Standard(),
        selection=Selection(rule="named", layers=("conv2",), every=0),
        batch_norm="update",
    )
    whole = run(tmp_path / "whole", untreated)
    out = run(tmp_path / "run", rift(alpha=alpha, end="last"))
    start, end, found = kit.weights(whole, "stage-0"), kit.weights(whole, "last"), kit.weights(out, "last")
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert {name for name in moved if "bn" not in name} == {"conv2.weight", "conv2.bias"}
    assert "bn3.running_mean" in moved
    if alpha in (0.0, 1.0):
        assert kit.same(found, end if alpha else start)
    else:
        for name, value in found.items():
            middle = (start[name] + end[name]) / 2 if value.is_floating_point() else end[name]
            torch.testing.assert_close(value, middle)


def test_the_search_is_recorded_and_judged(tmp_path):
    out = run(tmp_path / "run", rift())
    (finish,) = kit.records(out, "finish")
    facts = finish["interpolation"]
    assert len(facts["points"]) == 11
    assert facts["robust"] >= facts["robust_start"] - 0.001 - 1e-9
    assert facts["clean"] >= facts["clean_start"]
    assert finish["heldout_clean"] == facts["clean"]  # the same sixteen images


def test_a_window_of_more_batches_than_there_are_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ClatError, match="window is 5 batches, but only 4 of the stage's 8"):
        run(tmp_path / "run", kit.pgd_at(treatments=(SWA(window=5, unit="batches"),)))
    assert not (tmp_path / "run").exists()

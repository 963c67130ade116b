"""The pieces of a hardening by themselves: budgets, plans, promises, augmentations."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.data import ImageSet
from clat.evaluation.compare import ACCURACIES, Comparison
from clat.evaluation.protocols import PROTOCOLS, AttackSpec, Protocol
from clat.evaluation.statistics import Accuracy, PairedDifference
from clat.hardening import HardenConfig, harden, inputs
from clat.hardening.augmentation import fitting_augmentation
from clat.hardening.card import card, paired_sentence, threat_in_words
from clat.hardening.cost import closing_seconds
from clat.hardening.look import look
from clat.hardening.plan import MARGIN, make_plan
from clat.hardening.promise import (
    PromisePoint,
    lost_at_most,
    most_robust_within,
    refuse_hopeless,
    set_point,
    walk_line,
)
from clat.hardening.recipe import harden_stages, stage_alone, tuning_epochs
from clat.hardening.run import _possible
from clat.hardening.testing import FinalTest
from clat.network.exchange import copied, tensors_of
from clat.recipe.toml import build_recipe, read_recipe
from clat.runtime.engine import Engine, EngineConfig
from clat.training.resuming import how_to_resume

COSTS = {"n-fgsm": 1.0, "pgd-2": 2.0, "pgd-10": 8.0}
"""Seconds a step."""
TUNING_COST = 6.0
"""The same of the stage that tunes critical layers."""


def plan(model=None, **settings):
    config = HardenConfig(**{"budget": 1000.0} | settings)
    model = nn.BatchNorm2d(3) if model is None else model
    costs = COSTS | ({config.keep: TUNING_COST} if config.keep.startswith("clat") else {})
    return make_plan(config, model, costs, train_images=1280, check_seconds=0.0, measuring_seconds=0.0)


def test_a_budget_is_read():
    assert HardenConfig(budget="1h30m").budget == HardenConfig(budget=5400).budget_seconds == 5400
    assert HardenConfig(epochs=3).budget_seconds == float("inf")
    with pytest.raises(ClatError, match="the budget is 'soon'"):
        HardenConfig(budget="soon")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"eps": 8}, "did you mean 8/255"),
        ({"eps": 0}, "eps is 0"),
        ({"epochs": 3}, "not both"),
        ({"budget": None}, "give a budget"),
        ({"budget": None, "epochs": 0}, "at least 1"),
        ({"max_clean_drop": -1}, "max_clean_drop"),
        ({"objective": "pgd"}, "did you mean 'pgd-"),
        ({"keep": "clat_plus"}, "did you mean 'clat-plus'"),
        ({"precision": "half"}, "precision"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(ClatError, match=says):
        HardenConfig(**{"budget": 60.0} | settings)


@pytest.mark.parametrize(
    ("budget", "objective", "epochs"),
    [(32.0, "n-fgsm", 3), (110.0, "pgd-2", 5), (2000.0, "pgd-2", 95), (2600.0, "pgd-10", 30)],
)
def test_the_strongest_objective_that_gets_its_epochs_is_taken(budget, objective, epochs):
    found = plan(budget=budget)
    assert (found.objective, found.epochs) == (objective, epochs)
    assert found.seconds <= MARGIN * budget
    assert found.recipe.total_epochs == epochs


@pytest.mark.parametrize(
    ("budget", "epochs", "images"),
    [(20.0, 2, 9 * 128), (28.0, 3, 8 * 128), (30.0, 3, 9 * 128), (22.0, 2, None), (2000.0, 95, None)],
)
def test_where_whole_epochs_leave_much_of_the_budget_each_has_fewer_images(budget, epochs, images):
    found = plan(budget=budget)
    assert (found.epochs, found.train_size, found.recipe.data.train_size) == (epochs, images, images)
    assert 0.85 * MARGIN * budget <= found.seconds <= MARGIN * budget
    assert any(f"{images or 0:,} of the 1,280 images" in reason for reason in found.reasons) == (images is not None)


def test_what_tuning_costs_is_planned_with():
    def cost(epochs):
        tuning = tuning_epochs(epochs)
        return 10 * ((epochs - tuning) * COSTS["pgd-2"] + tuning * TUNING_COST)

    for budget in (100.0, 130.0, 200.0, 1000.0):
        found = plan(budget=budget, objective="pgd-2", keep="clat")
        left = budget * MARGIN
        whole = max(epochs for epochs in range(1, 99) if cost(epochs) <= left)
        if found.train_size is None:
            assert found.epochs == whole
            assert found.training_seconds == pytest.approx(cost(whole))
        else:
            assert found.epochs == whole + 1
            assert found.training_seconds == pytest.approx(cost(whole + 1) * found.train_size / 1280)
        assert found.training_seconds <= left
        assert sum(stage.epochs for stage in found.recipe.stages[1:]) == tuning_epochs(found.epochs)
        assert "clat" not in found.objective
    assert plan(budget=None, epochs=2, objective="pgd-2", keep="clat").training_seconds == pytest.approx(cost(2))


def test_eps_may_be_a_fraction():
    config = HardenConfig(budget=10, eps=Fraction(1, 5))
    assert json.loads(json.dumps(asdict(config)))["eps"] == config.eps == config.threat.text
    assert float(config.threat.eps) == pytest.approx(0.2)


def test_what_comes_after_the_training_is_planned_with():
    images = SimpleNamespace(heldout=range(100))
    assert closing_seconds(HardenConfig(budget=10_000.0), images, 0.01, 0.05, 400) == pytest.approx(800)
    assert closing_seconds(HardenConfig(epochs=3), images, 0.01, 0.05, 50) == pytest.approx(400)
    assert closing_seconds(HardenConfig(budget=100.0), images, 0.01, 0.05, 400) == 0.0, "no look for masking"
    assert closing_seconds(HardenConfig(budget=2000.0), images, 0.01, 0.05, 400) == pytest.approx(200), (
        "on 25 images"
    )
    promised = closing_seconds(HardenConfig(budget=100.0, max_clean_drop=3), images, 0.01, 0.05, 400)
    assert promised == pytest.approx(11 * (100 * 0.05 + 20 * 128 / 3 * 0.01))


def test_a_budget_below_one_epoch_is_refused_with_what_would_do():
    with pytest.raises(ClatError, match=r"n-fgsm, the cheapest, needs 14.3.s in all here; give more time"):
        plan(budget=10.0)


def test_a_network_without_batch_norm_is_trained_with_adamw():
    assert plan(nn.Linear(3, 2)).recipe.optimizer.name == "adamw"
    assert plan().recipe.optimizer.name == "sgd"


def test_an_objective_asked_for_is_taken_and_tuning_takes_its_share():
    found = plan(objective="pgd-2", keep="clat", budget=None, epochs=10)
    assert [(stage.name, stage.epochs) for stage in found.recipe.stages] == [("harden", 8), ("clat", 2)]


def test_fields_of_the_recipe_are_as_the_user_says():
    fields = {"stages.harden.eps_schedule.until": 0.25, "schedule.lr": 0.01, "monitor.loggers": ["csv"]}
    recipe = plan(fields=fields).recipe
    assert (recipe.stages[0].eps_schedule.until, recipe.schedule.lr, recipe.monitor.loggers) == (
        0.25,
        0.01,
        ("csv",),
    )
    alone = stage_alone(HardenConfig(epochs=5, fields={"stages.0.objective.steps": 3}), "pgd-10")
    assert alone.objective.steps == 3, "what is measured is what is trained"


@pytest.mark.parametrize("keep", ["clat", "clat-plus"])
def test_what_tunes_at_the_end_is_the_method_that_the_recipe_of_its_name_has(keep):
    tuning = build_recipe({"stages": harden_stages("pgd-2", 10, keep=keep)}).stages[1]
    published = read_recipe(f"{keep}-finetune").stages[0]
    ratios = [0.1 if stage.objective.ratio is None else stage.objective.ratio for stage in (tuning, published)]
    assert type(tuning.objective) is type(published.objective)
    assert ratios[0] == ratios[1]
    assert tuning.selection.ranking == published.selection.ranking


def test_the_most_robust_point_that_keeps_the_promise():
    line = [
        PromisePoint(0.0, 0.90, 0.0, 0.002),
        PromisePoint(0.5, 0.88, 0.3, 0.02),
        PromisePoint(0.7, 0.87, 0.4, 0.03),
        PromisePoint(1.0, 0.8, 0.5, 0.1),
    ]
    assert most_robust_within(line, 0.03) == line[2]
    assert most_robust_within(line, 0.02) == line[1]
    assert most_robust_within(line, 0.2) == line[3]
    assert most_robust_within(line, 0.01) is None


def test_what_is_lost_at_most_is_more_than_what_was_seen_and_less_on_more_images():
    start = torch.arange(500) < 400
    worse = torch.arange(500) < 390  # 2 points
    assert 0.02 < lost_at_most(start, worse) < 0.035
    assert lost_at_most(start.repeat(10), worse.repeat(10)) < lost_at_most(start, worse)
    assert 0 < lost_at_most(start, start) < 0.005
    for images, points in ((150, 3), (300, 2), (120, 5), (1000, 1)):  # none gained: at least 90 of 100 are right
        lost = np.arange(images + 1)
        limits = [lost_at_most(torch.ones(images, dtype=torch.bool), torch.arange(images) >= k) for k in lost[:60]]
        accepted = lost[:60][np.array(limits) <= points / 100]
        assert stats.binom.cdf(accepted.max(initial=-1), images, points / 100) <= 0.1
    limit = lost_at_most(start, worse)
    lost = int((start & ~worse).sum())
    assert limit == pytest.approx(stats.beta.ppf(0.9, lost + 1, len(start) - lost)), "Clopper and Pearson's"
    assert limit > -PairedDifference.between(start, worse, confidence=0.8).interval[0]


def test_a_promise_holds_on_new_images_as_often_as_it_says():
    """A point whose true loss is what is promised is seldom taken to hold it."""
    generator = torch.Generator().manual_seed(0)
    taken = 0
    for _ in range(300):
        start = torch.rand(500, generator=generator) < 0.9
        falls = torch.rand(500, generator=generator) < 0.05
        rises = torch.rand(500, generator=generator) < 0.1
        now = torch.where(start, ~falls, rises)  # in truth 3.5 points are lost
        points = [PromisePoint(0.0, 0.9, 0.0, 0.0), PromisePoint(0.5, 0.87, 0.5, lost_at_most(start, now))]
        taken += most_robust_within(points, 0.035) is not None
    assert taken / 300 < 0.15


@pytest.mark.parametrize(("points", "images", "enough"), [(3, 50, 76), (1, 100, 230), (0.1, 300, 2302)])
def test_a_promise_that_so_few_images_cannot_show_is_refused(points, images, enough):
    with pytest.raises(ClatError, match=r"hold out (\d+) \(--heldout\)") as caught:
        refuse_hopeless(points / 100, images)
    told = int(re.search(r"hold out (\d+)", str(caught.value))[1])
    assert enough <= told <= 1.1 * enough + 1
    refuse_hopeless(points / 100, told)
    with pytest.raises(ClatError, match="no number of images can show"):
        refuse_hopeless(0.0, 10_000)


def test_points_between_two_networks_have_statistics_that_fit_them():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
    start = copied(tensors_of(model))
    end = {name: value + 1 if value.is_floating_point() else value for name, value in start.items()}
    x = torch.rand(16, 1, 4, 4)
    set_point(model, start, end, 0.5, lambda: [x])
    weight = model[0].weight
    torch.testing.assert_close(weight, start["0.weight"] + 0.5)
    torch.testing.assert_close(model[1].running_mean, (weight.view(2) * x.mean()), rtol=1e-4, atol=1e-5)
    set_point(model, start, end, 1.0, lambda: [x])
    assert torch.equal(model[1].running_mean, end["1.running_mean"])


def test_along_the_line_statistics_that_are_to_stay_do():
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
    start = copied(tensors_of(model))
    end = start | {"1.weight": start["1.weight"] + 1}
    seen = []

    def judge():
        seen.append(copied(tensors_of(model)))
        return torch.ones(4, dtype=torch.bool), 0.0

    walk_line(model, start, end, lambda: [torch.rand(16, 1, 4, 4)], judge, (0.0, 0.3, 1.0), norms=[model[2]])
    for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
        assert all(torch.equal(point[name], start[name]) for point in seen)
    assert [torch.equal(point["2.running_mean"], start["2.running_mean"]) for point in seen] == [True, False, True]


class LeftBright(nn.Module):
    """Class 0 where the left half is brighter than the right one, so that a flip changes the class."""

    def forward(self, x):
        left, right = x[..., :4].mean((1, 2, 3)), x[..., 4:].mean((1, 2, 3))
        return torch.stack([left, right], 1)


class Bright(nn.Module):
    """Class 1 where the whole image is bright: neither a flip nor a shift changes that."""

    def forward(self, x):
        mean = x.amax((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def half_bright(n=40):
    images = torch.full((n, 3, 8, 8), 20, dtype=torch.uint8)
    labels = torch.arange(n) % 2
    images[labels == 0, :, :, :4] = 200
    images[labels == 1, :, :, 4:] = 200
    return ImageSet("halves", "train", ("left", "right"), images, labels)


def test_a_flip_is_used_only_where_the_network_keeps_its_accuracy_under_it():
    engine = Engine(EngineConfig(device="cpu", channels_last=False, precision="32"))
    found = fitting_augmentation(LeftBright(), half_bright(), engine)
    assert found["flip"] is False
    assert found["pad"] == 1
    images = half_bright()
    images.images[images.labels == 0] = 20
    assert fitting_augmentation(Bright(), images, engine) == {"pad": 1, "flip": True}


@pytest.mark.parametrize(
    ("right", "eps", "says"),
    [
        (0.5, "0.01", "which is chance"),
        (1.0, "0.01", r"robust already .*: give a larger eps \(--eps\), or train it further with clat train"),
    ],
)
def test_what_hardening_cannot_help_is_refused(right, eps, says):
    images = half_bright()
    x, y = images.images.float() / 255, images.labels.clone()
    y[: int((1 - right) * len(y))] = 1 - y[: int((1 - right) * len(y))]
    with pytest.raises(ClatError, match=says):
        look(LeftBright(), x, y, ThreatModel.parse(eps), num_classes=2)


@pytest.mark.parametrize(("right", "images"), [(1.0, 10), (0.76, 1000)])
def test_a_right_classifier_of_two_classes_is_not_at_chance(right, images):
    half = half_bright(images)
    x, y = half.images.float() / 255, half.labels.clone()
    wrong = round((1 - right) * len(y))
    y[:wrong] = 1 - y[:wrong]
    assert look(LeftBright(), x, y, ThreatModel.parse("0.4"), num_classes=2).clean.value == pytest.approx(right)


def test_a_setting_that_there_is_not_is_told_with_the_nearest():
    with pytest.raises(ClatError, match=r"unknown setting 'max_clean_dropp'.*did you mean 'max_clean_drop'"):
        harden(LeftBright(), half_bright(), half_bright(), "new", budget="1m", max_clean_dropp=3)


def test_of_too_few_images_it_is_said_that_they_are_too_few():
    half = half_bright(10)
    y = half.labels.clone()
    y[:2] = 1 - y[:2]
    with pytest.raises(ClatError, match=r"80.0% of 10 held-out images.* too few images.*--heldout"):
        look(LeftBright(), half.images.float() / 255, y, ThreatModel.parse("0.4"), num_classes=2)
    with pytest.raises(ClatError, match="of 10 held-out images of 'photos', of 2 classes"):
        look(LeftBright(), half.images.float() / 255, y, ThreatModel.parse("0.4"), num_classes=2, name="photos")


def test_the_card_says_what_the_paired_test_settles():
    config = HardenConfig(budget=60.0, eps="0.1")
    clear, unclear = PairedDifference(1, 60, 100), PairedDifference(3, 4, 100)
    said = paired_sentence(clear, unclear, config, PROTOCOLS["cr"])
    assert said.startswith("Under perturbations of linf size 0.1, robust accuracy changed by +59.0")
    assert said.endswith("which is not told from no change.")


def test_the_card_names_no_ball_for_what_eps_does_not_bound():
    config = HardenConfig(budget=60.0, eps="0.1")
    assert threat_in_words(PROTOCOLS["stadv"], config) == "stadv"
    both = Protocol(name="both", attacks=(AttackSpec(attack="apgd"), AttackSpec(attack="stadv")))
    assert threat_in_words(both, config) == "perturbations of linf size 0.1 and stadv"


def test_the_card_says_what_qualifies_its_numbers():
    config, test = HardenConfig(epochs=1, eps="0.1"), FinalTest(half_bright(4), torch.arange(4), PROTOCOLS["cr"])
    right = Accuracy(2, 4)
    comparison = Comparison(
        ("before", "after"), {}, (), dict.fromkeys(ACCURACIES, (right, right)),
        dict.fromkeys(ACCURACIES, PairedDifference(0, 0, 4)),
    )  # fmt: skip
    where = {"device": "one GPU", "clat": "0.2.0", "torch": "2.13.0"}
    said = card(comparison, plan(), config, "No signs.", test, None, where, ["after: its outputs are random"])
    assert "seed 0, on one GPU; pairs" in said
    assert "- after: its outputs are random\n\nNo signs." in said


def test_fields_are_those_of_the_objectives_that_may_be_taken():
    """A field that fast-at has not is no slip where another one is asked for, or may be chosen."""
    beta = {"stages.harden.objective.beta": 3}
    assert _possible(HardenConfig(budget=60.0, objective="trades", fields=beta))[0] == ["trades"]
    steps = {"stages.harden.objective.steps": 7, "monitor.steps": 3, "monitor.num_samples": 40, "monitor.every": 2}
    names, monitor = _possible(HardenConfig(budget=60.0, fields=steps))
    assert "pgd-10" in names
    assert "fast-at" not in names
    assert (monitor.steps, monitor.num_samples, monitor.every) == (3, 40, 2)
    with pytest.raises(ClatError, match="unknown field"):
        _possible(HardenConfig(budget=60.0, fields={"stages.harden.objective.btea": 3}))


def test_a_stopped_hardening_says_how_to_go_on(tmp_path):
    given = {"model": "m.Net", "data": "d", "augment": None}
    assert how_to_resume(tmp_path, given).startswith("clat.resume(")
    (tmp_path / "harden.json").write_text("{}")
    assert how_to_resume(tmp_path, given).startswith(f"clat harden --resume {tmp_path} (from Python: ")


def black():
    return ImageSet("x", "train", ("a", "b"), torch.zeros(20, 3, 4, 4, dtype=torch.uint8), torch.arange(20) % 2)


def test_the_network_is_tried_where_it_is(monkeypatch):
    """A network that lies on the GPU already, as after a training, gets its trial image there."""
    seen = []
    monkeypatch.setattr(inputs, "check_model", lambda model, x, classes: seen.append(x.device.type))
    monkeypatch.setattr(Engine, "place", lambda self, model: model)
    images = black()
    monkeypatch.setattr(inputs, "runs_channels_last", lambda model, x: bool(seen.append(x.device.type)))
    inputs.harden_inputs(nn.Linear(1, 1, device="meta"), images, images, HardenConfig(device="cpu", epochs=1))
    assert seen == ["meta", "meta"]


def test_a_hardening_that_a_launcher_started_several_times_is_refused(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    images = black()
    with pytest.raises(ClatError, match="runs in one process, and 2 were started"):
        inputs.harden_inputs(nn.Linear(1, 1), images, images, HardenConfig(device="cpu", epochs=1))


def test_the_first_look_is_timed_after_a_warm_up(monkeypatch):
    """The first work on a GPU takes seconds, which is not what a pass takes."""
    clock, calls = [0.0], []

    def measured(model, x, y, attack, **settings):
        clock[0] += 100.0 if not calls else 1.0
        calls.append(len(x))
        return torch.tensor(len(x)), torch.tensor(0)

    monkeypatch.setattr("clat.hardening.look.heldout_correct", measured)
    monkeypatch.setattr("clat.hardening.look.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr("clat.hardening.look._criticality", lambda *args: None)
    x, y = torch.rand(40, 3, 4, 4), torch.zeros(40, dtype=torch.long)
    found = look(nn.Identity(), x, y, ThreatModel.parse("0.1", "linf"), num_classes=2)
    assert calls == [8, 40]
    assert found.seconds_per_pass == pytest.approx(1 / (40 * 11))

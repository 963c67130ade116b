"""A whole run: what it writes, what moves, what decides, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import clat
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.criticality.selection import Selection
from clat.data import hold_out
from clat.evaluation import heldout
from clat.evaluation.heldout import heldout_correct
from clat.objectives import Clat, FastAT, PgdAT, Standard, Trades
from clat.recipe.data_settings import ExtraConfig
from clat.recipe.optimizer import TorchOptimizer
from clat.recipe.schedules import Schedule
from clat.recipe.schema import (
    DataConfig,
    EngineConfig,
    EvaluationConfig,
    MonitorConfig,
    OptimizerConfig,
)
from clat.training import stage
from clat.training.monitor import overfitted_catastrophically
from clat.training.prepare import train_loader
from helpers import runs as kit


def run(out, recipe=None, model=None, data=None, **settings):
    return clat.train(
        recipe or kit.recipe(), out, model=model or kit.tiny(), data=data or kit.data(), quiet=True, **settings
    )


def test_the_folder_of_a_finished_run(finished):
    files = {str(file.relative_to(finished)) for file in finished.rglob("*") if file.is_file()}
    assert {f for f in files if not f.startswith("tensorboard")} == {
        ".lock", "recipe.toml", "run.json", "metrics.jsonl", "summary.json", "state.safetensors",
        "criticality/epoch-0003.json", "criticality/epoch-0004.json",
        "weights/stage-0.safetensors", "weights/stage-1.safetensors",
        "weights/best.safetensors", "weights/last.safetensors",
        "states/stage-1.safetensors", "states/stage-1.best.safetensors",
        "evaluations/stage-0.json", "evaluations/stage-1.json", "evaluations/best.json", "evaluations/last.json",
    }  # fmt: skip
    assert clat.read_recipe(finished / "recipe.toml") == kit.recipe()
    about = json.loads((finished / "run.json").read_text())
    assert about["status"] == "finished"
    assert about["finished"] >= about["started"]
    assert about["data"]["train"] == 64
    assert about["data"]["heldout"] == 16
    events = [record["event"] for record in kit.records(finished)]
    assert events == ["stage", "epoch", "epoch", "selection", "warning", "stage", "epoch", "selection", "epoch"]
    assert kit.records(finished, "warning")[0]["kind"] == "no-robustness", "two epochs have given it none"
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["robust_overfitting"] == summary["best"]["heldout_robust"] - summary["last"]["heldout_robust"]
    assert [stage["name"] for stage in summary["stages"]] == ["pgd-at", "clat"]


def test_the_result_holds_the_model_in_evaluation_mode_with_the_last_weights(tmp_path):
    model = kit.tiny()
    result = run(tmp_path / "run", model=model)
    assert result.model is model
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert kit.same(model.state_dict(), kit.weights(tmp_path / "run", "last"))
    assert set(result.evaluations) == {"stage-0", "stage-1", "best", "last"}


def test_the_cost_of_training_by_hand(finished):
    """PGD-AT with one attack step: two forwards and two backwards a training image."""
    stages = json.loads((finished / "summary.json").read_text())["stages"]
    trained, monitored = 2 * 64, 2 * 16
    # The monitor: a forward and a backward for its one step, then the clean and the attacked verdict.
    assert stages[0]["backwards"] == trained * 2 + monitored
    assert stages[0]["forwards"] == trained * 2 + monitored * 3


def test_training_learns(tmp_path):
    recipe = kit.recipe(stages=(kit.pgd_at(12, objective=Standard()),), eps="0.01")
    run(tmp_path / "run", recipe, model=kit.tiny(dropout=0.0))
    losses = [record["loss"] for record in kit.records(tmp_path / "run", "epoch")]
    assert losses[-1] < 0.7 * losses[0]


# Frozen means frozen (invariant 2)


def moved(one, other):
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("rule", ["critical", "least-critical", "random", "named", "all"])
@pytest.mark.parametrize("policy", ["frozen", "update", "update-selected"])
def test_only_what_is_selected_moves_and_statistics_follow_the_policy(tmp_path, rule, policy):
    named = {"layers": ("conv2",)} if rule == "named" else {}
    selection = Selection(rule=rule, k=1, every=1, num_samples=8, steps=1, **named)
    recipe = kit.recipe(
        stages=(kit.pgd_at(1), kit.clat(2, selection=selection, batch_norm=policy)),
        optimizer=OptimizerConfig(momentum=0.9, weight_decay=0.1),
    )
    out = tmp_path / "run"
    run(out, recipe)
    selected = {name for record in kit.records(out, "selection") for name in record["layers"]}
    expected = {f"{name}.{part}" for name in selected for part in ("weight", "bias")}
    norms = {
        "frozen": set(),
        "update": {"bn1", "bn2", "bn3"},
        "update-selected": {name.replace("conv", "bn") for name in selected},
    }
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    expected |= {f"{name}.{part}" for name in norms[policy] for part in statistics}
    assert moved(kit.weights(out, "stage-1"), kit.weights(out, "last")) == expected
    assert kit.records(out, "stage")[1]["batch_norm"] == policy


def test_no_gradient_is_computed_for_what_does_not_move(tmp_path, monkeypatch):
    wanted, original = [], stage.StageRunner.train_step

    def step(self, *args, **place):
        wanted.append({name for name, parameter in self.model.named_parameters() if parameter.requires_grad})
        return original(self, *args, **place)

    monkeypatch.setattr(stage.StageRunner, "train_step", step)
    selection = Selection(rule="named", layers=("conv2",))
    run(tmp_path / "run", kit.recipe(stages=(kit.clat(1, selection=selection),)))
    assert wanted == [{"conv2.weight", "conv2.bias"}] * 4


def test_a_stage_without_a_selection_moves_everything(tmp_path):
    out = tmp_path / "run"
    run(out, kit.recipe(stages=(kit.pgd_at(1),)))
    before = kit.weights(out, "stage-0")
    # A layer's bias before a BatchNorm in training mode has no gradient but the rounding of one; the rest moves.
    assert moved(before, kit.weights(out, "last")) >= {
        n for n in before if not n.startswith("conv") or "weight" in n
    }


def test_momentum_across_selections(tmp_path, monkeypatch):
    """Two of three layers at random, selected anew each epoch: what stays goes on, what is new starts fresh."""
    built = []
    original = stage.build_optimizer

    def recording(parameters, config, state, rates):
        optimizer = original(parameters, config, state, rates)
        started = {name: optimizer.state[p].get("momentum_buffer") for name, p in parameters.items()}
        built.append({name: None if buffer is None else buffer.clone() for name, buffer in started.items()})
        ended.append({name: one["momentum_buffer"].clone() for name, one in state.items()})
        return optimizer

    ended = []
    monkeypatch.setattr(stage, "build_optimizer", recording)
    rule = Selection(rule="random", k=2, every=1)
    run(tmp_path / "run", kit.recipe(stages=(kit.pgd_at(1), kit.clat(4, selection=rule))))
    picks = [set(record["layers"]) for record in kit.records(tmp_path / "run", "selection")]
    assert len({frozenset(pick) for pick in picks}) > 1, "the seed must change the selection, or nothing is tested"
    selections = [(start, end) for start, end in zip(built, ended, strict=True) if len(start) == 4]
    assert len(selections) == len(picks)
    assert all(buffer is None for buffer in selections[0][0].values()), "the stage before must leave nothing"
    for (before, now), (start, end) in zip(pairwise(picks), selections[1:], strict=True):
        assert {name.split(".")[0] for name in end} == before
        for name, buffer in start.items():
            if name.split(".")[0] in before & now:
                assert torch.equal(buffer, end[name])
                assert buffer.abs().max() > 0
            else:
                assert buffer is None


def test_momentum_goes_on_into_a_stage_that_moves_everything(tmp_path):
    """Two stages of the same objective are one longer stage."""
    run(tmp_path / "two", kit.recipe(stages=(kit.pgd_at(1), kit.pgd_at(1, name="on"))))
    run(tmp_path / "one", kit.recipe(stages=(kit.pgd_at(2),)))
    assert kit.same(kit.weights(tmp_path / "two", "last"), kit.weights(tmp_path / "one", "last"))


# Schedules over stages


def rates(out):
    return [record["lr"] for record in kit.records(out, "epoch")]


def test_the_runs_cosine_spans_the_stages(finished):
    expected = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * e / 4)).item()) for e in (1, 2, 3, 4)]
    assert rates(finished) == pytest.approx(expected, abs=1e-6)


def test_the_learning_rate_of_every_step(tmp_path, monkeypatch):
    seen = []
    original = stage.StageRunner.train_step
    monkeypatch.setattr(
        stage.StageRunner,
        "train_step",
        lambda self, *a, rate, **place: seen.append(rate) or original(self, *a, rate=rate, **place),
    )
    own = kit.clat(1, schedule=Schedule(kind="cyclic", lr=0.4))
    run(tmp_path / "run", kit.recipe(stages=(kit.pgd_at(1), own, kit.pgd_at(1, name="on"))))
    cosine = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * step / 12)).item()) for step in range(12)]
    assert seen == pytest.approx([*cosine[:4], 0.0, 0.2, 0.4, 0.2, *cosine[8:]], abs=1e-6)


@pytest.mark.parametrize("optimizer", [OptimizerConfig(), TorchOptimizer(name="adamw")])
def test_the_momentum_of_every_step_of_a_cycle(tmp_path, monkeypatch, optimizer):
    """In the next stage it is the optimizer's own again."""
    seen = []
    original = stage.StageRunner.train_step

    def watched(self, *args, **place):
        group = self.trainable.optimizer.param_groups[0]
        seen.append(group["betas"][0] if "betas" in group else group["momentum"])
        return original(self, *args, **place)

    monkeypatch.setattr(stage.StageRunner, "train_step", watched)
    cycle = Schedule(kind="one-cycle", lr=1e-3, peak=0.5, momentum=(0.95, 0.85))
    stages = (kit.pgd_at(1, schedule=cycle), kit.pgd_at(1, name="on"))
    run(tmp_path / "run", kit.recipe(stages=stages, optimizer=optimizer))
    assert seen == pytest.approx([0.95, 0.9, 0.85, 0.9, *[0.9] * 4])


def test_a_stage_can_have_an_optimizer_of_its_own(tmp_path):
    still = kit.clat(1, optimizer=OptimizerConfig(momentum=0.0), schedule=Schedule(kind="constant", lr=1e-30))
    out = tmp_path / "run"
    run(out, kit.recipe(stages=(kit.pgd_at(1), still)))
    assert kit.same(kit.weights(out, "stage-1"), kit.weights(out, "last"))
    assert not [name for name in kit.state(out) if name.startswith("optimizer.")]


# The test set decides nothing (invariant 6)


class Sealed(torch.Tensor):
    """Pixels that may only be read once the training has written its summary."""

    out: Path
    read = False

    def to(self, device):
        assert (Sealed.out / "summary.json").exists(), "the test split was read before the training was over"
        Sealed.read = True
        return self.as_subclass(torch.Tensor).to(device)


def test_the_test_split_is_not_read_before_the_end(tmp_path):
    out = tmp_path / "run"
    train_set, test = kit.data()
    Sealed.out, Sealed.read = out, False
    sealed = dataclasses.replace(test, images=test.images.as_subclass(Sealed))
    with pytest.raises(AssertionError, match="was read before"):
        sealed.images.to("cpu")
    run(out, data=(train_set, sealed))
    assert Sealed.read


def test_other_test_images_change_no_weight(finished, tmp_path):
    train_set, _ = kit.data()
    run(tmp_path / "run", data=(train_set, kit.image_set(16, "test", seed=99)))
    for name in ("best", "last", "stage-1"):
        assert kit.same(kit.weights(tmp_path / "run", name), kit.weights(finished, name))


def test_the_heldout_images_are_never_trained_on(finished, tmp_path):
    """Scrambled held-out labels must not change what plain PGD-AT learns, only what it reports."""
    train_set, test = kit.data()
    _, heldout = hold_out(train_set, 16, 0)
    hidden = {tuple(image.flatten().tolist()) for image in heldout.images}
    which = [tuple(image.flatten().tolist()) in hidden for image in train_set.images]
    labels = torch.where(torch.tensor(which), 3 - train_set.labels, train_set.labels)
    assert sum(which) == 16
    scrambled = dataclasses.replace(train_set, labels=labels)
    run(tmp_path / "run", data=(scrambled, test))
    assert kit.same(kit.weights(tmp_path / "run", "stage-1"), kit.weights(finished, "stage-1"))
    checks = [[r["heldout_clean"] for r in kit.records(out, "epoch")][:2] for out in (tmp_path / "run", finished)]
    assert checks[0] != checks[1]


def scripted(monkeypatch, counts, seen=None):
    """The held-out check returns these (clean, robust) counts of 16, one after the other."""
    script = iter(counts)

    def check(model, *args, **kwargs):
        if seen is not None:
            seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return torch.tensor(next(script))

    monkeypatch.setattr(heldout, "heldout_correct", check)


def test_best_is_the_first_epoch_with_the_highest_heldout_robust_accuracy(tmp_path, monkeypatch):
    seen = []
    scripted(monkeypatch, [(16, 2), (9, 8), (15, 8), (16, 5)], seen)
    out = tmp_path / "run"
    summary = run(out, kit.recipe(stages=(kit.pgd_at(), kit.pgd_at(name="on")))).summary
    assert summary["best_over"] == ["pgd-at", "on"], "one method in two stages"
    assert summary["best"] == {"epoch": 2, "heldout_clean": 9 / 16, "heldout_robust": 0.5, "heldout_n": 16}
    assert summary["last"]["epoch"] == 4
    assert summary["robust_overfitting"] == 3 / 16
    assert kit.same(kit.weights(out, "best"), seen[1])
    assert kit.same(kit.weights(out, "last"), seen[3])
    assert [record["best"] for record in kit.records(out, "epoch")] == [True, True, False, False]


def test_the_best_of_a_method_on_top_of_another_is_not_the_others(tmp_path, monkeypatch):
    """X's best epoch is no result of "X + CLAT", however much better it was; both keep theirs."""
    seen = []
    scripted(monkeypatch, [(16, 12), (9, 8), (15, 4), (16, 5)], seen)
    out = tmp_path / "run"
    summary = run(out).summary
    assert summary["best"]["epoch"] == 4
    assert summary["best_over"] == ["clat"]
    assert kit.same(kit.weights(out, "best"), seen[3])
    assert [record["best"] for record in kit.records(out, "epoch")] == [True, False, True, True]


def test_epochs_between_checks_are_not_checked_but_the_last_of_a_stage_is(tmp_path):
    out = tmp_path / "run"
    run(out, kit.recipe(stages=(kit.pgd_at(3), kit.clat(1)), monitor=MonitorConfig(every=2, num_samples=4)))
    checked = [record["epoch"] for record in kit.records(out, "epoch") if "heldout_robust" in record]
    assert checked == [2, 3, 4]
    assert {record.get("heldout_n") for record in kit.records(out, "epoch")} == {4, None}


def test_the_monitor_counts_what_is_right_and_stays_right(images):
    """A model that always says class 0 is right on class 0 and no attack changes that."""

    class Constant(nn.Module):
        def forward(self, x):
            return torch.stack([x.flatten(1).sum(1) * 0 + 1, x.flatten(1).sum(1) * 0], dim=1)

    y = torch.tensor([0, 0, 0, 0, 1, 1])
    counts = heldout_correct(Constant(), images, y, Attack.parse(steps=1), batch_size=4, seed=0)
    assert counts.tolist() == [4, 4]


# Catastrophic overfitting


@pytest.mark.parametrize(
    ("clean", "robust", "best", "expected"),
    [
        (0.9, 0.02, 0.4, True),  # the classical collapse
        (0.9, 0.19, 0.4, True),
        (0.9, 0.21, 0.4, False),  # robust overfitting, no collapse
        (0.9, 0.5, 0.4, False),
        (0.1, 0.02, 0.4, False),  # everything collapsed: divergence, not catastrophic overfitting
        (0.9, 0.0, 0.05, False),  # it never was robust
    ],
)
def test_what_counts_as_catastrophic_overfitting(clean, robust, best, expected):
    assert overfitted_catastrophically(clean, robust, best) is expected


COLLAPSE = [(12, 6), (12, 8), (15, 1), (15, 1), (15, 6), (15, 1)]


@pytest.mark.parametrize(("objective", "epochs"), [(FastAT(), [3, 6]), (PgdAT(steps=1), [])])
def test_a_run_reports_catastrophic_overfitting_once_an_event(tmp_path, monkeypatch, capsys, objective, epochs):
    scripted(monkeypatch, COLLAPSE)
    out = tmp_path / "run"
    recipe = kit.recipe(stages=(kit.pgd_at(6, objective=objective),))
    result = clat.train(recipe, out, model=kit.tiny(), data=kit.data())
    warnings = kit.records(out, "warning")
    assert [record["epoch"] for record in warnings] == epochs
    assert result.summary["warnings"] == [record["message"] for record in warnings]
    assert ("catastrophic overfitting at epoch 3" in capsys.readouterr().out) == bool(epochs)


STOPPING = MonitorConfig(steps=1, num_samples=16, stop_on_collapse=True)


def test_a_stage_can_end_at_its_collapse_with_the_best_weights(tmp_path, monkeypatch, capsys):
    """The stage of 6 epochs ends after 3, at the weights of epoch 2; the next one starts from them at epoch 7."""
    seen = []
    scripted(monkeypatch, [*COLLAPSE[:3], (14, 7), (14, 7)], seen)
    stages = (kit.pgd_at(6, objective=FastAT()), kit.pgd_at(2, name="on"))
    out = tmp_path / "run"
    summary = clat.train(
        kit.recipe(stages=stages, monitor=STOPPING), out, model=kit.tiny(), data=kit.data()
    ).summary
    assert [record["epoch"] for record in kit.records(out, "epoch")] == [1, 2, 3, 7, 8]
    assert [stage["epochs"] for stage in summary["stages"]] == [3, 2]
    assert kit.same(kit.weights(out, "stage-1"), seen[1])
    assert kit.same(kit.weights(out, "best"), seen[1])
    assert "back to the best weights" in summary["warnings"][0]
    assert "catastrophic overfitting at epoch 3" in capsys.readouterr().out


def test_a_run_that_ends_at_its_collapse_ends_with_the_best_weights(tmp_path, monkeypatch):
    scripted(monkeypatch, COLLAPSE)
    out = tmp_path / "run"
    recipe = kit.recipe(stages=(kit.pgd_at(6, objective=FastAT()),), monitor=STOPPING)
    summary = clat.train(recipe, out, model=kit.tiny(), data=kit.data(), quiet=True).summary
    assert kit.same(kit.weights(out, "last"), kit.weights(out, "best"))
    assert summary["last"] == summary["best"]
    assert summary["last"]["epoch"] == 2


def test_a_run_resumed_after_a_collapse_ends_with_the_same_bits(tmp_path, monkeypatch):
    """Also the momentum, which must not remember what the best weights have not seen."""
    script = [*COLLAPSE[:3], (14, 7), (14, 7)]
    recipe = kit.recipe(stages=(kit.pgd_at(6, objective=FastAT()), kit.pgd_at(2, name="on")), monitor=STOPPING)
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    scripted(monkeypatch, script)
    clat.train(recipe, whole, model=kit.tiny(), data=kit.data(), quiet=True)
    scripted(monkeypatch, script)
    kit.train_and_stop(monkeypatch, recipe, halted, after_steps=12)  # the collapse is found next
    clat.resume(halted, model=kit.tiny(seed=9), data=kit.data(), quiet=True)
    kit.assert_same_run(whole, halted)
    halted = tmp_path / "halted later"
    scripted(monkeypatch, script)
    kit.train_and_stop(monkeypatch, recipe, halted, after_steps=13)
    clat.resume(halted, model=kit.tiny(seed=9), data=kit.data(), quiet=True)
    kit.assert_same_run(whole, halted)


def test_multi_step_training_is_not_stopped(tmp_path, monkeypatch):
    scripted(monkeypatch, COLLAPSE)
    recipe = kit.recipe(stages=(kit.pgd_at(6),), monitor=STOPPING)
    summary = clat.train(recipe, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True).summary
    assert summary["stages"][0]["epochs"] == 6


# Loss not finite


def diverging(lr, **changes):
    """A good stage, then one whose learning rate is out of this world."""
    bad = kit.pgd_at(2, name="bad", schedule=Schedule(kind="constant", lr=lr), objective=Standard())
    return kit.recipe(stages=(kit.pgd_at(1), bad), **changes)


def all_finite(tensors):
    return all(bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point())


class Unnormalised(nn.Sequential):
    """Without BatchNorm, which would swallow any scale."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(
                nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
            )


@pytest.mark.parametrize("lr", [1e9, 1e25, 3e38])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_good(tmp_path, lr):
    out = tmp_path / "run"
    model = Unnormalised()
    with pytest.raises(
        ClatError, match=r"not finite \(stage 'bad', epoch 2, step \d\): lower the learning rate"
    ) as e:
        run(out, diverging(lr), model=model)
    assert "\n" not in str(e.value)
    assert str(out) in str(e.value)
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    assert kit.progress(out)["stage"] == 1
    assert kit.progress(out)["step"] == 0
    assert all_finite(kit.state(out))
    assert kit.same(kit.weights(out, "best"), kit.weights(out, "stage-1"))
    assert all_finite(kit.weights(out, "best"))
    assert not (out / "weights" / "last.safetensors").exists()
    good = kit.state(out)
    with pytest.raises(ClatError, match="not finite"):
        clat.resume(out, model=Unnormalised(), data=kit.data(), quiet=True)
    assert kit.same(kit.state(out), good)


def test_weights_that_the_last_step_of_an_epoch_ruined_are_saved_nowhere(tmp_path, monkeypatch):
    out = tmp_path / "run"
    original = stage.StageRunner.train_step

    def ruin(self, *args, **place):
        loss = original(self, *args, **place)
        if place["number"] == 3:
            with torch.no_grad():
                self.model.conv2.weight.fill_(float("nan"))
        return loss

    monkeypatch.setattr(stage.StageRunner, "train_step", ruin)
    with pytest.raises(ClatError, match=r"a weight is not finite \(stage 'pgd-at', epoch 1, step 4\)"):
        run(out)
    assert {file.name for file in out.rglob("*.safetensors")} == {"stage-0.safetensors"}


# What is refused, before anything is written


def test_fewer_images_than_a_batch_are_shared_as_far_as_they_go():
    """37 images among two processes, of a batch that asks for 128: 36 of them, and not a refusal of 37."""
    found = train_loader(kit.recipe(batch_size=128), kit.image_set(37), torch.device("cpu"), 1, 2)
    assert found.num_batches == 1
    assert [len(x) for x, _ in found.epoch()] == [18]


class Flat(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, classes)

    def forward(self, x):
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("changes", "model", "says"),
    [
        ({"stages": "k"}, None, "selection.k is 9"),
        ({"stages": "least"}, None, "there are 2 layers"),
        ({"stages": "named"}, None, "unknown layer 'conv9'; did you mean 'conv"),
        ({"stages": "pattern"}, None, "unknown layer pattern"),
        ({"evaluation": EvaluationConfig(protocol="pgd-21")}, None, "did you mean 'pgd-"),
        ({"data": DataConfig(heldout=0)}, None, "data.heldout is 0"),
        ({"data": DataConfig(heldout=-3)}, None, "data.heldout is -3"),
        ({"data": DataConfig(heldout=80)}, None, "cannot hold out 80"),
        ({"data": DataConfig(heldout=16, train_size=65)}, None, "cannot train on 65"),
        ({"data": DataConfig(heldout=16, pad=8, padding_mode="reflect")}, None, "by 8 pixels"),
        ({"data": DataConfig(heldout=16, augment="idbh-weak")}, None, "cuts up to 10 pixels off"),
        ({"data": DataConfig(heldout=16, extra=ExtraConfig(file="no.npz"))}, None, "no file no.npz"),
        ({"data": DataConfig(heldout=16, cutmix=True)}, "five classes", "the data's 4 classes: it has 5"),
        ({"batch_size": 15, "engine": EngineConfig(device="cpu", devices=2)}, None, "batch_size 15"),
        ({}, Flat(), "does not run on images of shape (3, 8, 8)"),
        ({}, "three classes", "3 classes, the data 4"),
        ({}, nn.Conv2d(3, 4, 3), "logits of shape"),
    ],
)
def test_bad_input_is_found_before_the_folder_is_made(tmp_path, changes, model, says):
    if "stages" in changes:
        selection = {
            "k": Selection(k=9),
            "least": Selection(rule="least-critical", k=3),
            "named": Selection(rule="named", layers=("conv9",)),
            "pattern": Selection(include=("layer*",)),
        }[changes["stages"]]
        changes = {"stages": (kit.pgd_at(), kit.clat(selection=selection))}
    if isinstance(model, str):
        model = kit.tiny(classes={"three classes": 3, "five classes": 5}[model])
    with pytest.raises(ClatError) as caught:
        run(tmp_path / "run", kit.recipe(**changes), model=model)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_new_classifier_has_to_be_trained(tmp_path):
    words = ["--model.name", "timm:resnet18", "--model.args.pretrained", "true", "--model.classifier", "new"]
    tuning = clat.read_recipe("clat-finetune", ["--data.name", "digits", *words])
    with pytest.raises(ClatError, match="no stage trains it"):
        clat.train(tuning, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_batches_of_one_image_are_refused_where_batch_norm_cannot_normalise_them(tmp_path):
    def flat():
        return nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.Flatten())

    recipe = kit.recipe(batch_size=1, stages=(kit.pgd_at(1),), data=DataConfig(heldout=16, train_size=2))
    with pytest.raises(ClatError, match="too few for the model's BatchNorm: raise batch_size"):
        run(tmp_path / "run", recipe, model=flat())
    assert not (tmp_path / "run").exists()
    run(
        tmp_path / "frozen",
        dataclasses.replace(recipe, stages=(kit.pgd_at(1, batch_norm="frozen"),)),
        model=flat(),
    )


def test_data_that_does_not_fit_together(tmp_path):
    train_set, test = kit.data()
    with pytest.raises(ClatError, match="is empty"):
        run(tmp_path / "run", data=(train_set, test.take(0)))
    other = dataclasses.replace(test, class_names=("a", "b", "c", "d", "e"))
    with pytest.raises(ClatError, match="train and test"):
        run(tmp_path / "run", data=(train_set, other))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_left_alone(finished, tmp_path):
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    with pytest.raises(ClatError, match="holds another run already"):
        run(finished)
    assert before == {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ClatError, match="holds something already"):
        run(tmp_path)
    with pytest.raises(ClatError, match="is a file: name a new folder"):
        run(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(ClatError, match="cannot write"):
        run(tmp_path / "notes.txt" / "run")


def test_a_folder_of_a_run_that_was_killed_before_it_had_a_recipe_is_free(tmp_path):
    """It can neither go on nor be overwritten: nothing of it is there."""
    out = tmp_path / "run"
    for folder in ("weights", "criticality", "evaluations", "states"):
        (out / folder).mkdir(parents=True)
    (out / ".recipe.toml.a1b2c3.tmp").write_text("name = ")
    (out / "mine.json").write_text("{")
    with pytest.raises(ClatError, match="holds something already"):
        run(out)
    clat.train(kit.recipe(), out, model=kit.tiny(), data=kit.data(), quiet=True, beside={"mine.json": {}})
    assert json.loads((out / "mine.json").read_text()) == {}
    assert not list(out.rglob("*.tmp"))
    (tmp_path / "other" / "weights").mkdir(parents=True)
    (tmp_path / "other" / "weights" / "mine.pt").write_text("")
    with pytest.raises(ClatError, match="holds something already"):
        run(tmp_path / "other")


def test_a_damaged_run_json_does_not_keep_a_run_from_going_on(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text('{"status": "runn')
    (tmp_path / "run" / "weights" / ".last.safetensors.a1b2c3.tmp").write_text("half")
    clat.resume(tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    assert not list((tmp_path / "run").rglob("*.tmp"))


@pytest.mark.parametrize("objective", [Standard(), PgdAT(steps=1), Trades(steps=1), FastAT()])
def test_every_objective_runs_from_a_recipe_of_its_own(tmp_path, objective):
    run(tmp_path / "run", kit.recipe(stages=(kit.pgd_at(1, objective=objective),)))
    (epoch,) = kit.records(tmp_path / "run", "epoch")
    assert set(epoch["parts"]) == {"cross_entropy"} | ({"divergence"} if objective.name == "trades" else set())


def test_lambda_is_recorded_and_follows_the_selection_if_asked(tmp_path, monkeypatch):
    weights = []
    original = Clat._terms

    def watch(self, *args, weight):
        weights.append(weight)
        return original(self, *args, weight=weight)

    monkeypatch.setattr(Clat, "_terms", watch)
    used = {}
    for calibrate in ("stage", "selection"):
        weights.clear()
        stage = kit.clat(2, objective=Clat(steps=1, ratio=0.2, calibrate=calibrate))
        run(tmp_path / calibrate, kit.recipe(stages=(stage,)))
        used[calibrate] = list(dict.fromkeys(weights))
        recorded = kit.records(tmp_path / calibrate, "stage")[0]["objective_state"]["lambda"]
        assert recorded == used[calibrate][1]
    assert len(used["stage"]) == 2  # 1.0 while calibrating, then lambda
    assert len(used["selection"]) == 3


def test_bfloat16_and_another_memory_layout_run(tmp_path):
    engine = EngineConfig(device="cpu", precision="bf16-mixed", channels_last=False)
    result = run(tmp_path / "run", kit.recipe(stages=(kit.pgd_at(1), kit.clat(1)), engine=engine))
    assert all(parameter.dtype == torch.float32 for parameter in result.model.parameters())
    assert json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["precision"] == "bf16-mixed"


# What a run says of itself


def test_a_network_and_images_of_the_users_own_are_recorded_as_what_they_are(finished, tmp_path):
    about = json.loads((finished / "run.json").read_text())
    model = kit.tiny()
    assert about["model"]["name"] == type(model).__qualname__
    assert about["model"]["own"]
    assert about["model"]["class"] == f"{type(model).__module__}.{type(model).__qualname__}"
    assert about["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert about["data"]["own"]
    assert about["data"]["name"] == kit.data()[0].name
    assert about["command"] is None  # pytest's own would tell nobody how to repeat the run
    for label in ("best", "last"):
        assert (
            json.loads((finished / "evaluations" / f"{label}.json").read_text())["model"] == about["model"]["name"]
        )


def test_runs_of_one_recipe_on_other_networks_or_images_have_other_hashes(finished, tmp_path):
    class Wider(type(kit.tiny())):
        pass

    first = json.loads((finished / "run.json").read_text())
    wider = kit.tiny()
    wider.__class__ = Wider
    run(tmp_path / "wider", model=wider)
    other = json.loads((tmp_path / "wider" / "run.json").read_text())
    assert other["recipe_hash"] == first["recipe_hash"]
    assert other["run_hash"] != first["run_hash"]
    assert other["model"]["structure"] != first["model"]["structure"]


def test_the_names_of_the_classes_are_compared_and_not_their_number(tmp_path):
    train_set, test = kit.data()
    other = dataclasses.replace(test, class_names=("a", "c", "b", "d"))
    with pytest.raises(ClatError, match="class 1 is 'b' in train and 'c' in test"):
        run(tmp_path / "run", data=(train_set, other))
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_begin_whose_rate_is_zero_for_a_part_of_it(tmp_path):
    short = kit.recipe(schedule=Schedule(lr=0.1, epochs=2))
    with pytest.raises(ClatError, match=r"schedule\.epochs is 2: the rate is 0 from there on, and 4 epochs"):
        clat.train(short, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    own = dataclasses.replace(kit.clat(), schedule=Schedule(lr=0.01))
    kit.recipe(stages=(kit.pgd_at(2), own), schedule=Schedule(lr=0.1, epochs=2)).check_rates()

"""A run whose eps rises: what each step's attack is given, what keeps the full eps, and resuming in between."""

from __future__ import annotations

import typing
from fractions import Fraction

import pytest
import torch

import clat
from clat.network.layers import enumerate_layers
from clat.objectives import AnyObjective, PgdAT, Step
from clat.objectives.clat import Calibration, ClatCallback
from clat.recipe.eps_schedule import EpsSchedule
from clat.training import monitor, stage
from helpers import runs as kit

KINDS = [kind for kind in typing.get_args(typing.get_args(AnyObjective)[0]) if kind.attacks]


def rising(**changes):
    """Two stages of two epochs of four batches, both rising; the second has CLAT's term."""
    schedule = EpsSchedule(from_=0, until="3/4")
    return kit.recipe(
        stages=(kit.pgd_at(eps_schedule=schedule, **changes), kit.clat(eps_schedule=EpsSchedule(from_="1/2")))
    )


def test_each_step_has_its_share_and_selection_and_monitor_the_full_eps(tmp_path, monkeypatch):
    seen, checked = [], []
    original, accuracies = stage.take_step, monitor.heldout_accuracies
    monkeypatch.setattr(
        stage, "take_step", lambda o, m, x, y, step, **more: seen.append(step) or original(o, m, x, y, step, **more)
    )
    monkeypatch.setattr(
        monitor,
        "heldout_accuracies",
        lambda model, engine, x, y, attack, **more: (
            checked.append(attack.threat.text) or accuracies(model, engine, x, y, attack, **more)
        ),
    )
    clat.train(rising(), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    shares = [step.eps_share for step in seen]
    assert shares[:8] == [Fraction(done, 6) for done in range(6)] + [1, 1]
    assert shares[8:] == [Fraction(1, 2) + Fraction(1, 2) * Fraction(done, 6) for done in range(6)] + [1, 1]
    assert [step.number for step in seen] == [0, 1, 2, 3] * 4
    assert {step.threat.text for step in seen} == {"0.05"}
    assert checked == ["0.05"] * 4
    told = [record["eps_share"] for record in kit.records(tmp_path / "run", "epoch")]
    assert told == pytest.approx([2 / 3, 1, 5 / 6, 1])
    reports = [file.read_text() for file in sorted((tmp_path / "run" / "criticality").glob("*.json"))]
    assert all('"eps": "0.05"' in report for report in reports)


@pytest.mark.parametrize("k", [3, 4, 11])
def test_stopped_and_resumed_it_ends_with_the_same_bits(tmp_path, monkeypatch, k):
    clat.train(rising(), tmp_path / "whole", model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, rising(), tmp_path / "stopped", after_steps=k)
    clat.resume(tmp_path / "stopped", model=kit.tiny(seed=9), data=kit.data(), quiet=True)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_the_step_size_follows_where_one_is_given():
    def sizes(share, **settings):
        attack = PgdAT(**settings).attack(Step(eps_share=Fraction(share)))
        return attack.threat.eps, attack.step_size

    assert sizes("1/2") == (Fraction(4, 255), pytest.approx(1 / 255))
    assert sizes("1/2", alpha="2/255") == (Fraction(4, 255), pytest.approx(1 / 255))
    assert sizes("1/4", eps="4/255", alpha="1/255") == (Fraction(1, 255), pytest.approx(0.25 / 255))
    assert sizes("0", alpha="2/255") == (0, 0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "mixing"], ids=lambda kind: kind.name)
def test_at_a_share_of_zero_every_attack_leaves_the_image_and_every_loss_is_finite(around, kind):
    net = kit.tiny(dropout=0.0).train()
    context = around(net)
    objective = kind()
    callback = objective.on_stage_start(context)
    if isinstance(callback, ClatCallback):
        callback.calibration = Calibration(0.1)
    if objective.name == "cure":
        callback.choose_parameters(dict(net.named_parameters()))
    if objective.name == "autolora":
        callback.scalars |= {"lambda1": 0.5, "lambda2": 1.0}
    x, y = (part[:4] for part in context.heldout)
    layers = tuple(enumerate_layers(net, x))[:1]
    step = Step(layers=layers, threat=context.threat, callback=callback, eps_share=Fraction(0), number=1)
    examples = objective.examples(net, x, y, step)
    attacked = [examples.feature, examples.output] if "clat" in kind.name else examples[:1]
    assert all(torch.equal(found, x) for found in attacked)
    loss = objective.cost(net, x, y, examples, step).total
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())

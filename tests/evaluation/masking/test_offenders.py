"""Known offenders: networks in the manner of published broken defences, each flagged by the sign that names its
cause, and cr flagged wherever it is too optimistic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.evaluation import evaluate
from clat.evaluation.masking.report import SUSPICIOUS, CheckReport
from helpers.masked_networks import (
    SINGLE_STEP_EPS,
    Around,
    BatchStatistics,
    Reversed,
    StraightThroughSign,
    detector,
    digits,
    image_noise,
    one_size,
    shattered,
    single_step,
    train,
)

EPS = 0.1


@pytest.fixture(scope="module")
def robust_net() -> nn.Module:
    return train(adversarial=True)


def images(count: int) -> tuple[Tensor, Tensor]:
    x, y = digits("test")
    return x[:count], y[:count]


def found(report: CheckReport) -> set[str]:
    return {row.name for row in report.rows if row.verdict == SUSPICIOUS}


OFFENDERS: dict[str, tuple[Callable[[nn.Module], nn.Module], float, str]] = {
    "levels of grey": (lambda net: Around(net, before=lambda x: (x * 5).round() / 5), 2 * EPS, "zero gradients"),
    "a detector": (detector, 2 * EPS, "zero gradients"),
    "noise": (lambda net: Around(net, before=lambda x: x + 0.1 * torch.randn_like(x)), EPS, "random forward"),
    "noise of the image": (image_noise, EPS, "jumping logits"),
    "extreme logits": (lambda net: Around(net, after=lambda z: 1e4 * z), 2 * EPS, "saturated softmax"),
    "a sigmoid": (lambda net: Around(net, after=torch.sigmoid), EPS, "squashed outputs"),
    "a ripple": (shattered, 2 * EPS, "black box"),
    "a reversed slope": (lambda net: Around(net, before=Reversed.apply), 2 * EPS, "black box"),
    "the batch": (BatchStatistics, EPS, "batch dependence"),
    "steps of one size": (lambda net: one_size(net, 1 / 16), 1 / 16, "half a step"),
}
"""Name -> (how a network is masked, eps, the sign that names the cause)."""


@pytest.mark.parametrize("name", OFFENDERS)
def test_each_is_flagged_for_its_cause(robust_net: nn.Module, name: str) -> None:
    mask, eps, sign = OFFENDERS[name]
    report = clat.check(mask(robust_net), *images(40), eps=eps)
    assert sign in found(report), {row.name: row.why for row in report.rows}


def test_layers_without_a_gradient() -> None:
    """Binarised activations, trained with a slope that evaluation does not have."""
    report = clat.check(train(adversarial=False, activation=StraightThroughSign), *images(40), eps=EPS)
    assert report.clean.value > 0.8
    assert "zero gradients" in found(report)


def test_training_on_single_steps() -> None:
    """PGD fools 67 of 195, everything together 105, and cr 88: the two signs that were made for it, and none of the
    others, say so."""
    report = clat.check(single_step(), *images(200), eps=SINGLE_STEP_EPS)
    assert found(report) == {"strongest attack", "cr"}
    assert report.clean.value > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", [*OFFENDERS, "single steps", "none"])
def test_where_cr_is_too_optimistic_there_is_a_sign(robust_net: nn.Module, name: str) -> None:
    """More than two points above AutoAttack."""
    x, y = images(100)
    mask, eps, _ = OFFENDERS.get(name, (lambda net: net, EPS, ""))
    model = single_step() if name == "single steps" else mask(robust_net)
    eps = SINGLE_STEP_EPS if name == "single steps" else eps
    relaxed = evaluate(model, x, y, protocol="cr", eps=eps).robust_accuracy.value
    try:
        full = evaluate(model, x, y, protocol="autoattack", eps=eps).robust_accuracy.value
    except ClatError:  # the masking makes AutoAttack impossible
        full = 0.0
    suspicious = clat.check(model, x, y, eps=eps).suspicious
    assert suspicious == (name != "none")
    assert relaxed - full <= 0.02 or suspicious

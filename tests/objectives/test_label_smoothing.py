"""`label_smoothing` in every objective that has a cross-entropy, in closed form, and in no inner attack."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import nn

from clat.core.errors import ClatError
from clat.network.layers import enumerate_layers
from clat.objectives import AnyObjective, Mixing, ScoreAT, ScoreTrades, Step
from clat.objectives.clat import Calibration, ClatCallback
from clat.objectives.mixing import mixing_loss

KINDS = typing.get_args(typing.get_args(AnyObjective)[0])
SMOOTHED = [kind for kind in KINDS if kind not in (Mixing, ScoreAT, ScoreTrades)]
TERMS = {"twins": ("frozen", "adaptive"), "autolora": ("natural", "adversarial")}


def constant(net):
    """Logits 0, 1, 2, 3, 4 whatever the image."""
    nn.init.zeros_(net.head.weight)
    with torch.no_grad():
        net.head.bias.copy_(torch.arange(5.0))
    return net


def parts(kind, build, context, images, labels, **settings):
    net = constant(build())
    objective = kind(**{"percent": 0, "gamma": 0} if kind.__name__ == "Cure" else {}, **settings)
    context = context(net)
    callback = objective.on_stage_start(context)
    if isinstance(callback, ClatCallback):
        callback.calibration = Calibration(0.1)
    if objective.name == "autolora":
        callback.scalars |= {"lambda1": 0.5, "lambda2": 1.0}
    layers = tuple(enumerate_layers(net, images))[:1]
    step = Step(layers=layers, threat=context.threat, callback=callback)
    return objective.loss(net, images, labels, step).parts


@pytest.mark.parametrize("kind", SMOOTHED, ids=lambda kind: kind.name)
def test_the_cross_entropy_of_constant_logits_is_the_smoothed_one(kind, build, context, images, labels):
    """With z = (0, ..., 4): CE = log sum exp z - (1 - s) z_y - s * mean z, mean z = 2."""
    images, labels = images[:2], labels[[1, 1]]  # TWINS halves the batch
    total = torch.arange(5.0).logsumexp(0).item()
    for smoothing in (0.0, 0.3):
        expected = total - (1 - smoothing) * 1.0 - smoothing * 2.0
        found = parts(kind, build, context, images, labels, label_smoothing=smoothing)
        for term in TERMS.get(kind.name, ("cross_entropy",)):
            assert found[term].item() == pytest.approx(expected, rel=1e-5), term


def test_that_of_a_mixture_too():
    logits, y = torch.arange(5.0)[None], torch.tensor([1])
    gate, attacked = torch.zeros(1), torch.tensor([True])
    loss = mixing_loss(gate, logits, y, attacked, gate=0, output=1, product=0, label_smoothing=0.3)
    assert loss.total.item() == pytest.approx(torch.arange(5.0).logsumexp(0).item() - 0.7 - 0.6, rel=1e-5)


@pytest.mark.parametrize(
    "kind",
    [kind for kind in SMOOTHED if kind.name in ("pgd-at", "fast-at", "n-fgsm", "gat", "fat", "grad-align")],
    ids=lambda kind: kind.name,
)
def test_the_attack_keeps_the_label(kind, build, images, labels):
    plain, smoothed = (
        kind(label_smoothing=smoothing).examples(build(), images, labels, Step(seed=1))[0] for smoothing in (0, 0.5)
    )
    assert torch.equal(plain, smoothed)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(kind, value):
    with pytest.raises(ClatError, match="label_smoothing"):
        kind(label_smoothing=value)

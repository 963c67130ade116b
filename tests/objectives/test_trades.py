"""TRADES against the formula of the published code, written out here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.core.errors import ClatError
from clat.objectives import Standard, Step, Trades


@pytest.fixture
def build(steep):
    return steep


def attack(net, x, *, eps, alpha, steps, seed, start="normal"):
    """x + 0.001 N(0, 1) or a uniform point, then signed ascent on the summed KL with a constant clean output."""
    natural = F.softmax(net(x), dim=1).detach()
    draw = {"normal": torch.randn, "uniform": torch.rand}[start]
    noise = draw(x.shape, generator=torch.Generator().manual_seed(seed))
    noise = 0.001 * noise if start == "normal" else (2 * noise - 1) * eps
    point = (x + noise).clamp(x - eps, x + eps).clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_(True)
        value = nn.KLDivLoss(reduction="sum")(F.log_softmax(net(point), dim=1), natural)
        (gradient,) = torch.autograd.grad(value, point)
        point = (point.detach() + alpha * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return point.detach()


def divergence(net, x, x_adv):
    natural, moved = net(x), net(x_adv)
    return nn.KLDivLoss(reduction="batchmean")(F.log_softmax(moved, dim=1), F.softmax(natural, dim=1))


@pytest.mark.parametrize("start", ["normal", "uniform"])
def test_value_and_gradient_are_those_of_the_published_code(build, images, labels, start):
    net, twin = build(), build()
    total, parts = Trades(beta=6, eps=0.1, steps=4, start=start).loss(net, images, labels, Step(seed=9))
    x_adv = attack(twin, images, eps=0.1, alpha=0.0625, steps=4, seed=9, start=start)
    kl = divergence(twin, images, x_adv)
    expected = F.cross_entropy(twin(images), labels) + 6 * kl
    assert kl.item() > 1e-3, "the attack must have found something, or the test says nothing"
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["divergence"].item() == pytest.approx(kl.item(), rel=1e-4)
    total.backward()
    expected.backward()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("cut", ["clean", "attacked"])
def test_both_outputs_get_a_gradient_from_the_divergence(build, images, labels, cut):
    """Cutting either path changes the gradient, so neither is cut."""
    net, twin = build(), build()
    Trades(beta=6, eps=0.1, steps=4).loss(net, images, labels, Step(seed=9)).total.backward()
    x_adv = attack(twin, images, eps=0.1, alpha=0.0625, steps=4, seed=9)
    clean, moved = twin(images), twin(x_adv)
    clean_in_kl, moved_in_kl = (clean.detach(), moved) if cut == "clean" else (clean, moved.detach())
    kl = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(moved_in_kl, dim=1), F.softmax(clean_in_kl, dim=1))
    (F.cross_entropy(clean, labels) + 6 * kl).backward()
    assert not torch.allclose(net.head.weight.grad, twin.head.weight.grad, rtol=1e-3, atol=1e-6)


def test_beta_zero_is_standard_training(build, images, labels):
    net, twin = build(), build()
    total = Trades(beta=0, steps=1).loss(net, images, labels, Step()).total
    expected = Standard().loss(twin, images, labels, Step()).total
    assert torch.equal(total, expected)
    total.backward()
    expected.backward()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_label_smoothing_is_that_of_the_clean_cross_entropy_alone(build, images, labels):
    """0.9 of the label's own term and 0.1 of the mean over the classes, as Wang et al. 2023 write it."""
    net = build()
    settings = {"beta": 6, "eps": 0.1, "steps": 2}
    _, plain = Trades(**settings).loss(net, images, labels, Step(seed=9))
    _, smooth = Trades(**settings, label_smoothing=0.1).loss(net, images, labels, Step(seed=9))
    logp = F.log_softmax(net(images), dim=1)
    expected = -(0.9 * logp.gather(1, labels[:, None]).mean() + 0.1 * logp.mean())
    assert smooth["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert smooth["cross_entropy"] != plain["cross_entropy"]
    assert torch.equal(smooth["divergence"], plain["divergence"])


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_label_smoothing_outside_its_range_is_refused(value):
    with pytest.raises(ClatError, match="label_smoothing is"):
        Trades(label_smoothing=value)


def test_a_negative_beta_is_refused():
    with pytest.raises(ClatError, match="beta"):
        Trades(beta=-1)

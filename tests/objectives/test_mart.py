"""MART: by hand on given probabilities, then against the published formula written out here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from clat.core.errors import ClatError
from clat.objectives import Mart, Step

CLEAN, MOVED = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.2, 0.7, 0.1], [0.25, 0.25, 0.5]]
X, X_ADV, Y = torch.zeros(2, 1, 1, 1), torch.ones(2, 1, 1, 1), torch.tensor([0, 2])


def by_hand(p, q, y):
    """One sample's (cross-entropy, margin, weighted KL)."""
    other = max(q[k] for k in range(3) if k != y)
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return -math.log(q[y]), -math.log(1.0001 - other), kl * (1.0000001 - p[y])


def test_the_three_terms_by_hand(table):
    total, parts = Mart(beta=5).cost(table(CLEAN, MOVED), X, Y, (X_ADV,), Step())
    samples = [by_hand(p, q, y) for p, q, y in zip(CLEAN, MOVED, Y.tolist(), strict=True)]
    entropy, margin, weighted = (sum(values) / 2 for values in zip(*samples, strict=True))
    assert parts["cross_entropy"].item() == pytest.approx(entropy, rel=1e-6)
    assert parts["margin"].item() == pytest.approx(margin, rel=1e-6)
    assert parts["weighted_divergence"].item() == pytest.approx(weighted, rel=1e-5)
    assert total.item() == pytest.approx(entropy + margin + 5 * weighted, rel=1e-6)
    assert not any(value.requires_grad for value in parts.values())


def test_a_sure_and_right_sample_costs_nothing_and_a_sure_wrong_one_a_finite_amount(table):
    sure = [[1.0, 1e-30, 1e-30]] * 2
    total, parts = Mart().cost(table(sure, sure), X, torch.tensor([0, 1]), (X_ADV,), Step())
    assert torch.isfinite(total)
    assert parts["margin"].item() == pytest.approx(-(math.log(1.0001) + math.log(0.0001)) / 2, rel=1e-3)


def test_the_gradient_is_finite_where_a_probability_of_the_clean_output_is_zero_in_float32(table):
    net = table([[0.5, 0.3, 0.2]], [[0.2, 0.7, 0.1]])
    with torch.no_grad():
        net.clean.copy_(torch.tensor([[200.0, 0.0, -50.0]]))
    Mart().cost(net, X[:1], torch.tensor([1]), (X_ADV[:1],), Step()).total.backward()
    assert torch.isfinite(net.clean.grad).all()
    assert torch.isfinite(net.moved.grad).all()


def published(net, x, x_adv, y, beta, cut=None):
    """The released code's loss; `cut` takes one path out of the graph."""
    moved, natural = F.softmax(net(x_adv), dim=1), F.softmax(net(x), dim=1)
    top = torch.argsort(moved, dim=1)[:, -2:]
    wrong = torch.where(top[:, -1] == y, top[:, -2], top[:, -1])
    boosted = -torch.log(moved.gather(1, y[:, None])).mean() + F.nll_loss(torch.log(1.0001 - moved + 1e-12), wrong)
    in_kl = [natural.detach() if cut == "clean" else natural, moved.detach() if cut == "attacked" else moved]
    weight = 1.0000001 - natural.gather(1, y[:, None]).squeeze(1)
    kl = (in_kl[0] * (torch.log(in_kl[0]) - torch.log(in_kl[1] + 1e-12))).sum(1)
    return boosted + beta * (kl * (weight.detach() if cut == "weight" else weight)).mean()


def attack(net, x, y, *, eps, alpha, steps, seed):
    """x + 0.001 N(0, 1), then signed ascent on the cross-entropy."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    point = (x + 0.001 * noise).clamp(x - eps, x + eps).clamp(0, 1)
    for _ in range(steps):
        point = point.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(point), y), point)
        point = (point.detach() + alpha * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
    return point.detach()


def test_value_and_gradient_are_those_of_the_published_code(steep, images, labels):
    net, twin = steep(), steep()
    total, _ = Mart(beta=6, eps=0.1, steps=4).loss(net, images, labels, Step(seed=9))
    x_adv = attack(twin, images, labels, eps=0.1, alpha=0.0625, steps=4, seed=9)
    expected = published(twin, images, x_adv, labels, 6)
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    total.backward()
    expected.backward()
    for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("cut", ["clean", "attacked", "weight"])
def test_no_path_is_cut(steep, images, labels, cut):
    net, twin = steep(), steep()
    x_adv = attack(twin, images, labels, eps=0.1, alpha=0.0625, steps=2, seed=9)
    Mart(beta=6).cost(net, images, labels, (x_adv,), Step()).total.backward()
    published(twin, images, x_adv, labels, 6, cut).backward()
    assert not torch.allclose(net.head.weight.grad, twin.head.weight.grad, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(("settings", "mode"), [({}, "eval"), ({"attack_bn": "train"}, "train")])
def test_the_attack_runs_in_the_stated_batch_norm_mode_and_leaves_no_trace(steep, images, labels, settings, mode):
    net, twin = steep().train(), steep().train(mode == "train")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    (x_adv,) = Mart(steps=2, eps=0.1, alpha=0.05, **settings).examples(net, images, labels, Step(seed=3))
    torch.testing.assert_close(x_adv, attack(twin, images, labels, eps=0.1, alpha=0.05, steps=2, seed=3))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_makes_no_sense_is_refused(net, images):
    for beta in (-1, math.nan):
        with pytest.raises(ClatError, match="beta"):
            Mart(beta=beta)
    with pytest.raises(ClatError, match="one label an image"):
        Mart().examples(net, images, torch.full((6, 5), 0.2), Step())

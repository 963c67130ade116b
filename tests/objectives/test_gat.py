"""GAT: its start, its guided and plain steps and its loss, by the published formula."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F

from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.objectives import GAT, Step

EPS = 0.1


def step_of(number, progress=Fraction(0)):
    return Step(seed=4, threat=ThreatModel.parse(EPS), number=number, progress=progress)


def start_of(x):
    signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).sign()
    return (x + EPS / 2 * signs).clamp(0, 1)


def by_hand(net, x, y, weight):
    """One step of eps; weight 0: along the gradient of the cross-entropy alone."""
    reference = F.softmax(net(x), dim=1).detach()
    start = start_of(x).requires_grad_(True)
    logits = net(start)
    change = (F.softmax(logits, dim=1) - reference).square().sum(1)
    (gradient,) = torch.autograd.grad((F.cross_entropy(logits, y, reduction="none") + weight * change).sum(), start)
    return (start.detach() + EPS * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)


@pytest.mark.parametrize(("number", "weight"), [(0, 0.0), (1, 10.0), (2, 0.0), (3, 10.0)])
def test_every_second_batch_is_guided(steep, images, labels, number, weight):
    (found,) = GAT().examples(steep(), images, labels, step_of(number))
    torch.testing.assert_close(found, by_hand(steep(), images, labels, weight))


def test_the_guide_makes_a_difference(steep, images, labels):
    plain, guided = (GAT(lambda_=1000).examples(steep(), images, labels, step_of(number))[0] for number in (0, 1))
    assert not torch.equal(plain, guided)


def test_half_of_eps_one_way_and_eps_the_other():
    """logits = (sum(x), 0): class 0 loses by going down, from x - eps/2 to x - eps, from x + eps/2 to x - eps/2."""

    class Sum(torch.nn.Module):
        def forward(self, x):
            score = x.flatten(1).sum(1)
            return torch.stack([score, 0 * score], 1)

    x = torch.full((1, 1, 4, 4), 0.5)
    (found,) = GAT().examples(Sum(), x, torch.tensor([0]), step_of(0))
    expected = torch.where(start_of(x) > x, x - EPS / 2, x - EPS)
    torch.testing.assert_close(found, expected)
    assert found.unique().numel() == 2


def test_the_loss_by_hand(table):
    """p(x) = (1/2, 1/4, 1/4), p(x') = (1/4, 1/4, 1/2): ||p' - p||^2 = 1/8."""
    net = table([[0.5, 0.25, 0.25]], [[0.25, 0.25, 0.5]])
    x, x_adv, y = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([1])
    total, parts = GAT().cost(net, x, y, (x_adv,), step_of(0))
    assert parts["cross_entropy"].item() == pytest.approx(torch.tensor(4.0).log().item())
    assert parts["output_change"].item() == pytest.approx(1 / 8)
    assert total.item() == pytest.approx(torch.tensor(4.0).log().item() + 10 / 8)
    total.backward()
    assert net.clean.grad.abs().sum() > 0, "the gradient flows into both outputs"
    assert net.moved.grad.abs().sum() > 0


def test_the_weight_is_raised_late_in_the_stage(table):
    net = table([[0.5, 0.25, 0.25]], [[0.25, 0.25, 0.5]])
    x, x_adv, y = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([1])

    def weight(progress, **settings):
        total, parts = GAT(**settings).cost(net, x, y, (x_adv,), step_of(0, Fraction(*progress)))
        return round(((total - parts["cross_entropy"]) / parts["output_change"]).item(), 4)

    assert [weight(at) for at in ((0, 100), (8599, 10000), (86, 100), (99, 100))] == [10, 10, 40, 40]
    assert weight((99, 100), late=1) == 10
    assert weight((1, 2), late=0.5, late_lambda=3) == 3


@pytest.mark.parametrize("late", [0.4, 0.6, 0.75, 0.8, 0.9])
def test_the_weight_is_raised_at_the_very_batch(late):
    at = Fraction(str(late))
    before = at - Fraction(1, 10**6)
    assert [GAT(late=late).weight(step_of(0, one)) for one in (before, at)] == [10, 40]


@pytest.mark.parametrize("settings", [{"lambda_": -1}, {"late_lambda": -1}, {"late": 2}, {"steps": 3}])
def test_what_makes_no_sense_is_refused(settings):
    with pytest.raises(ClatError):
        GAT(**settings)

"""Standard training and PGD-AT: closed forms first, then a reconstruction of the attack."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.network import modes
from clat.objectives import PgdAT, Standard, Step


class TwoClasses(nn.Module):
    """logits = (w . x, 0)."""

    def __init__(self, w: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x.flatten(1) @ self.w
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def test_standard_of_equal_logits_is_the_log_of_the_class_count(net, images, labels):
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    total, parts = Standard().loss(net, images, labels, Step())
    assert total.item() == pytest.approx(math.log(5), abs=1e-6)
    assert parts["cross_entropy"].item() == total.item()
    assert not parts["cross_entropy"].requires_grad


def test_pgd_at_on_a_linear_model_reaches_the_closed_form():
    """Away from the image's edges the worst case moves every pixel by eps against its weight: the margin
    falls by eps * |w|_1, from wherever the attack starts (10 steps of eps / 4 cross the ball)."""
    w = torch.linspace(-1, 1, 12)
    model, x, eps = TwoClasses(w), torch.full((4, 3, 2, 2), 0.5), 0.1
    y = torch.tensor([0, 0, 1, 1])
    total, _ = PgdAT(eps=eps).loss(model, x, y, Step(seed=5))
    score, drop = (0.5 * w).sum().item(), eps * w.abs().sum().item()
    expected = (math.log1p(math.exp(-(score - drop))) + math.log1p(math.exp(score + drop))) / 2
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_pgd_at_trains_on_the_attack_of_its_seed_and_the_runs_threat_model(net, images, labels):
    step = Step(seed=11, threat=ThreatModel.parse("0.5", "l2"))
    with modes.attack_mode(net):
        x_adv = run_pgd(net, images, labels, Attack.parse(eps="0.5", steps=3, norm="l2"), seed=11)
    total, _ = PgdAT(steps=3).loss(net, images, labels, step)
    assert torch.equal(total, F.cross_entropy(net(x_adv), labels))
    other, _ = PgdAT(steps=3).loss(net, images, labels, Step(seed=12, threat=ThreatModel.parse("0.5", "l2")))
    assert not torch.equal(total, other)


def test_without_a_random_start_the_attack_begins_at_the_image(net, images, labels):
    with modes.attack_mode(net):
        x_adv = run_pgd(net, images, labels, Attack.parse(eps="0.1", steps=1), seed=None, start=images)
    total, _ = PgdAT(steps=1, random_start=False).loss(
        net, images, labels, Step(seed=11, threat=ThreatModel.parse("0.1"))
    )
    assert torch.equal(total, F.cross_entropy(net(x_adv), labels))


def test_an_eps_of_its_own_goes_before_the_runs(net, images, labels):
    given, _ = PgdAT(eps="8/255", steps=2).loss(net, images, labels, Step(threat=ThreatModel.parse("0.3")))
    from_run, _ = PgdAT(steps=2).loss(net, images, labels, Step(threat=ThreatModel.parse("8/255")))
    assert torch.equal(given, from_run)


def test_the_attack_uses_stored_statistics_and_the_loss_those_of_the_batch(build, images, labels):
    net, twin = build().train(), build().train()
    with modes.attack_mode(twin):
        x_adv = run_pgd(twin, images, labels, Attack.parse(steps=2), seed=0)
    expected = F.cross_entropy(twin(x_adv), labels)  # one forward in training mode: the buffers move once
    total, _ = PgdAT(steps=2).loss(net, images, labels, Step(seed=0))
    assert torch.equal(total, expected)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), twin.buffers(), strict=True))
    assert int(net.bn1.num_batches_tracked) == 1


@pytest.mark.parametrize("settings", [{"steps": 0}, {"alpha": "x"}, {"eps": -0.1}, {"alpha": 0}, {"eps": 0}])
def test_impossible_attacks_are_refused_when_the_objective_is_built(settings):
    with pytest.raises(ClatError):
        PgdAT(**settings)


@pytest.mark.parametrize("settings", [{"eps": 8}, {"alpha": 2}])
def test_sizes_in_pixel_values_are_refused_once_the_norm_is_known(settings):
    PgdAT(**settings).check(ThreatModel.parse(0.5, "l2"))
    with pytest.raises(ClatError, match="did you mean"):
        PgdAT(**settings).check(ThreatModel.parse())

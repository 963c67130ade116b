"""FAT: where early-stopped PGD stops, on a network whose attack can be followed by hand."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.network import modes
from clat.network.cost import metered
from clat.objectives import FAT, PgdAT, Step


class Line(nn.Module):
    """logits = (x - 1/2, 0) of a single pixel: class 0 down to 1/2, and every step of its attack goes down."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        score = self.scale * (x.flatten(1).sum(1) - 0.5)
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def step_of(eps="0.4", progress=Fraction(0), seed=3):
    return Step(seed=seed, threat=ThreatModel.parse(eps), progress=progress)


def found(pixels, y=None, progress=Fraction(0), **settings):
    """Where the attack by steps of 1/16 ends, in sixteenths."""
    x = torch.tensor(pixels).div(16).view(-1, 1, 1, 1)
    labels = torch.zeros(len(x), dtype=torch.int64) if y is None else torch.tensor(y)
    objective = FAT(alpha="1/16", random_start=False, **settings)
    (x_adv,) = objective.examples(Line(), x, labels, step_of(progress=progress))
    return (x_adv.flatten() * 16).tolist()


def test_each_image_stops_at_its_own_first_misclassified_iterate():
    """From 9, 10 and 14 sixteenths: class 0 is lost below 8 (at 8 the logits are equal, and the first counts)."""
    assert found([9.0, 10.0, 14.0]) == pytest.approx([7, 7, 14 - 6.4])  # the last is held by the ball


def test_one_that_is_misclassified_already_stays():
    assert found([9.0, 9.0], y=[0, 1]) == pytest.approx([7, 9])


@pytest.mark.parametrize(("tau", "expected"), [(0, 7), (1, 6), (2, 5), (9, 9 - 6.4)])
def test_tau_more_steps(tau, expected):
    assert found([9.0], tau=tau) == pytest.approx([expected])


def test_the_last_step_is_not_looked_at():
    assert found([12.0], steps=3) == pytest.approx([9])


@pytest.mark.parametrize(
    ("progress", "expected"), [((0, 1), 7), ((49, 120), 7), ((50, 120), 6), ((89, 120), 6), ((90, 120), 5)]
)
def test_tau_rises_over_the_stage(progress, expected):
    assert found([9.0], progress=Fraction(*progress), tau_rises=(0.4166, 0.75)) == pytest.approx([expected])


@pytest.mark.parametrize("rise", [0.4, 0.6, 0.75, 0.8, 0.9])
def test_tau_rises_at_the_very_batch(rise):
    """As floats 0.4, 0.6, 0.8 and 0.9 lie beside the fractions that they are written for, some of them above."""
    at = Fraction(str(rise))
    before = at - Fraction(1, 10**6)
    assert [FAT(tau_rises=(rise,)).tau_at(step_of(progress=one)) for one in (before, at)] == [0, 1]


def test_with_steps_to_spare_it_is_pgd(build, images, labels):
    """tau as large as the number of steps stops nothing."""
    with modes.attack_mode(build()):
        expected = run_pgd(build(), images, labels, Attack.parse(eps="0.1", steps=4), seed=7)
    step = Step(seed=7, threat=ThreatModel.parse("0.1"))
    (x_adv,) = FAT(tau=4, steps=4).examples(build(), images, labels, step)
    torch.testing.assert_close(x_adv, expected)
    total, _ = FAT(tau=4, steps=4).loss(build(), images, labels, step)
    torch.testing.assert_close(total, F.cross_entropy(build()(expected), labels))


def test_images_that_stopped_cost_nothing_more(images):
    """Of four, one is wrong at once, the others from the second iterate on."""
    net, x = Line(), torch.tensor([9.0, 9.0, 9.0, 4.0]).div(16).view(-1, 1, 1, 1)
    y = torch.zeros(4, dtype=torch.int64)
    with metered(net) as cost:
        FAT(alpha="2/16", random_start=False).examples(net, x, y, step_of())
    assert (cost.forwards, cost.backwards) == (4 + 3, 4)
    with metered(net) as whole:
        PgdAT(alpha="2/16").examples(net, x, y, step_of())
    assert whole.forwards == 40


def test_noise_at_each_step_stays_in_the_ball_and_follows_the_seed(build, images, labels):
    def attack(seed, **settings):
        step = Step(seed=seed, threat=ThreatModel.parse("0.05"))
        return FAT(steps=3, **settings).examples(build(), images, labels, step)[0]

    noisy = attack(1, omega=0.5)
    assert (noisy - images).abs().max() <= 0.05 + 1e-7
    assert torch.equal(noisy, attack(1, omega=0.5))
    assert not torch.equal(noisy, attack(1))


def test_class_probabilities_count_by_their_largest():
    net, x = Line(), torch.full((1, 1, 1, 1), 9 / 16)
    soft = torch.tensor([[0.9, 0.1]])
    (x_adv,) = FAT(alpha="1/16", random_start=False).examples(net, x, soft, step_of())
    assert x_adv.item() * 16 == pytest.approx(7)


@pytest.mark.parametrize(
    "settings",
    [{"tau": -1}, {"tau_rises": (0.5, 0.2)}, {"tau_rises": (2.0,)}, {"omega": -0.1}, {"attack_bn": "train"}],
)
def test_what_makes_no_sense_is_refused(settings):
    with pytest.raises(ClatError):
        FAT(**settings)

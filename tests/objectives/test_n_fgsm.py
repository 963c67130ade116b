"""N-FGSM: the closed form on a linear network, and the formula on one with BatchNorm."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.objectives import NFGSM, Step

EPS = 0.1


class TwoClasses(nn.Module):
    """logits = (w . x, 0)."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(w)

    def forward(self, x):
        score = x.flatten(1) @ self.w
        return torch.stack([score, torch.zeros_like(score)], dim=1)


def step_of(eps=EPS, seed=4, **more):
    return Step(seed=seed, threat=ThreatModel.parse(eps), **more)


def noise_of(x, radius, seed=4):
    return radius * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) - 1)


def test_on_a_linear_network_the_example_is_the_noise_and_one_step_against_the_weights():
    w = torch.linspace(-1, 1, 12)
    x, y = torch.full((2, 3, 2, 2), 0.5), torch.tensor([0, 1])
    (found,) = NFGSM().examples(TwoClasses(w), x, y, step_of())
    downhill = w.sign().view(3, 2, 2)
    expected = x + noise_of(x, 2 * EPS) + EPS * torch.stack([-downhill, downhill])
    torch.testing.assert_close(found, expected)
    assert (found - x).abs().max() > 2 * EPS, "nothing is cut back to the ball of eps"


def test_the_loss_is_the_cross_entropy_there():
    w = torch.linspace(-1, 1, 12)
    x, y = torch.full((1, 3, 2, 2), 0.5), torch.tensor([0])
    total, parts = NFGSM(noise=0).loss(TwoClasses(w), x, y, step_of())
    score = 0.5 * w.sum().item() - EPS * w.abs().sum().item()
    assert total.item() == pytest.approx(math.log1p(math.exp(-score)), rel=1e-5)
    assert parts["cross_entropy"].item() == total.item()


def test_only_the_image_range_cuts(build, images, labels):
    (found,) = NFGSM(noise=20).examples(build(), images, labels, step_of())
    assert found.min() == 0
    assert found.max() == 1


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_formula_in_the_stated_batch_norm_mode(build, images, labels, mode):
    net, twin = build().train(), build()
    twin.train(mode == "train")
    start = (images + noise_of(images, 2 * EPS)).clamp(0, 1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(twin(start), labels, reduction="sum"), start)
    x_adv = (start.detach() + EPS * gradient.sign()).clamp(0, 1)
    twin.load_state_dict(build().state_dict())  # drop what the attack's forward did to the statistics
    expected = F.cross_entropy(twin.train()(x_adv), labels)
    total, _ = NFGSM(attack_bn=mode).loss(net, images, labels, step_of())
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert int(net.bn1.num_batches_tracked) == 1, "the statistics follow the loss's pass alone"


def test_under_l2_the_noise_is_a_point_of_the_larger_ball_and_the_step_has_length_eps(build, images, labels):
    step = Step(seed=4, threat=ThreatModel.parse("0.05", "l2"))
    (found,) = NFGSM(noise=0).examples(build(), images * 0.5 + 0.25, labels, step)
    lengths = (found - (images * 0.5 + 0.25)).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.05))


@pytest.mark.parametrize("settings", [{"noise": -1}, {"noise": math.inf}, {"steps": 2}, {"eps": 8}])
def test_what_makes_no_sense_is_refused(settings):
    with pytest.raises(ClatError):
        NFGSM(**settings).check(ThreatModel.parse())

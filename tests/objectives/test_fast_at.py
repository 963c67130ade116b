"""Fast-AT: one step of 1.25 eps from a uniform start, on batch statistics that leave no trace."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clat.core.threat_model import ThreatModel
from clat.objectives import FastAT, Step


def one_step(net, x, y, *, eps, alpha, seed):
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))
    start = (x + (2 * noise - 1) * eps).clamp(x - eps, x + eps).clamp(0, 1).requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(net(start), y, reduction="sum"), start)
    return (start.detach() + alpha * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)


@pytest.mark.parametrize(("settings", "alpha"), [({}, 0.125), ({"alpha": "0.05"}, 0.05)])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_example_is_one_step_in_the_stated_batch_norm_mode(build, images, labels, settings, alpha, mode):
    net, twin, untouched = build().train(), build(), build()
    twin.train(mode == "train")
    x_adv = one_step(twin, images, labels, eps=0.1, alpha=alpha, seed=4)
    twin.load_state_dict(untouched.state_dict())  # drop what the attack's forward did to the statistics
    expected = F.cross_entropy(twin.train()(x_adv), labels)
    total, _ = FastAT(attack_bn=mode, **settings).loss(
        net, images, labels, Step(seed=4, threat=ThreatModel.parse("0.1"))
    )
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    # The attack has left the running statistics alone: they moved by the loss's one forward pass.
    for mine, theirs in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    assert int(net.bn1.num_batches_tracked) == 1


def test_the_default_attacks_on_batch_statistics(build, images, labels):
    totals = [
        FastAT(**settings)
        .loss(build().train(), images, labels, Step(seed=4, threat=ThreatModel.parse("0.1")))
        .total
        for settings in ({}, {"attack_bn": "train"}, {"attack_bn": "eval"})
    ]
    assert torch.equal(totals[0], totals[1])
    assert not torch.equal(totals[0], totals[2])


def test_the_step_never_exceeds_the_image_range():
    assert FastAT(eps=1).attack(Step()).step_size == 1.0
    assert FastAT().attack(Step(threat=ThreatModel.parse("8/255"))).step_size == pytest.approx(10 / 255)
    assert FastAT().attack(Step(threat=ThreatModel.parse("8/255")), random_start=False).step_size == pytest.approx(
        8 / 255
    )

"""Free-AT: the loop of the paper written out, what a replay costs, and where delta goes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.network.cost import metered
from clat.objectives import FreeAT, Step
from clat.objectives.free_at import FreePerturbation

EPS = 0.1


def step_of(x, delta=None):
    carried = FreePerturbation(torch.zeros_like(x) if delta is None else delta)
    return Step(threat=ThreatModel.parse(EPS), callback=carried)


def replay(objective, net, x, y, step, lr=0.5):
    """What the training loop does with one replay."""
    loss = objective.loss(net, x, y, step).total
    net.zero_grad(set_to_none=True)
    loss.backward()
    step.callback.after_backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= lr * parameter.grad
    return loss.item()


def by_hand(net, x, y, delta, lr=0.5):
    """One replay: (loss, the new delta); the weights take their step."""
    point = (x + delta).clamp(x - EPS, x + EPS).clamp(0, 1).requires_grad_(True)
    loss = F.cross_entropy(net(point), y)
    loss.backward()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= lr * parameter.grad
            parameter.grad = None
        moved = (point + EPS * point.grad.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return loss.item(), moved - x


def test_weights_and_delta_move_by_the_same_backward_pass_over_two_batches(build, images, labels):
    net, twin = build().train(), build().train()
    step, delta = step_of(images), torch.zeros_like(images)
    second = images.flip(0)  # delta goes on, by place in the batch
    for x in (images, images, second, second):
        expected, delta = by_hand(twin, x, labels, delta)
        assert replay(FreeAT(), net, x, labels, step) == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(step.callback.delta, delta, rtol=0, atol=1e-6)
    for mine, theirs in zip(net.state_dict().values(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)  # BatchNorm saw one batch a replay, in both


def test_the_first_replay_of_all_is_on_clean_images(build, images, labels):
    loss = FreeAT().loss(build(), images, labels, step_of(images)).total
    torch.testing.assert_close(loss, F.cross_entropy(build()(images), labels))


def test_examples_stay_in_the_ball_and_in_the_image_range_after_a_change_of_batch(build, images, labels):
    bright = torch.full_like(images, 0.99)
    step = step_of(images, torch.full_like(images, EPS))
    (x_adv,) = FreeAT().examples(build(), bright, labels, step)
    assert torch.equal(x_adv, torch.ones_like(images))
    replay(FreeAT(), build(), bright, labels, step)
    delta = step.callback.delta
    assert delta.abs().max() <= EPS + 1e-7
    assert (bright + delta).max() <= 1


def test_a_step_goes_the_whole_eps_and_back():
    """logits = (sum(x), 0): the loss of class 0 falls with every pixel, so delta goes to -eps and stays."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            score = self.scale * x.flatten(1).sum(1)
            return torch.stack([score, 0 * score], 1)

    x, step = torch.full((1, 1, 2, 2), 0.5), step_of(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), EPS))
    for expected in (0.0, -EPS, -EPS):
        replay(FreeAT(), Sum(), x, torch.tensor([0]), step)
        torch.testing.assert_close(step.callback.delta, torch.full_like(x, expected))


def test_a_replay_costs_one_forward_and_one_backward_pass(build, images, labels):
    net, step = build().train(), step_of(images)
    with metered(net) as cost:
        for _ in range(FreeAT().replays):
            replay(FreeAT(), net, images, labels, step)
    assert (cost.forwards, cost.backwards) == (8 * len(images), 8 * len(images))


def test_a_look_ahead_at_the_loss_does_not_move_delta_twice(build, images, labels):
    """A treatment may evaluate the loss before the step that counts: delta follows the latter's gradient."""
    net, twin = build(), build()
    step, other = step_of(images), step_of(images)
    objective = FreeAT()
    examples = objective.examples(net, images, labels, step)
    torch.autograd.grad(objective.cost(net, images, labels, examples, step).total, net.head.weight)
    objective.cost(net, images, labels, examples, step).total.backward()
    step.callback.after_backward()
    replay(objective, twin, images, labels, other)
    assert torch.equal(step.callback.delta, other.callback.delta)


def test_what_makes_no_sense_is_refused(net, images, labels):
    with pytest.raises(ClatError, match="replays is 0"):
        FreeAT(replays=0)
    with pytest.raises(ClatError, match="did you mean 8/255"):
        FreeAT(eps=8).check(ThreatModel.parse())
    with pytest.raises(ClatError, match="carries a perturbation"):
        FreeAT().loss(net, images, labels, Step())
    with pytest.raises(ClatError, match="does not fit"):
        FreeAT().loss(net, images, labels, step_of(images[:2]))

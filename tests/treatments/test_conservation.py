"""Conserved weights: bit-identical through momentum and weight decay, chosen by both gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.objectives.cure.conservation import Conservation


class Two(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 5)

    def forward(self, x):
        return self.head(self.conv2(self.conv1(x).tanh()).tanh().mean((2, 3)))


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Two()


@pytest.fixture
def begin(around):
    def build(model, **changes):
        settings = {"percent": 30.0, "alpha": 0.1, "choice": "convolutions", "hold": True} | changes
        conservation = Conservation(around(model), **settings)
        conservation.choose_parameters(dict(model.named_parameters()))
        return conservation

    return build


def losses(model, x, y):
    """Of the batch and of an invented attacked one."""
    return F.cross_entropy(model(x), y), F.cross_entropy(model((x + 0.1).clamp(0, 1)), y)


def step(model, conservation, optimizer, x, y):
    natural, adversarial = losses(model, x, y)
    conservation.losses = natural, adversarial
    conservation.weigh()
    optimizer.zero_grad()
    (natural + adversarial).backward()
    conservation.mask()
    with conservation.around_optimizer_step(optimizer):
        optimizer.step()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)


def snapshot(model, optimizer):
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    buffers = {name: optimizer.state[p].get("momentum_buffer") for name, p in model.named_parameters()}
    return weights, {
        name: torch.zeros_like(weights[name]) if value is None else value.clone() for name, value in buffers.items()
    }


CONVOLUTIONS = ("conv1.weight", "conv2.weight")


def test_the_masks_are_those_of_equation_6(model, begin, images, labels):
    conservation = begin(model)
    natural, adversarial = losses(model, images, labels)
    conservation.losses = natural, adversarial
    conservation.weigh()
    (natural + adversarial).backward()
    conservation.mask()
    assert tuple(conservation.conserved) == CONVOLUTIONS
    for name, weight in (("conv1.weight", model.conv1.weight), ("conv2.weight", model.conv2.weight)):
        one, two = (torch.autograd.grad(loss, weight)[0] for loss in losses(model, images, labels))
        order = (0.1 * one.abs() + 0.9 * two.abs()).flatten().argsort()
        mask = conservation.conserved[name].flatten()
        assert set(mask.nonzero().flatten().tolist()) == set(order[: round(0.3 * mask.numel())].tolist())
        assert torch.equal(weight.grad == 0, conservation.conserved[name])


def test_conserved_weights_and_their_momentum_stay_bit_by_bit(model, begin, images, labels):
    conservation, optimizer = begin(model), sgd(model)
    masks = []
    for _ in range(5):
        weights, momenta = snapshot(model, optimizer)
        step(model, conservation, optimizer, images, labels)
        for name, parameter in model.named_parameters():
            stays = conservation.conserved.get(name, torch.zeros_like(parameter, dtype=torch.bool))
            assert stays.sum() == (round(0.3 * stays.numel()) if name in CONVOLUTIONS else 0)
            momentum = optimizer.state[parameter]["momentum_buffer"]
            assert torch.equal(parameter == weights[name], stays), name
            assert torch.equal(momentum == momenta[name], stays), name
        masks.append(conservation.conserved["conv2.weight"])
    assert not torch.equal(masks[0], masks[-1]), "chosen anew at every step"


def test_a_step_that_moves_a_weight_is_the_plain_one(model, begin, images, labels):
    """Against SGD written out, with the masks that were found."""
    conservation, optimizer = begin(model), sgd(model)
    weight = model.conv2.weight
    expected, momentum = weight.detach().clone(), torch.zeros_like(weight)
    for _ in range(4):
        gradient = torch.autograd.grad(sum(losses(model, images, labels)), weight)[0]
        step(model, conservation, optimizer, images, labels)
        moves = ~conservation.conserved["conv2.weight"]
        momentum = torch.where(moves, 0.9 * momentum + gradient + 0.1 * expected, momentum)
        expected = torch.where(moves, expected - 0.5 * momentum, expected)
        torch.testing.assert_close(weight.detach(), expected)


def test_gradients_alone_do_not_hold_a_weight(model, begin, images, labels):
    conservation, optimizer = begin(model, hold=False), sgd(model)
    step(model, conservation, optimizer, images, labels)
    weights, _ = snapshot(model, optimizer)
    step(model, conservation, optimizer, images, labels)
    for name in CONVOLUTIONS:
        stays = conservation.conserved[name]
        assert stays.sum() == round(0.3 * stays.numel())
        assert (model.get_parameter(name)[stays] != weights[name][stays]).all()


def test_at_100_percent_the_masked_tensors_stand_still(model, begin, images, labels):
    conservation, optimizer = begin(model, percent=100), sgd(model)
    before, _ = snapshot(model, optimizer)
    for _ in range(3):
        step(model, conservation, optimizer, images, labels)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"conv1.bias", "conv2.bias", "head.weight", "head.bias"}


def test_prominence_by_the_whole_gradient_takes_no_pass(model, begin, images, labels):
    conservation, optimizer = begin(model, alpha=None), sgd(model)
    gradient = torch.autograd.grad(sum(losses(model, images, labels)), model.conv2.weight)[0]
    natural = torch.zeros(())  # without a graph: any backward pass over it would fail
    conservation.losses = natural, natural
    conservation.weigh()
    sum(losses(model, images, labels)).backward()
    conservation.mask()
    stays = conservation.conserved["conv2.weight"]
    assert gradient.abs()[stays].max() < gradient.abs()[~stays].min()
    with conservation.around_optimizer_step(optimizer):
        optimizer.step()


def test_processes_choose_by_the_mean_of_their_gradients(model, around, images, labels):
    """Two of them with other images: the masks are those of one process with both halves."""

    class Half:
        def __init__(self, other):
            self.other, self.sent = other, None

        def average(self, tensors):
            self.sent = [tensor.clone() for tensor in tensors]
            for mine, theirs in zip(tensors, self.other, strict=True):
                mine.add_(theirs).div_(2)

    def masks(engine, x, y):
        conservation = Conservation(
            around(model, engine=engine), percent=30, alpha=0.1, choice="convolutions", hold=True
        )
        conservation.choose_parameters(dict(model.named_parameters()))
        conservation.losses = losses(model, x, y)
        conservation.weigh()
        conservation.mask()
        return conservation.conserved

    shapes = [model.conv1.weight.shape, model.conv2.weight.shape] * 2
    second = Half([torch.zeros(shape) for shape in shapes])
    masks(second, images[3:], labels[3:])
    assert [tensor.shape for tensor in second.sent] == shapes
    both = masks(Half(second.sent), images[:3], labels[:3])
    whole = masks(around(model).engine, images, labels)
    assert all(torch.equal(both[name], whole[name]) for name in CONVOLUTIONS)

"""The activation attack: closed form, the momentum by hand, the ball, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from clat.attacks import activation_attack
from clat.attacks.activation import activation_settings
from clat.core.errors import ClatError
from clat.network.features import feature_distance, read_features
from clat.network.layers import Layer, enumerate_layers

Build = Callable[[], nn.Module]


def gap(model: nn.Module, x: Tensor, x_target: Tensor, layer: Layer, tap: str = "output") -> Tensor:
    with torch.no_grad():
        one, two = (read_features(model, z, [layer], tap=tap).values[0] for z in (x, x_target))
    return feature_distance(one, two)


def one_channel() -> nn.Module:
    """The feature of one pixel is <w, x> with w = (2, -1, 0.5)."""
    model = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1))
    return model


def test_optimum_of_a_single_linear_feature() -> None:
    """The distance |<w, x' - x_t>| shrinks by eps * |w|_1 where the target is further away than that."""
    model, eps = one_channel(), 0.1
    x = torch.full((2, 3, 1, 1), 0.5)
    x_target = torch.stack([torch.tensor([0.9, 0.1, 0.9]), torch.tensor([0.1, 0.9, 0.1])]).view(2, 3, 1, 1)
    (layer,) = enumerate_layers(model, x)
    found = activation_attack(model, x, x_target, layer, eps=eps)
    signs = torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1)
    assert found == pytest.approx(x + eps * torch.cat([signs, -signs]), abs=1e-6)
    assert gap(model, found, x_target, layer) == pytest.approx(gap(model, x, x_target, layer) - 0.35, abs=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("tap", ["output", "activation"])
@pytest.mark.parametrize("place", [0, 8, 16])
def test_it_comes_closer_and_stays_inside(
    norm: str, tap: str, place: int, tiny_resnet: Build, images: Tensor
) -> None:
    model = tiny_resnet()
    layer = enumerate_layers(model, images)[place]
    eps = 0.05 if norm == "linf" else 0.5
    target = images.roll(1, 0)
    found = activation_attack(model, images, target, layer, eps=eps, norm=norm, tap=tap)
    assert (gap(model, found, target, layer, tap) < 0.95 * gap(model, images, target, layer, tap)).all()
    assert 0 <= found.min() <= found.max() <= 1
    change = (found.double() - images.double()).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (length <= eps).all()


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_the_momentum_by_hand(decay: float, tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layer, target = enumerate_layers(model, images)[5], images.flip(0)
    goal = read_features(model, target, [layer]).values[0].detach()
    point, momentum = images.clone(), torch.zeros_like(images)
    for _ in range(4):
        point.requires_grad_(True)
        feature = read_features(model, point, [layer]).values[0]
        (gradient,) = torch.autograd.grad((feature - goal).norm(dim=1).sum(), point)
        momentum = decay * momentum + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
        moved = point.detach() - 0.02 * momentum.sign()
        point = torch.maximum(torch.minimum(moved, images + 0.05), images - 0.05).clamp(0, 1)
    found = activation_attack(model, images, target, layer, eps=0.05, alpha=0.02, steps=4, decay=decay)
    assert torch.allclose(found, point, atol=1e-6)


def test_the_published_step_is_eps_over_steps() -> None:
    settings = activation_settings("0.07", None, 10, "linf")
    assert (settings.step_size, settings.threat.radius) == (0.007, 0.07)
    assert activation_settings("8/255", "1/255", 4, "linf").alpha == Fraction(1, 255)


def test_no_budget_and_a_target_that_is_reached_move_nothing(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layer = enumerate_layers(model, images)[3]
    assert torch.equal(activation_attack(model, images, images.flip(0), layer, eps=0), images)
    assert torch.equal(activation_attack(model, images, images, layer, eps=0.1), images)


def test_it_runs_no_further_than_the_layer(tiny_resnet: Build, images: Tensor) -> None:
    model, beyond = tiny_resnet(), []
    layer = enumerate_layers(model, images)[3]
    assert layer.name == "layer1.1.conv1"
    model.layer1[1].bn1.register_forward_pre_hook(lambda module, args: beyond.append(1))
    activation_attack(model, images, images.flip(0), layer, eps=0.1, steps=2)
    assert beyond == []


def test_bad_input(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layer = enumerate_layers(model, images)[3]
    with pytest.raises(ClatError, match="x_target has shape"):
        activation_attack(model, images, images[:2], layer, eps=0.1)
    with pytest.raises(ClatError, match="divide by 255"):
        activation_attack(model, images, images * 255, layer, eps=0.1)
    with pytest.raises(ClatError, match="decay"):
        activation_attack(model, images, images, layer, eps=0.1, decay=-1)
    with pytest.raises(ClatError, match="did you mean 'output'"):
        activation_attack(model, images, images, layer, eps=0.1, tap="outputs")
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ClatError, match="not finite"):
        activation_attack(model, images, images.flip(0), layer, eps=0.1)

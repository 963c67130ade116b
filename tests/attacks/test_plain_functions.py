"""Attacks alone: on any function from images to logits, with the bits that its module would give."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.attacks.ball import Ball
from clat.core.errors import ClatError

SETTINGS: dict[str, dict[str, Any]] = {
    "pgd": {"eps": 0.1, "steps": 3, "seed": 0},
    "fgsm": {"eps": 0.1, "seed": 0},
    "apgd": {"eps": 0.1, "steps": 4},
    "fab": {"eps": 0.1, "steps": 3},
    "constraint_relaxation": {"eps": 0.1, "steps": 30, "rounds": 1},
    "square": {"eps": 0.1, "queries": 20},
    "stadv": {"steps": 3},
    "pixle": {"restarts": 2, "iterations": 2},
}


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)).eval()


def attack(name: str, network: Any, x: Tensor, y: Tensor) -> Tensor:
    found: Tensor = getattr(clat.attacks, name)(network, x, y, **SETTINGS[name])
    return found


def test_every_attack_on_logits_is_here() -> None:
    on_logits = {name for name in clat.attacks.__all__ if "layer" not in str(inspect.signature(function(name)))}
    assert on_logits == set(SETTINGS)


def function(name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(clat.attacks, name)
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_a_function_is_attacked_as_its_module_is(linear, images: Tensor, labels: Tensor, name: str) -> None:
    weight, bias = linear[1].weight.detach(), linear[1].bias.detach()
    expected = attack(name, linear, images, labels)
    assert torch.equal(attack(name, lambda x: x.flatten(1) @ weight.T + bias, images, labels), expected)
    assert torch.equal(attack(name, linear.forward, images, labels), expected)
    assert torch.equal(attack(name, linear.__call__, images, labels), expected)


def test_the_closed_form_on_a_linear_function(images: Tensor, labels: Tensor) -> None:
    """Of one logit per class with opposite weights, the sign of their difference is the best direction."""
    w = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(0))
    found = clat.attacks.pgd(
        lambda x: torch.stack([x.flatten(1) @ w, -x.flatten(1) @ w], 1), images, labels % 2, eps=0.1, steps=10
    )
    sign = torch.where(labels[:, None] % 2 == 0, -w.sign(), w.sign()).view_as(images)
    assert torch.allclose(found, (images + 0.1 * sign).clamp(0, 1), atol=1e-6)
    assert (found <= Ball(images, 0.1).high).all()


def test_a_module_called_by_its_method_is_left_without_a_trace(images: Tensor, labels: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    clat.attacks.pgd(net.forward, images, labels, eps=0.1, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())


def test_what_is_no_function_either(images: Tensor, labels: Tensor) -> None:
    for network in (3, nn.Linear, "resnet18"):
        with pytest.raises(ClatError, match=r"expected a torch\.nn\.Module"):
            clat.attacks.pgd(network, images, labels, eps=0.1)
    with pytest.raises(ClatError, match="logits"):
        clat.attacks.pgd(lambda x: x.mean(), images, labels, eps=0.1)
    with pytest.raises(ClatError, match="no gradient"):
        clat.attacks.pgd(lambda x: x.detach().flatten(1), images, labels, eps=0.1)

"""Attacks give the same bits whatever the caller has switched off, set as a default, or asked a gradient of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.network.layers import enumerate_layers

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def on_logits(name: str, **settings: Any) -> Attack:
    found: Attack = lambda net, x, y: getattr(clat.attacks, name)(net, x, y, **settings)
    return found


def feature(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    layers = enumerate_layers(net, torch.zeros(1, 3, 8, 8))
    return clat.attacks.feature_attack(net, x, layers[:2], eps=0.1, steps=3, relative=True, seed=0)


def activation(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    layers = enumerate_layers(net, torch.zeros(1, 3, 8, 8))
    return clat.attacks.activation_attack(net, x, x.flip(0), layers[1], eps=0.1, steps=3)


ATTACKS: dict[str, Attack] = {
    "activation": activation,
    "apgd": on_logits("apgd", eps=0.02, steps=20),
    "apgd-dlr": on_logits("apgd", eps=0.02, steps=8, loss="dlr"),
    "apgd-l1": on_logits("apgd", eps=0.5, norm="l1", steps=8),
    "apgd-l2": on_logits("apgd", eps=0.1, norm="l2", steps=20),
    "apgd-t": on_logits("apgd", eps=0.02, steps=8, loss="dlr-targeted", target=2),
    "cr": on_logits("constraint_relaxation", eps=0.01, steps=60, rounds=2),
    "cr-l2": on_logits("constraint_relaxation", eps=0.05, norm="l2", steps=60, rounds=2),
    "fab": on_logits("fab", eps=0.02, steps=4),
    "fab-l2": on_logits("fab", norm="l2", steps=4, restart=1),
    "fab-t": on_logits("fab", eps=0.02, steps=4, target=1),
    "feature": feature,
    "fgsm": on_logits("fgsm", eps=0.02, seed=0),
    "pgd": on_logits("pgd", eps=0.02, steps=3, seed=0),
    "pgd-l2": on_logits("pgd", eps=0.1, norm="l2", steps=3, seed=0),
    "pixle": on_logits("pixle", restarts=2, iterations=3),
    "square": on_logits("square", eps=0.02, queries=20),
    "square-l2": on_logits("square", eps=0.2, norm="l2", queries=20),
    "stadv": on_logits("stadv", steps=3),
}


@contextmanager
def default_double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("circumstance", ["no_grad", "requires_grad", "float64"])
def test_attacks_give_the_same_bits(
    circumstance: str, name: str, tiny_resnet: Callable[[], nn.Module], images: Tensor
) -> None:
    net = tiny_resnet()
    with torch.no_grad():
        y = net(images).argmax(1)
    expected = ATTACKS[name](net, images, y)
    inside: dict[str, AbstractContextManager[Any]] = {"no_grad": torch.no_grad(), "float64": default_double()}
    x = images.clone().requires_grad_(circumstance == "requires_grad")
    with inside.get(circumstance, nullcontext()):
        found = ATTACKS[name](net, x, y)
    assert found.dtype == torch.float32
    assert torch.equal(found.detach(), expected)
    assert not found.requires_grad
    assert x.grad is None


def test_every_attack_is_here() -> None:
    names = {name.partition("-")[0] for name in ATTACKS} | {"activation_attack", "feature_attack"}
    assert set(clat.attacks.__all__) - {"constraint_relaxation"} <= names

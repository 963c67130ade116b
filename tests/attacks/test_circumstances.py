"""Attacks give the same bits whatever the caller has switched off, set as a default, or asked a gradient of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.evaluation import AttackSpec, Protocol
from clat.network.fingerprint import fingerprint
from clat.network.layers import enumerate_layers

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def on_logits(name: str, **settings: Any) -> Attack:
    def attack(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = getattr(clat.attacks, name)(net, x, y, **settings)
        return found

    return attack


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


class Opaque(torch.autograd.Function):
    """Passes values and no gradient, as dynamically quantised layers do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        return None


class Veiled(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = Opaque.apply(self.net(x))
        return logits


def quantised() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: nn.Module = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    return found


@pytest.mark.parametrize(
    "name", [name for name in ATTACKS if name.partition("-")[0] not in ("activation", "feature")]
)
def test_a_network_that_no_gradient_passes(name: str, tiny_resnet: Callable[[], nn.Module], images: Tensor) -> None:
    """Black-box attacks go on; the others say what is missing, rather than find nothing."""
    net = Veiled(tiny_resnet())
    y = net(images).argmax(1)
    if name.partition("-")[0] in ("pixle", "square"):
        assert ATTACKS[name](net, images, y).shape == images.shape
        return
    with pytest.raises(ClatError, match="no gradient towards its input"):
        ATTACKS[name](net, images, y)
    with pytest.raises(ClatError, match="no gradient towards its input"):
        clat.evaluate(net, images, y, protocol="pgd-10", eps=0.1)


@pytest.mark.parametrize("name", ["pgd", "fab", "square", "stadv"])
def test_a_network_without_values(name: str, images: Tensor, labels: Tensor) -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(ClatError, match="weights are on the device 'meta', without values"):
        ATTACKS[name](net, images, labels)
    with pytest.raises(ClatError, match="weights are on the device 'meta', without values"):
        clat.evaluate(net, images, labels, protocol="pgd-10", eps=0.1)


def test_a_quantised_network_is_evaluated_with_a_state(images: Tensor, tmp_path: Path) -> None:
    net = quantised()
    y = net(images).argmax(1)
    protocol = Protocol(name="queries", attacks=(AttackSpec(attack="square", steps=5),))
    first, again = (
        clat.evaluate(net, images, y, protocol=protocol, eps=0.1, state=tmp_path / "state") for _ in range(2)
    )
    assert torch.equal(first.robust, again.robust)
    assert fingerprint(net) == fingerprint(net) != fingerprint(quantised())

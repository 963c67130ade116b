"""Which layers read the one before them in forward order, and it alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.models import load_model
from clat.network.chain import layers_off_chain
from clat.network.layers import enumerate_layers

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def off_chain(model: nn.Module, **choice: Any) -> list[str]:
    return layers_off_chain(model, X, enumerate_layers(model, X, **choice))


def test_a_plain_stack_is_a_chain_whatever_lies_between() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2),
        nn.Dropout(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(inplace=True), nn.Linear(5, 3),
    )  # fmt: skip
    assert off_chain(model) == []
    assert off_chain(model, classifier=True) == []


class Branches(nn.Module):
    """A residual block, two heads on one feature, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.after = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.left, self.right, self.both = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = x + self.inner(x)
        x = self.after(x)
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(self.both(x).mean((2, 3)))


def test_after_an_addition_a_fork_or_a_concatenation_it_is_none() -> None:
    assert off_chain(Branches()) == ["after", "right", "both"]
    # layers that are not ranked are passed through
    assert off_chain(Branches(), exclude=["inner", "right", "left"]) == []
    assert off_chain(Branches(), exclude=["stem"]) == ["after", "right", "both"]


@pytest.mark.parametrize(("name", "chain"), [("vgg19", True), ("resnet18", False)])
def test_the_papers_networks(name: str, chain: bool) -> None:
    model = load_model(name, width=2)
    x = torch.rand(1, 3, 32, 32)
    layers = enumerate_layers(model, x)
    found = layers_off_chain(model, x, layers)
    # a ResNet's block begins behind an addition, but for the first, which reads what the stem gave
    blocks = [layer.name for layer in layers[3:] if layer.name.endswith("conv1")]
    assert found == ([] if chain else blocks)


def test_attention_reads_and_gives_tuples() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.attention = nn.Conv2d(3, 4, 4, stride=4), nn.MultiheadAttention(4, 1, batch_first=True)
            self.mlp, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = self.attention(x, x, value=x)[0]
            return self.head(self.mlp(x).mean(1))

    assert off_chain(Attending()) == []


def test_it_leaves_no_trace() -> None:
    model = Branches().train()
    model.stem.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    assert off_chain(model)
    assert model.training
    assert not model.stem.weight.requires_grad
    assert model.inner.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())

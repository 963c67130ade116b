"""Networks of forms that torch offers and few have: each works, or is refused in a line that says what to do."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import clat
from clat.core.errors import ClatError


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(10, 3, 8, 8, generator=generator), torch.arange(10) % 5


def evaluated(net, batch):
    return clat.evaluate(net, *batch, eps="8/255", protocol="pgd-10")


def test_frozen_torchscript(batch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen = torch.jit.freeze(torch.jit.trace(plain(), batch[0]))
    assert evaluated(frozen, batch).clean_accuracy == evaluated(plain(), batch).clean_accuracy


def test_what_torch_export_made(batch):
    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(plain(), (batch[0],), dynamic_shapes=shapes).module()
    assert evaluated(exported, batch).clean_accuracy == evaluated(plain(), batch).clean_accuracy


def test_lazy_layers_without_values(batch):
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(ClatError, match="lazy layers that have seen no image yet"):
        evaluated(net, batch)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoints(batch):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain()

        def forward(self, x):
            return checkpoint(self.net, x, use_reentrant=True)

    with pytest.raises(ClatError, match="give it use_reentrant=False"):
        evaluated(Checkpointed(), batch)


def test_what_is_left_out_is_noted(batch):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain()

        def forward(self, x):
            return self.net(x), x.mean()

    result = evaluated(Two(), batch)
    assert "Two returns more than logits: its output '1' is left out" in result.notes
    assert result.clean_accuracy == evaluated(plain(), batch).clean_accuracy


def test_a_label_that_the_network_has_no_logit_for(batch):
    x, y = batch
    net = plain()
    with clat.Clat(net, ["0"], (x, y), eps="8/255") as tuned, pytest.raises(ClatError, match="label"):
        tuned.loss(x, y + 1)

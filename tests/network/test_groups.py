"""Layers of one sort: the names that torchvision, timm and transformers give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clat.core.errors import ClatError
from clat.network.groups import LAYER_GROUPS, group_of
from clat.network.layers import enumerate_layers


@pytest.mark.parametrize(
    ("name", "kind", "group"),
    [
        ("encoder.layers.encoder_layer_0.self_attention", "attention", "attention"),  # torchvision
        ("encoder.layers.encoder_layer_0.mlp.0", "linear", "mlp"),
        ("features.1.0.block.3", "linear", "mlp"),
        ("features.1.0.block.0", "conv", "convolutions"),
        ("blocks.0.attn.qkv", "linear", "attention"),  # timm
        ("blocks.0.attn.proj", "linear", "attention"),
        ("blocks.0.mlp.fc1", "linear", "mlp"),
        ("stages.0.blocks.0.mlp.fc1", "conv", "mlp"),
        ("patch_embed.proj", "conv", "convolutions"),
        ("vit.encoder.layer.0.attention.attention.query", "linear", "attention"),  # transformers
        ("vit.encoder.layer.0.attention.output.dense", "linear", "attention"),
        ("vit.encoder.layer.0.intermediate.dense", "linear", "mlp"),
        ("vit.encoder.layer.0.output.dense", "linear", "mlp"),
        ("model.layers.0.self_attn.q_proj", "linear", "attention"),
        ("layers.0.Attention.to_q", "linear", "attention"),
        ("layer3.0.conv1", "conv", "convolutions"),
        ("layer3.0.attention", "other", None),
    ],
)
def test_the_group_of_a_name(name: str, kind: str, group: str | None) -> None:
    assert group_of(name, kind) == group
    assert group is None or group in LAYER_GROUPS


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attn_proj = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.fc1, self.fc2, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.fc2(self.fc1(self.attn_proj(self.stem(x)).mean((2, 3)))))


def test_the_layers_of_a_group_are_numbered_among_themselves() -> None:
    x = torch.rand(1, 3, 4, 4)

    def found(group: str, **choice) -> list[tuple[int, str]]:
        return [(layer.index, layer.name) for layer in enumerate_layers(Mixed(), x, group=group, **choice)]

    assert found("convolutions") == [(1, "stem")]
    assert found("attention") == [(1, "attn_proj")]
    assert found("mlp") == [(1, "fc1"), (2, "fc2")]
    assert found("mlp", classifier=True) == [(1, "fc1"), (2, "fc2"), (3, "head")]
    assert found("mlp", exclude=["fc1"]) == [(1, "fc2")]
    with pytest.raises(ClatError, match="no layer of the group 'attention' is left"):
        found("attention", exclude=["attn_proj"])
    with pytest.raises(ClatError, match="did you mean 'mlp'"):
        found("mpl")

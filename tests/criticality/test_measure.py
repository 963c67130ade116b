"""Every ranking by its name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.criticality.rankings import RANKINGS, REWINDING, measure_ranking
from clat.network.layers import enumerate_layers

Build = Callable[[], nn.Module]


@pytest.mark.parametrize("name", RANKINGS)
def test_each_ranks_the_layers_that_it_is_given(
    name: str, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[2:5]
    start = {
        key: value + torch.ones(()) if value.dim() == 4 else value for key, value in model.state_dict().items()
    }
    report = measure_ranking(
        name, model, images, labels, layers=layers, eps="0.1", steps=1, epochs=1, initial=start, seed=4
    )
    assert report.ranking == name
    assert [(row.index, row.name) for row in report.rows] == [(layer.index, layer.name) for layer in layers]
    assert report.top(1)[0] in {layer.name for layer in layers}
    assert report.seed == 4  # type: ignore[attr-defined]


def test_names_and_the_weights_of_the_start(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[:2]
    with pytest.raises(ClatError, match="did you mean 'mrc'"):
        measure_ranking("mcr", model, images, labels, layers=layers, eps=0.1)
    for name in REWINDING:
        with pytest.raises(ClatError, match="weights of the start"):
            measure_ranking(name, model, images, labels, layers=layers, eps=0.1)

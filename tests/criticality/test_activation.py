"""The ranking by the activation attack: what counts, and which images are targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat import measure_activation_ranking
from clat.attacks import activation_attack
from clat.core.errors import ClatError
from clat.criticality.activation import draw_targets
from clat.network.layers import enumerate_layers

Build = Callable[[], nn.Module]


@pytest.mark.parametrize("value", ["target", "error"])
@pytest.mark.parametrize("batch_size", [512, 4])
def test_it_is_the_success_of_the_attack_at_each_layer(
    value: Any, batch_size: int, lively: Build, images: Tensor
) -> None:
    model = lively()
    with torch.no_grad():
        y = model(images).argmax(1)
    assert len(y.unique()) > 2
    wanted, classes = images.flip(0), y.flip(0)
    layers = enumerate_layers(model, images)
    settings: dict[str, Any] = {"eps": 0.6, "alpha": 0.1, "steps": 6}
    report = measure_activation_ranking(
        model, images, y, layers=layers, targets=(wanted, classes), value=value, batch_size=batch_size, **settings
    )
    for row, layer in zip(report.rows, layers, strict=True):
        found = activation_attack(model, images, wanted, layer, **settings)
        with torch.no_grad():
            predicted = model(found).argmax(1)
        target, error = (predicted == classes).double().mean(), (predicted != y).double().mean()
        assert row.value == pytest.approx(float(target if value == "target" else error))
        assert row.details["target_success"] == target
        assert 0 < row.details["remaining_distance"] < 1
    assert len({row.value for row in report.rows}) > 1
    assert report.baseline["clean_accuracy"] == 1


def test_targets_are_right_images_of_another_class() -> None:
    y = torch.tensor([0, 0, 1, 1, 2])
    right = torch.tensor([True, False, True, True, False])
    drawn = torch.stack([draw_targets(y, right, seed) for seed in range(50)])
    assert (y[drawn] != y).all()
    assert right[drawn].all()
    assert set(drawn[:, 0].tolist()) == {2, 3}
    assert set(drawn[:, 4].tolist()) == {0, 2, 3}
    assert torch.equal(draw_targets(y, right, 3), draw_targets(y, right, 3))
    alone = draw_targets(y, torch.tensor([True, True, False, False, False]), 0)
    assert (y[alone] != y).all(), "where the right ones are of one class, any image will do"


def test_seeds(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    def measure(seed: int) -> Any:
        model = tiny_resnet()
        layers = enumerate_layers(model, images)[:4]
        return measure_activation_ranking(model, images, labels, eps=0.1, steps=2, seed=seed, layers=layers)

    assert measure(0) == measure(0)
    assert [row.details for row in measure(0).rows] != [row.details for row in measure(1).rows]


def test_bad_input(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    with pytest.raises(ClatError, match="one class"):
        measure_activation_ranking(model, images, torch.zeros(6, dtype=torch.int64), eps=0.1)
    with pytest.raises(ClatError, match="did you mean 'target'"):
        measure_activation_ranking(model, images, labels, eps=0.1, value="targte")  # type: ignore[arg-type]
    with pytest.raises(ClatError, match="target images have shape"):
        measure_activation_ranking(model, images, labels, eps=0.1, targets=(images[:, :, :4], labels))
    with pytest.raises(ClatError, match="decay"):
        measure_activation_ranking(model, images, labels, eps=0.1, decay=2)

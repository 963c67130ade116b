from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from clat.attacks import feature_attack
from clat.attacks.ascent import generator_for
from clat.attacks.ball import Ball
from clat.attacks.feature import feature_change
from clat.core.errors import ClatError
from clat.network.features import read_features
from clat.network.layers import Layer, enumerate_layers

Build = Callable[[], nn.Module]


def change(
    model: nn.Module, x: Tensor, x_adv: Tensor, layers: list[Layer], *, tap: str = "output", relative: bool = False
) -> Tensor:
    with torch.no_grad():
        before = read_features(model, x, layers, tap=tap).values
        after = read_features(model, x_adv, layers, tap=tap).values
    return feature_change(after, before, relative=relative)


def test_the_sum_of_distances() -> None:
    before = [torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[2.0], [4.0]])]
    after = [torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[2.0], [1.0]])]
    assert torch.equal(feature_change(after, before, relative=False), torch.tensor([5.0, 5.0]))
    assert torch.equal(feature_change(after, before, relative=True), torch.tensor([1.0, 2.75]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("tap", ["output", "norm", "activation"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("wanted", [[0], [2, 7], [16]])
def test_it_moves_the_features_of_every_sample_further_than_noise(
    norm: str, tap: str, relative: bool, wanted: list[int], tiny_resnet: Build, images: Tensor
) -> None:
    model = tiny_resnet()
    layers = [enumerate_layers(model, images)[i] for i in wanted]
    eps = 0.05 if norm == "linf" else 0.5
    found = feature_attack(model, images, layers, eps=eps, norm=norm, tap=tap, relative=relative, seed=4)
    noise = Ball(images, eps, norm).random_point(generator_for(images.device, 4))
    attacked = change(model, images, found, layers, tap=tap, relative=relative)
    random = change(model, images, noise, layers, tap=tap, relative=relative)
    assert (attacked > 1.2 * random).all()


def test_optimum_of_a_single_linear_feature() -> None:
    """One 1x1 convolution to one channel on one pixel: the change is |<w, delta>|, largest at eps * |w|_1."""
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1))
    x = torch.full((7, 3, 1, 1), 0.5)
    found = feature_attack(model, x, enumerate_layers(model, x), eps=0.1, seed=0)
    assert change(model, x, found, enumerate_layers(model, x)) == pytest.approx(torch.full((7,), 0.35), rel=1e-5)
    l2 = feature_attack(model, x, enumerate_layers(model, x), eps=0.1, norm="l2", steps=50, alpha=0.05, seed=0)
    best = 0.1 * model[0].weight.detach().norm().item()
    assert change(model, x, l2, enumerate_layers(model, x)) == pytest.approx(torch.full((7,), best), rel=1e-4)


def test_it_runs_no_further_than_it_must_and_the_clean_features_once(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    calls = {"stem": 0, "deepest": 0, "beyond": 0}

    def count(name: str) -> Callable[..., None]:
        return lambda module, args: calls.__setitem__(name, calls[name] + 1)

    model.conv1.register_forward_pre_hook(count("stem"))
    model.layer1[1].conv1.register_forward_pre_hook(count("deepest"))
    model.layer1[1].bn1.register_forward_pre_hook(count("beyond"))
    chosen = [layers[1], layers[3]]
    assert chosen[1].name == "layer1.1.conv1"
    feature_attack(model, images, chosen, eps=0.1, steps=4)
    assert calls == {"stem": 5, "deepest": 5, "beyond": 0}


def test_seeds(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[:2]

    def attack(seed: int | None) -> Tensor:
        return feature_attack(model, images, layers, eps=0.1, steps=2, seed=seed)

    assert torch.equal(attack(0), attack(0))
    assert not torch.equal(attack(0), attack(1))
    assert not torch.equal(attack(None), attack(None))
    assert torch.equal(feature_attack(model, images, layers, eps=0), images)


def test_bad_input(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    with pytest.raises(ClatError, match="at least one layer"):
        feature_attack(model, images, [], eps=0.1)
    with pytest.raises(ClatError, match="did you mean 'output'"):
        feature_attack(model, images, layers, eps=0.1, tap="outputs")
    with pytest.raises(ClatError, match="divide by 255"):
        feature_attack(model, images * 255, layers, eps=0.1)
    with pytest.raises(ClatError, match="did you mean 8/255"):
        feature_attack(model, images, layers, eps=8)


def test_features_that_are_not_finite(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[:2]
    with torch.no_grad():
        model.layer1[0].conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ClatError, match="not finite"):
        feature_attack(model, images, layers, eps=0.1)

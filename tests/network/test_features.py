from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks.feature import feature_change
from clat.core.errors import ClatError
from clat.network.features import feature_distance, read_features
from clat.network.layers import enumerate_layers

Build = Callable[[], nn.Module]


def by_hand(model: nn.Module, x: Tensor, wanted: list[str]) -> list[Tensor]:
    """The outputs of these modules, by hooks."""
    found: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, args, output: found.__setitem__(name, output)

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in wanted]
    model(x)
    for handle in handles:
        handle.remove()
    return [found[name].flatten(1) for name in wanted]


def test_what_enters_the_layers_is_read_beside_what_they_give(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)[:5]
    names = [layer.name for layer in layers]
    entering: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: entering.__setitem__(name, args[0].clone())
        )
        for name in names
    ]
    with torch.no_grad():
        expected = by_hand(model, images, names)
        for handle in handles:
            handle.remove()
        found = read_features(model, images, layers, inputs=True, stop=True)
        norms = read_features(model, images, layers, inputs=True, reduce=lambda value, layer: value.norm(dim=1))
    assert found.logits is None
    assert len(found.values) == 10
    for one, other in zip(found.values, [*expected, *(entering[name].flatten(1) for name in names)], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found.values[5], images.flatten(1))
    for value, norm in zip(found.values, norms.values, strict=True):
        assert torch.allclose(value.norm(dim=1), norm)


def counted(model: nn.Module) -> dict[str, int]:
    """How often each convolution, BatchNorm and linear layer runs from here on."""
    calls: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        return lambda module, args: calls.__setitem__(name, calls.get(name, 0) + 1)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.register_forward_pre_hook(count(name))
    return calls


def test_features_are_what_hooks_see(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    found = read_features(model, images, layers)
    for value, expected in zip(found.values, by_hand(model, images, [layer.name for layer in layers]), strict=True):
        assert torch.equal(value, expected)
    assert torch.equal(found.logits, model(images))


def test_the_norm_tap_is_the_output_of_the_batch_norm(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    batch_norms = [layer.name.replace("conv", "bn") for layer in layers]
    assert [layer.norm_name for layer in layers] == batch_norms
    found = read_features(model, images, layers, tap="norm").values
    for value, expected in zip(found, by_hand(model, images, batch_norms), strict=True):
        assert torch.equal(value, expected)


def test_the_activation_tap_is_the_next_nonlinearity(tiny_resnet: Build, images: Tensor) -> None:
    """After a block's second convolution that is the ReLU after the sum: the block's own output."""
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    values = read_features(model, images, layers, tap="activation").values
    found = dict(zip((layer.name for layer in layers), values, strict=True))
    stem, block1, bn1 = by_hand(model, images, ["bn1", "layer2.0", "layer2.0.bn1"])
    assert torch.equal(found["conv1"], F.relu(stem))
    assert torch.equal(found["layer2.0.conv1"], F.relu(bn1))
    assert torch.equal(found["layer2.0.conv2"], block1)


@pytest.mark.parametrize("tap", ["output", "norm", "activation"])
@pytest.mark.parametrize("wanted", [[0], [4], [9, 2], [16]])
def test_stopping_early_gives_the_same_and_runs_no_further(
    tap: str, wanted: list[int], tiny_resnet: Build, images: Tensor
) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    chosen = [layers[i] for i in wanted]
    whole = read_features(model, images, chosen, tap=tap)
    calls = counted(model)
    early = read_features(model, images, chosen, tap=tap, stop=True)
    assert early.logits is None
    for a, b in zip(whole.values, early.values, strict=True):
        assert torch.equal(a, b)
    assert all(count == 1 for count in calls.values())
    deepest = layers[max(wanted)]
    convolutions = [name for name in calls if "conv" in name]
    assert convolutions[-1] == deepest.name
    assert not any("linear" in name for name in calls)
    if tap == "output":
        assert list(calls)[-1] == deepest.name
    early_calls = len(calls)
    model(images)
    assert len(calls) > early_calls  # the counting does see the rest


def test_order_and_repetition_are_the_callers(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    third, first, again = read_features(model, images, [layers[3], layers[0], layers[3]], stop=True).values
    assert torch.equal(third, again)
    assert torch.equal(first, read_features(model, images, layers[:1]).values[0])


def test_reduce_is_applied_to_each(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    sums = read_features(model, images, layers, reduce=lambda feature, layer: feature.sum(1) * layer.index).values
    for layer, total, feature in zip(layers, sums, read_features(model, images, layers).values, strict=True):
        assert torch.equal(total, feature.sum(1) * layer.index)


def test_gradients_flow(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    point = images.clone().requires_grad_(True)
    (feature,) = read_features(model, point, enumerate_layers(model, images)[:1], stop=True).values
    feature.sum().backward()
    kernel = F.conv_transpose2d(torch.ones(6, 4, 8, 8), model.conv1.weight, padding=1)
    torch.testing.assert_close(point.grad, kernel)
    assert model.conv1.weight.grad is not None


def test_hooks_are_gone_afterwards(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)

    def raising(module: nn.Module, args: Any) -> None:
        raise RuntimeError("midway")

    read_features(model, images, layers[:5], stop=True)
    handle = model.layer3.register_forward_pre_hook(raising)
    for tap in ("output", "norm", "activation"):
        with pytest.raises(RuntimeError, match="midway"):
            read_features(model, images, layers, tap=tap)
    handle.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.relu(torch.tensor(-1.0)) == 0  # and no function mode is left on the stack
    assert torch.overrides._get_current_function_mode() is None


def test_bad_tap_and_layers_of_another_network(tiny_resnet: Build, images: Tensor) -> None:
    model = tiny_resnet()
    layers = enumerate_layers(model, images)
    with pytest.raises(ClatError, match="unknown feature tap 'ouput'; did you mean 'output'"):
        read_features(model, images, layers, tap="ouput")
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 2))
    for tap in ("output", "norm"):
        with pytest.raises(ClatError, match=r"layer.*conv1.*enumerate_layers"):
            read_features(other, images, layers, tap=tap)


def test_distance_is_the_unsquared_norm_of_each_sample() -> None:
    a = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(feature_distance(a, torch.zeros(2, 3)), torch.tensor([5.0, 0.0]))
    near = torch.zeros(2, 3, requires_grad=True)
    feature_distance(near, torch.zeros(2, 3)).sum().backward()
    assert torch.equal(near.grad, torch.zeros(2, 3))  # a subgradient at zero, not NaN
    assert feature_distance(a.bfloat16(), torch.zeros(2, 3).bfloat16()).dtype == torch.float32


class Windows(nn.Module):
    """As Swin's attention does: windows of an image become rows of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        n, c, height, width = h.shape
        windows = h.view(n, c, height // 4, 4, width // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        return self.head(torch.relu(self.inside(windows)).view(n, -1, 6).mean(1))


def test_windows_that_are_folded_into_the_batch_belong_to_their_images() -> None:
    net, x = Windows().eval(), torch.rand(3, 3, 8, 8)
    layers = enumerate_layers(net, x)
    assert [layer.name for layer in layers] == ["stem", "inside"]
    moved = (x + 0.05).clamp(0, 1)
    with torch.no_grad():
        whole, flat = (
            [read_features(net, images, layers, flat=flat).values for images in (x, moved)]
            for flat in (False, True)
        )
    distances = [[feature_distance(a, b) for a, b in zip(*pair, strict=True)] for pair in (whole, flat)]
    for own, flattened in zip(*distances, strict=True):
        assert own.shape == (3,)
        torch.testing.assert_close(own, flattened)
    torch.testing.assert_close(feature_change(whole[1], whole[0], relative=False), sum(distances[1]))


class Auxiliary(nn.Module):
    """A second head that runs in training alone, as GoogLeNet's do, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.c2, self.b2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.side, self.side_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.b1(self.c1(x)))
        if self.training:
            F.relu(self.side_norm(self.side(out)))
        return self.fc(F.relu(self.b2(self.c2(out))).mean((2, 3)))


@pytest.mark.parametrize("tap", ["norm", "activation"])
def test_a_branch_of_training_alone_does_not_shift_the_taps(tap: str) -> None:
    model, x = Auxiliary(), torch.rand(4, 3, 8, 8)
    c2 = enumerate_layers(model, x)[1]
    found: list[Tensor] = []
    model.b2.register_forward_hook(lambda module, args, output: found.append(output))
    model.train()
    value = read_features(model, x, [c2], tap=tap, flat=False).values[0]
    assert torch.equal(value, found[0] if tap == "norm" else F.relu(found[0]))


@pytest.mark.parametrize("tap", ["output", "activation"])
def test_dropout_in_place_does_not_change_what_was_read(tap: str) -> None:
    """It writes in training alone, which the passes in evaluation mode that find the layers do not show."""

    def features(*, in_place: bool) -> Tensor:
        torch.manual_seed(0)
        drop = nn.Dropout(0.5, inplace=in_place)
        hidden = [nn.Hardswish(), drop] if tap == "activation" else [drop]
        net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), *hidden, nn.Linear(16, 3))
        x = torch.rand(2, 3, 4, 4)
        layers = enumerate_layers(net, x)
        torch.manual_seed(1)
        return read_features(net.train(), x, layers, tap=tap).values[0]

    kept = features(in_place=True)
    assert torch.equal(kept, features(in_place=False))
    assert kept.count_nonzero() > 20


def test_a_network_in_a_wrapper_has_the_features_of_the_network(tiny_resnet: Build, images: Tensor) -> None:
    net = tiny_resnet().eval()
    for wrapped in (nn.DataParallel(net), torch.compile(net, backend="eager")):
        layers = enumerate_layers(wrapped, images)
        (found,), (plain,) = (read_features(one, images, layers[:1]).values for one in (wrapped, net))
        assert torch.equal(found, plain)

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clat.core.errors import ClatError
from clat.core.notices import Notice
from clat.models.densenet import densenet121
from clat.models.resnet import resnet18, resnet50
from clat.models.vgg import vgg19
from clat.network.features import read_features
from clat.network.layers import Layer, enumerate_layers, find_layers, layers_called


def names(layers: list[Layer]) -> list[str]:
    return [layer.name for layer in layers]


def full_size(build: Callable[[], nn.Module]) -> list[Layer]:
    """The layers of a network at full width, which on the meta device costs nothing."""
    with torch.device("meta"):
        return enumerate_layers(build(), torch.empty(1, 3, 32, 32))


def test_resnet18_layer_11_has_the_papers_weights() -> None:
    layers = full_size(resnet18)
    assert [layer.index for layer in layers] == list(range(1, 18))
    assert layers[10].num_params == 589_824
    assert (layers[10].name, layers[10].feature_shape) == ("layer3.0.conv2", (256, 8, 8))


def test_resnet50_layers_3_34_41_sum_to_the_papers_weights() -> None:
    layers = full_size(resnet50)
    assert len(layers) == 49
    assert [layers[i - 1].num_params for i in (3, 34, 41)] == [36_864, 262_144, 524_288]
    assert sum(layers[i - 1].num_params for i in (3, 34, 41)) == 823_296


def test_densenet121_layers_14_39_88_are_the_transitions() -> None:
    layers = full_size(densenet121)
    assert [layers[i - 1].name for i in (14, 39, 88)] == ["trans1.conv", "trans2.conv", "trans3.conv"]


def test_vgg19_layers_3_5_9_13_start_the_stages() -> None:
    layers = full_size(vgg19)
    channels = [layer.feature_shape[0] for layer in layers[:16]]
    sides = [layer.feature_shape[1] for layer in layers[:16]]
    assert [i for i in range(2, 17) if sides[i - 1] != sides[i - 2]] == [3, 5, 9, 13]
    assert channels == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert layers[10].num_params == 2_359_808


def test_meta_and_real_tensors_give_the_same_layers() -> None:
    def build() -> nn.Module:
        return resnet18(width=4)

    assert full_size(build) == enumerate_layers(build(), torch.rand(2, 3, 32, 32))


class Odd(nn.Module):
    """Defined in another order than run; a module that never runs and one that runs twice; functional code."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 5)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.bn = nn.BatchNorm2d(4)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 4, 1)
        self.downsample = nn.Conv2d(4, 4, 1, stride=2)
        self.down_downsample_conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.tanh(self.bn(self.first(x)))
        out = self.twice(out)
        out = F.relu(self.middle(out))
        out = self.twice(out)
        out = self.down_downsample_conv(out) + self.downsample(out)
        return self.head(out.relu().mean((2, 3)))


def test_order_numbers_and_taps() -> None:
    layers = enumerate_layers(Odd(), torch.rand(1, 3, 8, 8))
    assert names(layers) == ["first", "twice", "middle", "down_downsample_conv"]
    assert [layer.index for layer in layers] == [1, 2, 3, 4]
    assert [layer.num_params for layer in layers] == [3 * 4 * 9 + 4, 4 * 4 * 9 + 4, 4 * 4 + 4, 4 * 4 * 9 + 4]
    assert [layer.feature_shape for layer in layers] == [(4, 8, 8)] * 3 + [(4, 4, 4)]
    assert [(layer.norm_call, layer.norm_name) for layer in layers] == [(0, "bn"), *[(None, None)] * 3]
    # tanh after first; none of its own after twice; relu after middle; relu after the sum
    assert [layer.activation_call for layer in layers] == [0, None, 0, 0]
    assert all(layer.kind == "conv" and not layer.overwritten for layer in layers)


def test_a_module_called_twice_is_known_by_its_first_call() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            out = F.avg_pool2d(self.conv(x), 2)
            return self.head(self.conv(out).relu().mean((2, 3)))

    model, x = Pyramid(), torch.rand(2, 3, 8, 8)
    (layer,) = enumerate_layers(model, x)
    assert layer.feature_shape == (3, 8, 8)
    for stop in (False, True):
        assert torch.equal(read_features(model, x, [layer], stop=stop).values[0], model.conv(x).flatten(1))


class Recurrent(nn.Module):
    """A recurrent convolution whose first call reads zeros, the image times zero, or a learned start."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.start, self.h0 = start, nn.Parameter(torch.rand(1, 4, 1, 1))
        self.i, self.r, self.o = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        i = self.i(x)
        h = self.beginning(i)
        for _ in range(3):
            h = torch.tanh(i + self.norm(self.r(h)))
        return self.head(self.o(h).mean((2, 3)))

    def beginning(self, i: Tensor) -> Tensor:
        return {"zeros": torch.zeros_like(i), "times": 0 * i, "learned": self.h0.expand_as(i), "one": self.h0}[
            self.start
        ]

    def second(self, x: Tensor) -> dict[str, Tensor]:
        """What enters the second call of `r`, and what it gives at each tap."""
        i = self.i(x)
        h = torch.tanh(i + self.norm(self.r(self.beginning(i))))
        output = self.r(h)
        norm = self.norm(output)
        return {"input": h, "output": output, "norm": norm, "activation": torch.tanh(i + norm)}


@pytest.mark.parametrize("start", ["zeros", "times", "learned", "one"])
def test_a_recurrence_from_a_constant_counts_at_its_first_call_that_sees_the_image(start: str) -> None:
    model, x = Recurrent(start).eval(), torch.rand(3, 3, 6, 6)
    layers = enumerate_layers(model, x)
    assert [(layer.name, layer.call) for layer in layers] == [("i", 0), ("r", 1), ("o", 0)]
    assert enumerate_layers(model, x, include=["r"])[0].call == 1
    expected = model.second(x)
    for tap in ("output", "norm", "activation"):
        for stop in (False, True):
            (value,) = read_features(model, x, layers[1:2], tap=tap, stop=stop).values
            assert torch.equal(value, expected[tap].flatten(1)), tap
    assert torch.equal(read_features(model, x, layers[1:2], inputs=True).values[1], expected["input"].flatten(1))


def test_a_recurrence_that_never_sees_the_image_is_left_out_and_told_of() -> None:
    class Blind(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 4, 6, 6)
            for _ in range(2):
                h = self.r(h)
            return self.head((self.o(self.i(x)) + h).mean((2, 3)))

    with pytest.warns(Notice, match="left out of the layers: 'r', which run, but which no image reaches"):
        assert names(enumerate_layers(Blind("zeros"), torch.rand(1, 3, 6, 6))) == ["i", "o"]


class Pooled(nn.Module):
    """Attention by a learned query; `form` says how it is called."""

    def __init__(self, form: str = "places") -> None:
        super().__init__()
        self.form, self.query = form, nn.Parameter(torch.rand(1, 2, 8))
        self.patch, self.fc = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8)
        self.pool, self.head = nn.MultiheadAttention(8, 2, batch_first=form != "sequence"), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.fc(self.patch(x).flatten(2).transpose(1, 2))
        q = self.query.expand(len(x), -1, -1)
        if self.form == "names":
            return self.head(self.pool(query=q, key=t, value=t)[0].mean(1))
        if self.form == "sequence":
            t, q = t.transpose(0, 1), q.transpose(0, 1)
            return self.head(self.pool(q, t, t)[0].mean(0))
        return self.head(self.pool(q, t, t)[0].mean(1))


@pytest.mark.parametrize(("form", "argument"), [("places", 1), ("names", "key"), ("sequence", 1)])
def test_what_enters_a_layer_is_its_first_argument_that_depends_on_the_image(form: str, argument: Any) -> None:
    model, x = Pooled(form).eval(), torch.rand(3, 3, 8, 8)
    layers = enumerate_layers(model, x)
    assert [(layer.name, layer.input_argument) for layer in layers] == [
        ("patch", None), ("fc", None), ("pool", argument),
    ]  # fmt: skip
    found = read_features(model, x, layers, inputs=True).values
    assert torch.equal(found[5], found[1])  # the key is what `fc` gives


def test_shortcuts_and_classifier_on_request() -> None:
    model, x = Odd(), torch.rand(1, 3, 8, 8)
    assert names(enumerate_layers(model, x, shortcuts=True))[-2:] == ["down_downsample_conv", "downsample"]
    assert names(enumerate_layers(model, x, classifier=True))[-1] == "head"
    assert enumerate_layers(model, x, classifier=True)[-1].kind == "linear"
    small, image = resnet18(width=4), torch.rand(1, 3, 8, 8)
    with_shortcuts = enumerate_layers(small, image, shortcuts=True, classifier=True)
    assert len(with_shortcuts) == 17 + 3 + 1
    assert set(names(with_shortcuts)) - set(names(enumerate_layers(small, image))) == {
        *(f"layer{i}.0.shortcut.0" for i in (2, 3, 4)), "linear",
    }  # fmt: skip


def test_patterns() -> None:
    model, x = resnet18(width=4), torch.rand(1, 3, 8, 8)
    kept = enumerate_layers(model, x, include=["layer3.*", "conv1"], exclude=["*.conv2"])
    assert names(kept) == ["conv1", "layer3.0.conv1", "layer3.1.conv1"]
    assert [layer.index for layer in kept] == [1, 2, 3]
    blocks = enumerate_layers(model, x, include=["layer?.?"])
    assert [layer.kind for layer in blocks] == ["other"] * 8
    assert blocks[2].num_params == sum(p.numel() for p in model.layer2[0].parameters())


def test_an_unknown_pattern_names_the_nearest_layer() -> None:
    model, x = resnet18(width=4), torch.rand(1, 3, 8, 8)
    message = r"unknown layer pattern 'layer3\.0\.cnv1'; did you mean 'layer3\.0\.conv1'"
    for patterns in ({"include": ["layer3.0.cnv1"]}, {"exclude": ["layer3.0.cnv1"]}):
        with pytest.raises(ClatError, match=message):
            enumerate_layers(model, x, **patterns)  # type: ignore[arg-type]


def test_no_layer_left() -> None:
    with pytest.raises(ClatError, match="no layer is left"):
        enumerate_layers(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(1, 3, 2, 2))
    with pytest.raises(ClatError, match="no layer is left"):
        enumerate_layers(nn.Flatten(), torch.rand(1, 3, 2, 2))


def test_no_image_at_all() -> None:
    with pytest.raises(ClatError, match="no image"):
        enumerate_layers(resnet18(width=4), torch.empty(0, 3, 8, 8))


def test_find_layers() -> None:
    layers = enumerate_layers(resnet18(width=4), torch.rand(1, 3, 8, 8))
    assert [layer.index for layer in find_layers(layers, ["layer3.0.conv2", "2", "11"])] == [2, 11]
    with pytest.raises(ClatError, match="unknown layer 'layer9'"):
        find_layers(layers, ["layer9"])


class Heads(nn.Module):
    """Two convolutions, a hidden layer as wide as the logits, and heads that are put together by `form`."""

    def __init__(self, form: Callable[..., Any], other: int = 10) -> None:
        super().__init__()
        self.form = form
        self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.hidden, self.head, self.other = nn.Linear(4, 10), nn.Linear(10, 10), nn.Linear(10, other)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.hidden(torch.relu(self.c2(torch.relu(self.c1(x)))).mean((2, 3))))
        return self.form(self.head(h), self.other(h))


@pytest.mark.parametrize(
    "net",
    [
        Heads(lambda one, other: (one, other)),
        Heads(lambda one, other: (one, other), other=4),
        Heads(lambda one, other: {"logits": one, "rotation": other}, other=4),
        Heads(lambda one, other: (one + other) / 2),
    ],
    ids=["two alike", "another beside", "by name", "their mean"],
)
def test_all_heads_are_left_out(net: nn.Module) -> None:
    x = torch.rand(2, 3, 8, 8)
    assert [layer.name for layer in enumerate_layers(net, x)] == ["c1", "c2", "hidden"]
    every = enumerate_layers(net, x, classifier=True)
    assert [layer.name for layer in every] == ["c1", "c2", "hidden", "head", "other"]


def test_a_layer_that_only_scales_the_logits_stays() -> None:
    net = Heads(lambda one, other: one * other.sigmoid(), other=1)
    assert [layer.name for layer in enumerate_layers(net, torch.rand(2, 3, 8, 8))] == [
        "c1",
        "c2",
        "hidden",
        "other",
    ]


class Reentrant(Heads):
    """Its second half runs in a checkpoint that shows no graph."""

    def forward(self, x: Tensor) -> Any:
        h = self.hidden(torch.relu(self.c2(torch.relu(self.c1(x)))).mean((2, 3)))
        return checkpoint(lambda h: self.head(torch.relu(self.other(torch.relu(h)))), h, use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_where_no_graph_shows_who_reads_what_the_last_layer_alone_is_left_out() -> None:
    net = Reentrant(lambda one, other: one)
    assert names(enumerate_layers(net, torch.rand(2, 3, 8, 8))) == ["c1", "c2", "hidden", "other"]


def numbered_net() -> nn.Sequential:
    """Layers 1 to 4 are called 0, 2, 4, 6: most names are the numbers of others."""
    body = [part for _ in range(4) for part in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))


def test_a_name_that_looks_like_a_number_is_a_name() -> None:
    layers = enumerate_layers(numbered_net(), torch.rand(1, 3, 4, 4))
    assert [(layer.index, layer.name) for layer in layers] == [(1, "0"), (2, "2"), (3, "4"), (4, "6")]
    assert [layer.name for layer in layers_called(layers, ["4", "0"])] == ["0", "4"]
    with pytest.raises(ClatError, match="unknown layer '1'"):
        layers_called(layers, ["1"])


def test_a_user_says_which_is_meant() -> None:
    layers = enumerate_layers(numbered_net(), torch.rand(1, 3, 4, 4))
    assert [layer.name for layer in find_layers(layers, [4, "#1", "2", "3"])] == ["0", "2", "4", "6"]
    with pytest.raises(ClatError, match="'4' is the name of layer #3 and the number of layer '6': say #3 or #4"):
        find_layers(layers, ["4"])


class InPlace(nn.Module):
    """What public ResNets do: in-place ReLU, right after a convolution and after `out += shortcut`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 4, 3, padding=1) for c in (3, 4, 4))
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.relu(self.conv1(x))
        out = self.bn2(self.conv2(first))
        out += first
        out = F.relu_(out)
        out = self.conv3(out)
        out.add_(1).relu_()
        return self.head(out.mean((2, 3)))


@pytest.mark.parametrize("reduced", [False, True])
def test_in_place_code_does_not_change_what_was_read(reduced: bool) -> None:
    model, x = InPlace().eval(), torch.rand(2, 3, 6, 6)
    layers = enumerate_layers(model, x)
    assert [layer.overwritten for layer in layers] == [{"output"}, {"norm"}, {"output"}]
    with torch.no_grad():
        first = model.conv1(x)
        second = model.conv2(first.relu())
        norm = model.bn2(second)
        third = model.conv3(F.relu(norm + first.relu()))
    expected = {
        "output": [first, second, third],
        "norm": [first, norm, third],
        "activation": [first.relu(), F.relu(norm + first.relu()), F.relu(third + 1)],
    }
    reduce: Any = (lambda feature, layer: feature.clone()) if reduced else None
    for tap, features in expected.items():
        for grad in (False, True):
            with torch.set_grad_enabled(grad):
                found = read_features(model, x, layers, tap=tap, reduce=reduce)
            for value, feature in zip(found.values, features, strict=True):
                torch.testing.assert_close(value, feature.flatten(1))


class Tokens(nn.Module):
    """Normalisation called with keywords, and a LayerNorm that must not be taken for the earlier BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.fc = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.fc2 = nn.Linear(8, 8)
        self.bias_net = nn.Linear(2, 8)
        self.register_buffer("grid", torch.rand(9, 2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.patch(self.bn(x)).flatten(2).transpose(1, 2)
        out = self.norm(self.fc(out))
        out = F.layer_norm(input=self.fc2(out), normalized_shape=(8,))
        return self.head(out.mean(1) + self.bias_net(self.grid).mean(0))


def test_which_normalisation_belongs_to_a_layer() -> None:
    layers = enumerate_layers(Tokens(), torch.rand(1, 3, 8, 8), exclude=["bias_net"], classifier=True)
    assert [(layer.name, layer.norm_call, layer.norm_name) for layer in layers] == [
        ("patch", None, None), ("fc", 0, None), ("fc2", 0, None), ("head", None, None),
    ]  # fmt: skip


def test_a_module_that_sees_no_image_is_no_layer() -> None:
    """bias_net runs on a constant grid: its output has no batch, and no feature of an image."""
    with pytest.warns(Notice, match="left out of the layers: 'bias_net', which run, but which no image reaches"):
        layers = enumerate_layers(Tokens(), torch.rand(1, 3, 8, 8))
    assert names(layers) == ["patch", "fc", "fc2"]
    with pytest.raises(ClatError, match="layer 'bias_net' runs, but no image reaches it: what it reads and gives"):
        enumerate_layers(Tokens(), torch.rand(1, 3, 8, 8), include=["bias_net"])


class TinyViT(nn.Module):
    """A hand-written vision transformer: patches, class token, qkv and projection, MLP, LayerNorm first."""

    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(3, dim, 4, stride=4)
        self.cls = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm1, self.norm2, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.patch(x).flatten(2).transpose(1, 2)
        out = torch.cat([self.cls.expand(len(x), -1, -1), out], dim=1)
        n, t, d = out.shape
        q, k, v = self.qkv(self.norm1(out)).reshape(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = out + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))
        out = out + self.fc2(F.gelu(self.fc1(self.norm2(out))))
        return self.head(self.norm(out)[:, 0])


def test_vision_transformer() -> None:
    model, x = TinyViT(), torch.rand(3, 3, 8, 8)
    layers = enumerate_layers(model, x)
    assert names(layers) == ["patch", "qkv", "proj", "fc1", "fc2"]
    assert [layer.feature_shape for layer in layers] == [(8, 2, 2), (5, 24), (5, 8), (5, 16), (5, 8)]
    assert [layer.activation_call for layer in layers] == [None, None, None, 0, None]
    values = read_features(model, x, layers).values
    assert [tuple(value.shape) for value in values] == [(3, 32), (3, 120), (3, 40), (3, 80), (3, 40)]


class Attention(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)
        self.fc = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = self.patch(x).flatten(2).permute((0, 2, 1) if self.batch_first else (2, 0, 1))
        out, _ = self.attention(out, out, out)
        out = F.relu(self.fc(out))
        return self.head(out.mean(1 if self.batch_first else 0))


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(batch_first: bool) -> None:
    model, x = Attention(batch_first).eval(), torch.rand(3, 3, 8, 12)
    layers = enumerate_layers(model, x)
    assert [(layer.name, layer.kind) for layer in layers] == [
        ("patch", "conv"), ("attention", "attention"), ("fc", "linear"),
    ]  # fmt: skip
    assert layers[1].num_params == 4 * 8 * 8 + 4 * 8
    assert [layer.feature_shape for layer in layers] == [(8, 2, 3), (6, 8), (6, 8)]
    assert layers[1].batch_axis == (0 if batch_first else 1)
    whole = read_features(model, x, layers).values
    for i in range(len(x)):
        alone = read_features(model, x[i : i + 1], layers).values
        for batch, single in zip(whole, alone, strict=True):
            torch.testing.assert_close(batch[i], single[0])


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("tap", ["output", "norm", "activation"])
def test_transformer_encoder_layers(batch_first: bool, tap: str) -> None:
    """They have a fused path without hooks; taps must agree whichever layers are read, with gradients or not."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, stride=4)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
            self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            out = self.patch(x).flatten(2).permute((0, 2, 1) if batch_first else (2, 0, 1))
            return self.head(self.blocks(out).mean(1 if batch_first else 0))

    model, x = Encoder().eval(), torch.rand(3, 3, 8, 12)
    layers = enumerate_layers(model, x)
    parts = ("self_attn", "linear1", "linear2")
    assert names(layers) == ["patch", *(f"blocks.layers.{i}.{part}" for i in (0, 1) for part in parts)]
    assert [layer.feature_shape for layer in layers[1:]] == [(6, 8), (6, 16), (6, 8)] * 2
    assert [layer.activation_call for layer in layers] == [None, None, 0, None, None, 0, None]
    with torch.no_grad():
        whole = read_features(model, x, layers, tap=tap).values
        for subset in ([2], [5], [1, 6], [3]):
            some = read_features(model, x, [layers[i] for i in subset], tap=tap, stop=True).values
            for i, value in zip(subset, some, strict=True):
                torch.testing.assert_close(value, whole[i])
    for value, graded in zip(whole, read_features(model, x, layers, tap=tap).values, strict=True):
        torch.testing.assert_close(value, graded)


class Squeezed(nn.Module):
    """Gives logits without a batch axis for a single image."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).mean((2, 3), keepdim=True).squeeze())


def test_a_classifier_behind_squeeze_is_one() -> None:
    assert [layer.name for layer in enumerate_layers(Squeezed(), torch.rand(1, 3, 8, 8))] == ["body.0", "body.2"]


class ClassToken(nn.Module):
    """A query of the class token alone, as in class attention: no image has a part in it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 4, 2, 2), nn.Parameter(torch.rand(1, 1, 4))
        self.q, self.k, self.out, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patches(x).flatten(2).transpose(1, 2)
        q, k = self.q(self.token.expand(len(x), -1, -1)), self.k(t)
        return self.head(self.out((q @ k.transpose(1, 2)).softmax(-1) @ t)[:, 0])


def test_a_query_of_the_class_token_alone_is_no_layer() -> None:
    with pytest.warns(Notice, match="left out of the layers: 'q'"):
        layers = enumerate_layers(ClassToken(), torch.rand(2, 3, 8, 8))
    assert names(layers) == ["patches", "k", "out"]
    for kept in ({"exclude": ["q"]}, {"include": ["patches", "k", "out"]}):  # there is nothing to say
        assert enumerate_layers(ClassToken(), torch.rand(2, 3, 8, 8), **kept) == layers  # type: ignore[arg-type]


def test_dead_and_detached_layers_are_layers() -> None:
    """What gives the same for two images may give another thing for the next; a frozen trunk has no gradient."""
    dead = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        dead[0].weight.zero_()
        dead[0].bias.fill_(-1)

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = copy.deepcopy(dead)
            nn.init.normal_(self.net[0].weight)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                h = self.net[:3](x)
            return self.net[3:](h)

    x = torch.rand(2, 3, 8, 8)
    assert [layer.name for layer in enumerate_layers(dead, x)] == ["0", "2"]
    assert [layer.name for layer in enumerate_layers(Detached(), x)] == ["net.0", "net.2"]


class Deciding(nn.Module):
    """Which layer runs depends on the images; what it keeps of them stays in it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.last = (self.a(x) if x.mean() < 0.4 else self.b(x)).relu()
        self.last.detach().numpy()
        return self.head(self.last.mean((2, 3)))


def test_a_network_that_decides_by_the_images_has_the_layers_that_ran_and_no_graph_stays() -> None:
    net = Deciding()
    assert [layer.name for layer in enumerate_layers(net, 0.1 * torch.rand(1, 3, 8, 8))] == ["a"]
    copy.deepcopy(net)


class Mixing(nn.Module):
    """Takes the mean of the batch off, and folds patches into it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.patch, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x - x.mean())
        h = self.patch(h.permute(0, 2, 3, 1).reshape(-1, 4)).relu()
        return self.head(h.view(len(x), -1, 4).mean(1))


def test_rows_that_nobody_can_tell_apart_are_refused_where_they_are_read_alone() -> None:
    net, x = Mixing(), torch.rand(2, 3, 4, 4)
    first, patch = enumerate_layers(net, x)
    assert (patch.rows, patch.views_first) == (16, None)
    read_features(net, x, [first])
    with pytest.raises(ClatError, match="layer 'patch' has 16 rows of each image, in an order that does not tell"):
        read_features(net, x, [patch])


class Ends(nn.Module):
    """Two convolutions and a head, whose outputs become the logits by `form`."""

    def __init__(self, outputs: int, form: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.c1, self.c2, self.fc = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(4, outputs),
        )
        self.form = form
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, torch.relu(self.c2(torch.relu(self.c1(x)))))


def _single(net: Any, h: Tensor) -> Tensor:
    z = net.fc(h.mean((2, 3))).squeeze(1)
    return torch.stack([-z / 2, z / 2], 1)


@pytest.mark.parametrize(
    ("outputs", "form", "left"),
    [
        (1, _single, False),
        (9, lambda net, h: net.fc(h.mean((2, 3)))[:, [1, 4, 7]], False),
        (5, lambda net, h: net.fc(h.flatten(2).transpose(1, 2)).mean(1), False),
        (9, lambda net, h: net.fc(h.mean((2, 3))).unflatten(1, (3, 3)).mean(2), True),
        (5, lambda net, h: (net.fc(h.flatten(2).transpose(1, 2)) * net.scale).mean(1), True),
    ],
    ids=["a single logit", "some of the classes", "tokens averaged", "means of outputs", "with a parameter behind"],
)
def test_a_classifier_is_known_behind_what_has_no_parameters(outputs: int, form: Any, left: bool) -> None:
    layers = names(enumerate_layers(Ends(outputs, form), torch.rand(2, 3, 8, 8)))
    assert layers == ["c1", "c2"] + ["fc"] * left


class Decoder(nn.Module):
    """Logits, a reconstruction and the embedding of a projection head; and a gate that has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.dec, self.dec2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.p1, self.p2, self.head = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(4, 5)
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.c2(torch.relu(self.c1(x))))
        pooled = h.mean((2, 3))
        logits = self.head((h * torch.sigmoid(self.gate(h)).detach()).mean((2, 3)))
        return logits, self.dec2(torch.relu(self.dec(h))), self.p2(torch.relu(self.p1(pooled)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layers_that_the_logits_do_not_depend_on_are_none(dtype: torch.dtype) -> None:
    """`gate` has no gradient, and the logits depend on it all the same."""
    net, x = Decoder().to(dtype), torch.rand(2, 3, 8, 8)
    with pytest.warns(Notice, match="'dec', 'dec2', 'p1', which run, but on which the logits do not depend"):
        assert names(enumerate_layers(net, x)) == ["c1", "c2", "gate"]
    with pytest.raises(ClatError, match="layer 'p1' runs, but the logits do not depend on it, so leave it out"):
        enumerate_layers(net, x, include=["p1"])
    kept = enumerate_layers(net, x, classifier=True, exclude=["dec*", "p1"])
    assert names(kept) == ["c1", "c2", "gate", "head", "p2"]


@pytest.mark.parametrize("in_place", [True, False], ids=["compile()", "torch.compile"])
def test_parts_that_a_user_compiled_show_their_layers(in_place: bool) -> None:
    """A compiled part goes on with its first graph, in which no hook runs."""
    torch.manual_seed(0)
    back = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), back, nn.Linear(4, 3))
    x, wanted = torch.rand(4, 3, 8, 8), ["0", "4.0"]
    plain = read_features(net.eval(), x, enumerate_layers(net, x)).values
    if in_place:
        back.compile(backend="eager")
    else:
        net[4], wanted = torch.compile(back, backend="eager"), ["0", "4._orig_mod.0"]
    with torch.no_grad():
        net(x)
        layers = enumerate_layers(net, x)
        assert names(layers) == wanted
        for one, other in zip(read_features(net, x, layers).values, plain, strict=True):
            torch.testing.assert_close(one, other)


class Routed(nn.Module):
    """A layer that acts by a decision alone, of which no gradient and few values tell; calls its forward itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.g, self.fc = nn.Conv2d(4, 1, 6), nn.Linear(4, 3)

    def __call__(self, x: Tensor) -> Any:
        return self.forward(x)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.a(x))
        decision = self.g(h[:, :, 1:7, 1:7])
        return self.fc((h + self.b(h) * (decision > 0)).mean((2, 3))), decision


@pytest.mark.parametrize("seed", range(8))
def test_a_layer_that_decides_is_one_whatever_the_random_state(seed: int) -> None:
    torch.manual_seed(0)
    net, x = Routed(), torch.rand(1, 3, 8, 8)
    torch.manual_seed(seed)
    assert names(enumerate_layers(net, x)) == ["a", "g", "b"]


def test_a_layer_that_gives_nothing_yet_is_no_classifier() -> None:
    class Prototypes(Ends):
        def __init__(self) -> None:
            super().__init__(8, lambda net, h: net.fc(h.mean((2, 3))) @ net.prototypes)
            self.register_buffer("prototypes", torch.rand(8, 5))
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    assert names(enumerate_layers(Prototypes(), torch.rand(2, 3, 8, 8))) == ["c1", "c2", "fc"]

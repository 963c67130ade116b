from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.attacks import pgd
from clat.core.console import plain_console
from clat.core.errors import ClatError
from clat.core.notices import Notice
from clat.criticality.index import measure_criticality
from clat.criticality.report import CriticalityReport, CriticalityRow
from clat.network.layers import enumerate_layers

Build = Callable[[], nn.Module]


def weaknesses(report: CriticalityReport) -> list[float]:
    return [row.weakness for row in report.rows]


def indices(report: CriticalityReport) -> list[float]:
    return [row.criticality for row in report.rows]


def outputs(model: nn.Module, x: Tensor, wanted: list[str]) -> list[Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: found.__setitem__(name, output.detach().flatten(1).double())
        )
        for name in wanted
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return [found[name] for name in wanted]


# The definition


@pytest.mark.parametrize("normaliser", ["numel", "sqrt", "relative", "none"])
def test_weakness_is_two_forward_passes(
    normaliser: str, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    model = tiny_resnet()
    report = measure_criticality(model, images, labels, eps="8/255", seed=5, normaliser=normaliser)
    x_adv = pgd(model, images, labels, eps="8/255", seed=5)
    names = [row.name for row in report.rows]
    assert len(names) == 17
    features = outputs(model, images, names), outputs(model, x_adv, names)
    for row, clean, moved in zip(report.rows, *features, strict=True):
        size = clean.shape[1]
        by = {"numel": size, "sqrt": math.sqrt(size), "relative": clean.norm(dim=1), "none": 1}[normaliser]
        expected = ((moved - clean).norm(dim=1) / by).mean().item()
        assert row.weakness == pytest.approx(expected, rel=1e-5)
        assert math.prod(row.feature_shape) == size
    with torch.no_grad():
        assert report.clean_accuracy == (model(images).argmax(1) == labels).double().mean()
        assert report.adversarial_accuracy == (model(x_adv).argmax(1) == labels).double().mean()


@pytest.mark.parametrize("metric", ["weakness", "curvature"])
def test_the_product_of_the_indices_telescopes(
    metric: str, tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    report = measure_criticality(tiny_resnet(), images, labels, eps=0.03, steps=3, metric=metric)
    assert report.rows[0].criticality == report.rows[0].weakness > 0
    product = 1.0
    for row in report.rows:
        product *= row.criticality
        assert product == pytest.approx(row.weakness, rel=1e-5)


def test_closed_form_on_a_linear_network() -> None:
    """Three 1x1 convolutions with the diagonals 3 2 1, 1 1 4, 2 2 2 and the perturbation (3, 0, 4) / 100 in one
    pixel of four: |(9, 0, 4)|, |(9, 0, 16)| and |(18, 0, 32)| after each, all / 100, and N = 12."""
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1, bias=False) for _ in range(3)), nn.Flatten(), nn.Linear(12, 2))
    with torch.no_grad():
        for layer, diagonal in zip(model, ([3.0, 2, 1], [1.0, 1, 4], [2.0, 2, 2]), strict=False):
            layer.weight.copy_(torch.diag(torch.tensor(diagonal))[:, :, None, None])
    x = torch.full((2, 3, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[0, :, 1, 0] += torch.tensor([0.03, 0.0, 0.04])
    x_adv[1, :, 0, 1] -= torch.tensor([0.06, 0.0, 0.08])  # twice as far: the mean is 1.5 times the first's
    report = measure_criticality(model, x, torch.tensor([0, 1]), eps=0.1, x_adv=x_adv)
    norms = [math.hypot(9, 4) / 100, math.hypot(9, 16) / 100, math.hypot(18, 32) / 100]
    assert weaknesses(report) == pytest.approx([1.5 * norm / 12 for norm in norms], rel=1e-5)
    assert indices(report) == pytest.approx([1.5 * norms[0] / 12, norms[1] / norms[0], 2.0], rel=1e-5)
    by_root = measure_criticality(model, x, torch.tensor([0, 1]), eps=0.1, x_adv=x_adv, normaliser="sqrt")
    assert weaknesses(by_root) == pytest.approx([1.5 * norm / math.sqrt(12) for norm in norms], rel=1e-5)
    # nu = |A^T A d| / |d| for a linear map A, per sample and so without the factor 1.5
    curved = measure_criticality(model, x, torch.tensor([0, 1]), eps=0.1, x_adv=x_adv, metric="curvature")
    pulled = [math.hypot(27, 4), math.hypot(27, 64), math.hypot(108, 256)]
    assert curved.normaliser == "none"
    assert weaknesses(curved) == pytest.approx([length / 5 for length in pulled], rel=1e-5)
    divided = measure_criticality(
        model, x, torch.tensor([0, 1]), eps=0.1, x_adv=x_adv, metric="curvature", normaliser="numel"
    )
    assert weaknesses(divided) == pytest.approx([length / 5 / 12 for length in pulled], rel=1e-5)


def test_the_paper_divides_by_the_size_so_a_smaller_feature_ranks_high() -> None:
    """Stride 2 keeps the change of one pixel but quarters N: by N the index is 4, by sqrt(N) 2."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1, stride=2), nn.Flatten(), nn.Linear(4, 2))
    nn.init.ones_(model[0].weight)
    nn.init.ones_(model[1].weight)
    for convolution in model[:2]:
        nn.init.zeros_(convolution.bias)
    x = torch.full((1, 1, 4, 4), 0.5)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = 0.6
    for normaliser, index in (("numel", 4.0), ("sqrt", 2.0), ("relative", 2.0)):
        report = measure_criticality(model, x, torch.tensor([0]), eps=0.1, x_adv=x_adv, normaliser=normaliser)
        assert report.rows[1].criticality == pytest.approx(index, rel=1e-5)


def test_the_predecessor_that_a_layer_really_reads() -> None:
    """2x after the first 1x1 convolution, then a residual addition: the second reads what the first gave, a change
    of 2 d, and gives 6 d; the third reads their sum, 8 d, and gives 40 d. The paper compares 40 d with 6 d."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = (nn.Conv2d(1, 1, 1, bias=False) for _ in range(3))
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.head(self.third(x + self.second(x)).flatten(1))

    model = Residual()
    with torch.no_grad():
        for layer, factor in ((model.first, 2.0), (model.second, 3.0), (model.third, 5.0)):
            layer.weight.fill_(factor)
    x = torch.full((2, 1, 2, 2), 0.5)
    x_adv = x.clone()
    x_adv[:, 0, 0, 1] = 0.6
    settings: dict[str, Any] = {"eps": 0.1, "x_adv": x_adv}
    forward = measure_criticality(model, x, torch.tensor([0, 1]), **settings)
    assert indices(forward)[1:] == pytest.approx([3, 40 / 6], rel=1e-5)
    for normaliser in ("numel", "sqrt", "none"):  # all features are of one size
        report = measure_criticality(
            model, x, torch.tensor([0, 1]), **settings, predecessor="input", normaliser=normaliser
        )
        assert indices(report) == pytest.approx([2, 3, 5], rel=1e-5)
        by = {"numel": 4, "sqrt": 2, "none": 1}[normaliser]
        assert [row.input_weakness for row in report.rows] == pytest.approx(
            [0.1 / by, 0.2 / by, 0.8 / by], rel=1e-4
        )
        assert weaknesses(report) == pytest.approx([0.2 / by, 0.6 / by, 4.0 / by], rel=1e-4)
    # nu of a map by a is a^2, and of the image itself 1
    curved = measure_criticality(
        model, x, torch.tensor([0, 1]), **settings, predecessor="input", metric="curvature"
    )
    assert weaknesses(curved) == pytest.approx([4, 36, 1600], rel=1e-4)
    assert [row.input_weakness for row in curved.rows] == pytest.approx([1, 4, 64], rel=1e-4)
    assert indices(curved) == pytest.approx([4, 9, 25], rel=1e-4)


def test_in_a_chain_both_predecessors_agree_from_layer_2_on() -> None:
    model = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)), nn.Flatten(), nn.Linear(12, 2))
    x = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    x_adv, y = (x + 0.05).clamp(0, 1), torch.tensor([0, 1, 0])
    one, other = (
        measure_criticality(model, x, y, eps=0.1, x_adv=x_adv, predecessor=name) for name in ("forward", "input")
    )
    assert indices(other)[1:] == pytest.approx(indices(one)[1:], rel=1e-6)
    assert other.comparable(other.rows[0])
    assert not one.comparable(one.rows[0])
    assert set(other.bottom(3)) == {"0", "1", "2"}
    with pytest.raises(ClatError, match="expected 1 to 2, the number of layers whose"):
        one.bottom(3)


def test_the_input_of_sequence_first_attention_has_its_batch_second() -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch, self.attention = nn.Conv2d(1, 4, 2, stride=2), nn.MultiheadAttention(4, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out = self.patch(x).flatten(2).permute(2, 0, 1)  # (T, N, C)
            return self.head(self.attention(query=out, key=out, value=out)[0].mean(0))

    model = Sequence().eval()
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    x_adv = x.clone()
    x_adv[0] = (x_adv[0] + 0.1).clamp(0, 1)
    x_adv[1] = (x_adv[1] + 0.3).clamp(0, 1)
    report = measure_criticality(model, x, torch.tensor([0, 1]), eps=0.3, x_adv=x_adv, predecessor="input")
    assert [row.name for row in report.rows] == ["patch", "attention"]
    assert report.rows[1].input_weakness == pytest.approx(report.rows[0].weakness, rel=1e-5)


class Queried(nn.Module):
    """Attention pooling by a learned query, behind a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.fc = nn.Conv2d(1, 4, 2, stride=2), nn.Linear(4, 4)
        self.query, self.pool = nn.Parameter(torch.rand(1, 1, 4)), nn.MultiheadAttention(4, 1, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.fc(self.patch(x).flatten(2).transpose(1, 2))
        return self.head(self.pool(self.query.expand(len(x), -1, -1), t, t)[0][:, 0])


def test_behind_a_learned_query_the_key_is_what_enters() -> None:
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x_adv, y = (x + 0.05 * torch.rand_like(x)).clamp(0, 1), torch.tensor([0, 1, 2, 0])
    model = Queried().eval()
    for metric in ("weakness", "curvature"):
        forward, entering = (
            measure_criticality(model, x, y, eps=0.1, x_adv=x_adv, metric=metric, predecessor=name)
            for name in ("forward", "input")
        )
        assert indices(entering)[1:] == pytest.approx(indices(forward)[1:], rel=1e-5)
        assert entering.rows[2].input_weakness == pytest.approx(forward.rows[1].weakness, rel=1e-5)


def test_where_no_input_changes_the_index_is_undefined_and_ranks_last(tmp_path: Path) -> None:
    class Hidden(nn.Module):
        """The image enters a layer through its weight, past what it is called with."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.block, self.head = nn.Conv2d(1, 2, 1), Scaling(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.first(x)
            self.block.scale = h.mean((2, 3))
            return self.head(self.block(torch.ones(len(x), 2)))

    class Scaling(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.scale = torch.ones(())

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

    x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    settings: dict[str, Any] = {"eps": 0.1, "x_adv": (x + 0.05).clamp(0, 1), "predecessor": "input"}
    report = measure_criticality(Hidden(), x, y, **settings)
    assert math.isnan(report.rows[1].criticality)
    assert report.rows[1].weakness > 0 == report.rows[1].input_weakness
    assert report.top(1) == ["first"]
    report.to_json(tmp_path / "report.json")
    assert math.isnan(type(report).from_json(tmp_path / "report.json").rows[1].criticality)


def test_relative_does_not_see_the_scale_of_a_layer(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model, scaled = tiny_resnet(), tiny_resnet()
    x_adv = pgd(model, images, labels, eps="8/255", seed=1)
    with torch.no_grad():
        scaled.layer4[1].conv2.weight *= 10  # the last layer, so that no other feature changes
    for normaliser, factor in (("relative", 1.0), ("numel", 10.0), ("sqrt", 10.0)):
        settings: dict[str, Any] = {"eps": "8/255", "x_adv": x_adv, "normaliser": normaliser}
        before = measure_criticality(model, images, labels, **settings).rows
        after = measure_criticality(scaled, images, labels, **settings).rows
        assert after[-1].weakness == pytest.approx(factor * before[-1].weakness, rel=1e-5)
        assert after[-2].weakness == pytest.approx(before[-2].weakness, rel=1e-5)


def test_the_norm_tap_does_not_see_a_scale_that_batch_norm_takes_away(
    tiny_resnet: Build, images: Tensor, labels: Tensor
) -> None:
    model, scaled = tiny_resnet(), tiny_resnet()
    for net in (model, scaled):
        net.layer1[0].bn1.running_var.fill_(2.0)  # large against BatchNorm's eps
    with torch.no_grad():
        scaled.layer1[0].conv1.weight *= 10
        scaled.layer1[0].bn1.running_mean *= 10
        scaled.layer1[0].bn1.running_var *= 100
        torch.testing.assert_close(model(images), scaled(images), rtol=1e-3, atol=1e-4)
    x_adv = pgd(model, images, labels, eps="8/255", seed=1)
    for metric in ("weakness", "curvature"):
        settings: dict[str, Any] = {"eps": "8/255", "x_adv": x_adv, "metric": metric}
        before = measure_criticality(model, images, labels, tap="norm", **settings)
        after = measure_criticality(scaled, images, labels, tap="norm", **settings)
        assert indices(after) == pytest.approx(indices(before), rel=1e-4)
    before = measure_criticality(model, images, labels, eps="8/255", x_adv=x_adv)
    after = measure_criticality(scaled, images, labels, eps="8/255", x_adv=x_adv)
    assert after.rows[1].criticality == pytest.approx(10 * before.rows[1].criticality, rel=1e-4)
    assert after.rows[2].criticality == pytest.approx(before.rows[2].criticality / 10, rel=1e-4)


# The curvature


class Attentive(nn.Module):
    """A patch embedding, one attention block and an MLP, small enough for full Jacobians."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 4, 2, stride=2)
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.patch(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(out)).chunk(3, dim=-1)
        out = out + self.proj(F.scaled_dot_product_attention(q, k, v))
        out = out + self.fc2(F.gelu(self.fc1(self.norm2(out))))
        return self.head(out.mean(1))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Tanh(), nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3),
    )  # fmt: skip


@pytest.mark.parametrize("build", [convolutional, Attentive])
@pytest.mark.parametrize("normaliser", ["numel", "sqrt", "relative", "none"])
def test_curvature_is_the_jacobian_times_the_change(build: Build, normaliser: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = build().eval()
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(3, 1, 4, 4, generator=generator) * 0.8 + 0.1
    x_adv = x + (torch.rand(x.shape, generator=generator) - 0.5) * 0.1
    report = measure_criticality(
        model, x, torch.zeros(3, dtype=torch.int64), eps=0.1, x_adv=x_adv, metric="curvature", normaliser=normaliser
    )
    for row in report.rows:

        def feature(z: Tensor, name: str = row.name) -> Tensor:
            kept: list[Tensor] = []
            handle = model.get_submodule(name).register_forward_hook(lambda m, a, out: kept.append(out.clone()))
            model(z[None])
            handle.remove()
            return kept[0].flatten()

        values = []
        for clean, moved in zip(x, x_adv, strict=True):
            before = feature(clean).detach()
            jacobian = torch.autograd.functional.jacobian(feature, moved).reshape(len(before), -1)
            nu = (jacobian.T @ (feature(moved).detach() - before)).norm() / (moved - clean).norm()
            size = len(before)
            by = {"numel": size, "sqrt": math.sqrt(size), "relative": before.norm(), "none": 1}[normaliser]
            values.append(nu / by)
        assert row.weakness == pytest.approx(torch.stack(values).mean().item(), rel=1e-4)
    assert len(report.rows) == {convolutional: 3, Attentive: 5}[build]  # type: ignore[index]


def test_a_layer_that_no_pixel_reaches_is_none() -> None:
    """Its W would be 0, and C of the layer after it infinite."""

    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.token = nn.Parameter(torch.ones(1, 4))
            self.fc, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).mean((2, 3)) + self.fc(self.token.expand(len(x), -1)))

    x = torch.rand(2, 3, 4, 4)
    for metric in ("weakness", "curvature"):
        with pytest.warns(Notice, match="left out of the layers: 'fc'"):
            report = measure_criticality(Token(), x, torch.tensor([0, 1]), eps=0.1, metric=metric)
        assert [row.name for row in report.rows] == ["conv"]
        assert weaknesses(report)[0] > 0


class Blocks(nn.Module):
    """Three layers, of whose middle one each image has several rows, in an order of its own."""

    def __init__(self, order: str) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.third, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        n, h = len(x), self.first(x)
        if self.order == "views":
            h = self.second(torch.cat([h, h.flip(3)])).view(2, n, 4, 16).transpose(0, 1)
        elif self.order == "samples":
            h = self.second(torch.stack([h, h.flip(3)], 1).flatten(0, 1)).view(n, 2, 4, 16)
        else:  # part by part
            h = torch.cat([self.second(part) for part in h.split(3)]).view(n, 1, 4, 16)
        h = h.mean(1).transpose(1, 2)  # (N, positions, channels)
        if self.order == "views":
            h = self.third(h.transpose(0, 1).reshape(-1, 4)).view(16, n, 4).transpose(0, 1)
        else:
            h = self.third(h)
        return self.head(h.relu().mean(1))


def test_rows_of_an_image_are_found_in_whichever_order_they_are() -> None:
    """Two views of each image, all first ones first, and positions before images: the same function, the same W."""
    x, y = torch.rand(8, 3, 4, 4), torch.arange(8) % 2
    x_adv = (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
    for predecessor in ("forward", "input"):
        one, other = (
            measure_criticality(Blocks(order), x, y, eps=0.1, x_adv=x_adv, predecessor=predecessor)
            for order in ("samples", "views")
        )
        assert [row.name for row in one.rows] == ["first", "second", "third"]
        assert weaknesses(other) == pytest.approx(weaknesses(one))
        assert [row.criticality for row in other.rows] == pytest.approx([row.criticality for row in one.rows])


def test_a_layer_that_sees_parts_of_the_batch_is_told_of() -> None:
    with pytest.raises(ClatError, match="layer 'second' ran on 3 rows where 16 images have 16: the network"):
        measure_criticality(Blocks("parts"), torch.rand(8, 3, 4, 4), torch.arange(8) % 2, eps=0.1)


def test_layers_are_ranked_in_forward_order_however_they_are_listed(tiny_resnet: Build, images: Tensor) -> None:
    net = tiny_resnet()
    layers, y = enumerate_layers(net, images), torch.zeros(len(images), dtype=torch.long)
    assert measure_criticality(net, images, y, eps=0.1, layers=layers[::-1]) == measure_criticality(
        net, images, y, eps=0.1, layers=layers
    )


def test_the_relative_norm_is_taken_in_float32() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Flatten(), nn.Linear(64 * 16, 2))
    with torch.no_grad():
        net[0].weight.mul_(3000)
        net[2].weight.div_(3000)
    x, y = torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.long)
    x_adv = (x + 0.1).clamp(0, 1)
    wide = measure_criticality(net, x, y, eps=0.1, x_adv=x_adv, normaliser="relative")
    half = measure_criticality(copy.deepcopy(net).half(), x, y, eps=0.1, x_adv=x_adv, normaliser="relative")
    assert weaknesses(half) == pytest.approx(weaknesses(wide), rel=0.01)


# What must not matter


def test_training_mode_does_not_matter(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    evaluating, training = tiny_resnet(), tiny_resnet().train()
    settings: dict[str, Any] = {"eps": "8/255", "steps": 2}
    assert measure_criticality(evaluating, images, labels, **settings) == measure_criticality(
        training, images, labels, **settings
    )
    assert training.training


def test_same_seed_same_report_and_other_seeds_differ(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    first, again, other = (
        measure_criticality(model, images, labels, eps="8/255", steps=2, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert weaknesses(first) != weaknesses(other)


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 9, 5), (5, 7, 12)])
def test_any_batch_and_image_shape(size: tuple[int, int, int], tiny_resnet: Build) -> None:
    """The mean over a batch is the mean of its samples, measured one by one."""
    model = tiny_resnet()
    x = torch.rand(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(2))
    x_adv = (x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    y = torch.zeros(size[0], dtype=torch.int64)
    together = measure_criticality(model, x, y, eps=0.1, x_adv=x_adv)
    alone = [
        weaknesses(measure_criticality(model, x[i : i + 1], y[:1], eps=0.1, x_adv=x_adv[i : i + 1]))
        for i in range(len(x))
    ]
    means = [sum(values) / len(values) for values in zip(*alone, strict=True)]
    assert weaknesses(together) == pytest.approx(means, rel=1e-4)


def test_chosen_layers_and_half_precision_outside(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    x_adv = pgd(model, images, labels, eps="8/255", seed=0)
    whole = measure_criticality(model, images, labels, eps="8/255", x_adv=x_adv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = measure_criticality(model, images, labels, eps="8/255", x_adv=x_adv)
    assert same == whole
    chosen = enumerate_layers(model, images)[3:7:2]
    part = measure_criticality(model, images, labels, eps="8/255", x_adv=x_adv, layers=chosen)
    assert [row.index for row in part.rows] == [4, 6]
    assert part.rows[1].weakness == pytest.approx(whole.rows[5].weakness, rel=1e-6)
    assert part.rows[1].criticality == pytest.approx(whole.rows[5].weakness / whole.rows[3].weakness, rel=1e-6)


# Degenerate networks


def dead_layer_net() -> nn.Module:
    convolutions = [nn.Conv2d(channels, 4, 1) for channels in (3, 4, 4, 4)]
    model = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 2))
    nn.init.zeros_(model[1].weight)
    return model


def test_a_dead_layer_stops_the_change() -> None:
    x = torch.rand(2, 3, 4, 4)
    x_adv = (x + 0.1).clamp(0, 1)
    for normaliser in ("numel", "sqrt", "relative"):
        report = measure_criticality(
            dead_layer_net(), x, torch.tensor([0, 1]), eps=0.1, x_adv=x_adv, normaliser=normaliser
        )
        assert weaknesses(report)[1:] == [0, 0, 0]
        assert report.rows[1].criticality == 0
        assert math.isnan(report.rows[2].criticality)
        assert math.isnan(report.rows[3].criticality)
        assert report.top(2) == ["1", "0"]


def test_a_gradient_of_zero_leaves_only_the_random_start() -> None:
    report = measure_criticality(dead_layer_net(), torch.rand(2, 3, 4, 4), torch.tensor([0, 1]), eps=0.1)
    assert weaknesses(report)[0] > 0


def test_a_network_that_gives_nan_is_refused() -> None:
    """Finite on x, NaN on x_adv: said in a line, and never a file with NaN in it."""

    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv2(torch.log(0.5 - x[:, :1]) * self.conv(x)).mean((2, 3))[:, :3]

    x, y = torch.full((2, 3, 4, 4), 0.4), torch.tensor([0, 1])
    x_adv = torch.full((2, 3, 4, 4), 0.7)
    for metric in ("weakness", "curvature"):
        with pytest.raises(ClatError, match=r"layer 'conv2'.*NaN or infinite"):
            measure_criticality(Fragile(), x, y, eps=0.3, x_adv=x_adv, metric=metric)
        inner = enumerate_layers(Fragile(), x, include=["conv"])  # finite, but the logits are not
        with pytest.raises(ClatError, match="NaN or infinite logits"):
            measure_criticality(Fragile(), x, y, eps=0.3, x_adv=x_adv, metric=metric, layers=inner)


def test_bad_options(tiny_resnet: Build, images: Tensor, labels: Tensor) -> None:
    model = tiny_resnet()
    bad: list[tuple[dict[str, Any], str]] = [
        ({"normaliser": "numle"}, "did you mean 'numel'"),
        ({"tap": "normal"}, "did you mean 'norm'"),
        ({"metric": "curvatur"}, "did you mean 'curvature'"),
        ({"predecessor": "inputs"}, "did you mean 'input'"),
        ({"norm": "l1"}, "unknown norm"),
        ({"eps": 8}, "did you mean 8/255"),
        ({"steps": 0}, "steps is 0"),
        ({"eps": 0}, "x_adv equals x"),
        ({"x_adv": images}, "x_adv equals x"),
        ({"x_adv": images.clone()}, "x_adv equals x"),
        ({"x_adv": images[:3]}, "x_adv has shape"),
        ({"x_adv": images + 2}, r"expected \[0, 1\]"),
        ({"layers": []}, "no layer"),
    ]
    for settings, message in bad:
        with pytest.raises(ClatError, match=message):
            measure_criticality(model, images, labels, **{"eps": "8/255", "steps": 1} | settings)
    for x, y, message in (
        (images * 255, labels, "divide by 255"),
        (images, labels[:2], "2 labels for 6 images"),
        (images, labels.float(), "expected torch.int64"),
        (images, labels + 6, "label is 10, but the model has 10 classes"),
        (images[:0], labels[:0], "no image"),
    ):
        with pytest.raises(ClatError, match=message):
            measure_criticality(model, x, y, eps="8/255", steps=1)


def test_a_model_without_logits_is_refused(images: Tensor, labels: Tensor) -> None:
    class Boxed(nn.Module):
        def __init__(self, box: Callable[[Tensor], Any]) -> None:
            super().__init__()
            self.conv, self.conv2, self.box = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 4, 1), box

        def forward(self, x: Tensor) -> Any:
            return self.box(self.conv2(self.conv(x)))

    for box in (lambda out: {"scores": out.mean((2, 3))}, lambda out: [], lambda out: out):
        for metric in ("weakness", "curvature"):
            settings: dict[str, Any] = {"eps": "8/255", "steps": 1, "metric": metric}
            with pytest.raises(ClatError, match="does not return logits"):
                measure_criticality(Boxed(box), images, labels % 4, **settings)
            with pytest.raises(ClatError, match="does not return logits"):
                measure_criticality(Boxed(box), images, labels % 4, x_adv=images * 0.9, **settings)


# The report


def report_of(values: list[float]) -> CriticalityReport:
    """A report with these weaknesses and the indices that follow from them."""
    rows = []
    for i, value in enumerate(values):
        before = values[i - 1]
        index = value if i == 0 else value / before if before else math.inf if value else math.nan
        rows.append(CriticalityRow(i + 1, f"conv{i + 1}", "conv", 100, (4, 8, 8), value, index))
    return CriticalityReport(
        rows, "8/255", 2 / 255, 10, "linf", 50, "numel", "output", "weakness", 0, 0.9, 0.5
    )  # fmt: skip


def test_ranking_with_undefined_and_infinite_indices() -> None:
    report = report_of([2.0, 0.0, 0.0, 3.0, 6.0, 6.0, 12.0])
    assert [row.name for row in report.ranked()] == ["conv4", "conv5", "conv7", "conv6", "conv2", "conv1", "conv3"]
    assert report.top(1) == ["conv4"]
    assert report.top(7)[-1] == "conv3"
    assert report.top(8) == report.top(7), "there are no more"
    for k in (0, -1):
        with pytest.raises(ClatError, match=f"k is {k}: expected at least 1"):
            report.top(k)


def test_a_narrow_table_shows_names_and_numbers_whole() -> None:
    report = report_of([1.0, 0.5])
    name = "encoder.layers.encoder_layer_11.self_attention.out_proj"
    row = dataclasses.replace(report.rows[1], name=name, num_params=2_359_296, feature_shape=(2048, 112, 112))
    report = dataclasses.replace(report, rows=[report.rows[0], row])
    for width in (80, 60):
        text = StringIO()
        plain_console(file=text, width=width).print(report.table(top=1))
        assert "…" not in text.getvalue()
        lines = [line.split("│")[1:-1] for line in text.getvalue().splitlines() if line.startswith("│")]
        cells = ["".join(parts).replace(" ", "") for parts in zip(*lines[1:], strict=True)]
        assert cells[1].endswith(name)
        assert cells[3].endswith("2,359,296")


def test_json_round_trip_keeps_everything_and_the_ranking(tmp_path: Path) -> None:
    report = report_of([2.0, 0.0, 0.0, 3.0, 6.0])
    path = tmp_path / "criticality.json"
    report.to_json(path)
    data = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["what"] == "criticality"
    assert [row["criticality"] for row in data["rows"]] == [2.0, 0.0, None, None, 2.0]
    back = CriticalityReport.from_json(path)
    assert [row.name for row in back.ranked()] == [row.name for row in report.ranked()]
    assert repr(back) == repr(report)  # NaN is not equal to itself, its text is
    assert dataclasses.replace(back, rows=[]) == dataclasses.replace(report, rows=[])


def test_json_round_trip_of_a_measurement(
    tiny_resnet: Build, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    report = measure_criticality(
        tiny_resnet(), images, labels, eps=0.03, alpha=0.007, steps=2, norm="l2", tap="norm"
    )
    report.to_json(tmp_path / "c.json")
    assert CriticalityReport.from_json(tmp_path / "c.json") == report
    assert (report.eps, report.alpha, report.n, report.norm, report.tap) == ("0.03", 0.007, 6, "l2", "norm")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"what": "evaluation", "rows": 3}', '{"rows": [{"index": 1}]}'])
def test_a_file_that_is_no_report(text: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ClatError, match=r"other\.json is not a criticality report"):
        CriticalityReport.from_json(path)


def test_a_report_says_what_a_layer_was_compared_with(
    tiny_resnet: Build, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    forward = report_of([2.0, 3.0])
    data = forward.to_dict()
    assert data["predecessor"] == "forward"
    assert "input_weakness" not in data["rows"][0]
    assert "layer before it in forward order" in " ".join(str(forward).split())
    del data["predecessor"]  # as in files of before there was a choice
    assert CriticalityReport.from_dict(data) == forward
    report = measure_criticality(tiny_resnet(), images, labels, eps=0.03, steps=1, predecessor="input")
    report.to_json(tmp_path / "c.json")
    assert CriticalityReport.from_json(tmp_path / "c.json") == report
    assert "over the W of what enters the layer" in " ".join(str(report).split())
    assert "(= W)" not in str(report)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ClatError, match=r"gone\.json"):
        CriticalityReport.from_json(tmp_path / "gone.json")


def test_table_and_text() -> None:
    report = report_of([2.0, 0.0, 0.0, 3.0, 6.0])
    table = report.table(top=2)
    assert table.row_count == 5
    assert [row.style for row in table.rows] == [None, None, None, "bold", "bold"]
    assert report.table(top=99).row_count == 5
    text = str(report)
    assert "2 (= W)" in text
    assert "PGD-10" in text
    assert "90.0% clean" in text


def test_a_network_that_normalises_by_the_batch_sees_images_and_examples_apart():
    """What moves all pixels alike is taken out by the batch's mean, so that no layer changes."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=False),
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)),
    ).eval()
    x, y = 0.5 * torch.rand(16, 3, 8, 8), torch.arange(16) % 4
    report = measure_criticality(net, x, y, eps=0.1, x_adv=x + 0.1, normaliser="relative")
    assert max(row.weakness for row in report.rows) < 1e-5
    assert report.clean_accuracy == report.adversarial_accuracy
    with torch.no_grad():
        assert report.clean_accuracy == (net(x).argmax(1) == y).double().mean().item()


@pytest.mark.parametrize("metric", ["weakness", "curvature"])
def test_a_network_that_draws_in_evaluation_mode_is_compared_under_the_same_draws(metric: str) -> None:
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.dropout(torch.relu(self.one(x)), 0.5, training=True)
            return self.head(torch.relu(self.two(x)).mean((2, 3)))

    torch.manual_seed(0)
    net, x, y = Drops().eval(), 0.5 * torch.rand(16, 3, 8, 8), torch.arange(16) % 4
    state = torch.get_rng_state()
    moved = x + 1e-5 * torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    report = measure_criticality(net, x, y, eps=0.1, x_adv=moved, normaliser="relative", metric=metric)
    assert 0 < report.rows[1].weakness < (1e-3 if metric == "weakness" else 10)
    assert torch.equal(torch.get_rng_state(), state)

"""Timing, memory and floors by hand; the plain steps against ours."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

from clat.bench import Bench, measure
from clat.bench.floor import layer_multiplications, step_floor
from clat.bench.memory import TensorMemory
from clat.bench.profile import OperationCounter, group_of
from clat.bench.reference import pgd_at_step, trades_step
from clat.bench.repeated_step import with_statistics
from clat.bench.table import steps_table
from clat.bench.timing import Timing, interleaved, ratio
from clat.network.layers import enumerate_layers
from clat.objectives import FAT, Clat, ClatPlus, Cure, PgdAT, ScoreAT, ScoreTrades, Standard, Trades
from clat.recipe.schema import StageConfig
from clat.runtime.engine import EngineConfig


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    one, other = Timing(wall=[1.0, 8.0, 3.0], cpu=[1, 1, 1]), Timing(wall=[1.0, 2.0, 2.0], cpu=[2, 2, 2])
    assert ratio(one, other) == 1.5  # of 1, 4 and 1.5; the medians' ratio were also 1.5
    assert ratio(one, other, "cpu") == 0.5
    assert one.seconds == 3.0


def test_candidates_take_turns_and_the_warm_up_is_not_counted():
    calls = []
    found = interleaved({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert "".join(calls) == "ababab"
    assert all(len(timing.wall) == len(timing.cpu) == 2 for timing in found.values())


def test_memory_counts_storages_while_they_live():
    kept = torch.zeros(100)  # 400 bytes
    with TensorMemory([kept]) as memory:
        one = torch.ones(25)  # 100 more
        view = one[:5]
        two = one + kept[:25]  # 100 more
        del one
        assert memory.held == 600  # the view keeps it
        del view
        assert memory.held == 500
        del two
        torch.zeros(10)
    assert memory.held == 400
    assert memory.peak == 600


def test_memory_sees_what_autograd_keeps():
    x = torch.ones(1000, requires_grad=True)
    with TensorMemory([x]) as memory:
        value = x.exp().exp().sum()  # both exps are kept
        assert memory.held >= 12_000
        value.backward()
        assert memory.held == 8000 + 4  # x, its gradient, the value
    assert memory.peak >= 16_000


@pytest.fixture
def net():
    """Three layers of 108 * 16, 36 * 4 * 4 and 4 * 5 multiplications on an image of 4 x 4 pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


def test_multiplications_of_layers(net):
    found = layer_multiplications(net, torch.rand(2, 3, 4, 4))
    assert [(layer.name, layer.count) for layer in found] == [("0", 108 * 16), ("2", 144 * 4), ("6", 20)]


def test_floors_of_objectives(net):
    x = torch.rand(1, 3, 4, 4)
    counts = layer_multiplications(net, x)
    one, two, head = 1728, 576, 20
    whole = one + two + head
    loss = whole + (two + head) + whole  # forward, input gradients above the first, weight gradients
    layers = enumerate_layers(net, x)
    assert step_floor(Standard(), counts, ()) == pytest.approx(loss / whole)
    assert step_floor(PgdAT(steps=3), counts, ()) == pytest.approx(6 + loss / whole)
    assert step_floor(Trades(steps=3), counts, ()) == pytest.approx(7 + 2 * loss / whole)
    assert step_floor(ScoreTrades(steps=3), counts, ()) == step_floor(Trades(steps=3), counts, ())
    assert step_floor(ScoreAT(steps=3), counts, ()) == step_floor(PgdAT(steps=3), counts, ())
    assert step_floor(FAT(steps=3), counts, ()) is None, "its attack stops early"
    # The second layer moves: the loss goes back through the head to its weights, the other pass to these alone.
    clat = 6 * (one + two) + (whole + head + two) + (one + two) + two
    assert step_floor(Clat(steps=3, lambda_=1), counts, layers[1:]) == pytest.approx(clat / whole)
    # The first moves: the two below the head are gone back through, and no gradient of the image is needed.
    clat = 6 * one + (whole + two + head + one) + one + one
    assert step_floor(Clat(steps=3, lambda_=1), counts, layers[:1]) == pytest.approx(clat / whole)
    # One attack on the output for both terms: clean features beside it, up to the layer that moves.
    plus = 6 * whole + (whole + head + two) + (one + two) + two
    assert step_floor(ClatPlus(steps=3, lambda_=1), counts, layers[1:]) == pytest.approx(plus / whole)
    assert step_floor(Clat(steps=3, lambda_=1, ce_input="pgd"), counts, layers[1:]) is None
    assert step_floor(Cure(), counts, ()) is None


@pytest.mark.parametrize("kind", ["transposed", "attention", "block", "own"])
def test_no_floor_where_a_layer_is_not_counted(kind):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.eye(4))

        def forward(self, x):
            return torch.einsum("nchw,cd->ndhw", x, self.weight)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, x):
            tokens = x.flatten(2).mT
            return self.inner(tokens, tokens, tokens)[0].mT.unflatten(2, x.shape[2:])

    middle = {
        "transposed": nn.ConvTranspose2d(4, 4, 3, padding=1),
        "attention": Attention(),
        "block": nn.Sequential(nn.LayerNorm([4, 4, 4]), nn.Conv2d(4, 4, 1)),
        "own": Own(),
    }[kind]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), middle, *head), torch.rand(2, 3, 4, 4)
    counts = layer_multiplications(net, x)
    assert (counts is None) == (kind != "block")
    assert (step_floor(PgdAT(steps=3), counts, ()) is None) == (kind != "block")
    include = {"attention": ["1.inner"]}.get(kind, ["1"])
    assert step_floor(Clat(steps=3, lambda_=1), counts, enumerate_layers(net, x, include=include)) is None


def test_a_network_with_layers_that_are_not_counted_is_timed_without_floors():
    net = nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    stages = {name: StageConfig(name=name, epochs=1, objective=PgdAT(steps=1)) for name in ("pgd-at", "other")}
    size = {"image_shape": (3, 8, 8), "num_classes": 5, "batch_size": 2, "rounds": 1}
    found = measure(
        net, Bench(stages=stages, **size, plain=False, surroundings=False, engine=EngineConfig(device="cpu"))
    )
    assert all("floor" not in row for row in found["rows"].values())
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(steps_table(found))
    assert "; –)" in console.export_text()


@pytest.mark.parametrize("plain", [pgd_at_step, trades_step])
def test_plain_steps_leave_gradients_of_every_weight_and_no_other_trace(tiny_resnet, images, labels, plain):
    net = tiny_resnet().train()
    before = [p.clone() for p in net.parameters()]
    plain(net, images, labels, eps=0.1, steps=2)()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert all(torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


def test_statistics_are_those_of_the_images(tiny_resnet, images):
    net = with_statistics(tiny_resnet(), images)
    features = net.conv1(images)
    torch.testing.assert_close(net.bn1.running_mean, features.mean((0, 2, 3)))
    assert net.bn1.momentum == 0.1
    assert not net.training


def test_traffic_by_group():
    x, weight = torch.rand(2, 3, 4, 4), torch.rand(5, 3, 1, 1)
    with OperationCounter() as traffic:
        F.relu(F.conv2d(x, weight))
    elements = (2 * 3 * 16, 15, 2 * 5 * 16)
    assert traffic.flops == {"convolution": 2 * 2 * 15 * 16}
    assert traffic.bytes == {"convolution": 4 * sum(elements), "nonlinearity": 4 * 2 * elements[2]}
    assert group_of("aten::native_batch_norm_backward") == "normalisation"
    assert group_of("aten::sign") == "rest"

"""The arithmetic of the scaling note by hand, and the counting against the floor that is derived by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from benchmarks.counted import count_forward, count_step, fake_network, feature_attack_memory
from benchmarks.roofline import (
    Assumptions,
    Gpu,
    exchange_seconds,
    expected_most,
    overlapped_seconds,
    ring_seconds,
    roofline_seconds,
    step_seconds,
)
from torch import nn

from clat.bench.floor import layer_multiplications, step_floor
from clat.bench.profile import Call
from clat.objectives import Clat, PgdAT, Trades

GPU = Gpu(flops=100.0, bandwidth=10.0, memory=1000.0, link=7.0)
GIVEN = Assumptions(attained=0.5, launch=2.0, latency=0.25)


def test_an_operation_is_bound_by_its_arithmetic_or_by_its_bytes():
    calls = [Call(flops=300, bytes=10), Call(flops=0, bytes=40)]  # 3 s of arithmetic, 4 s of moving
    assert roofline_seconds(calls, GPU) == 7
    assert step_seconds(calls, GPU, GIVEN) == 14  # at half the roofline; launching takes 4
    assert step_seconds([Call(1, 1)] * 8, GPU, GIVEN) == 16  # the host is slower than 1.6


def test_the_exchange_of_gradients():
    assert ring_seconds(8, 8, link=7) == 2  # each of 8 sends seven eighths of 8 bytes, twice
    # Copies: 32 bytes at 5 a second. The ring: 2. Two messages: a half.
    assert exchange_seconds(8, 2, 8, GPU, GIVEN) == pytest.approx(6.4 + 2 + 0.5)
    assert overlapped_seconds(8, 0.5, 8, GPU, GIVEN, bucket=2) == 1.5 + 0.25
    assert overlapped_seconds(8, 100, 8, GPU, GIVEN, bucket=2) == 0.5 + 0.25
    assert overlapped_seconds(1, 100, 8, GPU, GIVEN, bucket=2) == 0.25 + 0.25


def test_the_fullest_share():
    # Two processes with an image each: both robust, one or none. 3/4 of the time some share has one.
    assert expected_most(2, 0.5, 2) == pytest.approx(0.75)
    assert expected_most(10, 0.5, 1) == pytest.approx(5)
    assert expected_most(80, 1.0, 8) == 10


@pytest.fixture(scope="module")
def net():
    with fake_network(small, (3, 8, 8)) as made:
        yield made


def small() -> nn.Module:
    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(*layer(3, 8), *layer(8, 8), *layer(8, 4), nn.Flatten(), nn.Linear(256, 10))


@pytest.mark.parametrize("objective", [PgdAT(steps=1), Trades(steps=1), Clat(steps=1)])
def test_a_counted_step_is_the_floor(net, objective):
    layers = net.layers((1, 2)) if objective.name == "clat" else ()
    counted = count_step(net, objective, 2, layers=layers)
    floor = step_floor(objective, layer_multiplications(net.model, net.images(1)), layers)
    assert counted.flops / count_forward(net, 1) == pytest.approx(floor, rel=0.01)
    moving = sum(layer.num_params for layer in layers) or sum(p.numel() for p in net.model.parameters())
    assert counted.gradients == 4 * moving
    assert 0 < len(counted.backward) < len(counted.calls)


def test_another_step_of_the_attack_counts_as_if_there_were_no_batchnorm():
    def another(build: Callable[[], nn.Module]) -> int:
        with fake_network(build, (3, 8, 8)) as made:
            one, two = (len(count_step(made, PgdAT(steps=n), 2, bfloat16=False).calls) for n in (1, 2))
        return two - one

    def bare() -> nn.Module:
        return nn.Sequential(*[part for part in small() if not isinstance(part, nn.BatchNorm2d)])

    assert another(small) == another(bare)


def test_memory_grows_with_the_batch(net):
    one, two = (count_step(net, PgdAT(steps=1), batch).memory for batch in (2, 64))
    # Kept for the backward pass: what went into each BatchNorm and came out of each ReLU, 20 maps of 8x8 twice, in
    # 2 bytes.
    assert 2 * 2 * 20 * 64 < (two - one) / 62 < 2 * 2 * 2 * 20 * 64
    layers = net.layers((2,))
    low, high = (feature_attack_memory(net, layers, 64, bfloat16=low) for low in (True, False))
    assert low < high < 2 * low

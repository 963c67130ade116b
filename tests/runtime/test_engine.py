"""What an engine does over several processes, looked at in one."""

from __future__ import annotations

import torch
from torch import nn

from clat.runtime.engine import Engine, EngineConfig


def test_statistics_of_instance_norms_that_keep_some_are_averaged_too(monkeypatch):
    net = nn.Sequential(
        nn.BatchNorm2d(1), nn.InstanceNorm2d(2, track_running_stats=True), nn.InstanceNorm2d(3),
        nn.InstanceNorm2d(4, track_running_stats=True).eval(),
    )  # fmt: skip
    engine, seen = Engine(EngineConfig(device="cpu")), []
    monkeypatch.setattr(engine, "average", lambda tensors: seen.extend(tensors))
    engine.average_statistics(net)
    assert [len(statistic) for statistic in seen] == [1, 1, 2, 2]


def test_weights_cast_for_a_block_are_let_go_where_blocks_are_shared_out():
    engine = Engine(EngineConfig(device="cpu", precision="bf16-mixed"))
    with engine.autocast():
        assert torch.is_autocast_cache_enabled()
    engine.shards = True
    with engine.autocast():
        assert not torch.is_autocast_cache_enabled()
        assert nn.Linear(2, 2)(torch.rand(1, 2)).dtype == torch.bfloat16


class OneOfTwo(Engine):
    """The first of two processes, beside one that has other numbers."""

    world = 2  # type: ignore[assignment]
    other = torch.tensor([0.5, 0.1], dtype=torch.float64)

    def from_first(self, value):
        return value

    def total(self, counts):
        return counts + self.other


def test_means_are_those_of_all_processes():
    values = {"loss": 0.1, "parts": 0.3}
    assert Engine(EngineConfig(device="cpu")).means(values) == values
    assert OneOfTwo(EngineConfig(device="cpu")).means(values) == {"loss": 0.3, "parts": 0.2}

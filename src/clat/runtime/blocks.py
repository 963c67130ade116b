"""Run a network's blocks in training as the settings ask: as they are, compiled, or keeping their inputs alone."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.network import modes
from clat.network.checkpointed import blocks_checkpointed
from clat.network.compiled import blocks, blocks_compiled
from clat.network.sharded import check_shardable
from clat.runtime.engine import EngineConfig


def blocks_as(config: EngineConfig, model: nn.Module, *batch_sizes: int) -> AbstractContextManager[Any]:
    """Return a context in which the blocks of `model` run as the engine's settings ask for.

    Args:
        config: the settings, of which `compile` and `checkpoint_blocks` count.
        model: the network, on the device on which it runs.
        batch_sizes: images of a pass, at which blocks are compiled; several where a batch has uneven parts.

    Returns:
        The context, to be entered around training.
    """
    if config.compile:
        return blocks_compiled(model, *batch_sizes)
    return blocks_checkpointed(model) if config.checkpoint_blocks else nullcontext()


def check_blocks(config: EngineConfig, model: nn.Module, x: Tensor) -> None:
    """Raise an error if a network has no blocks to do with as the engine's settings ask for.

    Args:
        config: the settings, of which `checkpoint_blocks` and `shard` count.
        model: the network.
        x: an image, (1, C, H, W) in [0, 1].

    Raises:
        ClatError: with what the network lacks.
    """
    if config.checkpoint_blocks and not blocks(model):
        raise ClatError("engine.checkpoint_blocks: the network has no blocks, give it a micro_batch instead")
    if config.shard:
        with modes.attack_mode(model):
            check_shardable(model, x)

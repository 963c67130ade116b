"""Say where and how a run computes: the settings of `[engine]` in a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator

from clat.core.checks import at_least
from clat.core.errors import ClatError, unknown
from clat.network.precision import computes_bfloat16

PRECISIONS = {"auto": "auto", "32": "32", "float32": "32", "bf16-mixed": "bf16-mixed", "bfloat16": "bf16-mixed"}
"""What a user may call a precision, and its name here."""


def precision_named(name: object) -> str:
    """Return the precision that a user's word for it means.

    Args:
        name: 32 or "float32", "bf16-mixed" or "bfloat16", "auto".

    Returns:
        "32", "bf16-mixed" or "auto".

    Raises:
        ClatError: there is none of that name.
    """
    if isinstance(name, bool) or str(name) not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return PRECISIONS[str(name)]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """The settings of where and how the numbers are computed."""

    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA where there is one."""
    devices: int = 1
    """Processes, one a device; each takes its part of every batch. Of each machine, where there are several."""
    nodes: int = 1
    """Machines that train together. torchrun and SLURM say it themselves, and how many processes each has."""
    precision: Annotated[Literal["auto", "32", "bf16-mixed"], BeforeValidator(precision_named)] = "auto"
    """bf16-mixed (or bfloat16): the network runs in bfloat16; perturbations, losses and weights stay float32.
    32 (or float32): so does the network. auto: bfloat16 where the device computes it in hardware, unless a stage
    differentiates a gradient. A run records which it was, and goes on in that one wherever it is resumed."""
    channels_last: bool = True
    """Memory layout; faster for convolutions on CPU and GPU."""
    compile: bool = False
    """Let torch.compile fuse the network's blocks, see `clat.network.compiled`: minutes once, then faster steps,
    the same up to rounding."""
    checkpoint_blocks: bool = False
    """Keep only the input of each of the network's blocks for the backward pass and run the block again there, see
    `clat.network.checkpointed`: a large network in a fraction of the memory, for one more forward pass a step."""
    shard: bool = False
    """For a network too large for one device: each of several processes keeps its part of the parameters, gradients
    and optimizer state, and the network's blocks are put together while they run, see `clat.network.sharded`. Best
    with `checkpoint_blocks`."""
    checkpoint_seconds: float = 60.0
    """Save the state of a running epoch after this many seconds, for --resume."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_named(self.precision))
        at_least("engine.devices", self.devices, 1)
        at_least("engine.nodes", self.nodes, 1)
        at_least("engine.checkpoint_seconds", self.checkpoint_seconds, 0)
        if self.compile and self.checkpoint_blocks:
            raise ClatError("engine.compile and engine.checkpoint_blocks both change the blocks: take one of them")
        if self.compile and self.shard:
            raise ClatError("engine.compile and engine.shard both change the blocks: take one of them")
        if self.device not in ("auto", "cpu", "cuda"):
            raise unknown("device", self.device, ("auto", "cpu", "cuda"))

    @property
    def uses_cuda(self) -> bool:
        """Return whether the numbers are computed on a GPU."""
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())

    @property
    def emulates(self) -> bool:
        """Return whether the device multiplies in bfloat16 only by going through float32."""
        return not computes_bfloat16("cuda" if self.uses_cuda else "cpu")

    def resolved(self) -> EngineConfig:
        """Return the same with the precision that "auto" means on this machine.

        Returns:
            Settings whose precision is "32" or "bf16-mixed".
        """
        if self.precision != "auto":
            return self
        return replace(self, precision="32" if self.emulates else "bf16-mixed")

"""Device, precision and processes: a thin layer over Lightning Fabric.

Fabric launches the processes, picks the device, casts under autocast and carries the collectives. Gradients
are averaged here, after the backward pass, rather than by DistributedDataParallel: CLAT moves a few percent of
the parameters, another set after each selection, and its loss passes leave the network early, none of which DDP's
fixed buckets allow without wrapping anew.
"""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from clat.core.checks import at_least
from clat.core.errors import ClatError, unknown
from clat.network.modes import batch_norms
from clat.network.precision import computes_bfloat16

PRECISIONS = {"auto": "auto", "32": "32", "float32": "32", "bf16-mixed": "bf16-mixed", "bfloat16": "bf16-mixed"}
"""What a user may call a precision, and its name here."""


def precision_named(name: object) -> str:
    """Return the precision that a user's word for it means: 32 or "float32", "bf16-mixed" or "bfloat16", "auto".

    Raises:
        ClatError: there is none of that name.
    """
    if isinstance(name, bool) or str(name) not in PRECISIONS:
        raise unknown("precision", name, PRECISIONS)
    return PRECISIONS[str(name)]


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where and how the numbers are computed."""

    device: str = "auto"
    """"cpu", "cuda", or "auto": CUDA where there is one."""
    devices: int = 1
    """Processes, one a device; each takes its part of every batch."""
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
    checkpoint_seconds: float = 60.0
    """Save the state of a running epoch after this many seconds, for --resume."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", precision_named(self.precision))
        at_least("engine.devices", self.devices, 1)
        at_least("engine.checkpoint_seconds", self.checkpoint_seconds, 0)
        if self.compile and self.checkpoint_blocks:
            raise ClatError("engine.compile and engine.checkpoint_blocks both change the blocks: take one of them")
        if self.device not in ("auto", "cpu", "cuda"):
            raise unknown("device", self.device, ("auto", "cpu", "cuda"))

    @property
    def uses_cuda(self) -> bool:
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())

    @property
    def emulates(self) -> bool:
        """Whether the device multiplies in bfloat16 only by going through float32."""
        return not computes_bfloat16("cuda" if self.uses_cuda else "cpu")

    def resolved(self) -> EngineConfig:
        """Return the same with the precision that "auto" means on this machine."""
        if self.precision != "auto":
            return self
        return replace(self, precision="32" if self.emulates else "bf16-mixed")


def is_first_process() -> bool:
    """Whether this is the process that speaks for all, which may start the others; known before they are."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Inside, a library's logger of that name keeps its remarks, but not its warnings, to itself."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


class Engine:
    """One process's view of the run. `rank` of `world` processes; `device` is its own."""

    def __init__(self, config: EngineConfig) -> None:
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ClatError("engine.device is cuda, but torch sees no CUDA device: use cpu or auto")
        cuda = config.uses_cuda
        if cuda and config.devices > torch.cuda.device_count():
            raise ClatError(f"engine.devices is {config.devices}, but there are {torch.cuda.device_count()} GPUs")
        from lightning_fabric import Fabric  # seconds, which whoever only reads a recipe need not wait for

        self.precision = config.resolved().precision
        with _quiet("lightning_fabric.utilities.rank_zero"):  # it says which precision, also where none is meant
            self.fabric = Fabric(
                accelerator="cuda" if cuda else "cpu",
                devices=config.devices,
                strategy="ddp" if config.devices > 1 else "auto",
                precision="bf16-mixed" if self.precision == "bf16-mixed" else "32-true",
            )
        self.channels_last = config.channels_last

    def launch(self) -> None:
        """Start the other processes, if any."""
        self.fabric.launch()

    @property
    def rank(self) -> int:
        return int(self.fabric.global_rank)

    @property
    def world(self) -> int:
        return int(self.fabric.world_size)

    @property
    def device(self) -> torch.device:
        return torch.device(self.fabric.device)

    @property
    def cuda_devices(self) -> list[torch.device]:
        """The device if it is a GPU, for `torch.random.fork_rng`."""
        return [self.device] if self.device.type == "cuda" else []

    def place(self, model: nn.Module) -> nn.Module:
        """The model on this process's device, in the memory layout asked for."""
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model  # type: ignore[call-overload]

    def images(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x

    def autocast(self) -> AbstractContextManager[Any]:
        return self.fabric.autocast()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """The mean over the processes of each gradient, in one message."""
        parameters = list(parameters)
        gradients = self.completed([parameter.grad for parameter in parameters], parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.average(gradient for gradient in gradients if gradient is not None)

    def completed(self, gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Return `gradients` with zeros, shaped as in `like`, for those that other processes alone have, where a
        layer has run by chance. All must call it."""
        if self.world == 1:
            return list(gradients)
        there = torch.tensor([int(gradient is not None) for gradient in gradients], device=self.device)
        counts = self.total(there).tolist()
        found = zip(gradients, like, counts, strict=True)
        return [torch.zeros_like(one) if gradient is None and n else gradient for gradient, one, n in found]

    def average_statistics(self, model: nn.Module) -> None:
        """BatchNorm statistics, which each process updates on its own share, become their mean; those that
        are frozen are left alone."""
        updating = (bn for bn in batch_norms(model) if bn.training)
        self.average(b for bn in updating for b in bn.buffers(recurse=False) if b.is_floating_point())

    def share(self, model: nn.Module) -> None:
        """Every process gets process 0's weights and buffers: a network of the user's own may be drawn anew in
        each."""
        if self.world > 1:
            with torch.no_grad():
                for value in (*model.parameters(), *model.buffers()):
                    sent = value.detach().contiguous()
                    torch.distributed.broadcast(sent, src=0)
                    value.copy_(sent)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes, in place, its mean over the processes; all of them go in one message."""
        tensors = list(tensors)
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        flat = self._reduce(flat, "mean")
        with torch.no_grad():
            for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def total(self, counts: Tensor) -> Tensor:
        """The sum of `counts` over the processes."""
        return self._reduce(counts, "sum") if self.world > 1 else counts

    def _reduce(self, tensor: Tensor, how: str) -> Tensor:
        reduced = self.fabric.all_reduce(tensor, reduce_op=how)
        assert isinstance(reduced, Tensor)
        return reduced

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each tensor as every process has it, in order of rank: (world, ...); nothing where there is only one
        process. All must call it."""
        return {name: self._gather(value) for name, value in tensors.items()} if self.world > 1 else {}

    def _gather(self, tensor: Tensor) -> Tensor:
        gathered = self.fabric.all_gather(tensor)
        assert isinstance(gathered, Tensor)
        return gathered

    def from_first(self, value: Any) -> Any:
        """What process 0 decided."""
        return self.fabric.broadcast(value, src=0) if self.world > 1 else value

    def any_of(self, flag: bool) -> bool:
        """Whether it is so in any process, so that all stop at the same step."""
        return bool(self.total(torch.tensor(int(flag), device=self.device))) if self.world > 1 else flag

    def wait(self) -> None:
        self.fabric.barrier()

    def dismiss(self, seconds: float = 5.0) -> None:
        """End the processes that this one launched: it was stopped where it need not wait for them. Ctrl-C in a
        terminal reaches all; those that have not left by themselves after `seconds` are told to."""
        until = time.monotonic() + seconds
        for process in getattr(self.fabric.strategy.launcher, "procs", ()):
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()

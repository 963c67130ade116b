"""Handle device, precision and processes: a thin layer over Lightning Fabric.

Where there are several processes, Fabric launches them, picks the device, casts under autocast and carries the
collectives. Gradients are averaged here, after the backward pass, rather than by DistributedDataParallel: CLAT
moves a few percent of the parameters, another set after each selection, and its loss passes leave the network
early, none of which DDP's fixed buckets allow without wrapping anew.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.core.logger import quiet
from clat.network.modes import batch_norms, tracking_instance_norms
from clat.runtime.buckets import average_in_buckets
from clat.runtime.layout import find_layout
from clat.runtime.settings import EngineConfig
from clat.runtime.single import SingleProcess

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Where torchrun, Fabric and SLURM say which process this is, before the processes have met."""


def is_first_process() -> bool:
    """Return whether this is the process that speaks for all and may start the others.

    Returns:
        True in the process of rank 0, also before the others are started.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank() == 0
    if "RANK" not in os.environ and int(os.environ.get("NODE_RANK", 0)):
        return False  # the process that starts the others of another machine
    return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0) == 0


class Engine:
    """One process's view of the run: `rank` of `world` processes, and the `device` that is its own."""

    def __init__(self, config: EngineConfig) -> None:
        if config.device == "cuda" and not torch.cuda.is_available():
            raise ClatError("engine.device is cuda, but torch sees no CUDA device: use cpu or auto")
        cuda = config.uses_cuda
        self.layout = layout = find_layout(config)
        if cuda and layout.devices > torch.cuda.device_count():
            seen = counted(torch.cuda.device_count(), "GPU")
            if layout.started:
                raise ClatError(
                    f"{layout.devices} processes were started on this machine, and each sees {seen}: let all see"
                    " all of them (srun --gpus-per-node instead of --gpus-per-task, or --gpu-bind=none)"
                )
            raise ClatError(f"engine.devices is {layout.devices}, and torch sees {seen}")
        self.precision = config.resolved().precision
        self.channels_last = config.channels_last
        self.shards = config.shard and layout.world > 1
        """Each process holds a part of the parameters, and all run the same blocks at the same time."""
        self.fabric: Any
        if layout.world == 1:
            self.fabric = SingleProcess(cuda=cuda, bfloat16=self.precision == "bf16-mixed")
            return
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

        with quiet("lightning_fabric.utilities.rank_zero"):  # it says which precision, also where none is meant
            self.fabric = Fabric(
                accelerator="cuda" if cuda else "cpu",
                devices=layout.devices,
                num_nodes=layout.nodes,
                strategy="ddp",
                # Left to itself it takes any job of SLURM's for one whose processes are started already.
                plugins=[LightningEnvironment()] if SLURMEnvironment.detect() and not layout.started else [],
                precision="bf16-mixed" if self.precision == "bf16-mixed" else "32-true",
            )

    def launch(self) -> None:
        """Start the other processes, if any."""
        self.fabric.launch()

    @property
    def rank(self) -> int:
        """Return the number of this process, from 0."""
        return int(self.fabric.global_rank)

    @property
    def world(self) -> int:
        """Return how many processes there are."""
        return int(self.fabric.world_size)

    @property
    def device(self) -> torch.device:
        """Return the device of this process."""
        return torch.device(self.fabric.device)

    @property
    def computes_for_all(self) -> bool:
        """Return whether this process computes what one can for all. Shared-out blocks run in all or in none."""
        return self.rank == 0 or self.shards

    @property
    def draws_as(self) -> int:
        """Return by whose number the network draws: its own, or 0, where all have to leave out the same blocks."""
        return 0 if self.shards else self.rank

    def place(self, model: nn.Module) -> nn.Module:
        """Move a network to this process's device, into the memory layout asked for.

        Args:
            model: any network; its parameters and buffers move in place.

        Returns:
            The same network.
        """
        model = model.to(self.device)
        return model.to(memory_format=torch.channels_last) if self.channels_last else model  # type: ignore[call-overload]

    def images(self, x: Tensor) -> Tensor:
        """Return images in the memory layout asked for.

        Args:
            x: (N, C, H, W).

        Returns:
            The same values, copied only where the layout is another.
        """
        return x.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which the network runs in the precision asked for.

        Returns:
            The context, which does nothing in precision 32.
        """
        if self.shards and self.precision == "bf16-mixed":  # its cache would keep what resharding lets go of
            return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)
        context: AbstractContextManager[Any] = self.fabric.autocast()
        return context

    def average_gradients(self, parameters: Iterable[nn.Parameter], flags: Sequence[bool] = ()) -> list[bool]:
        """Replace each gradient by its mean over the processes, see `average`. All must call it.

        A first, short message says which gradients there are, and carries the flags. Shared-out ones are means.

        Args:
            parameters: the same in every process, in the same order.
            flags: this process's, as many in every process. Where the first one is set in any process, nothing is
                averaged.

        Returns:
            Which flags are set in any process.
        """
        if self.world == 1:
            return list(flags)
        parameters = [] if self.shards else list(parameters)
        there = [*flags, *(parameter.grad is not None for parameter in parameters)]
        counts = self.total(torch.tensor(there, dtype=torch.int64, device=self.device)).tolist()
        agreed = [count > 0 for count in counts[: len(flags)]]
        if agreed and agreed[0]:
            return agreed
        for parameter, count in zip(parameters, counts[len(flags) :], strict=True):
            if parameter.grad is None and count:
                parameter.grad = torch.zeros_like(parameter)
        self.average(parameter.grad for parameter in parameters if parameter.grad is not None)
        return agreed

    def completed(self, gradients: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the gradients, with zeros for those that other processes alone have.

        That happens where a layer has run by chance. All must call it.

        Args:
            gradients: this process's, None where there is none.
            like: a tensor of each gradient's shape.

        Returns:
            The gradients; None only for those that no process has.
        """
        if self.world == 1:
            return list(gradients)
        there = torch.tensor([int(gradient is not None) for gradient in gradients], device=self.device)
        counts = self.total(there).tolist()
        found = zip(gradients, like, counts, strict=True)
        return [torch.zeros_like(one) if gradient is None and n else gradient for gradient, one, n in found]

    def average_statistics(self, model: nn.Module) -> None:
        """Replace the statistics of norms, which each process updates on its own share, by their mean.

        Args:
            model: the network; statistics of modules that are frozen are left alone.
        """
        updating = (norm for norm in (*batch_norms(model), *tracking_instance_norms(model)) if norm.training)
        self.average(b for norm in updating for b in norm.buffers(recurse=False) if b.is_floating_point())

    def share(self, model: nn.Module) -> None:
        """Give every process the weights and buffers of process 0.

        A network of the user's own may be drawn anew in each.

        Args:
            model: the network, which has the same entries in every process.
        """
        if self.world > 1:
            with torch.no_grad():
                for value in (*model.parameters(), *model.buffers()):
                    sent = value.detach().to(self.device).contiguous()  # as channels-last ones cannot be sent
                    torch.distributed.broadcast(sent, src=0)
                    value.copy_(sent)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over the processes; few go in one message, many in buckets.

        Args:
            tensors: floating point, the same shapes in every process, in the same order.
        """
        tensors = list(tensors)
        if self.world == 1 or not tensors:
            return
        average_in_buckets(tensors, self.world)

    def means(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of each number over the processes. All must call it.

        Args:
            values: this process's, by name; one that it lacks counts as 0, one that process 0 lacks is left out.

        Returns:
            The means, the same in every process.
        """
        names = self.from_first(list(values))
        return dict(zip(names, (self.total(self.numbers(values, names)) / self.world).tolist(), strict=True))

    def numbers(self, values: Mapping[str, float], names: Iterable[str]) -> Tensor:
        """Return numbers as a tensor.

        Args:
            values: this process's, by name; one that it lacks counts as 0.
            names: of those wanted, in their order.

        Returns:
            float64, (names,), on the device.
        """
        return torch.tensor([values.get(name, 0.0) for name in names], dtype=torch.float64, device=self.device)

    def total(self, counts: Tensor) -> Tensor:
        """Return the sum over the processes.

        Args:
            counts: this process's share, shaped alike in all.

        Returns:
            The sum, shaped like `counts`.
        """
        if self.world == 1:
            return counts
        total = counts.clone()
        torch.distributed.all_reduce(total)  # for which Fabric would have all wait for one another before
        return total

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return each tensor as every process has it. All must call it.

        Args:
            tensors: by name; the same names and shapes in every process.

        Returns:
            Tensors (world, ...) in order of rank, by name; nothing where there is only one process.
        """
        return {name: self._gather(value) for name, value in tensors.items()} if self.world > 1 else {}

    def _gather(self, tensor: Tensor) -> Tensor:
        gathered = self.fabric.all_gather(tensor)
        assert isinstance(gathered, Tensor)
        return gathered

    def from_first(self, value: Any) -> Any:
        """Return the value that process 0 has.

        Args:
            value: what this process has, which can be pickled.

        Returns:
            Process 0's value.
        """
        return self.fabric.broadcast(value, src=0) if self.world > 1 else value

    def any_of(self, flag: bool) -> bool:
        """Return whether a flag is set in any process, so that all stop at the same step.

        Args:
            flag: this process's.

        Returns:
            The same answer in every process.
        """
        return bool(self.total(torch.tensor(int(flag), device=self.device))) if self.world > 1 else flag

    def wait(self) -> None:
        """Wait until every process has come here."""
        self.fabric.barrier()

    def dismiss(self, seconds: float = 5.0) -> None:
        """End the processes that this one launched: it was stopped where it need not wait for them.

        Ctrl-C in a terminal reaches all; those that have not left by themselves in time are told to.

        Args:
            seconds: how long they have to leave.
        """
        until = time.monotonic() + seconds
        launcher = None if self.world == 1 else self.fabric.strategy.launcher
        for process in getattr(launcher, "procs", ()):
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()

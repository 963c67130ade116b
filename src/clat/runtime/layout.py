"""How many machines and processes compute together: as the recipe says, or as torchrun or SLURM started them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from clat.core.errors import ClatError
from clat.runtime.settings import EngineConfig


@dataclass(frozen=True, kw_only=True)
class ProcessLayout:
    """The processes of a run.

    Attributes:
        nodes: machines.
        devices: processes on each of them.
        started: a launcher has started them; else clat does.
    """

    nodes: int
    devices: int
    started: bool = False

    @property
    def world(self) -> int:
        """Return how many processes there are."""
        return self.nodes * self.devices


def find_layout(config: EngineConfig) -> ProcessLayout:
    """Return the processes of a run. A launcher that has started them knows better than the recipe.

    Args:
        config: the recipe's settings.

    Returns:
        The layout.

    Raises:
        ClatError: The launcher started differently many on each machine, or nobody says where the machines meet.
    """
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        world = int(os.environ["WORLD_SIZE"])
        return _even(world, int(os.environ.get("LOCAL_WORLD_SIZE", world)), "torchrun")
    tasks = int(os.environ.get("SLURM_NTASKS", 1))
    if tasks > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        if "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise ClatError(f"SLURM started {tasks} tasks: say --ntasks-per-node, one a GPU, instead of --ntasks")
        return _even(tasks, int(os.environ["SLURM_NTASKS_PER_NODE"]), "SLURM")
    if config.nodes > 1 and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        raise ClatError(
            f"engine.nodes is {config.nodes}: start clat on every machine with torchrun or srun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK there"
        )
    return ProcessLayout(nodes=config.nodes, devices=config.devices)


TOLD = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "ROLE_NAME"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"),
    *("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
)
"""What torchrun and SLURM tell the processes that they start: which of how many each is, and where they meet."""


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for a command of its own, which is none of the processes that a launcher started.

    Args:
        environment: variables, such as those of this process.

    Returns:
        Those that do not say which of several processes it is, and where they meet.
    """
    return {name: value for name, value in environment.items() if name not in TOLD}


def _even(world: int, devices: int, launcher: str) -> ProcessLayout:
    """Return the layout of `world` processes, `devices` on each machine."""
    if devices < 1 or world % devices:
        raise ClatError(f"{launcher} started {world} processes, {devices} on this machine: start as many on each")
    return ProcessLayout(nodes=world // devices, devices=devices, started=True)

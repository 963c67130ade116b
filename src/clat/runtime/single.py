"""Stand for Lightning Fabric where one process computes alone: importing Fabric takes seconds, and more where
torchmetrics or transformers are installed, which it imports too."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


class SingleProcess:
    """The part of `lightning_fabric.Fabric` that an engine uses, for one process on one device.

    Args:
        cuda: whether that is the first GPU rather than the CPU.
        bfloat16: whether networks run in bfloat16 under `autocast`.
    """

    global_rank = 0
    world_size = 1

    def __init__(self, *, cuda: bool, bfloat16: bool) -> None:
        self.device = torch.device("cuda", 0) if cuda else torch.device("cpu")
        self.bfloat16 = bfloat16

    def launch(self) -> None:
        """Make the device the current one."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def barrier(self) -> None:
        """Do nothing: there is nobody to wait for."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which a network runs in the precision asked for.

        Returns:
            Autocast to bfloat16, or a context that does nothing.
        """
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bfloat16 else nullcontext()

"""Checkpoint activations by block: a block keeps its input alone for the backward pass, where it runs again.

A network of n like blocks then remembers n inputs and the inside of one block, for one more forward pass at each
backward pass. torch's own checkpointing does the work (without re-entering autograd, so that attacks, features read
inside a block and passes that are left early work as ever); what is added is what a second run of a block must not
do here: update BatchNorm statistics, or compute otherwise than the first did.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clat.core.random_states import preserve_python_states
from clat.network import modes
from clat.network.compiled import blocks
from clat.network.folding import unfolded
from clat.network.frozen_norm import frozen_norms_lean


@contextmanager
def blocks_checkpointed(model: nn.Module) -> Iterator[int]:
    """Let the blocks of `model` (as in `clat.network.compiled`) keep their inputs only, while the code inside runs.

    What is computed is the same, bit by bit but for convolutions that are otherwise folded into the BatchNorm after
    them.

    Args:
        model: the network; its blocks have another class inside, and their own again afterwards.

    Yields:
        How many blocks there are.
    """
    found = blocks(model)
    classes = {kind: _checkpointed_class(kind) for kind in {type(block) for block in found}}
    before = [(block, type(block)) for block in found]
    try:
        for block, kind in before:
            block.__class__ = classes[kind]
        yield len(found)
    finally:
        for block, kind in before:
            block.__class__ = kind


class _SecondRun:
    """The context of a block's second run, which may be entered more than once.

    Made at the first run, it knows the modes of that, and the random states of Python and NumPy (torch's own
    checkpointing knows torch's): by the time of the backward pass they may be others.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block, self.stack = block, ExitStack()
        self.training = [(module, module.training) for module in block.modules()]
        self.tracking = [(norm, norm.track_running_stats) for norm in modes.batch_norms(block)]
        self.python, self.numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what users draw from)

    def __enter__(self) -> None:
        enter = self.stack.enter_context
        enter(modes.restore_flags(self.block))
        enter(preserve_python_states())
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        for module, training in self.training:
            module.training = training
        for norm, tracking in self.tracking:
            norm.track_running_stats = tracking
        enter(modes.preserve_buffers(self.block))  # BatchNorm has counted the first run already
        enter(unfolded())  # a convolution is folded once it has been seen, so not in both runs
        enter(frozen_norms_lean(self.block))

    def __exit__(self, *error: Any) -> None:
        self.stack.close()


def _checkpointed_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return `kind` with a forward that keeps its input alone. A class, so that copies of a block keep it."""
    plain = kind.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(self, *args, **kwargs)
        contexts = lambda: (nullcontext(), _SecondRun(self))  # noqa: E731
        with unfolded():
            return checkpoint(partial(plain, self), *args, use_reentrant=False, context_fn=contexts, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward})

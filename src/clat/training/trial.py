"""Try a network on an image before a run starts, in the modes that the run will use it in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.notices import notice
from clat.models.fitting import bare
from clat.models.inputs import advice
from clat.network import modes
from clat.network.outputs import logits_of, other_parts


@contextmanager
def tried(model: nn.Module, x: Tensor, mode: str) -> Iterator[None]:
    """Turn whatever a forward pass inside raises into one line, and tell which outputs are left out.

    Args:
        model: The network that runs inside; it may be within a Normalized.
        x: The images (N, C, H, W) that it runs on.
        mode: What the message calls the mode: "" or "in training mode ".

    Raises:
        ClatError: The pass failed; with the images' shape, and what the network says that it takes.
    """
    seen: list[Any] = []
    # First of the hooks, which sees the output as the network gives it.
    handle = bare(model).register_forward_hook(lambda net, args, output: seen.append(output), prepend=True)
    try:
        yield
    except Exception as error:  # a network of anybody's, which may raise anything
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
        shape = tuple(x.shape[1:])
        raise ClatError(
            f"the model does not run {mode}on images of shape {shape}: {reason}{advice(model, shape)}"
        ) from error
    finally:
        handle.remove()
    others = other_parts(seen[-1]) if seen else []
    if others:
        noun = "output" if len(others) == 1 else "outputs"
        names = ", ".join(f"'{name}'" for name in others)
        notice(f"{type(bare(model)).__name__} {mode}returns more than logits: its {noun} {names} are left out")


def check_training_mode(model: nn.Module, x: Tensor, num_classes: int) -> None:
    """Raise ClatError unless `model` can be trained: it has parameters, and gives logits in training mode too,
    where some networks return other things.

    Args:
        model: The network; it is left as it was.
        x: One image (1, C, H, W). Two copies are run, since BatchNorm may not take one.
        num_classes: How many logits there must be at least.
    """
    if next(model.parameters(), None) is None:
        raise ClatError(f"the model, a {type(model).__name__}, has no parameters: there is nothing to train")
    pair = x.repeat_interleave(2, 0)
    with (
        modes.restore_flags(model),
        modes.preserve_buffers(model),
        modes.preserve_random_states(model),
        torch.enable_grad(),
    ):
        model.train()
        pair = pair.detach().requires_grad_()
        with tried(model, x, "in training mode "):
            logits = logits_of(model(pair))
        if isinstance(logits, Tensor) and logits.requires_grad and logits.is_floating_point():
            moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
            with tried(model, x, "backwards "):  # as an attack and a step will ask of it
                torch.autograd.grad(logits.float().sum(), [pair, *moving], allow_unused=True)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < num_classes:
        shown = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ClatError(
            f"in training mode the model returns {shown}, expected logits (N, {num_classes}), alone, first in a "
            "tuple, or called 'logits': wrap it so that it does"
        )

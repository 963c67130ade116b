"""The network as the searches of an evaluation call it, in their precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from clat.network.outputs import logits_of


class InPrecision(nn.Module):
    """The model as a search sees it: float32 logits, computed in the search's precision.

    Attributes:
        model: the network.
        device: where it is.
        precision: "exact", "float32" or "bfloat16".
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.model, self.device, self.precision = model, device, precision

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch.

        Args:
            x: images, (N, C, H, W), on the device.

        Returns:
            Logits, (N, classes), float32.
        """
        logits: Tensor = _computed(self.model, self.device, self.precision, x)
        return logits


@contextmanager
def network_itself(model: nn.Module) -> Iterator[nn.Module]:
    """Have the network itself compute as a search sees it, for code that looks at its parts.

    Args:
        model: what a search was given.

    Yields:
        The network within, whose own call gives float32 logits in the search's precision; any other model as it is.
        Afterwards it has its own forward again.
    """
    if not isinstance(model, InPrecision):
        yield model
        return
    network = model.model
    outer = vars(network).get("forward")
    vars(network)["forward"] = _Forward(network.forward, model.device, model.precision)
    try:
        yield network
    finally:
        if outer is None:
            del vars(network)["forward"]
        else:
            vars(network)["forward"] = outer


class _Forward:
    """The call that stands in for a network's own; an object, so that copies of the network call their own."""

    def __init__(self, forward: Any, device: torch.device, precision: str) -> None:
        self.forward, self.device, self.precision = forward, device, precision

    def __call__(self, *args: Any, **named: Any) -> Any:
        return _computed(self.forward, self.device, self.precision, *args, **named)


def _computed(call: Any, device: torch.device, precision: str, *args: Any, **named: Any) -> Any:
    low = precision == "bfloat16"
    with torch.autocast(device.type, dtype=torch.bfloat16) if low else nullcontext():
        output = call(*args, **named)
    logits = logits_of(output)
    return logits.float() if isinstance(logits, Tensor) else output

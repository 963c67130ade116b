"""Take the logits out of what a classifier's forward pass returns.

Networks of other libraries return objects with `.logits`, dicts with "logits", or tuples whose first part are the
logits and whose others come from auxiliary heads, some only in training mode. Attacks, losses and measurements take
logits alone, so inside of `logits_only` a network returns just those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def logits_of(output: Any) -> Any:
    """Return the logits that a forward pass gave.

    Args:
        output: a tensor; an object with `.logits`; a dict with "logits"; or a tuple or list of these, of which the
            first counts.

    Returns:
        The logits (N, K), untouched; anything else as it is, for the caller to refuse.
    """
    if isinstance(output, Tensor):
        return output
    inside = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(inside, Tensor):
        return inside
    if isinstance(output, tuple | list) and output:
        first = logits_of(output[0])
        return first if isinstance(first, Tensor) else output
    return output


def first_tensor(output: Any) -> Tensor | None:
    """Return a module's output as a tensor.

    Attention modules return (output, weights), classifiers may return more than logits.

    Args:
        output: whatever a module returned.

    Returns:
        The output or the logits in it, None where there is no tensor.
    """
    found = logits_of(output)
    return found if isinstance(found, Tensor) else None


def tensor_arguments(args: tuple[Any, ...], named: Mapping[str, Any]) -> dict[int | str, Tensor]:
    """Return the tensors that a module is called with.

    Args:
        args: the positional arguments of the call.
        named: the keyword arguments of the call.

    Returns:
        Place or keyword -> tensor, the positional ones first.
    """
    given: list[tuple[int | str, Any]] = [*enumerate(args), *named.items()]
    return {key: value for key, value in given if isinstance(value, Tensor)}


def other_parts(output: Any) -> list[str]:
    """Return the names of what a forward pass gave beside its logits, such as auxiliary heads.

    Args:
        output: whatever the model returned.

    Returns:
        The names, which are numbers in a tuple or list ("1"); none where the output is the logits alone.
    """
    logits = logits_of(output)
    if not isinstance(logits, Tensor) or output is logits:
        return []
    if isinstance(output, Mapping):
        parts = dict(output)
    elif hasattr(output, "_fields"):
        parts = dict(zip(output._fields, output, strict=True))
    elif isinstance(output, tuple | list):
        parts = {str(number): part for number, part in enumerate(output)}
    else:
        parts = vars(output) if hasattr(output, "__dict__") else {}
    return [
        name
        for name, part in parts.items()
        if part is not None and not name.startswith("_") and not _has(part, logits)
    ]


@contextmanager
def left_out(model: nn.Module) -> Iterator[list[str]]:
    """Note what `model` returns beside its logits when it is called inside.

    Args:
        model: the network as its author wrote it, out of anything that takes the logits for itself.

    Yields:
        The names of the parts, of the last call; see `other_parts`.
    """
    names: list[str] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        names[:] = other_parts(output)

    # First of the hooks, which sees the output as the network gives it.
    handle = model.register_forward_hook(note, prepend=True)
    try:
        yield names
    finally:
        handle.remove()


def left_out_text(model: nn.Module, names: Sequence[str], mode: str = "") -> str:
    """Return the line that says what is left out.

    Args:
        model: the network.
        names: of its parts, at least one.
        mode: what the line calls the mode: "" or "in training mode ".

    Returns:
        A line without a full stop.
    """
    noun, verb = ("output", "is") if len(names) == 1 else ("outputs", "are")
    listed = ", ".join(f"'{name}'" for name in names)
    return f"{type(model).__name__} {mode}returns more than logits: its {noun} {listed} {verb} left out"


@contextmanager
def logits_only(model: nn.Module) -> Iterator[None]:
    """Let `model` return its logits alone inside; afterwards it returns again what it did, and holds no trace.

    Args:
        model: any network; only its outermost call is changed.
    """
    if _take_logits in model._forward_hooks.values():
        yield
        return
    handle = model.register_forward_hook(_take_logits)
    try:
        yield
    finally:
        handle.remove()


def _take_logits(module: nn.Module, args: Any, output: Any) -> Any:
    # A hook that returns None leaves the output alone.
    return None if isinstance(output, Tensor) else logits_of(output)


def _has(part: Any, logits: Tensor) -> bool:
    """Return whether a part of an output is the logits, or holds them first."""
    return logits_of(part) is logits

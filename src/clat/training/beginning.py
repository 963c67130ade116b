"""What a run began with, by what its folder says, against what is given now: whether it can go on, or be reused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.models.files import read_state, recorded_statistics
from clat.models.fitting import bare
from clat.models.normalize import same_statistics, statistics_of
from clat.models.reading import read_metadata
from clat.network.fingerprint import structure_hash
from clat.training.frozen import Frozen
from clat.training.prepare import RunInputs
from clat.training.status import read_about

FIRST = "stage-0.safetensors"
"""The weights that a network from Python began with, in a run's `weights`."""


def other_beginning(run: Path, inputs: RunInputs, augment: Callable[[Tensor], Any] | None) -> str | None:
    """Return what a run began with that is otherwise now.

    Args:
        run: its folder.
        inputs: the network and the images of now.
        augment: the callable that now comes from Python in place of the recipe's augmentation.

    Returns:
        The first difference, to be said after "the run began with"; None also where the run says nothing of it.
    """
    return next(_differences(run, inputs, augment), None)


def _differences(run: Path, inputs: RunInputs, augment: Callable[[Tensor], Any] | None) -> Iterator[str]:
    about = read_about(run)
    if _part(about, "data").get("fingerprint", inputs.fingerprint) != inputs.fingerprint:
        yield "other images"
    if _normalises_otherwise(run, inputs.model):
        yield "a network that normalises images otherwise"
    network = _part(about, "model")
    if network.get("own") or inputs.own_model or ":" in str(network.get("name")):  # else the recipe says all of it
        if network.get("structure", now := structure_hash(inputs.model)) != now:
            yield "a network that is built otherwise"
        before = set(network.get("frozen", ()))
        if changed := before ^ set(inputs.frozen):
            name = min(changed)
            state = "frozen (requires_grad=False)" if name in before else "trained"
            yield f"a network whose parameter {name} was {state}"
    given = _part(about, "given")
    if "augment" in given and _own_name(given["augment"]) != _own_name(class_of(augment)):
        yield f"{given['augment'] or 'none'} as the augmentation from Python"


def counted_frozen_statistics(run: Path, inputs: RunInputs) -> bool:
    """Return whether a run began with a version that counted statistics of BatchNorm which came in frozen.

    Args:
        run: its folder.
        inputs: the network and the images of now.

    Returns:
        False also where there is no such BatchNorm.
    """
    network = _part(read_about(run), "model")
    counted = "frozen" in network and "frozen_statistics" not in network
    return counted and bool(Frozen(inputs.model, inputs.frozen).norms)


def _part(about: dict[str, Any], name: str) -> dict[str, Any]:
    found = about.get(name)
    return found if isinstance(found, dict) else {}


def _own_name(name: Any) -> str | None:
    """Return a name without where it was defined: a script's are __main__'s, and a module's when imported."""
    return None if name is None else str(name).rpartition(".")[2]


def class_of(value: object) -> str | None:
    """Return what run.json calls an object from Python.

    Args:
        value: a network, images or a callable.

    Returns:
        The module and name of its class, of a function its own; None for None.
    """
    if value is None:
        return None
    kind = value if callable(value) and hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _normalises_otherwise(run: Path, model: nn.Module) -> bool:
    """Return whether a run that was given its network from Python was given one with another normalisation; where
    it built its network by its recipe, that says what it normalises by."""
    first = run / "weights" / FIRST
    if not first.is_file():
        return False
    before, now = recorded_statistics(read_metadata(first), first), statistics_of(model)
    return before != now and (before is None or now is None or not same_statistics(before, now))


def holds(file: Path, model: nn.Module) -> bool:
    """Return whether a weight file holds just what a network does.

    Args:
        file: weights of a run, such as those of a given start.
        model: the network; its wrappers do not count.

    Returns:
        Whether names and values are the same, to the bit.

    Raises:
        ClatError: the file cannot be read.
    """
    saved, _ = read_state(file)
    # An earlier version kept the name of a wrapper in the file.
    mine = next((own for one in (bare(model), model) if (own := one.state_dict()).keys() == saved.keys()), {})
    return saved.keys() == mine.keys() and all(torch.equal(saved[name], mine[name].cpu()) for name in mine)

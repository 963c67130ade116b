"""The state of a run in one file: everything that resuming needs, and nothing that could be executed.

Tensors (weights, buffers, the optimizer's state, what callbacks keep) and a JSON record share one safetensors file,
replaced in one step, so a run killed at any moment finds a whole state, of this step or of an earlier one. There is
no random state to keep: every random number of a run is derived from the seed and its place (`clat.core.seeds`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.tensors import write_tensors
from clat.network.cost import Cost
from clat.network.exchange import copied
from clat.network.slices import slice_like
from clat.training.optimizer import OptimizerState

SUMS = "progress.sums"
"""What the sums of each of several processes are called in the file."""


@dataclass
class Progress:
    """Where a run is, and what it remembers. Epochs count from 0 over the whole run; `stage`, `epoch` and
    `step` name the next batch to train on."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    selected: list[str] | None = None
    """Names of the layers that move; None: the whole network, or not yet decided."""
    joined: bool = False
    """The stage's callbacks are in the network, whose structure they may have changed."""
    callbacks: dict[str, dict[str, float]] = field(default_factory=dict)
    """The callbacks' scalars."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sums over the epoch's steps so far of the loss and its parts."""
    epoch_seconds: float = 0.0
    stage_seconds: float = 0.0
    compile_seconds: float = 0.0
    """Seconds of compiling in the epoch so far, which are not in its `epoch_seconds`."""
    best: dict[str, Any] | None = None
    last: dict[str, Any] | None = None
    best_robust_in_stage: float = 0.0
    cost: Cost = field(default_factory=Cost)
    stages: list[dict[str, Any]] = field(default_factory=list)
    """What the finished stages took."""
    warnings: list[str] = field(default_factory=list)
    metrics_bytes: int = 0
    """How long metrics.jsonl was when this state was saved; resuming cuts off what came later."""


class Checkpoint(NamedTuple):
    """A state read back."""

    progress: Progress
    weights: dict[str, Tensor]
    optimizer: OptimizerState
    """What the optimizer remembers of each moving parameter, by parameter name."""
    callbacks: dict[str, Tensor]
    own: dict[str, Tensor]
    """What each of several processes had of its own of these, in order of rank, (world, ...), by their names in the
    file: "model.NAME", "companion.NAME", SUMS."""

    def put_into(self, model: nn.Module, source: object = "the saved state") -> None:
        """Load the weights and buffers into a network.

        Args:
            model: a network whose callbacks have entered it where they had when the state was saved.
            source: where the state comes from, for the message.

        Raises:
            ClatError: they do not fit.
        """
        try:
            own = model.state_dict()
            model.load_state_dict({name: slice_like(value, own.get(name)) for name, value in self.weights.items()})
        except RuntimeError as error:
            raise ClatError(f"{source} does not fit the model: {' '.join(str(error).split())[:200]}") from None

    def copied(self) -> Checkpoint:
        """Return a copy on the same device that training on does not change.

        Returns:
            The same state in tensors of its own.
        """
        optimizer = {name: copied(one) for name, one in self.optimizer.items()}
        tensors = (copied(self.weights), optimizer, copied(self.callbacks), copied(self.own))
        return Checkpoint(deepcopy(self.progress), *tensors)


def save_state(path: Path, saved: Checkpoint, recipe_hash: str) -> None:
    """Write a state, in one step.

    Args:
        path: the file, which is replaced.
        saved: the state; its tensors are copied to the CPU.
        recipe_hash: the hash of what led to it, which `load_state` asks for.

    Raises:
        ClatError: the file cannot be written.
    """
    tensors = {
        f"{kind}.{name}": value
        for kind, group in (
            ("model", saved.weights),
            ("optimizer", {f"{name}.{key}": v for name, one in saved.optimizer.items() for key, v in one.items()}),
            ("companion", saved.callbacks),
            ("own", saved.own),
        )
        for name, value in group.items()
    }
    # One copy each: safetensors refuses views and shared storage.
    copies = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    record = {"progress": json.dumps(asdict(saved.progress)), "recipe_hash": recipe_hash}
    write_tensors(path, copies, record)


def state_hash(path: Path) -> str | None:
    """Return the recipe hash that a state was saved under.

    Args:
        path: the file.

    Returns:
        The hash; None if the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("recipe_hash")
    except (OSError, SafetensorError):
        return None


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a run's progress in today's fields.

    clat 0.1 kept CLAT's lambda beside the callbacks' scalars.
    """
    data = dict(data)
    data.pop("stage_begun", None)
    own = data.pop("objective_state", {})
    callbacks = data.pop("companions", data.get("callbacks", {}))
    return data | {"callbacks": callbacks | ({"objective": own} if own else {})}


def load_state(path: Path, recipe_hash: str, rank: int = 0, world: int | None = None) -> Checkpoint:
    """Read a state back as the process of this rank left it.

    Of another number of processes, this one takes the mean of what they had of their own, or its part of what each
    had of images.

    Args:
        path: the file.
        recipe_hash: the hash that it must have been saved under.
        rank: the number of this process, from 0.
        world: how many processes go on; None: as many as there were.

    Returns:
        The state, on the CPU.

    Raises:
        ClatError: the file is damaged, or belongs to a run of another recipe.
    """
    try:
        with safe_open(path, framework="pt") as file:
            record = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        data = json.loads(record["progress"])
        progress = Progress(**_upgraded(data) | {"cost": Cost(**data["cost"])})
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ClatError(f"{path} is not a usable run state: {str(error).splitlines()[0]}") from None
    if record.get("recipe_hash") != recipe_hash:
        raise ClatError(f"{path} belongs to a run of another recipe: resume with the recipe in its folder")

    def group(kind: str) -> dict[str, Tensor]:
        return {name.removeprefix(kind): v for name, v in tensors.items() if name.startswith(kind)}

    own = group("own.")
    count = world or len(next(iter(own.values()), ()))
    tensors |= {name: _share_of(name, values, rank, count) for name, values in own.items()}
    if SUMS in tensors:
        progress.sums = dict(zip(progress.sums, tensors[SUMS].tolist(), strict=True))
    return Checkpoint(progress, group("model."), _by_parameter(group), group("companion."), own)


def _share_of(name: str, values: Tensor, rank: int, world: int) -> Tensor:
    """Return what process `rank` of `world` takes of what each of the earlier processes had, (before, ...)."""
    if len(values) == world:
        return values[rank]
    if name.startswith("companion.") and values.ndim > 4:  # of images, each process's share of a batch
        return values.flatten(0, 1).tensor_split(world)[rank]
    return values.mean(0) if values.is_floating_point() else values[0]


def _by_parameter(group: Callable[[str], dict[str, Tensor]]) -> OptimizerState:
    """Return the optimizer's state by parameter, which in the file is NAME.KEY.

    clat 0.1 knew SGD alone and kept its buffer as momentum.NAME.
    """
    state = {name: {"momentum_buffer": buffer} for name, buffer in group("momentum.").items()}
    for place, value in group("optimizer.").items():
        name, _, key = place.rpartition(".")
        state.setdefault(name, {})[key] = value
    return state

"""How long a row or an evaluation takes beside others, from its recipe alone: enough to start the longest first.

Nothing is measured: epochs times images times passes of a step times the arithmetic of a pass. The unit is one
multiplication and addition of a convolution or a linear layer (counted as 2), the same for training and attacks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.data import load_split
from clat.evaluation.effort import survivor_passes
from clat.evaluation.protocols import find_protocol
from clat.models import build_model
from clat.models.settings import ModelConfig
from clat.objectives import AnyObjective
from clat.recipe.data_settings import DataConfig
from clat.recipe.schema import Recipe

BESIDE: dict[str, float] = {
    "trades": 4,
    "score-trades": 4,
    "mart": 3,
    "cure": 10,
    "autolora": 3.3,
    "grad-align": 12.2,
}
"""Objective -> forward passes of a step beside those of its attack and of the loss on what it found, as
`benchmarks.objective_cost` counts them."""
SELECTED = 0.75
"""A step of CLAT beside one of all layers: the attack ends at the deepest layer that moves. The mean of
docs/scaling.md's five networks, from 0.63 to 0.87."""
UNKNOWN = 1.1e9
"""Operations of a pass through a network that cannot be counted: those of ResNet-18 at 32 pixels."""


class Shape(NamedTuple):
    """Facts about a data set that decide what a pass and an epoch cost."""

    images: int
    image: tuple[int, int, int]
    classes: int


def step_passes(objective: AnyObjective) -> float:
    """Return about what a training step costs, in forward passes of its images.

    A pass back to the images costs as much as one forward, one back to the weights two.

    Args:
        objective: the stage's.

    Returns:
        Passes: 3 for standard training, 23 for PGD-AT of ten steps.
    """
    attack = 2.0 * getattr(objective, "steps", 0)
    whole = objective.replays * (3.0 + attack + BESIDE.get(objective.name, 0.0))
    return SELECTED * whole if objective.needs_selection else whole


def stage_costs(recipe: Recipe) -> list[float]:
    """Return about what each stage of a run costs.

    Args:
        recipe: the run's. Its training images are read where it does not say how many they are.

    Returns:
        Operations, a stage each.
    """
    each = pass_cost(recipe)
    images = training_images(recipe.data, known_shape(recipe.data))
    return [images * stage.epochs * step_passes(stage.objective) * each for stage in recipe.stages]


def evaluation_cost(recipe: Recipe, protocol: str, num_samples: int | None) -> float:
    """Return about what the evaluation of a run's network costs, were all images robust.

    Args:
        recipe: the run's.
        protocol: a protocol's name.
        num_samples: images; None: as many as an unknown test split has, 10,000.

    Returns:
        Operations.
    """
    shape = known_shape(recipe.data)
    passes = survivor_passes(find_protocol(protocol), max(shape.classes, 2))
    return (num_samples or 10_000) * passes * pass_cost(recipe)


def training_images(data: DataConfig, shape: Shape) -> int:
    """Return how many images an epoch has.

    Args:
        data: a recipe's.
        shape: of its training split.

    Returns:
        `train_size`, else all that are not held out, at least 1.
    """
    return data.train_size or max(shape.images - data.heldout, 1)


def pass_cost(recipe: Recipe) -> float:
    """Return the operations of a forward pass of one image.

    Args:
        recipe: names the network and the images.

    Returns:
        Operations, counted on tensors without content; UNKNOWN where the network cannot be built so.
    """
    shape, config = known_shape(recipe.data), without_weights(recipe.model)
    key = (repr(config), shape.image, shape.classes)
    if key not in _counted:
        _counted[key] = _operations(config, shape)
    return _counted[key]


_counted: dict[tuple[object, ...], float] = {}


def data_shape(data: DataConfig) -> Shape:
    """Return the number, size and classes of a recipe's training images; read once, none of them decoded but one.

    Args:
        data: the recipe's.

    Returns:
        The facts.

    Raises:
        ClatError: As `clat.load_split`.
    """
    found = _read_shape(
        data.name, data.image_size, data.label_column, data.image_column, data.classes, data.channels
    )
    if isinstance(found, str):
        raise ClatError(found)
    return found


@cache
def _read_shape(
    name: str,
    size: int | None,
    label: str | None,
    image: str | None,
    classes: tuple[str, ...] | str | None,
    channels: int | None,
) -> Shape | str:
    """Return the facts, or why they cannot be read; asked for once, as a hub that does not answer takes long."""
    try:
        with listening(lambda text: None):  # the rows themselves say what there is to say
            images = load_split(
                name,
                "train",
                image_size=size,
                label_column=label,
                image_column=image,
                classes=classes,
                resident_limit=0,
            )
    except ClatError as error:
        return str(error)
    depth, height, width = images.shape
    return Shape(len(images), (channels or depth, height, width), images.num_classes)


def known_shape(data: DataConfig) -> Shape:
    """Return the facts about a recipe's training images where they are on this machine, which may only hand out the
    work.

    Args:
        data: the recipe's.

    Returns:
        The facts; those of CIFAR-10 where the images cannot be read.
    """
    try:
        return data_shape(data)
    except ClatError:
        size = data.image_size or 32
        return Shape(50_000, (data.channels or 3, size, size), 10)


def _operations(config: ModelConfig, shape: Shape) -> float:
    try:
        with torch.device("meta"):
            model = build_model(config, shape.classes, shape.image[0]).eval()
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(torch.empty(1, *shape.image))
        return float(counter.get_total_flops()) or UNKNOWN
    except Exception:  # a network of the user's own may do anything with tensors that hold nothing
        return UNKNOWN


def without_weights(config: Any) -> Any:
    """Return a network's settings without weight files, which need not be there yet.

    Args:
        config: a `ModelConfig`.

    Returns:
        The same network with random weights.
    """
    changes: dict[str, Any] = {"weights": None, "weights_key": None}
    for member in ("standard", "robust"):
        one = getattr(config, member, None)
        if one is not None:
            changes[member] = replace(one, weights=None, weights_key=None)
    return replace(config, **changes)

"""Whether every choice that a stage's selection may make leaves its objective and treatments something to move."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.criticality.selection import Selection, trainable_parameters
from clat.network.layers import Layer, find_layers
from clat.recipe.schema import StageConfig


def check_whole(stage: StageConfig, model: nn.Module, x: Tensor, frozen: Collection[str]) -> None:
    """Raise an error if a stage that moves the whole network has nothing to move, since that came in frozen.

    Args:
        stage: has no selection.
        model: the network as it enters the stage.
        x: an image, (1, C, H, W) in [0, 1].
        frozen: names of parameters that stay.

    Raises:
        ClatError: with what finds nothing.
    """
    for one in (stage.objective, *stage.treatments):
        movable = one.movable(model, x)
        if movable is not None and movable <= set(frozen):
            raise ClatError(
                f"stage '{stage.name}': all that '{one.name}' would move came in frozen (requires_grad=False): "
                "model.requires_grad_(True)"
            )


def check_picks(
    stage: StageConfig, model: nn.Module, x: Tensor, layers: Sequence[Layer], frozen: Collection[str] = ()
) -> None:
    """Raise an error if a selection of the stage could choose layers of which nothing moves.

    Args:
        stage: has a selection, its settings checked against the layers.
        model: the network as it enters the stage.
        x: an image, (1, C, H, W) in [0, 1].
        layers: those that take part in the selection, in forward order.
        frozen: names of parameters that stay.

    Raises:
        ClatError: with the layers that are not to take part.
    """
    assert stage.selection is not None
    eligible, count = _eligible(stage.selection, layers)
    for one in (stage.objective, *stage.treatments):
        movable = one.movable(model, x)
        if movable is None:
            continue
        moving = movable - set(frozen)
        idle = [layer.name for layer in eligible if moving.isdisjoint(trainable_parameters(model, [layer]))]
        if len(idle) >= count:
            raise ClatError(
                f"stage '{stage.name}': '{one.name}' finds nothing to move in {', '.join(idle)}, and the selection "
                "may choose no others: select other layers, or leave these out with selection.exclude"
            )


def _eligible(rule: Selection, layers: Sequence[Layer]) -> tuple[Sequence[Layer], int]:
    """Return the layers that the rule may choose, and how many of them it does."""
    if rule.rule == "named":
        named = find_layers(layers, rule.layers)
        return named, len(named)
    if rule.rule == "all":
        return layers, len(layers)
    if rule.ranks:  # a layer that cannot be compared with the others, layer 1, comes last or not at all
        layers = layers[-max(rule.k, rule.ranking.rankable(len(layers))) :]
    return layers, rule.k

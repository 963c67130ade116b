"""What a recipe may ask for where each process holds a part of the network (`engine.shard`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clat.core.errors import ClatError

if TYPE_CHECKING:
    from clat.recipe.optimizer import OptimizerSettings
    from clat.recipe.schema import StageConfig

OPTIMIZERS = ("sgd", "adam", "adamw")
"""Those that treat each number by itself."""


def check_sharding(stages: Sequence[StageConfig], optimizer: OptimizerSettings) -> None:
    """Raise an error if a part of a recipe needs parameters whole.

    Args:
        stages: the recipe's.
        optimizer: that of the stages which have none of their own.

    Raises:
        ClatError: for the first such part, with those that can be.
    """
    for stage in stages:
        name = (stage.optimizer or optimizer).name  # type: ignore[attr-defined]
        if name not in OPTIMIZERS:
            raise _needs_all(stage.name, f"the optimizer '{name}'", f" ({', '.join(OPTIMIZERS)} do not)")
        for part in (stage.objective, *stage.treatments):
            if not _shards(part):
                raise _needs_all(stage.name, f"'{part.name}'")
        if stage.selection is not None and stage.selection.ranks and not _shards(stage.selection.ranking):
            raise _needs_all(stage.name, f"the ranking '{stage.selection.ranking.name}'")


def _shards(part: object) -> bool:
    """Return whether a part says that it shards. Its base class does not count: a part may do otherwise."""
    return bool(vars(type(part)).get("shards", False))


def _needs_all(stage: str, what: str, others: str = "") -> ClatError:
    return ClatError(f"stage '{stage}': {what} needs parameters whole: leave engine.shard out{others}")

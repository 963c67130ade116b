"""The classes behind pieces of the user's own in a recipe's tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clat.criticality.rankings import OWN_RANKINGS
from clat.objectives import OBJECTIVES
from clat.treatments import TREATMENTS

KINDS = (OBJECTIVES, TREATMENTS, OWN_RANKINGS)
"""What of a recipe's tables may be the user's own."""


def own_class(classes: Sequence[Any], table: Any) -> Any:
    """Return the class that a table names beside the built-in ones.

    Args:
        classes: what may stand in the table's place.
        table: the table, or anything else.

    Returns:
        The user's own class; None where the table names none.

    Raises:
        ClatError: its name is a plugin's that cannot be had.
    """
    name = table.get("name") if isinstance(table, dict) else None
    kind = next((kind for kind in KINDS if set(kind.built_in) & set(classes)), None)
    return None if kind is None or not isinstance(name, str) else kind.find_class(name)

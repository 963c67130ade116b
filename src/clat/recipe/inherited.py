"""What a recipe says of its own network or schedule does not hold for another one that takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clat.core.notices import notice
from clat.recipe.schedules import PARTICULAR

OWN = ("normalize", "width", "depths", "activation", "input_size", "args")
"""Fields of a network that belong to the one they were written for."""


def replace_network(model: dict[str, Any], new: Mapping[str, Any], where: str = "model") -> None:
    """Take what belongs to a recipe's own network out of its table, where another's name stands in its place.

    A built-in network may follow another with the same width or normalisation. One from elsewhere (a factory of the
    user's, a library's network, a RobustBench entry) brings a normalisation of its own or means to have none: that
    of the data set, put in front of it, would silently measure another function. What is given along with the name
    stays. A notice says what was taken out.

    Args:
        model: The recipe's table, changed in place.
        new: What is about to be put over it.
        where: How the table is called in the notice.
    """
    for member in ("standard", "robust"):
        if isinstance(model.get(member), dict) and isinstance(new.get(member), Mapping):
            replace_network(model[member], new[member], f"{where}.{member}")
    name, before = new.get("name"), model.get("name", "resnet18")
    if not isinstance(name, str) or ":" not in name or name == before:
        return
    fields = [field for field in OWN if field in model and field not in new]
    for field in fields:
        del model[field]
    if fields:
        notice(
            f"{where} '{name}': left out {', '.join(fields)}, which the recipe says of its own network '{before}'; "
            f"--{where}.{fields[0]} would set it"
        )


def replace_schedule(schedule: dict[str, Any], kind: object) -> None:
    """Take out of a recipe's own schedule what another kind, which takes its place, does not read.

    Args:
        schedule: The recipe's table, changed in place.
        kind: What its kind is about to be.
    """
    for field, kinds in PARTICULAR.items():
        if kind not in kinds:
            schedule.pop(field, None)

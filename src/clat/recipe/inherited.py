"""What a recipe says of its own network, schedule or optimizer does not hold for another that takes its place."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from clat.core.notices import notice
from clat.recipe.schedules import PARTICULAR

OWN = ("normalize", "width", "depths", "activation", "input_size", "args")
"""Fields of a network that belong to the one they were written for."""

TAKEN_BY: dict[str, tuple[str, ...]] = {
    "activation": ("dm-", "ra-"),
    "input_size": ("imagenet-resnet",),
    "depths": ("resnet", "imagenet-", "preact-", "wrn-", "dm-", "ra-", "densenet"),
    "args": (),
}
"""Fields that only built-in networks take whose names begin so."""

SHARED = ("name", "weight_decay", "decay_norms_and_biases", "layer_decay", "clip_norm")
"""Fields of every optimizer."""

EITHER = {"lambda": "ratio", "ratio": "lambda"}
"""Fields of an objective of which one is given."""


def replace_network(model: dict[str, Any], new: Mapping[str, Any], where: str = "model") -> None:
    """Take what belongs to a recipe's own network out of its table, where another's name stands in its place.

    A built-in network may follow another with the same width or normalisation; what it does not take goes. One from
    elsewhere (a factory of the user's, a library's network, a RobustBench entry) brings a normalisation of its own
    or means to have none: that of the data set, put in front of it, would silently measure another function. What
    is given along with the name stays. A notice says what was taken out.

    Args:
        model: The recipe's table, changed in place.
        new: What is about to be put over it.
        where: How the table is called in the notice.
    """
    for member in ("standard", "robust"):
        if isinstance(model.get(member), dict) and isinstance(new.get(member), Mapping):
            replace_network(model[member], new[member], f"{where}.{member}")
    name, before = new.get("name"), model.get("name", "resnet18")
    if not isinstance(name, str) or name == before:
        return
    fields = [field for field in OWN if field in model and field not in new]
    if ":" not in name:
        fields = [field for field in fields if field in TAKEN_BY and not name.startswith(TAKEN_BY[field])]
    for field in fields:
        del model[field]
    if fields:
        notice(
            f"{where} '{name}': left out {', '.join(fields)}, which the recipe says of its own network '{before}'; "
            f"--{where}.{fields[0]} would set it"
        )


def make_way(table: dict[str, Any], place: str, field: str, value: object, kept: Collection[str] = ()) -> None:
    """Take out of a table what does not go with the new value of one of its fields.

    Args:
        table: The recipe's, changed in place.
        place: The table's name: `schedule`, `optimizer`, `objective`; of any other nothing goes.
        field: The field that is about to be set: the kind of a schedule, the name of an optimizer, lambda or ratio.
        value: What it is set to.
        kept: Fields that were given beside it, and stay.
    """
    gone: Collection[str] = ()
    if (place, field) == ("schedule", "kind"):
        gone = [name for name, kinds in PARTICULAR.items() if value not in kinds]
    elif (place, field) == ("optimizer", "name") and str(value).lower() != str(table.get("name", "sgd")).lower():
        gone = [name for name in table if name not in SHARED]
    elif place == "objective" and field in EITHER:
        gone = [EITHER[field]]
    for name in gone:
        if name not in kept:
            table.pop(name, None)

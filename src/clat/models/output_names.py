"""The names that a network gives its own outputs, and whether they are those of the data in another order."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from clat.data.classes import are_numbers
from clat.models.fitting import bare


def output_names(model: nn.Module) -> tuple[str, ...] | None:
    """Return what a network calls its outputs.

    Args:
        model: any network, also in a wrapper.

    Returns:
        `config.id2label` of one of transformers, or the `class_names` that `clat.from_pretrained` found; None where
        there are none.
    """
    network: Any = bare(model)
    names = getattr(getattr(network, "config", None), "id2label", None)
    if isinstance(names, Mapping):
        found = {str(number): str(name) for number, name in names.items()}
        places = list(map(str, range(len(found))))
        return tuple(found[place] for place in places) if found and set(places) == set(found) else None
    own = getattr(network, "class_names", None)
    return tuple(map(str, own)) if own and isinstance(own, list | tuple) else None


def in_other_order(model: nn.Module, class_names: Sequence[str]) -> list[str] | None:
    """Return the classes in the order of a network's outputs, where the network says that it has another one.

    Args:
        model: any network.
        class_names: of the data, in the order of their numbers.

    Returns:
        The data's names, sorted as the network's; None where both agree, the network has other names or none, or
        the data's are mere numbers.
    """
    named = list(map(_alike, output_names(model) or ()))
    given = {_alike(name): name for name in class_names}
    if (
        are_numbers(class_names)
        or len(given) < len(class_names)
        or len(named) != len(given)
        or set(named) != set(given)
    ):
        return None
    order = [given[name] for name in named]
    return None if order == list(class_names) else order


def first_names(names: Sequence[str], most: int = 5) -> str:
    """Return the first names in a line, and whether there are more.

    Args:
        names: in the order in which they are shown.
        most: how many.

    Returns:
        Such as "cat, dog, ...".
    """
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _alike(name: str) -> str:
    """Return a name without what spellings differ in: capitals, and how an accent is written."""
    return unicodedata.normalize("NFC", name).strip().casefold()

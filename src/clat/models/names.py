"""Fit the names in a weight file to those of a network: wrappers put prefixes before them, and parts in between."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import nn

from clat.core.errors import ClatError

WRAPPER_PARTS = frozenset(
    {"module", "_module", "_orig_mod", "_orig_module", "_forward_module"}
    | {"_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
)
"""Parts of names that DataParallel, torch.compile, activation checkpointing, FSDP, Fabric and Opacus put in, at any
depth, and that say nothing of the network."""

BOOKKEEPING = frozenset({"n_averaged"})
"""Entries by which torch's AveragedModel counts, and which are no weights."""

STATISTICS_NAMES = {"mu": 0, "mean": 0, "new_mean": 0, "sigma": 1, "std": 1, "new_std": 1}
"""What wrappers that normalise images call the mean (0) and the standard deviation (1) in a state dict."""

_AVERAGED = re.compile(r"(^|[_.])(ema|swa|avg|averaged?|polyak|teacher|shadow)([_.]|$)")


def is_averaged(key: str) -> bool:
    """Return whether a key or prefix is one by which scripts call averaged weights: ema, swa_model, ...

    Args:
        key: A key of a file, or a prefix of names in it.

    Returns:
        True where a part of it is such a word.
    """
    return _AVERAGED.search(key) is not None


def without_wrapper_parts(name: str) -> str:
    """Return a name without what wrappers put into it.

    Args:
        name: Of an entry of a state dict, or a prefix of such names.

    Returns:
        The name without WRAPPER_PARTS.
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPER_PARTS)


def surrounded(module: str) -> str:
    """Return what a normaliser in a file may stand for: all that has the same parent.

    Args:
        module: The normaliser's name in the file.

    Returns:
        What the names of those parts begin with, without WRAPPER_PARTS: such as "model.", or "" for the whole file.
    """
    parent = without_wrapper_parts(module).rpartition(".")[0]
    return f"{parent}." if parent else ""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The way in which names of a file and of a network belong together.

    Attributes:
        prefix: The name below which the file has the network, or ''.
        names: The network's name -> the file's, of all that both have.
        unexpected: Names that the file has at the network's level and the network has not, without the prefix.
        beside: What lies elsewhere in the file, as named there.
        rivals: Other prefixes under which the file holds the whole network.
    """

    prefix: str
    names: dict[str, str]
    unexpected: list[str]
    beside: list[str]
    rivals: list[str]


def wrapped_part(model: nn.Module) -> str | None:
    """Return where a wrapper such as DataParallel or AveragedModel has the network.

    Args:
        model: any module.

    Returns:
        The name of its only child, one of WRAPPER_PARTS; None where the module is no wrapper, as one with
        parameters or buffers of its own.
    """
    children = [name for name, child in model.named_children()]
    own = {name for name, _ in model.named_parameters(recurse=False)}
    own |= {name for name, _ in model.named_buffers(recurse=False)}
    return children[0] if len(children) == 1 and children[0] in WRAPPER_PARTS and own <= BOOKKEEPING else None


def fit_names(
    found: Collection[str],
    expected: Collection[str],
    required: Collection[str],
    source: object,
    key: str | None = None,
) -> Fit:
    """Return the place in a file at which all names of a network are.

    Args:
        found: The names in the file.
        expected: The names of the network's entries.
        required: Those of them that the file must have.
        source: The file, for messages.
        key: The prefix that is meant, if it has them all; None: nobody said.

    Returns:
        The fit under the prefix that has all required names; the bare names come first, then raw weights before
        averaged ones. Where none has them all, the fit under the prefix that has the most.

    Raises:
        ClatError: Several prefixes have them all, and nothing tells which is meant.
    """
    theirs, ours = _without_wrappers(found), _without_wrappers(expected)
    wanted = {short for short, name in ours.items() if name in required}
    counts = Counter(prefix for name in theirs for prefix in _prefixes(name, wanted))
    whole = [prefix for prefix, count in counts.items() if count == len(wanted)]
    meant = None if key is None else f"{without_wrapper_parts(key)}."
    raw = [meant] if meant in whole else [prefix for prefix in whole if not is_averaged(prefix)] or whole
    if "" not in raw and len(raw) > 1:
        listed = ", ".join(f"'{prefix.rstrip('.')}'" for prefix in raw[:5])
        raise ClatError(f"weights {source} fit under {listed} alike: choose one with weights_key (--weights-key)")
    best = max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")
    prefix = "" if "" in raw else raw[0] if raw else best
    rivals = [other for other in whole if other != prefix]
    here = {name.removeprefix(prefix): name for name in theirs if name.startswith(prefix)}
    averages = tuple(filter(None, rivals))
    other = {name for name in theirs if name.split(".")[-1] in BOOKKEEPING or name.startswith(averages)}
    return Fit(
        prefix=prefix.rstrip("."),
        names={ours[short]: theirs[name] for short, name in here.items() if short in ours},
        unexpected=[short for short, name in here.items() if short not in ours and name not in other],
        beside=[theirs[name] for name in theirs.keys() - here.values() - other],
        rivals=[rival.rstrip(".") for rival in rivals],
    )


def _prefixes(name: str, wanted: Collection[str]) -> Iterable[str]:
    """Yield whatever stands before the ends of `name` that are wanted: 'a.b.weight' -> '', 'a.', 'a.b.'."""
    start = 0
    while True:
        if name[start:] in wanted:
            yield name[:start]
        start = name.find(".", start) + 1
        if not start:
            return


def _without_wrappers(names: Collection[str]) -> dict[str, str]:
    """Return names without WRAPPER_PARTS -> names; or every name for itself, where two would become one."""
    short = {without_wrapper_parts(name): name for name in names}
    return short if len(short) == len(names) else {name: name for name in names}

"""The one exception for everything that a user can mend, and the nearest-name helper behind its messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClatError(ValueError):
    """Bad input. Its message is one line: what is wrong, where, and what to do.

    The command line prints the message and leaves with exit code 2; nothing already written is lost.
    """


def unknown(kind: str, name: object, valid: Iterable[str], *, where: str = "") -> ClatError:
    """Return the error for a name that does not exist: it names the nearest valid one, and lists the valid ones.

    Args:
        kind: what the name is of, such as "model".
        name: the name as it was given.
        valid: the names that there are; the message lists 30 of them at most.
        where: what follows the name in the message, such as " of the study 'claim'".

    Returns:
        The error, for the caller to raise.

    Examples:
        >>> str(unknown("model", "resnet81", ["resnet18", "resnet50"]))
        "unknown model 'resnet81'; did you mean 'resnet18'? Valid: resnet18, resnet50"
    """
    names = sorted(valid)
    near = nearest(name, names)
    hint = "" if near is None else f"did you mean '{near}'? "
    shown = names if len(names) <= 30 else [*names[:30], f"... ({len(names)} in all)"]
    return ClatError(f"unknown {kind} '{name}'{where}; {hint}Valid: {', '.join(shown)}")


def nearest(name: object, valid: Iterable[str]) -> str | None:
    """Return the valid name that a mistyped one is most like, whatever their case.

    Args:
        name: the name as it was given.
        valid: the names that there are.

    Returns:
        One of them; None where none is like it.
    """
    names = {one.casefold(): one for one in sorted(valid)}
    near = difflib.get_close_matches(str(name).casefold(), names, n=1, cutoff=0.5)
    return names[near[0]] if near else None


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none.

    Args:
        error: any exception.

    Returns:
        One line, without white space around it.
    """
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""Read JSON and TOML that somebody else wrote, with one kind of error for all that can be wrong in it.

The readers of the standard library also raise RecursionError, for brackets within brackets, and a bare ValueError
for numbers with more digits than Python converts.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Args:
        text: the text of a file, or a line of it.

    Returns:
        Plain nested data.

    Raises:
        ValueError: it is no JSON, is nested too deep, or holds a number that is too long.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def parse_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text says.

    Args:
        text: the text of a file, or a line of it.

    Returns:
        Plain nested data.

    Raises:
        ValueError: it is no TOML, is nested too deep, or holds a number that is too long.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None

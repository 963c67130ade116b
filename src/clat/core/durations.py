"""Times as people write them."""

from __future__ import annotations

import re

from clat.core.errors import ClatError

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PART = r"(\d+(?:\.\d+)?)\s*(min|[smhd])"


def parse_duration(text: str | float) -> float:
    """Return a time in seconds.

    Args:
        text: seconds as a number, or words such as "90s", "30m", "30 min", "1h30m", "2d".

    Returns:
        Seconds, above 0 and finite.

    Raises:
        ClatError: anything else, such as text without a unit, or no time at all.

    >>> parse_duration("1h30m"), parse_duration("90s"), parse_duration(90)
    (5400.0, 90.0, 90.0)
    """
    words = str(text).strip()
    if re.fullmatch(rf"({_PART}\s*)+", words):
        seconds = sum(float(number) * UNITS[unit] for number, unit in re.findall(_PART, words))
    elif isinstance(text, int | float) and not isinstance(text, bool) and text == text:
        seconds = float(text)
    elif re.fullmatch(r"\d*[1-9]\d*(\.\d+)?", words):
        raise ClatError(f"the budget is '{text}', without a unit: {words}s, {words}m or {words}h?")
    else:
        raise ClatError(f"the budget is '{text}': expected a time such as 90s, 30m or 1h30m")
    if seconds == float("inf"):
        raise ClatError(f"the budget is '{text}': expected a time such as 90s, 30m or 1h30m")
    if seconds <= 0:
        raise ClatError(f"the budget is '{text}': expected more than no time, such as 30m")
    return seconds

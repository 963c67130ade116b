"""How the page writes numbers: a small pure function a kind, each showing a missing value as a dash."""

from __future__ import annotations

import math
from typing import Any

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"  # a number must not be parted from its unit at a line's end
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any) -> float | None:
    """A finite float, or None for anything else: records of a broken run hold nulls and NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def percent(value: Any) -> str:
    """0.341 -> '34.1 %'."""
    share = number(value)
    return DASH if share is None else f"{100 * share:.1f}{SPACE}%"


def interval(low: Any, high: Any) -> str:
    """0.312, 0.371 -> '31.2 to 37.1 %'."""
    first, second = number(low), number(high)
    if first is None or second is None:
        return DASH
    return f"{100 * first:.1f} to {100 * second:.1f}{SPACE}%"


def points(difference: Any) -> str:
    """A difference of two shares, in percentage points and always signed: 0.009 -> '+0.9 points'."""
    value = number(difference)
    if value is None:
        return DASH
    rounded = round(100 * value, 1)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f}{SPACE}points"


def count(value: Any) -> str:
    """11173962 -> '11,173,962'."""
    whole = number(value)
    return DASH if whole is None else f"{whole:,.0f}"


def significant(value: Any, digits: int = 3) -> str:
    """0.000123456 -> '0.000123'; three digits are what a sample of a hundred images supports."""
    real = number(value)
    return DASH if real is None else f"{real:#.{digits}g}".rstrip(".").replace("-", MINUS)


def duration(seconds: Any) -> str:
    """75.2 -> '1 min 15 s'."""
    value = number(seconds)
    if value is None:
        return DASH
    if value < 60:
        return f"{value:.1f}{SPACE}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min{SPACE}{rest:02d}{SPACE}s"
    return f"{minutes // 60}{SPACE}h{SPACE}{minutes % 60:02d}{SPACE}min"


def memory(size: Any) -> str:
    """Bytes in binary units: 3221225472 -> '3.0 GiB'."""
    value = number(size)
    if value is None:
        return DASH
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f}{SPACE}{unit}"
        value /= 1024
    return f"{value:.1f}{SPACE}GiB"


def power_of_ten(value: float) -> str:
    """A tick of a logarithmic axis: 0.001 -> '10⁻³', and plain numbers where those are shorter."""
    if value <= 0:
        return ""
    if 0.01 <= value < 1000:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10**exponent
    prefix = "" if math.isclose(mantissa, 1) else f"{mantissa:.0f}·"
    return f"{prefix}10{str(exponent).translate(_SUPERSCRIPT)}"


def shorten(text: Any, length: int = 30) -> str:
    """Cuts a long name in its middle: a layer's name tells most at its two ends."""
    whole = str(text)
    if len(whole) <= length:
        return whole
    tail = (length - 1) // 2
    return f"{whole[: length - 1 - tail]}…{whole[-tail:]}"

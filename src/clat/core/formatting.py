"""Write numbers as the reports show them: a small pure function a kind, each showing a missing value as a dash."""

from __future__ import annotations

import math
from typing import Any

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"  # a number must not be parted from its unit at a line's end
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any) -> float | None:
    """Return a finite float, or None for anything else: records of a broken run hold nulls and NaN.

    Args:
        value: an entry of a record.

    Returns:
        The number; None for a boolean, a text, a null, NaN or an infinite value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def percent(value: Any) -> str:
    """Return a share as a percentage with one decimal: 0.341 gives "34.1 %".

    Args:
        value: the share, in [0, 1].

    Returns:
        The text, or a dash where `number` finds none.
    """
    share = number(value)
    return DASH if share is None else f"{100 * share:.1f}{SPACE}%"


def interval(low: Any, high: Any) -> str:
    """Return an interval of shares in percent: 0.312 and 0.371 give "31.2 to 37.1 %".

    Args:
        low: the lower end, a share in [0, 1].
        high: the upper end, a share in [0, 1].

    Returns:
        The text, or a dash where `number` finds none in one of them.
    """
    first, second = number(low), number(high)
    if first is None or second is None:
        return DASH
    return f"{100 * first:.1f} to {100 * second:.1f}{SPACE}%"


def points(difference: Any) -> str:
    """Return a difference of two shares in percentage points, always signed: 0.009 gives "+0.9 points".

    Args:
        difference: one share less another, in [-1, 1].

    Returns:
        The text, with "±" for what rounds to 0, or a dash where `number` finds none.
    """
    value = number(difference)
    if value is None:
        return DASH
    rounded = round(100 * value, 1)
    sign = "+" if rounded > 0 else MINUS if rounded < 0 else "±"
    return f"{sign}{abs(rounded):.1f}{SPACE}points"


def count(value: Any) -> str:
    """Return a whole number with its thousands parted by commas: 11173962 gives "11,173,962".

    Args:
        value: the number.

    Returns:
        The text, or a dash where `number` finds none.
    """
    whole = number(value)
    return DASH if whole is None else f"{whole:,.0f}"


def counted(number: object, noun: str) -> str:
    """Return a number with its noun: 1 and "epoch" give "1 epoch", 2 give "2 epochs".

    Args:
        number: how many, or its text as it is to be written.
        noun: what is counted, a word that takes an s.

    Returns:
        The text.

    >>> counted(1, "seed"), counted("1,000", "image")
    ('1 seed', '1,000 images')
    """
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def significant(value: Any, digits: int = 3) -> str:
    """Return a number to its significant digits: 0.000123456 gives "0.000123".

    Args:
        value: the number.
        digits: how many digits are shown; three are what a sample of a hundred images supports.

    Returns:
        The text, or a dash where `number` finds none.
    """
    real = number(value)
    return DASH if real is None else f"{real:#.{digits}g}".rstrip(".").replace("-", MINUS)


def duration(seconds: Any) -> str:
    """Return a time in the units that suit it: 75.2 gives "1 min 15 s".

    Args:
        seconds: the time in seconds.

    Returns:
        The text in seconds, minutes and seconds, or hours and minutes, or a dash where `number` finds none.
    """
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
    """Return a size in binary units: 3221225472 gives "3.0 GiB".

    Args:
        size: the size in bytes.

    Returns:
        The text in B, KiB, MiB or GiB, or a dash where `number` finds none.
    """
    value = number(size)
    if value is None:
        return DASH
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f}{SPACE}{unit}"
        value /= 1024
    return f"{value:.1f}{SPACE}GiB"


def power_of_ten(value: float) -> str:
    """Return the label of a tick on a logarithmic axis: 0.001 gives "10⁻³".

    Args:
        value: where the tick stands.

    Returns:
        The text, a plain number where that is shorter (0.01 to 1000), nothing for values that are not positive.
    """
    if value <= 0:
        return ""
    if 0.01 <= value < 1000:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)  # the logarithm of a power may come out just below it
    mantissa = value / 10**exponent
    prefix = "" if math.isclose(mantissa, 1) else f"{mantissa:.0f}·"
    return f"{prefix}10{str(exponent).translate(_SUPERSCRIPT)}"


def shorten(text: Any, length: int = 30) -> str:
    """Return a long name with its middle cut out: a layer's name tells most at its two ends.

    Args:
        text: the name, or anything that has a text.
        length: how many characters are shown at most.

    Returns:
        The text, with an ellipsis where it was cut.
    """
    whole = str(text)
    if len(whole) <= length:
        return whole
    tail = (length - 1) // 2
    return f"{whole[: length - 1 - tail]}…{whole[-tail:]}"


def p_text(p: float) -> str:
    """Return a p value as text.

    Args:
        p: in [0, 1].

    Returns:
        Two digits, or a bound where it is very small.
    """
    return f"{p:.2g}" if p >= 1e-4 else "< 0.0001"

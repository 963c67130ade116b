"""Perturbation sizes as the field writes them: `8/255`, `0.03`, a float."""

from __future__ import annotations

from fractions import Fraction

from clat.core.errors import ClatError

Size = float | int | str | Fraction


def parse_size(value: Size, *, what: str = "eps", norm: str = "linf") -> Fraction:
    """An eps or alpha as an exact fraction.

    `value`: a number or a string such as "8/255", "0.03", "1e-2". Floats that are a small fraction up to
    rounding (8/255 computed in Python) are recognised as it. Images lie in [0, 1], so an l-inf size above 1
    is refused: it is nearly always a size in pixel values (8 meant as 8/255).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str | Fraction):
        raise ClatError(f"{what} is {value!r}: expected a number or a fraction such as '8/255'")
    try:
        # float() first: NumPy writes its own scalars as np.float64(0.03)
        size = Fraction(repr(float(value)) if isinstance(value, float) else value)
    except (ValueError, ZeroDivisionError):
        raise ClatError(f"{what} is {value!r}: expected a number or a fraction such as '8/255'") from None
    if isinstance(value, float):
        near = size.limit_denominator(10_000)
        size = near if abs(float(near) - value) <= 1e-15 * abs(value) else size
    if size < 0:
        raise ClatError(f"{what} is {value}: expected a value of at least 0")
    if norm == "linf" and size > 1:
        hint = f"did you mean {size_text(size / 255)}?" if size <= 255 else "expected at most 1"
        raise ClatError(f"{what} is {value}, but images lie in [0, 1]: {hint}")
    return size


def size_text(size: Fraction) -> str:
    """The exact text of a size: whole pixel values stay over 255, short decimals stay decimals ("0.03").

    >>> size_text(parse_size("8/255")), size_text(parse_size("3/255")), size_text(parse_size(0.03))
    ('8/255', '3/255', '0.03')
    """
    decimal = repr(float(size))
    if "e" not in decimal and Fraction(decimal) == size:
        return decimal.removesuffix(".0")
    pixels = size * 255
    return f"{pixels}/255" if pixels.denominator == 1 else str(size)

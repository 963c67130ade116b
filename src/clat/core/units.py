"""Read and write perturbation sizes as the field does: `8/255`, `0.03`, a float."""

from __future__ import annotations

from fractions import Fraction

from clat.core.errors import ClatError

Size = float | int | str | Fraction

_LARGEST = 10**9
"""No two images are as far apart, in any norm."""


def parse_size(value: Size, *, what: str = "eps", norm: str = "linf") -> Fraction:
    """Return an eps or alpha as an exact fraction.

    Args:
        value: a number or a string such as "8/255", "0.03", "1e-2", in image units ([0, 1]). A float that is a
            small fraction up to rounding (8/255 computed in Python) is taken for that fraction.
        what: the name of the size in the message of an error.
        norm: "linf" or "l2", in which the size is measured.

    Returns:
        The size, at least 0.

    Raises:
        ClatError: it is no number, negative, larger than any image, or above 1 under linf, which is nearly always a
            size in pixel values (8 meant as 8/255).
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
    if size > _LARGEST:  # beyond a float's range in the end
        raise ClatError(f"{what} is {value}, but images lie in [0, 1]: expected at most {_LARGEST:,}")
    return size


def size_text(size: Fraction) -> str:
    """Return the exact text of a size.

    Args:
        size: the size, as `parse_size` returns it.

    Returns:
        A short decimal where that is exact ("0.03"), else whole pixel values over 255, else the fraction.

    Examples:
        >>> size_text(parse_size("8/255")), size_text(parse_size("3/255")), size_text(parse_size(0.03))
        ('8/255', '3/255', '0.03')
    """
    decimal = repr(float(size))
    if "e" not in decimal and Fraction(decimal) == size:
        return decimal.removesuffix(".0")
    pixels = size * 255
    return f"{pixels}/255" if pixels.denominator == 1 else str(size)

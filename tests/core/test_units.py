from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from clat.core.errors import ClatError
from clat.core.units import parse_size, size_text


@pytest.mark.parametrize(
    ("value", "exact"),
    [
        ("8/255", Fraction(8, 255)),
        (8 / 255, Fraction(8, 255)),
        (2 / 255 * 4, Fraction(8, 255)),
        (0.1 + 0.2, Fraction(3, 10)),
        (0.03, Fraction(3, 100)),
        ("0.03", Fraction(3, 100)),
        ("1e-2", Fraction(1, 100)),
        (Fraction(1, 3), Fraction(1, 3)),
        (np.float64(0.03), Fraction(3, 100)),
        (1e-16, Fraction(1, 10**16)),
        (0.123456789, Fraction(123456789, 10**9)),
        (0, Fraction(0)),
        (1, Fraction(1)),
    ],
)
def test_a_size_is_exact(value: object, exact: Fraction) -> None:
    assert parse_size(value) == exact  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [8, 8.0, "8", "8.0"])
def test_pixel_values_are_refused_with_the_fraction_to_write(value: object) -> None:
    with pytest.raises(ClatError, match=r"did you mean 8/255\?"):
        parse_size(value)  # type: ignore[arg-type]


def test_what_the_message_suggests_is_accepted() -> None:
    for value in (5, 1.5, "3/2", 16, 255):
        with pytest.raises(ClatError) as error:
            parse_size(value)
        assert parse_size(str(error.value).rpartition("did you mean ")[2].rstrip("?")) == Fraction(value) / 255
    with pytest.raises(ClatError, match="expected at most 1"):
        parse_size(300)


def test_large_sizes_are_fine_in_l2() -> None:
    assert parse_size("3/2", norm="l2") == Fraction(3, 2)
    for value in ("1e400", 10**400, 1e300):  # what no float holds, or no square of one
        with pytest.raises(ClatError, match="expected at most 1,000,000,000"):
            parse_size(value, norm="l2")
    with pytest.raises(ClatError, match=r"expected at most 1$"):
        parse_size("1e400")


@pytest.mark.parametrize("value", [-0.03, "-8/255", -1])
def test_negative(value: object) -> None:
    with pytest.raises(ClatError, match=r"eps is -.*at least 0"):
        parse_size(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value", ["eight", "", "8/0", "nan", "inf", float("nan"), float("inf"), True, None, [0.03], 1j]
)
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(ClatError, match=r"alpha is .*expected a number or a fraction such as '8/255'"):
        parse_size(value, what="alpha", norm="l2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("8/255", "8/255"),
        ("3/255", "3/255"),
        ("5/255", "5/255"),
        ("1/1020", "1/1020"),
        (0.03, "0.03"),
        ("0.5", "0.5"),
        (1, "1"),
        (0, "0"),
        ("1e-5", "1/100000"),
    ],
)
def test_text(value: object, text: str) -> None:
    assert size_text(parse_size(value)) == text  # type: ignore[arg-type]


def test_text_reads_back_as_the_same_size() -> None:
    for numerator in range(1, 256):
        for denominator in (255, 256, 1000, 1020, 7):
            size = Fraction(numerator, denominator)
            assert parse_size(size_text(size), norm="l2") == size

"""Numbers as the page writes them."""

from __future__ import annotations

import pytest

from clat.core import formatting as f


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (f.percent(0.341), "34.1 %"),
        (f.percent(None), "–"),
        (f.percent(float("nan")), "–"),
        (f.interval(0.312, 0.371), "31.2 to 37.1 %"),
        (f.interval(None, 0.371), "–"),
        (f.points(0.009), "+0.9 points"),
        (f.points(-0.021), "−2.1 points"),
        (f.points(0.0001), "±0.0 points"),
        (f.count(11173962), "11,173,962"),
        (f.count(True), "–"),
        (f.significant(0.00012345), "0.000123"),
        (f.significant(2.0), "2.00"),
        (f.significant(500), "500"),
        (f.duration(12.12), "12.1 s"),
        (f.duration(59.99), "60.0 s"),
        (f.duration(75.2), "1 min 15 s"),
        (f.duration(3599.9), "1 h 00 min"),
        (f.duration(7325), "2 h 02 min"),
        (f.memory(512), "512 B"),
        (f.memory(3 * 2**30), "3.0 GiB"),
        (f.power_of_ten(0.001), "10⁻³"),
        (f.power_of_ten(0.003), "3·10⁻³"),
        (f.power_of_ten(0.5), "0.5"),
        (f.power_of_ten(20000), "2·10⁴"),
        (f.shorten("layer3.0.conv1"), "layer3.0.conv1"),
        (f.shorten("abcdefghij", 5), "ab…ij"),
    ],
)
def test_numbers_are_written_as_a_reader_expects(written: str, expected: str) -> None:
    assert written.replace(f.SPACE, " ") == expected


@pytest.mark.parametrize("length", [3, 4, 9, 30])
def test_a_shortened_name_has_the_length_asked_for(length: int) -> None:
    assert len(f.shorten("x" * 100, length)) == length

"""Times as people write them."""

from __future__ import annotations

import pytest

from clat.core.durations import parse_duration
from clat.core.errors import ClatError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90), ("90s", 90), ("10m", 600), ("10min", 600), ("1.5h", 5400), (" 2 m ", 120), ("0.5s", 0.5),
        ("1h30m", 5400), ("10m30s", 630), ("1 h 30 min", 5400), ("2d", 172_800), (45, 45), (0.5, 0.5), (1e-5, 1e-5),
    ],
)  # fmt: skip
def test_a_time_is_read(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("value", [[1], (3,), None, True, float("nan")])
def test_what_is_neither_text_nor_a_number_is_refused(value: object) -> None:
    with pytest.raises(ClatError, match="expected a time such as"):
        parse_duration(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["30", "1.5", " 90 "])
def test_text_without_a_unit_is_asked_for_one(text: str) -> None:
    with pytest.raises(ClatError, match=r"without a unit: .*m or"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "0", "0m", "-3m", "ten minutes", "soon", "m", "1m5", "nan", "inf", "1e999", "3 weeks", "10m,30s"]
)
def test_what_is_no_time_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ClatError, match=r"the budget is .*: expected .* such as"):
        parse_duration(text)

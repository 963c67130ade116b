"""The test before and after a hardening: its cost follows its protocol, its size the budget."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from clat.evaluation.protocols import PROTOCOLS
from clat.evaluation.statistics import Accuracy
from clat.hardening import HardenConfig
from clat.hardening.look import FirstLook
from clat.hardening.testing import (
    FALLS_AT_ONCE,
    FEWEST,
    MOST,
    WITHSTANDS,
    ending,
    image_seconds,
    images_to_check,
    images_to_test,
    number_reason,
)
from clat.runtime.settings import EngineConfig

SEEN = FirstLook(Accuracy(90, 100), Accuracy(0, 100), None, seconds_per_pass=0.01)


def test_an_image_of_pgd_costs_what_its_passes_cost():
    before, after = 1 + 0.9 * FALLS_AT_ONCE, 1 + 0.9 * 41  # 20 steps forward and backward, and the verdict
    assert image_seconds(PROTOCOLS["pgd-20"], SEEN, 10) == pytest.approx(0.005 * (before + after))


def test_a_stronger_protocol_costs_more():
    costs = [image_seconds(PROTOCOLS[name], SEEN, 10) for name in ("pgd-20", "cr", "apgd", "autoattack")]
    assert costs == sorted(costs)
    assert costs[1] > 3 * costs[0]
    assert costs[2] > 3 * costs[1]


def test_a_network_that_withstands_something_costs_more_before():
    some = FirstLook(Accuracy(90, 100), Accuracy(40, 100), None, seconds_per_pass=0.01)
    assert image_seconds(PROTOCOLS["cr"], some, 10) > image_seconds(PROTOCOLS["cr"], SEEN, 10)
    assert WITHSTANDS < 1


@pytest.mark.parametrize(
    ("settings", "available", "images"),
    [
        ({"budget": 100.0}, 5000, 300), ({"budget": 1e6}, 5000, MOST), ({"budget": 1e6}, 400, 400),
        ({"budget": 1.0}, 5000, FEWEST), ({"budget": 1.0}, 40, 40), ({"epochs": 3}, 5000, MOST),
        ({"budget": 1.0, "num_samples": 2000}, 5000, 2000), ({"epochs": 1, "num_samples": 9000}, 5000, 5000),
    ],
)  # fmt: skip
def test_images_are_as_many_as_the_budget_allows(settings, available, images):
    assert images_to_test(HardenConfig(**settings), available, 0.05) == images


@pytest.mark.parametrize(
    ("settings", "tested", "images"),
    [
        ({"budget": 600.0}, 1000, 37), ({"budget": 1e6}, 1000, 100), ({"budget": 200.0}, 1000, 0),
        ({"epochs": 3}, 1000, 100), ({"epochs": 3}, 30, 30), ({"epochs": 3}, 10, 0), ({"budget": 1e6}, 10, 0),
    ],
)  # fmt: skip
def test_masking_is_looked_for_on_as_many_images_as_the_budget_allows(settings, tested, images):
    assert images_to_check(HardenConfig(**settings), tested, 0.002) == images


def test_the_number_of_images_has_a_reason():
    said = number_reason(HardenConfig(budget=100.0), 300, 5000)
    assert said.startswith("before and after are measured under cr on 300 of 5,000 test images, as more would take")
    assert number_reason(HardenConfig(epochs=1), 1000, 5000).endswith("on 1,000 of 5,000 test images")
    assert number_reason(HardenConfig(epochs=1, num_samples=7), 7, 10).endswith("as asked for")


def test_the_end_is_a_time_of_day(monkeypatch):
    from datetime import datetime

    from clat.hardening import testing

    late = SimpleNamespace(now=lambda: datetime(2026, 2, 28, 23, 30))
    monkeypatch.setattr(testing, "datetime", late)
    assert ending(600).replace("\N{NO-BREAK SPACE}", " ") == "10 min 00 s, until about 23:40"
    assert ending(3600).endswith("until about 01 March, 00:30")


@pytest.mark.parametrize(
    ("asked", "engine", "emulates", "said"),
    [
        ("auto", "bf16-mixed", False, "trains in bfloat16, which this device computes in hardware"),
        ("auto", "32", True, "trains in float32, as this device has no bfloat16 units"),
        ("32", "32", False, "trains in float32, as asked for"),
        ("auto", "32", False, "trains in float32, which the objective asks for"),
    ],
)
def test_the_precision_has_a_reason(monkeypatch, asked, engine, emulates, said):
    from clat.hardening.plan import precision_reason

    monkeypatch.setattr(EngineConfig, "emulates", property(lambda _: emulates))
    assert precision_reason(asked, EngineConfig(precision=engine)) == said

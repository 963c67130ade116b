"""What fits into a time: arithmetic on a pilot that is given, and the pilot itself on a tiny network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.data import ImageSet
from clat.evaluation import PROTOCOLS, AttackSpec, Protocol, evaluate, evaluate_set
from clat.evaluation import budget as planning
from clat.evaluation.budget import (
    CAUTION,
    ENOUGH,
    LADDER,
    Pilot,
    Sampling,
    choose,
    passes_per_image,
    random_order,
    run_pilot,
)
from clat.evaluation.effort import mean_passes, survivor_passes
from clat.network.cost import Cost

KNOWN = Pilot(images=48, seconds=1e-3, spent=5.0, clean=0.8, robust=0.5, relaxed=120)


@pytest.mark.parametrize("name", ["pgd-20", "apgd-ce", "apgd-t", "fab-t", "square", "apgd"])
def test_passes_of_a_survivor_are_about_those_counted(name: str, linear: Any) -> None:
    model = linear(10, (3, 8, 8))
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.4
    with torch.no_grad():
        y = model(x).argmax(1)
    shorter = tuple(
        AttackSpec(**{**spec.data(), "steps": 500 if spec.attack == "square" else spec.steps})
        for spec in PROTOCOLS[name].attacks
    )
    protocol = Protocol(name="shorter", attacks=shorter)
    cost = evaluate(model, x, y, protocol=protocol, eps=1e-6).cost
    expected = survivor_passes(protocol, 10)
    if name == "pgd-20":  # a linear network has it in a corner after eight steps
        assert cost.forwards + cost.backwards < expected
    else:
        assert cost.forwards + cost.backwards == pytest.approx(expected, rel=0.2)


def test_passes_of_a_survivor_of_pixle_are_those_counted() -> None:
    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.new_tensor([10.0, 0.0]) + 1e-6 * x.flatten(1).sum(1, keepdim=True)

    x, protocol = torch.rand(2, 1, 8, 8), PROTOCOLS["pixle"]
    cost = evaluate(Sure(), x, torch.zeros(2, dtype=torch.int64), protocol=protocol, eps=0.1).cost
    assert cost.forwards / 2 == pytest.approx(survivor_passes(protocol, 2), abs=1)


def test_an_image_that_falls_costs_little_where_the_first_attack_ends_with_it() -> None:
    fallen = {name: mean_passes(PROTOCOLS[name], 1.0, 0.0, 10, fooled=10) - 1 for name in PROTOCOLS}
    assert fallen["pgd-20"] == fallen["autoattack"] == fallen["cr"] == 10
    assert fallen["clat-pgd-50"] == survivor_passes(PROTOCOLS["clat-pgd-50"], 10), "its last iterate decides"
    assert fallen["square"] > 1000


def test_a_long_time_gives_the_full_protocol_on_all_images() -> None:
    plan = choose(KNOWN, budget=1e6, available=1000, classes=10, batch_size=100)
    assert (plan.protocol, plan.images, plan.of) == ("autoattack", 1000, 1000)
    each = passes_per_image("autoattack", PROTOCOLS["autoattack"], KNOWN, 1000, 10)
    assert plan.seconds == pytest.approx(1000 * each * 1e-3)


def test_less_time_gives_weaker_protocols() -> None:
    found = []
    for budget in (1e5, 2500, 1100, 700, 100, 30):
        plan = choose(KNOWN, budget=budget, available=10_000, classes=10, batch_size=100)
        assert plan.seconds * CAUTION + KNOWN.spent <= budget * 1.001
        assert plan.images >= ENOUGH or plan.protocol == LADDER[-1]
        found.append(LADDER.index(plan.protocol))
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == len(LADDER) - 1
    assert len(set(found)) >= 4


def test_what_was_asked_for_is_not_changed() -> None:
    asked = ("autoattack", PROTOCOLS["autoattack"])
    plan = choose(KNOWN, budget=1100, available=10_000, classes=10, batch_size=100, asked=asked)
    assert plan.protocol == "autoattack"
    assert 100 <= plan.images < ENOUGH


def test_a_sample_and_a_screen_that_are_asked_for_count() -> None:
    full = PROTOCOLS["autoattack"]

    def passes(images: int, **told: Any) -> float:
        each = passes_per_image("autoattack-sampled", full, KNOWN, images, 10, Sampling(**told))
        return images * each

    attacks, screen = survivor_passes(full, 10), survivor_passes(PROTOCOLS["apgd"], 10)
    assert passes(1000, sample=400) == pytest.approx(1000 * 120 + 400 * attacks)
    assert passes(1000, sample=900) == pytest.approx(1000 * 120 + 500 * attacks), "all that the screen leaves"
    by_apgd = 1000 * mean_passes(PROTOCOLS["apgd"], 0.8, 0.5, 10)
    assert passes(1000, screen="apgd", sample=400) == pytest.approx(by_apgd + 400 * (attacks - screen))
    asked = ("autoattack-sampled", full)
    shown = {"budget": 2500, "available": 10_000, "classes": 10, "batch_size": 100, "asked": asked}
    least, usual = (choose(KNOWN, **shown, sampling=one) for one in (Sampling(sample=10), None))
    assert least.images > usual.images
    assert least.images * 120e-3 + 10 * attacks * 1e-3 == pytest.approx(least.seconds)
    with pytest.raises(ClatError, match="the sample is 0"):
        Sampling(sample=0)


def test_more_processes_do_more() -> None:
    asked = ("cr", PROTOCOLS["cr"])
    one, two = (
        choose(KNOWN, budget=65, available=10_000, classes=10, batch_size=100, asked=asked, processes=count)
        for count in (1, 2)
    )
    assert two.images == pytest.approx(2 * one.images, abs=2)
    assert two.seconds == pytest.approx(one.seconds, rel=0.01)


@pytest.mark.parametrize(
    ("budget", "fits"),
    [
        (8.0, "about 77 images fit: ask for fewer with --batch-size 77, or give more time"),
        (2.0, "; nothing fits: give more time"),
        (0.25, "; nothing fits: give more time"),
    ],
)
def test_too_small_for_a_batch_says_what_fits(budget: float, fits: str) -> None:
    with pytest.raises(ClatError) as raised:
        choose(KNOWN, budget=budget, available=1000, classes=10, batch_size=250)
    message = str(raised.value)
    assert f"the budget of {budget:g} s is too small for a batch of 250 images under pgd-20" in message
    assert fits in message


def test_a_pilot_that_saw_nothing_takes_the_worst_for_granted() -> None:
    blind = Pilot(images=8, seconds=1e-3, spent=0.1)
    full = survivor_passes(PROTOCOLS["autoattack"], 10)
    assert passes_per_image("autoattack", PROTOCOLS["autoattack"], blind, 100, 10) == full + 1


def test_the_pilot(linear: Any) -> None:
    model = linear()
    pixels = torch.randint(100, 156, (60, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        labels = model(pixels.float() / 255).argmax(1)
    images = ImageSet("greys", "test", tuple("abcde"), pixels, labels)
    order = random_order(60, 0)
    options = {"eps": 0.05, "batch_size": 20}
    pilot = run_pilot(model, images, order, 1e5, options)
    assert pilot.images == 48
    assert pilot.clean == 1
    assert pilot.robust is not None
    assert pilot.relaxed is not None
    assert pilot.seconds > 0
    short = run_pilot(model, images, order, 0.01, options)
    assert (short.images, short.robust) == (8, None)


def test_the_pilot_of_several_processes_is_that_of_one(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They give the passes of all and the seconds of one; eight images are one process's."""
    model = linear()

    def fake(model: Any, images: Any, *, protocol: str, ids: Any, **options: Any) -> Any:
        one = len(ids) if protocol == "fgsm" else len(ids) // 4
        accuracy = SimpleNamespace(value=1.0)
        cost = Cost(forwards=len(ids), backwards=len(ids), seconds=2 * one * 0.001)
        return SimpleNamespace(cost=cost, clean_accuracy=accuracy, robust_accuracy=accuracy)

    monkeypatch.setattr(planning, "evaluate_set", fake)
    monkeypatch.setattr(planning.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(planning.dist, "get_world_size", lambda: 4)
    pixels = torch.zeros(60, 3, 4, 4, dtype=torch.uint8)
    images = ImageSet("greys", "test", tuple("abcde"), pixels, torch.arange(60) % 5)
    for budget in (1e5, 0.01):
        assert run_pilot(model, images, random_order(60, 0), budget, {}).seconds == pytest.approx(0.001)


def test_the_pilot_warms_a_gpu_up_and_gives_it_a_batch(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, measured = linear(), []

    def noted(model: Any, images: Any, *, protocol: str, ids: Any, **options: Any) -> Any:
        measured.append((protocol, len(ids)))
        return evaluate_set(model, images, protocol=protocol, ids=ids, **options)

    monkeypatch.setattr(planning, "evaluate_set", noted)
    monkeypatch.setattr(planning, "device_of", lambda model, default: torch.device("cuda"))
    pixels = torch.randint(0, 256, (60, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images = ImageSet("greys", "test", tuple("abcde"), pixels, torch.arange(60) % 5)
    pilot = run_pilot(model, images, random_order(60, 0), 1e5, {"eps": 0.05, "batch_size": 50})
    assert measured == [("fgsm", 50), ("fgsm", 50), ("cr", 50)]
    assert pilot.images == 50


def test_the_order_is_random_and_the_same_again() -> None:
    order = random_order(100, 3)
    assert torch.equal(order, random_order(100, 3))
    assert torch.equal(order.sort().values, torch.arange(100))
    assert not torch.equal(order, random_order(100, 4))
    assert set(random_order(0, 0, [7, 2, 9]).tolist()) == {2, 7, 9}

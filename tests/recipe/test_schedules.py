"""Learning rates in closed form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clat.core.errors import ClatError
from clat.recipe import built_in_recipes, read_recipe
from clat.recipe.schedules import Schedule, learning_rate, momentum

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.1), (50, 0.075), (70, 0.0552), (75, 0.05), (100, 0.025), (150, 0)]
)
def test_the_papers_cosine(epoch, expected):
    assert learning_rate(Schedule(lr=0.1), epoch, 150) == pytest.approx(expected, abs=5e-5)


def test_a_plan_longer_than_the_training():
    planned = Schedule(lr=0.1, epochs=150)
    assert learning_rate(planned, 100, 100) == pytest.approx(0.025)
    assert learning_rate(planned, 200, 100) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 1.0), (49.99, 1.0), (50, 0.1), (74.99, 0.1), (75, 0.01), (100, 0.01)]
)
def test_piecewise(epoch, expected):
    assert learning_rate(Schedule(kind="piecewise", lr=1.0), epoch, 100) == pytest.approx(expected)


def test_piecewise_at_the_very_step_within_an_epoch():
    """A fifth of three epochs is 0.6 of an epoch, and 0.6 / 3 is 0.19999999999999998."""
    rule = Schedule(kind="piecewise", lr=1.0, milestones=(0.2,))
    assert [learning_rate(rule, 0 + step / 5, 3) for step in (2, 3)] == pytest.approx([1.0, 0.1])


def test_piecewise_of_the_bag_of_tricks():
    rule = Schedule(kind="piecewise", lr=0.1, milestones=(100 / 110, 105 / 110))
    assert [round(learning_rate(rule, e, 110), 6) for e in (99, 100, 104, 105, 110)] == [
        0.1,
        0.01,
        0.01,
        0.001,
        0.001,
    ]


@pytest.mark.parametrize(
    ("epoch", "peak", "expected"),
    [(0, 0.5, 0), (3.75, 0.5, 0.1), (7.5, 0.5, 0.2), (11.25, 0.5, 0.1), (15, 0.5, 0), (6, 0.4, 0.2), (3, 0.4, 0.1)],
)
def test_cyclic_rises_to_the_peak_and_falls_to_zero(epoch, peak, expected):
    assert learning_rate(Schedule(kind="cyclic", lr=0.2, peak=peak), epoch, 15) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("cosine", {0: 0, 2.5: 0.1, 5: 0.2, 7.5: 0.1, 10: 0}),
        ("constant", {0: 0, 1: 0.04, 5: 0.2, 10: 0.2}),
        ("piecewise", {0: 0, 2.5: 0.1, 7.49: 0.2, 7.5: 0.02, 8.75: 0.002}),
    ],
)
def test_a_warm_up_rises_from_zero_and_leaves_the_rest_of_the_span_to_the_schedule(kind, rates):
    schedule = Schedule(kind=kind, lr=0.2, warmup=5)
    assert {done: learning_rate(schedule, done, 10) for done in rates} == pytest.approx(rates, abs=1e-12)


def test_a_warm_up_of_a_longer_plan_and_of_less_than_an_epoch():
    assert learning_rate(Schedule(lr=0.2, epochs=20, warmup=10), 15, 10) == pytest.approx(0.1)
    assert learning_rate(Schedule(lr=0.2, warmup=0.5), 0.25, 10) == pytest.approx(0.1)


@pytest.mark.parametrize("peak", [None, 0.3])
def test_one_cycle_is_that_of_pytorch(peak):
    """PyTorch's peak is at step pct_start * T - 1 of T - 1, so its fraction is given such that both agree."""
    steps = 400
    fraction = 0.025 if peak is None else peak
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=0.9)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.2, total_steps=steps, pct_start=(fraction * (steps - 1) + 1) / steps
    )
    rule = Schedule(kind="one-cycle", lr=0.2, peak=peak, momentum=(0.95, 0.85))
    rates = []
    for step in range(steps):
        rates.append(learning_rate(rule, step * 10 / (steps - 1), 10))
        assert rates[-1] == pytest.approx(reference.get_last_lr()[0], rel=1e-9, abs=1e-12)
        assert momentum(rule, step * 10 / (steps - 1), 10) == pytest.approx(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if step + 1 < steps:
            reference.step()
    assert rates[0] == pytest.approx(0.2 / 25)
    assert max(rates) == pytest.approx(0.2, rel=1e-3)
    assert rates[-1] == pytest.approx(0.2 / 25 / 1e4)


@pytest.mark.parametrize("range_", [(0.85, 0.95), (1.0, 0.9)])
def test_a_momentum_that_is_no_range_is_refused(range_):
    with pytest.raises(ClatError, match=r"schedule\.momentum"):
        Schedule(kind="one-cycle", momentum=range_)


def test_other_schedules_leave_the_optimizer_s_momentum():
    """Also where a recipe that they extend has one."""
    assert momentum(Schedule(kind="cosine", momentum=(0.95, 0.85)), 1, 10) is None
    assert read_recipe("wang2023", ["--schedule.kind", "cosine"]).momentum(0, 10.0) is None


@pytest.mark.parametrize(
    ("field", "value"), [("milestones", "[0.5]"), ("factor", "0.5"), ("peak", "0.3"), ("momentum", "[0.9, 0.8]")]
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_setting_that_the_kind_does_not_read_is_refused(field, value, order):
    words = [f"--schedule.{field}={value}", "--schedule.kind=cosine"][::order]
    with pytest.raises(ClatError, match=rf"schedule\.{field} is given, which 'cosine' does not read"):
        read_recipe("fast-at", words).check_rates()


def test_what_a_recipe_says_of_another_kind_goes_with_it(tmp_path):
    for name in built_in_recipes():
        recipe = read_recipe(name)
        recipe.check_rates()
        for kind in ("cosine", "piecewise", "cyclic", "one-cycle", "constant"):
            other = read_recipe(name, ["--schedule.kind", kind]) if recipe.schedule.warmup == 0 else recipe
            other.check_rates()
    assert read_recipe("fast-at", ["--schedule.kind=one-cycle"]).schedule.peak == 0.5  # which reads it too
    (tmp_path / "mine.toml").write_text('extends = "fast-at"\nschedule = { kind = "cosine", lr = 0.1 }')
    assert read_recipe(tmp_path / "mine.toml").schedule == Schedule(lr=0.1)
    own = read_recipe("rift", ["--stages.rift.schedule.kind=constant"]).stages[0].schedule
    assert own == Schedule(kind="constant", lr=0.001)
    table = read_recipe(
        "rift", ["--stages.rift.schedule", "{ lr = 0.2, peak = 0.3 }", "--stages.rift.schedule.kind=cyclic"]
    )
    assert table.stages[0].schedule == Schedule(kind="cyclic", lr=0.2, peak=0.3)
    assert read_recipe(
        "pgd-at", ["--schedule", "{ lr = 0.05 }", "--schedule.kind", "constant"]
    ).schedule == Schedule(kind="constant", lr=0.05)


def test_recorded_runs_can_be_repeated():
    recorded = sorted((ROOT / "docs" / "results").rglob("recipe.toml"))
    assert recorded
    for file in recorded:
        read_recipe(file).check_rates()


def test_constant():
    assert {learning_rate(Schedule(kind="constant", lr=0.3), epoch, 10) for epoch in (0, 5, 10, 50)} == {0.3}


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "cosine"},
        {"kind": "piecewise", "milestones": (0.25, 0.5, 0.75)},
        {"kind": "one-cycle", "peak": 0.4},
        {"kind": "cyclic", "peak": 0.6},
        {"kind": "constant"},
        {"kind": "cosine", "warmup": 5},
    ],
)
def test_a_schedule_that_is_taken_up_goes_on_as_if_it_had_not_been_left(settings):
    whole, second = Schedule(lr=0.2, **settings), Schedule(lr=0.2, start=4, **settings)
    planned = Schedule(lr=0.2, start=4, epochs=10, **settings)
    second.check(6)
    planned.check(6)
    for done in (0, 0.5, 2, 3.9, 5, 5.99):
        expected = learning_rate(whole, 4 + done, 10)
        assert expected > 0
        assert learning_rate(second, done, 6) == learning_rate(planned, done, 6) == expected


def test_a_stage_that_is_trained_beyond_the_planned_schedule_is_refused():
    for start, trained in ((2, 4), (4.5, 1)):
        with pytest.raises(ClatError, match=f"schedule.epochs has to be at least {start + trained:g} and not 5"):
            Schedule(start=start, epochs=5).check(trained)
    Schedule(start=2, epochs=5).check(3)
    Schedule(kind="piecewise", epochs=5).check_rate(9)  # without a start, the rate stays as it is at the end
    Schedule(epochs=9).check_rate(9)
    for kind in ("cosine", "cyclic"):
        with pytest.raises(ClatError, match=r"schedule\.epochs is 5: the rate is 0 from there on, and 9 epochs"):
            Schedule(kind=kind, epochs=5).check_rate(9)
        Schedule(kind=kind, epochs=5).check(9)  # as a run from before says it
    Schedule(start=4, warmup=4.5).check(1)
    with pytest.raises(ClatError, match="the schedule has 5 epochs in all"):
        Schedule(start=4, warmup=5).check(1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": 0}, "schedule.lr"),
        ({"lr": float("inf")}, "schedule.lr"),
        ({"epochs": 0}, "schedule.epochs"),
        ({"factor": -0.1}, "schedule.factor"),
        ({"factor": float("nan")}, "schedule.factor"),
        ({"peak": 1.0}, "schedule.peak"),
        ({"milestones": (0.7, 0.5)}, "schedule.milestones"),
        ({"milestones": (0.5, 1.5)}, "schedule.milestones"),
    ],
)
def test_impossible_schedules_are_refused(settings, says):
    with pytest.raises(ClatError, match=says):
        Schedule(**settings)

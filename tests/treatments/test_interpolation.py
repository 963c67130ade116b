"""The way between two networks: its end points, its middle, and the choice of where to stop."""

from __future__ import annotations

import pytest
import torch

from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.evaluation.heldout import heldout_accuracies, heldout_correct
from clat.treatments import Interpolation
from clat.treatments import interpolation as module
from clat.treatments.interpolation import ALPHAS, LinePoint, choose_alpha, interpolate


@pytest.fixture
def two(build):
    """Start and end, as states: other weights, other statistics, other counters."""
    start, end = build(0).state_dict(), build(1).state_dict()
    end["bn1.num_batches_tracked"] += 7
    start["head.bias"][0] = -0.0
    return start, end


def bits(tensor):
    return tensor.view(torch.int32) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("alpha", [0, 0.0, 1, 1.0])
def test_the_end_points_are_the_two_networks_bit_for_bit(two, alpha):
    found, wanted = interpolate(*two, alpha), two[int(alpha)]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(bits(found[name]), bits(wanted[name])) for name in wanted)
    assert all(found[name].data_ptr() != wanted[name].data_ptr() for name in wanted)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.7])
def test_between_them_weights_and_statistics_are_mixed_and_counters_the_later(two, alpha):
    start, end = two
    found = interpolate(start, end, alpha)
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (1 - alpha) * start[name] + alpha * end[name])
        else:
            assert torch.equal(value, end[name])
    assert not torch.equal(found["bn1.running_mean"], end["bn1.running_mean"])


def test_complex_weights_are_mixed():
    between = interpolate({"w": torch.tensor([1 + 1j])}, {"w": torch.tensor([3 + 5j])}, 0.5)
    assert torch.equal(between["w"], torch.tensor([2 + 3j]))


def test_what_both_have_in_common_stays_bit_for_bit(two):
    start, end = two
    end["conv1.weight"] = start["conv1.weight"].clone()
    assert all(torch.equal(interpolate(start, end, a)["conv1.weight"], start["conv1.weight"]) for a in ALPHAS)


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.7])
def test_infinities_that_both_have_stay_such_as_those_of_a_mask(alpha):
    mask = torch.full((3, 3), float("-inf")).triu(1)
    assert torch.equal(interpolate({"mask": mask}, {"mask": mask.clone()}, alpha)["mask"], mask)


def test_networks_of_other_entries_are_refused(two):
    start, end = two
    del end["head.bias"]
    with pytest.raises(ClatError, match=r"'head\.bias'"):
        interpolate(start, end, 0.5)


@pytest.mark.parametrize(
    ("points", "margin", "alpha"),
    [
        # the cleanest of those that lose at most the margin
        ([(0, 0.80, 0.50), (0.5, 0.82, 0.499), (1, 0.85, 0.40)], 0.001, 0.5),
        ([(0, 0.80, 0.50), (0.5, 0.82, 0.499), (1, 0.85, 0.40)], 0.0, 0),
        ([(0, 0.80, 0.50), (0.5, 0.82, 0.499), (1, 0.85, 0.40)], 0.1, 1),
        # the margin is exact although the numbers are not
        ([(0, 0.80, 0.537), (0.5, 0.82, 0.536)], 0.001, 0.5),
        ([(0, 0.80, 0.537), (0.5, 0.82, 0.535)], 0.001, 0),
        # no gain: stay
        ([(0, 0.80, 0.50), (0.5, 0.79, 0.55)], 0.001, 0),
        # equals: the more robust, then the nearer
        ([(0, 0.80, 0.50), (0.3, 0.82, 0.50), (0.6, 0.82, 0.51)], 0.001, 0.6),
        ([(0, 0.80, 0.50), (0.6, 0.82, 0.50), (0.3, 0.82, 0.50)], 0.001, 0.3),
    ],
)
def test_the_choice(points, margin, alpha):
    assert choose_alpha([LinePoint(*point) for point in points], margin).alpha == alpha


def drifted(net, wander, epochs=3):
    for epoch in range(epochs):
        wander(net, epoch)


def test_the_stage_ends_at_the_chosen_point(net, around, wander, everything, same, monkeypatch):
    """Scripted accuracies: clean rises to 0.6 and falls, robust holds until 0.4."""
    here = around(net)
    start = everything(net)
    callback = Interpolation(end="last").on_stage_start(here)
    drifted(net, wander)
    end = everything(net)
    seen = []

    def script(model, engine, x, y, attack, *, batch_size, seed, micro_batch=None):
        seen.append((everything(model), len(x), attack, seed))
        alpha = ALPHAS[len(seen) - 1]
        return 0.8 + (alpha if alpha <= 0.6 else 0) / 10, 0.5 if alpha <= 0.4 else 0.4

    monkeypatch.setattr(module, "heldout_accuracies", script)
    facts = callback.on_stage_end()
    assert len(seen) == 11
    for alpha, (state, number, attack, seed) in zip(ALPHAS, seen, strict=True):
        assert same(state, interpolate(start, end, alpha))
        assert number == 20
        assert attack == Attack.parse(eps="0.05", steps=10)
        assert seed == seen[0][3]
    points = facts.pop("points")
    assert [point["alpha"] for point in points] == list(ALPHAS)
    assert facts == {
        "alpha": 0.4, "clean": pytest.approx(0.84), "robust": 0.5,
        "clean_start": 0.8, "robust_start": 0.5, "clean_end": 0.8, "robust_end": 0.4,
    }  # fmt: skip
    assert same(everything(net), interpolate(start, end, 0.4))


def test_accuracies_are_those_of_the_heldout_images(net, around, wander, build, everything):
    here = around(net)
    callback = Interpolation(alpha=0.25, end="last", steps=3).on_stage_start(here)
    drifted(net, wander)
    facts = callback.on_stage_end()
    assert [point["alpha"] for point in facts["points"]] == [0.0, 0.25, 1.0]
    assert facts["alpha"] == 0.25
    counts = heldout_correct(
        net, *here.heldout, Attack.parse(eps="0.05", steps=3), batch_size=4, seed=derive_seed(0, "interpolation")
    )
    assert [facts["clean"], facts["robust"]] == [count / 20 for count in counts.tolist()]


def test_the_end_is_the_epoch_with_the_best_clean_accuracy(net, around, wander, everything, same):
    callback = Interpolation(alpha=1.0).on_stage_start(around(net, epochs=4))
    states = []
    for epoch, clean in enumerate((0.3, 0.5, 0.4, 0.5)):
        wander(net, epoch)
        states.append(everything(net))
        callback.after_epoch({"heldout_clean": clean, "heldout_robust": 0.1, "heldout_n": 20})
    callback.on_stage_end()
    assert same(everything(net), states[1])


@pytest.mark.parametrize("check", [None, {"heldout_clean": 0.9, "heldout_robust": 0.1, "heldout_n": 5}])
def test_epochs_without_a_check_on_all_images_are_looked_at_as_well(net, around, wander, everything, check):
    """The clean accuracy is that of the check to the bit."""
    here = around(net, epochs=3)
    callback = Interpolation(alpha=1.0).on_stage_start(here)
    found = []
    for epoch in range(3):
        wander(net, epoch)
        callback.after_epoch(check)
        attack = Attack.parse(eps="0.05", steps=1)
        found.append(
            heldout_accuracies(net, here.engine, *here.heldout, attack, batch_size=here.batch_size, seed=0)[0]
        )
        assert callback.scalars["best_clean"] == max(found)


def test_goes_on_from_what_it_saved(build, around, wander, everything, same):
    net = build()
    callback = Interpolation(alpha=0.5).on_stage_start(around(net, epochs=2))
    wander(net, 1)
    callback.after_epoch({"heldout_clean": 0.5, "heldout_n": 20})
    wander(net, 2)
    other = build(seed=5)
    again = Interpolation(alpha=0.5).on_stage_start(around(other, epochs=2))
    other.load_state_dict(net.state_dict())
    again.scalars = dict(callback.scalars)
    again.restore({name: value.clone() for name, value in callback.tensors().items()})
    for one in (callback, again):
        one.after_epoch({"heldout_clean": 0.4, "heldout_n": 20})
        one.on_stage_end()
    assert same(everything(net), everything(other))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"alpha": 1.1}, "interpolation.alpha is 1.1"),
        ({"alpha": -0.1}, "interpolation.alpha"),
        ({"margin": -0.1}, "interpolation.margin"),
        ({"margin": 5}, "0.001 for 0.1 percentage points"),
        ({"steps": 0}, "interpolation.steps"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ClatError, match=says):
        Interpolation(**settings)

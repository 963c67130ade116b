"""Window averages against plain loops: SWAAT's, which replace the running network, and plain SWA's."""

from __future__ import annotations

import pytest
import torch

from clat.core.errors import ClatError
from clat.treatments import SWA
from clat.treatments.statistics import reestimate_batch_norm


def join(settings, context):
    callback = settings.on_stage_start(context)
    callback.choose_parameters(dict(context.model.named_parameters()))
    return callback


def parameters(net):
    return {name: p.detach().clone() for name, p in net.named_parameters()}


def mean(states):
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def close(one, other):
    return all(torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-6) for name in one)


@pytest.mark.parametrize("unit", ["epochs", "batches"])
def test_training_goes_on_from_the_average_of_each_window(build, around, wander, unit):
    """Six epochs of three steps; the states of the second half, two to a window."""
    net, twin = build(), build()
    length = 3 if unit == "epochs" else 1  # steps between two states
    units = 18 // length
    callback = join(SWA(window=2, unit=unit), around(net, epochs=6))
    states, replaced = [], 0
    for step in range(1, 19):
        wander(net, step)
        wander(twin, step)
        callback.after_step()
        if step % length == 0 and step // length > units // 2:
            states.append(parameters(twin))
        if len(states) == 2:
            with torch.no_grad():
                for name, value in mean(states).items():
                    twin.get_parameter(name).copy_(value)
            states, replaced = [], replaced + 1
        assert close(parameters(net), parameters(twin)), step
        assert callback.scalars["averaged"] == len(states)
    assert replaced == (1 if unit == "epochs" else 4)


def test_the_statistics_of_a_replaced_network_are_those_of_a_pass(build, around, wander):
    net, twin = build(), build()
    here = around(net)
    callback = join(SWA(start=0.0, window=1), here)
    for step in range(3):
        wander(net, step)
        callback.after_step()
    twin.load_state_dict(net.state_dict())
    reestimate_batch_norm(twin, [x for x, _ in here.loader.epoch(0)])
    assert all(torch.equal(*pair) for pair in zip(net.buffers(), twin.buffers(), strict=True))
    assert not torch.equal(net.bn1.running_mean, build().bn1.running_mean)


def test_plain_swa_leaves_the_running_network_alone(build, around, wander, everything, same):
    """Eight epochs, a state every other epoch from half on: after epochs 6 and 8."""
    net, twin = build(), build()
    here = around(net, epochs=8)
    callback = join(SWA(window=2, replace_running=False), here)
    states = []
    for step in range(1, 25):
        wander(net, step)
        wander(twin, step)
        callback.after_step()
        assert same(everything(net), everything(twin))
        if step in (18, 24):
            states.append(parameters(net))
    assert callback.scalars["averaged"] == 2
    before = everything(net)
    with callback.evaluation_weights():
        inside = everything(net)
    assert same(everything(net), before)
    assert close(mean(states), inside)
    twin.load_state_dict(inside)
    reestimate_batch_norm(twin, [x for x, _ in here.loader.epoch(0)])
    assert same(inside, everything(twin))
    net.eval()
    assert callback.on_stage_end() == {}
    assert same(everything(net), inside)


def test_before_the_first_window_the_network_is_evaluated_as_it_is(net, around, wander, everything, same):
    callback = join(SWA(window=1), around(net, epochs=4))
    for step in range(6):
        wander(net, step)
        callback.after_step()
    before = everything(net)
    with callback.evaluation_weights():
        assert same(everything(net), before)
    assert callback.on_stage_end() == {}
    assert same(everything(net), before)


def test_a_window_cut_short_by_the_end_counts_as_far_as_it_goes(net, around, wander):
    callback = join(SWA(start=0.0, window=2), around(net, epochs=3))
    states = []
    for step in range(1, 10):
        wander(net, step)
        callback.after_step()
    states.append(parameters(net))  # of the third epoch alone
    callback.on_stage_end()
    assert close(parameters(net), states[0])


def test_what_does_not_move_does_not_move_in_the_average(net, around, wander):
    net.conv1.requires_grad_(False)
    net.bn1.eval()
    kept = [value.clone() for value in (net.conv1.weight, *net.bn1.buffers())]
    callback = join(SWA(start=0.0, window=7, unit="batches"), around(net, epochs=7))
    for step in range(21):
        wander(net, step)
        callback.after_step()
    assert all(torch.equal(*pair) for pair in zip(kept, (net.conv1.weight, *net.bn1.buffers()), strict=True))


def test_statistics_from_some_batches(build, around, wander):
    net, twin = build(), build()
    here = around(net)
    callback = join(SWA(start=0.0, window=1, unit="batches", bn_batches=2), here)
    wander(net, 0)
    callback.after_step()
    twin.load_state_dict(net.state_dict())
    reestimate_batch_norm(twin, [x for x, _ in here.loader.epoch(0)][:2])
    assert torch.equal(net.bn2.running_var, twin.bn2.running_var)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"start": 1.0}, "swa.start is 1.0"),
        ({"start": -0.5}, "swa.start"),
        ({"window": 0}, "swa.window is 0"),
        ({"bn_batches": 0}, "swa.bn_batches is 0"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ClatError, match=says):
        SWA(**settings)


def test_a_window_that_does_not_fit_is_refused():
    SWA(start=0.5, window=4).check(8)
    with pytest.raises(ClatError, match="window is 4 epochs, but only 3 of the stage's 7 are averaged"):
        SWA(start=0.5, window=4).check(7)
    SWA(start=0.5, window=4, unit="batches").check(1)  # not known before the data are
    SWA(start=0.5, window=4, unit="batches").check_steps(8)
    with pytest.raises(ClatError, match="window is 4 batches"):
        SWA(start=0.5, window=4, unit="batches").check_steps(7)


def test_a_start_that_is_no_whole_number_of_units_is_rounded_up():
    assert [SWA(start=start).first(30) for start in (0.0, 0.1, 0.5, 0.51)] == [0, 3, 15, 16]

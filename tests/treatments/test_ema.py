"""TrainableSet averages against a plain loop, their BatchNorm, and the swap."""

from __future__ import annotations

import pytest
import torch

from clat.core.errors import ClatError
from clat.network import modes
from clat.treatments import EMA
from clat.treatments.statistics import reestimate_batch_norm


def join(settings, context):
    callback = settings.on_stage_start(context)
    callback.choose_parameters(dict(context.model.named_parameters()))
    return callback


@pytest.mark.parametrize(
    ("settings", "steps", "of", "decay"),
    [
        ({}, 24, 1000, 0.0),  # before 2.5 % of the stage: a copy
        ({}, 25, 1000, 1 / 10),
        ({}, 26, 1000, 2 / 11),
        ({}, 125, 1000, 101 / 110),
        ({}, 1999, 1999, 0.995),  # (1 + t) / (10 + t) exceeds 0.995 from t = 1790 on
        ({"start": 0.0}, 1, 1000, 2 / 11),
        ({"start": 0.0, "ramp": False, "decay": 0.999}, 1, 1000, 0.999),
        ({"start": 0.5, "ramp": False, "decay": 0.9}, 499, 1000, 0.0),
        ({"start": 0.5, "ramp": False, "decay": 0.9}, 500, 1000, 0.9),
        ({"start": 0.07}, 6, 100, 0.0),
        ({"start": 0.07}, 7, 100, 1 / 10),  # 0.07 * 100 is 7.000000000000001
    ],
)
def test_the_decay(settings, steps, of, decay):
    assert EMA(**settings).decay_after(steps, of) == pytest.approx(decay)


def test_as_a_plain_loop(net, around, wander):
    """Three epochs of three steps; the average is a copy for the first three."""
    callback = join(EMA(start=1 / 3, decay=0.3), around(net, epochs=3))
    expected = {name: p.detach().double() for name, p in net.named_parameters()}
    for step in range(1, 10):
        wander(net, step)
        callback.after_step()
        t = step - 3
        decay = 0 if t < 0 else min(0.3, (1 + t) / (10 + t))
        for name, parameter in net.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach().double()
        if step < 3:
            assert all(torch.equal(callback.average[name], p) for name, p in net.named_parameters())
    for name, value in callback.average.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_every_replay_of_a_batch_is_a_step(net, around, wander):
    """Two replays of three batches: a third of the stage is two steps."""
    callback = join(EMA(start=1 / 3, ramp=False, decay=0.5), around(net, replays=2))
    for step in range(1, 3):
        before = callback.average["head.bias"].clone()
        wander(net, step)
        callback.after_step()
    torch.testing.assert_close(callback.average["head.bias"], (before + net.head.bias.detach()) / 2)


def test_what_does_not_move_does_not_move_in_the_average(net, around, wander):
    net.conv1.requires_grad_(False)
    frozen = net.conv1.weight.clone()
    callback = join(EMA(start=0.0), around(net, epochs=9))
    for step in range(20):
        wander(net, step)
        callback.after_step()
    assert torch.equal(callback.average["conv1.weight"], frozen)


@pytest.mark.parametrize("batch_norm", ["copied", "reestimated"])
def test_evaluated_as_the_average_and_back_bit_for_bit(build, around, wander, everything, same, batch_norm):
    net, here = build(), around(build())
    here = around(net)
    callback = join(EMA(start=0.0, batch_norm=batch_norm), here)
    for step in range(3):
        wander(net, step)
        callback.after_step()
    before = everything(net)
    with callback.evaluation_weights():
        inside = everything(net)
    assert same(everything(net), before)
    assert all(torch.equal(inside[name], value) for name, value in callback.average.items())
    twin = build()
    twin.load_state_dict(before | callback.average)
    if batch_norm == "reestimated":
        reestimate_batch_norm(twin, [x for x, _ in here.loader.epoch(0)])
        assert not torch.equal(inside["bn1.running_mean"], before["bn1.running_mean"])
    assert same(inside, twin.state_dict())
    with callback.evaluation_weights():
        assert same(everything(net), inside), "the same network each time it is asked for"
    net.eval()  # at the end of a stage the modes are those before it
    assert callback.on_stage_end() == {}
    assert same(everything(net), inside)


def test_frozen_statistics_are_not_reestimated(net, around, wander, everything):
    net.bn1.eval()
    callback = join(EMA(start=0.0, batch_norm="reestimated"), around(net))
    wander(net, 0)
    callback.after_step()
    before = everything(net)
    with callback.evaluation_weights():
        inside = everything(net)
    assert torch.equal(inside["bn1.running_mean"], before["bn1.running_mean"])
    assert not torch.equal(inside["bn2.running_mean"], before["bn2.running_mean"])
    assert modes.batch_norms(net)[0].training is False


def test_goes_on_from_what_it_saved(build, around, wander, same):
    one, other = build(), build()
    first, second = (join(EMA(start=0.0), around(net, epochs=4)) for net in (one, other))
    for step in range(6):
        wander(one, step)
        first.after_step()
        if step == 2:
            other.load_state_dict(one.state_dict())
            second.scalars = dict(first.scalars)
            second.restore({name: value.clone() for name, value in first.tensors().items()})
        if step > 2:
            wander(other, step)
            second.after_step()
    assert same(first.average, second.average)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"decay": 1.0}, "ema.decay is 1.0"),
        ({"decay": -0.1}, "ema.decay"),
        ({"start": 1.0}, "ema.start is 1.0"),
        ({"start": -0.1}, "ema.start"),
    ],
)
def test_bad_settings_are_refused(settings, says):
    with pytest.raises(ClatError, match=says):
        EMA(**settings)

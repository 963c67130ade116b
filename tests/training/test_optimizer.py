"""SGD against its formula, and momentum across a change of what moves."""

from __future__ import annotations

import torch
from torch import nn

from clat.recipe.schema import OptimizerConfig
from clat.training.optimizer import build_optimizer, state_of


def parameters(*names):
    return {name: nn.Parameter(torch.full((2,), 1.0)) for name in names}


def step(optimizer, trainable, gradient):
    for parameter in trainable.values():
        parameter.grad = torch.full((2,), gradient)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()


def test_two_steps_by_hand():
    trainable = parameters("w")
    optimizer = build_optimizer(trainable, OptimizerConfig(momentum=0.5, weight_decay=0.1), {})
    step(optimizer, trainable, 2.0)
    velocity = 2.0 + 0.1 * 1.0
    value = 1.0 - 0.1 * velocity
    torch.testing.assert_close(trainable["w"].data, torch.full((2,), value))
    step(optimizer, trainable, 2.0)
    velocity = 0.5 * velocity + 2.0 + 0.1 * value
    torch.testing.assert_close(trainable["w"].data, torch.full((2,), value - 0.1 * velocity))
    torch.testing.assert_close(state_of(optimizer, trainable)["w"]["momentum_buffer"], torch.full((2,), velocity))


def test_what_stays_selected_keeps_its_momentum_and_what_is_new_starts_at_zero():
    everything = parameters("kept", "left", "new")
    config = OptimizerConfig(momentum=0.5, weight_decay=0.0)
    before = {name: everything[name] for name in ("kept", "left")}
    first = build_optimizer(before, config, {})
    step(first, before, 1.0)
    momentum = state_of(first, before)
    assert set(momentum) == {"kept", "left"}

    after = {name: everything[name] for name in ("kept", "new")}
    second = build_optimizer(after, config, momentum)
    start = {name: parameter.detach().clone() for name, parameter in after.items()}
    step(second, after, 1.0)
    moved = {name: (start[name] - after[name].detach())[0].item() for name in after}
    assert abs(moved["new"] - 0.1 * (0 + 1)) < 1e-6
    assert abs(moved["kept"] - 0.1 * (0.5 * 1.0 + 1.0)) < 1e-6
    assert set(state_of(second, after)) == {"kept", "new"}
    kept = momentum["kept"]["momentum_buffer"]
    assert kept.tolist() == [1.0, 1.0], "the handed-over buffer is a copy's source, not shared"


def test_nesterov_and_no_momentum():
    trainable = parameters("w")
    optimizer = build_optimizer(trainable, OptimizerConfig(momentum=0.5, weight_decay=0.0, nesterov=True), {})
    step(optimizer, trainable, 1.0)
    torch.testing.assert_close(trainable["w"].data, torch.full((2,), 1.0 - 0.1 * (1 + 0.5)))
    plain = parameters("w")
    optimizer = build_optimizer(plain, OptimizerConfig(momentum=0.0, weight_decay=0.0), {})
    step(optimizer, plain, 1.0)
    assert state_of(optimizer, plain) == {}

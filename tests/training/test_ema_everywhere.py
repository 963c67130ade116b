"""The moving average of the weights under every objective: it follows each step, and is the network that is
left."""

from __future__ import annotations

import typing

import pytest
import torch

from clat.data import Loader
from clat.models.mixture import Mixture
from clat.models.settings import GateConfig
from clat.network import modes
from clat.objectives import AnyObjective
from clat.runtime.engine import Engine
from clat.training.stage import StageRunner
from clat.treatments import EMA
from helpers import runs as kit

KINDS = typing.get_args(typing.get_args(AnyObjective)[0])


def network(kind):
    if kind.name != "mixing":
        return kit.tiny(dropout=0.0)
    gate = GateConfig(standard=("conv1",), robust=("conv1",), hidden=(4,))
    return Mixture(kit.tiny(dropout=0.0), kit.tiny(seed=1, dropout=0.0), gate=gate)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_average_of_the_steps_is_what_the_stage_leaves(kind):
    """a <- (a + w) / 2 after each of three steps, in evaluation and at the end, parameter by parameter."""
    set_to = {"steps": 1, "replays": 1, "automatic_rate": False}  # by which AutoLoRa would go back to weights
    settings = {name: value for name, value in set_to.items() if name in kind.__dataclass_fields__}
    make = kit.clat if kind.needs_selection else kit.pgd_at
    ema = EMA(decay=0.5, start=0.0, ramp=False)
    recipe = kit.recipe(stages=(make(1, objective=kind(**settings), treatments=(ema,)),))
    model = network(kind)
    names = set(model.state_dict())
    loader = Loader(kit.data()[0], 16, shuffle=True, drop_last=True)
    x, y = next(iter(loader.epoch()))
    with modes.restore_flags(model):
        runner = StageRunner(recipe, 0, model, Engine(recipe.engine), loader, (x, y))
        runner.make_trainable(["conv2"] if kind.needs_selection else None, {})
        runner.after_selection(0, first=True)
        average = {parameter: parameter.detach().clone() for parameter in model.parameters()}
        for number in range(3):
            runner.train_step(x, y, epoch=0, number=number, rate=0.1)
            for parameter in model.parameters():
                average[parameter].lerp_(parameter.detach(), 0.5)
        last = {parameter: parameter.detach().clone() for parameter in model.parameters()}
        assert any(not torch.equal(value, average[parameter]) for parameter, value in last.items())
        with runner.callbacks.evaluation_weights():
            assert all(torch.equal(parameter, average[parameter]) for parameter in model.parameters())
        assert all(torch.equal(parameter, value) for parameter, value in last.items())
        runner.finish()
    assert set(model.state_dict()) == names, "the network is plain again"
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), average[parameter], msg=name)

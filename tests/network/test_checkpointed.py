"""Activation checkpointing by block: the same steps as without, in less memory, under every objective that may."""

from __future__ import annotations

import random
import typing

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import clat
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.bench.memory import peak_memory
from clat.core.errors import ClatError
from clat.data import Loader
from clat.models import load_model
from clat.network import modes
from clat.network.checkpointed import blocks_checkpointed
from clat.network.folding import unfolded
from clat.network.frozen_norm import frozen_norms_lean
from clat.network.random_states import preserve_random_states
from clat.objectives import AnyObjective, Mixing
from clat.runtime.blocks import blocks_as
from clat.runtime.engine import Engine, EngineConfig
from clat.training.stage import StageRunner
from clat.treatments import AWP, EMA, LoRA
from helpers import runs

KINDS = [
    kind
    for kind in typing.get_args(typing.get_args(AnyObjective)[0])
    if not kind.reparametrises and kind is not Mixing
]


def net(width=4, dropout=0.0):
    """A ResNet-18 with dropout in a block, so that the second run must draw what the first did."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_model("resnet18", num_classes=4, width=width)
    if dropout:
        model.layer2[0].conv2 = nn.Sequential(model.layer2[0].conv2, nn.Dropout(dropout))
    return model


class DrawsInPython(nn.Module):
    """A scale from `random` and one from NumPy, as older stochastic depth draws."""

    def forward(self, x):
        return x * (0.5 + random.random()) * (0.5 + np.random.rand()) if self.training else x  # noqa: NPY002


def batch(n=8, size=16):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 3, size, size, generator=generator), torch.arange(n) % 4


def step_of(stage, checkpoint, model=None):
    """Two training steps of a stage on a ResNet-18: (loss, state)."""
    config = EngineConfig(device="cpu", precision="32", checkpoint_blocks=checkpoint)
    recipe = runs.recipe(stages=(stage,), engine=config)
    train, _ = runs.data()
    loader = Loader(train, 16, shuffle=True, drop_last=True)
    x, y = next(iter(loader.epoch()))
    model = net() if model is None else model
    with blocks_as(config, model, 16), modes.restore_flags(model), torch.random.fork_rng(devices=[]):
        runner = StageRunner(recipe, 0, model, Engine(config), loader, (x, y))
        runner.make_trainable(["layer3.0.conv1"] if stage.selection else None, {})
        runner.after_selection(0, first=True)
        for number in (0, 1):
            torch.manual_seed(7)
            loss = runner.train_step(x, y, epoch=0, number=number, rate=0.05)
        runner.finish()
    return loss.total, model.state_dict()


def stage_of(kind, **changes):
    steps = {"steps": 1} if "steps" in kind.__dataclass_fields__ and kind().steps > 1 else {}
    return (runs.clat if kind.needs_selection else runs.pgd_at)(1, objective=kind(**steps), **changes)


def assert_same(one, other):
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_step_is_the_step_without(kind):
    with unfolded():  # which rounds otherwise, and signs of small gradients follow the rounding
        assert_same(step_of(stage_of(kind), False), step_of(stage_of(kind), True))


@pytest.mark.parametrize(
    "changes",
    [
        {"treatments": (AWP(gamma=0.01), EMA(start=0.0))},
        {"treatments": (LoRA(rank=1),), "batch_norm": "frozen"},
        {"batch_norm": "frozen"},
    ],
    ids=["awp and ema", "lora", "frozen"],
)
def test_under_treatments_and_frozen_statistics_too(changes):
    with unfolded():
        assert_same(step_of(runs.pgd_at(1, **changes), False), step_of(runs.pgd_at(1, **changes), True))


def test_dropout_and_bfloat16_are_the_same_in_the_second_run():
    x, y = batch()
    found = []
    for checkpoint in (False, True):
        model = net(dropout=0.5).train()
        with blocks_as(EngineConfig(checkpoint_blocks=checkpoint), model, 8), torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x).float(), y)
            loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_an_attack_is_the_same_and_leaves_no_trace():
    x, y = batch()
    model, attack = net().eval(), Attack.parse(eps="8/255", steps=3)
    with unfolded(), modes.attack_mode(model):
        expected = run_pgd(model, x, y, attack, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with blocks_checkpointed(model) as count, unfolded(), modes.attack_mode(model):
        assert torch.equal(run_pgd(model, x, y, attack, seed=0), expected)
    assert count == 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.layer1[0]).forward is type(net().layer1[0]).forward
    assert all(parameter.grad is None for parameter in model.parameters())


def saved_bytes(model, x, y):
    """What a training pass keeps between forward and backward, weights aside: every tensor's memory once."""
    own, kept = {id(p.untyped_storage()._cdata) for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if id(storage._cdata) not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), frozen_norms_lean(model):
        loss = F.cross_entropy(model(x), y)
    total = sum(kept.values())
    loss.backward()
    return total


def test_what_is_kept_between_the_passes_shrinks_to_the_inputs_of_the_blocks():
    x, y = batch()
    model = net(width=8).train()
    plain = saved_bytes(model, x, y)
    with blocks_checkpointed(model):
        kept = saved_bytes(model, x, y)
    assert kept < 0.4 * plain


def test_the_peak_of_a_step_falls():
    x, y = batch(size=32)
    model = net(width=8).train()

    def step():
        model.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()

    tensors = [x, y, *model.parameters(), *model.buffers()]
    plain = peak_memory(step, tensors, torch.device("cpu"))
    with blocks_checkpointed(model):
        assert peak_memory(step, tensors, torch.device("cpu")) < 0.7 * plain


def test_a_run_with_checkpointed_blocks_and_its_resumption(tmp_path, monkeypatch):
    engine = EngineConfig(device="cpu", precision="32", checkpoint_blocks=True)
    model = {"name": "resnet18", "width": 2}
    recipe = runs.recipe(
        stages=(runs.pgd_at(1), runs.clat(1)), engine=engine, model=clat.recipe.schema.ModelConfig(**model)
    )
    clat.train(recipe, tmp_path / "whole", data=runs.data(), quiet=True)
    runs.train_and_stop(monkeypatch, recipe, tmp_path / "stopped", after_steps=5, own_model=True)
    clat.resume(tmp_path / "stopped", data=runs.data(), quiet=True)
    runs.assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ClatError, match="take one of them"):
        EngineConfig(compile=True, checkpoint_blocks=True)
    for name in ("twins", "autolora"):
        stage = {"name": "a", "epochs": 1, "objective": {"name": name}}
        with pytest.raises(ClatError, match=f"a block of '{name}' computes otherwise"):
            clat.recipe.build_recipe({"engine": {"checkpoint_blocks": True}, "stages": [stage]})
    recipe = runs.recipe(engine=EngineConfig(device="cpu", checkpoint_blocks=True))
    with pytest.raises(ClatError, match="the network has no blocks"):
        clat.train(recipe, tmp_path / "run", model=runs.tiny(), data=runs.data(), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_block_that_draws_from_python_or_numpy_draws_the_same_in_its_second_run():
    """And leaves the streams where a single run would."""
    x, y = batch()
    found = []
    for checkpoint in (False, True):
        model = net().train()
        model.layer2[0].conv2 = nn.Sequential(model.layer2[0].conv2, DrawsInPython())
        model.layer4[1].conv2 = nn.Sequential(model.layer4[1].conv2, DrawsInPython())
        with preserve_random_states(model), unfolded() if not checkpoint else blocks_checkpointed(model):
            random.seed(1)
            np.random.seed(2)  # noqa: NPY002
            F.cross_entropy(model(x), y).backward()
            after = random.random(), np.random.rand()  # noqa: NPY002
        found.append(({name: p.grad for name, p in model.named_parameters()}, after))
    (plain, streams), (again, other) = found
    assert streams == other
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())

"""Gradient accumulation: what a micro-batch computes is what the whole batch does, in less memory."""

from __future__ import annotations

import typing

import pytest
import torch
from torch import nn

import clat
from clat.attacks.draws import batch_parts, normal_like, part_of_batch, uniform_like
from clat.attacks.settings import Attack
from clat.bench.memory import peak_memory
from clat.core.errors import ClatError
from clat.data import Loader
from clat.evaluation.heldout import heldout_correct
from clat.objectives import AnyObjective, Standard, Trades
from clat.recipe.schema import DataConfig
from clat.runtime.engine import Engine
from clat.training.stage import StageRunner
from clat.treatments import AWP, EMA
from helpers import runs as kit

KINDS = [kind for kind in typing.get_args(typing.get_args(AnyObjective)[0]) if kind.splits]


class Plain(nn.Module):
    """Two convolutions, a smooth nonlinearity, no BatchNorm and no dropout."""

    def __init__(self, width=4):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = torch.tanh(self.conv2(torch.tanh(self.conv1(x))))
        return self.head(x.mean((2, 3)))


def plain(width=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Plain(width)


def runner(recipe, net):
    train, _ = kit.data()
    loader = Loader(train, 16, shuffle=True, drop_last=True)
    heldout = next(iter(Loader(train, 16).epoch()))
    made = StageRunner(recipe, 0, net, Engine(recipe.engine), loader, heldout)
    made.make_trainable(["conv2"] if recipe.stages[0].selection else None, {})
    made.after_selection(0, first=True)
    return made, next(iter(loader.epoch()))


def stage_of(kind, **changes):
    steps = {"steps": 2} if "steps" in kind.__dataclass_fields__ and kind().steps > 1 else {}
    make = kit.clat if kind.needs_selection else kit.pgd_at
    return make(1, objective=kind(**steps), **changes)


def stepped(stage, micro_batch, net=None):
    """(loss, parts, weights after two steps)."""
    recipe = kit.recipe(stages=(stage,), micro_batch=micro_batch)
    made, (x, y) = runner(recipe, plain() if net is None else net)
    for number in (0, 1):
        loss = made.train_step(x, y, epoch=0, number=number, rate=0.1)
    return loss, {name: value.clone() for name, value in made.model.state_dict().items()}


def assert_same(one, other):
    torch.testing.assert_close(one[0].total, other[0].total, rtol=1e-5, atol=1e-6)
    assert one[0].parts.keys() == other[0].parts.keys()
    for name, value in one[0].parts.items():
        torch.testing.assert_close(value, other[0].parts[name], rtol=1e-4, atol=1e-6)
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_without_batch_norm_a_step_in_parts_is_the_step_on_the_whole(kind):
    """Parts of 5, 5 and 6 images; random starts and CLAT's lambda among what is the same."""
    whole, parts = (stepped(stage_of(kind), micro) for micro in (None, 6))
    assert_same(whole, parts)
    before = plain().state_dict()
    assert any(not torch.equal(value, before.get(name, value)) for name, value in whole[1].items())


def test_nor_does_a_frozen_batch_norm_matter():
    stage = stage_of(Trades, batch_norm="frozen")
    nets = [kit.tiny(dropout=0.0) for _ in range(2)]
    assert_same(stepped(stage, None, nets[0]), stepped(stage, 4, nets[1]))


def test_a_batch_norm_that_normalises_by_the_batch_sees_the_parts():
    whole, parts = (stepped(kit.pgd_at(1), micro, kit.tiny(dropout=0.0)) for micro in (None, 8))
    assert not torch.allclose(whole[1]["bn1.running_mean"], parts[1]["bn1.running_mean"], rtol=1e-4)
    assert (int(whole[1]["bn1.num_batches_tracked"]), int(parts[1]["bn1.num_batches_tracked"])) == (2, 4)


def test_a_micro_batch_as_large_as_the_batch_changes_no_bit():
    whole, same = (stepped(kit.pgd_at(1), micro, kit.tiny(dropout=0.0)) for micro in (None, 16))
    assert all(torch.equal(value, same[1][name]) for name, value in whole[1].items())


def test_treatments_see_the_whole_gradient():
    stage = stage_of(Trades, treatments=(AWP(gamma=0.05), EMA(start=0.0)))
    assert_same(stepped(stage, None), stepped(stage, 5))


def test_a_run_in_parts_and_its_resumption(tmp_path, monkeypatch):
    recipe = kit.recipe(stages=(kit.pgd_at(1, batch_norm="frozen"), kit.clat(2)), micro_batch=6)
    clat.train(recipe, tmp_path / "whole", model=kit.tiny(), data=kit.data(), quiet=True)
    kit.train_and_stop(monkeypatch, recipe, tmp_path / "stopped", after_steps=6)
    clat.resume(tmp_path / "stopped", model=kit.tiny(seed=5), data=kit.data(), quiet=True)
    kit.assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_the_check_on_held_out_images_starts_its_attack_at_the_same_points():
    (x, y), net = next(iter(Loader(kit.data()[0], 80).epoch())), plain()
    attack = Attack.parse(eps="0.1", steps=2)
    counts = [
        heldout_correct(net, x, y, attack, batch_size=40, seed=1, micro_batch=micro).tolist() for micro in (None, 7)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("kind", [Standard, Trades], ids=lambda kind: kind.name)
def test_memory_follows_the_parts(kind):
    """What a step holds beside the network, on a network whose activations are most of it."""

    def peak(micro):
        recipe = kit.recipe(stages=(stage_of(kind),), micro_batch=micro)
        made, (x, y) = runner(recipe, plain(width=16))
        step = lambda: made.train_step(x, y, epoch=0, number=0, rate=0.0)  # noqa: E731
        step()
        return peak_memory(step, [x, y, *made.model.parameters()], torch.device("cpu"))

    assert peak(4) < 0.4 * peak(None)


# Parts and what is drawn for them


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(16, None, [16]), (16, 16, [16]), (16, 6, [5, 5, 6]), (16, 1, [1] * 16), (3, 2, [1, 2]), (0, 4, [0])],
)
def test_parts_are_even_and_cover_the_batch(count, most, sizes):
    parts = batch_parts(count, most)
    assert [rows.stop - rows.start for rows in parts] == sizes
    assert torch.cat([torch.arange(count)[rows] for rows in parts]).tolist() == list(range(count))


@pytest.mark.parametrize("draw", [uniform_like, normal_like])
def test_an_image_is_given_the_same_numbers_in_a_part_as_in_the_batch(draw):
    def generator():
        return torch.Generator().manual_seed(3)

    x = torch.zeros(10, 3, 4, 4)
    whole = draw(x, generator())
    with part_of_batch(4, 10):
        assert torch.equal(draw(x[4:7], generator()), whole[4:7])
    assert torch.equal(draw(x, generator()), whole)


# Refusals


@pytest.mark.parametrize("name", ["free-at", "cure", "twins", "mixing"])
def test_an_objective_that_takes_the_batch_as_a_whole_is_refused(name):
    data = {"micro_batch": 4, "stages": [{"name": "a", "epochs": 1, "objective": {"name": name}}]}
    with pytest.raises(ClatError, match=f"stage 'a': '{name}' takes a batch as a whole: leave micro_batch out"):
        clat.recipe.build_recipe(data)


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ClatError, match="micro_batch is 0"):
        kit.recipe(micro_batch=0)
    recipe = kit.recipe(stages=(kit.pgd_at(1),), micro_batch=1, data=DataConfig(heldout=16, pad=1))

    class Small(nn.Module):
        """BatchNorm on one pixel: it cannot normalise a single image by itself."""

        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.head = nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(self.bn(self.conv(x)).flatten(1))

    with pytest.raises(ClatError):
        clat.train(recipe, tmp_path / "run", model=Small(), data=kit.data(), quiet=True)
    assert not (tmp_path / "run").exists()

"""CURE in whole runs: what each step conserves, and its study of blocks as the built-in recipe has it."""

from __future__ import annotations

import pytest
import torch

import clat
from clat.objectives import Cure
from clat.recipe.schema import OptimizerConfig
from clat.recipe.toml import read_recipe
from clat.runtime.engine import EngineConfig
from clat.training import stage
from clat.treatments import AWP
from helpers import runs as kit


@pytest.mark.parametrize("channels_last", [False, True])
def test_in_a_run_every_step_conserves_its_share(tmp_path, monkeypatch, channels_last):
    original, kept = stage.StageRunner.train_step, []

    def step(self, *args, **place):
        before = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        loss = original(self, *args, **place)
        kept.append({n: int((p == before[n]).sum()) for n, p in self.model.named_parameters() if p.dim() == 4})
        return loss

    monkeypatch.setattr(stage.StageRunner, "train_step", step)
    recipe = kit.recipe(
        stages=(kit.pgd_at(2, objective=Cure(steps=1, percent=25, rate=1.0)),),
        optimizer=OptimizerConfig(momentum=0.9, weight_decay=0.1),
        engine=EngineConfig(device="cpu", channels_last=channels_last),
    )
    clat.train(recipe, tmp_path / "run", model=kit.tiny(dropout=0.0), data=kit.data(), quiet=True)
    assert kept == [{"conv1.weight": 27, "conv2.weight": 36, "conv3.weight": 36}] * 8
    assert kit.records(tmp_path / "run", "epoch")[-1]["companions"] == {"objective": {"steps": 8, "revisions": 8}}


def test_looking_ahead_costs_no_prominence(tmp_path):
    """Of a step with one of attack: 1 pass back of the batch, 2 of the look ahead, 2 of the prominence, 2 of the
    loss."""
    stage = kit.pgd_at(1, objective=Cure(steps=1), treatments=(AWP(gamma=0.01),))
    result = clat.train(
        kit.recipe(stages=(stage,)), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True
    )
    monitor = 16
    assert result.summary["stages"][0]["backwards"] == 64 * (1 + 2 + 2 + 2) + monitor


SMALL = """--model.width=4 --batch_size=16 --data.heldout=16 --data.pad=1 --optimizer.weight_decay=0.1
--monitor.num_samples=8 --monitor.steps=1 --evaluation.protocol=fgsm --evaluation.num_samples=8
--engine.device=cpu"""


def small(name, *overrides):
    return read_recipe(name, [*SMALL.split(), *overrides])


def test_the_study_of_blocks_moves_blocks_2_and_3_and_nothing_else(tmp_path):
    recipe = small(
        "cure-blocks", "--stages.natural.epochs=1", "--stages.blocks-2-3.epochs=1", "--stages.1.objective.steps=1"
    )
    clat.train(recipe, tmp_path / "run", data=kit.data(), quiet=True)
    before, after = kit.weights(tmp_path / "run", "stage-1"), kit.weights(tmp_path / "run", "last")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.startswith(("layer2.", "layer3."))}
    assert {"layer2.0.bn1.weight", "layer2.0.shortcut.0.weight", "layer3.1.bn2.running_var"} <= moved
    drawn_anew = torch.corrcoef(torch.stack([v["layer3.1.conv1.weight"].flatten() for v in (before, after)]))[0, 1]
    assert abs(drawn_anew) < 0.3
    (record,) = kit.records(tmp_path / "run", "selection")
    assert record["layers"] == ["layer2", "layer3"]


@pytest.mark.parametrize("name", ["cure-eff", "cure-clat"])
def test_the_built_in_stages_follow_one_another(tmp_path, name):
    stages = [stage.name for stage in read_recipe(name).stages]
    shorter = [f"--stages.{stage}.epochs=1" for stage in stages]
    recipe = small(name, *shorter, "--stages.cure.objective.steps=1")
    result = clat.train(recipe, tmp_path / "run", data=kit.data(), quiet=True)
    assert [stage["name"] for stage in result.summary["stages"]] == stages
    first, last = kit.weights(tmp_path / "run", "stage-1"), kit.weights(tmp_path / "run", "last")
    assert first.keys() == last.keys(), "a plain network, without the revision copy"
    n, batches = 16, 4  # a step: clean logits and one step of the attack, the pair, and the pair again
    cost = result.summary["stages"][1]
    assert cost["backwards"] >= batches * n * (1 + 4)

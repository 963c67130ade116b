"""Whoever uses the package is checked by mypy as strictly as can be: a file with every public name passes."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import clat

CONSUMER = '''
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import clat


def everything(model: nn.Module, x: Tensor, y: Tensor, out: Path) -> None:
    """Use each public name as its documentation says."""
    version: str = clat.__version__
    layers: list[clat.Layer] = clat.enumerate_layers(model, x)
    features = clat.read_features(model, x, layers)
    report: clat.CriticalityReport = clat.measure_criticality(model, x, y, eps="8/255")
    state = model.state_dict()
    others: list[clat.RankingReport] = [
        clat.measure_robust_criticality(model, x, y, eps="8/255"),
        clat.measure_activation_ranking(model, x, y, eps="8/255"),
        clat.measure_rewinding_criticality(model, state, x, y),
        clat.measure_rewinding_drop(model, state, x, y),
    ]
    comparison: clat.RankingComparison = clat.compare_rankings([report, *others])
    rule = clat.Selection(rule="critical", k=1)
    names: list[str] = clat.select(rule, layers, report, 0)
    names = clat.select_layers(model, x, y, eps="8/255", k=2, exclude=["head"])
    with clat.Clat(model, names, (x, y), eps="8/255", ratio=0.1) as tuning:
        optimizer = torch.optim.SGD(tuning.parameters(), lr=0.1)
        loss: Tensor = tuning.loss(x, y)
        loss.backward()  # type: ignore[no-untyped-call]
        tuning.average_gradients()
        optimizer.step()
    x_adv: Tensor = clat.attacks.pgd(model, x, y, eps="8/255", seed=0)
    x_adv = clat.attacks.fgsm(lambda z: z.flatten(1), x, y, eps=0.1)
    objective: clat.objectives.Objective = clat.objectives.Trades(beta=6.0)
    step = clat.objectives.Step(layers=tuple(layers))
    examples = objective.examples(model, x_adv, y, step)
    total: Tensor = objective.cost(model, x, y, examples, step).total

    images: clat.ImageSet = clat.load_split("digits", "train")
    images = clat.as_image_set((x, y), "train")
    network: nn.Module = clat.Normalized(clat.load_model("resnet18", width=4), 0.5, 0.25)
    clat.save_weights(network, out / "net.safetensors")
    metadata: dict[str, str] = clat.load_weights(network, out / "net.safetensors")

    evaluation: clat.Evaluation = clat.evaluate(model, x, y, protocol="pgd-20", eps="8/255")
    accuracy: clat.Accuracy = evaluation.robust_accuracy
    record: clat.EvaluationRecord = clat.EvaluationRecord.from_dict(evaluation.to_dict())
    paired = clat.compare(evaluation, evaluation)
    seeds = clat.compare_seeds([evaluation])
    signs: clat.CheckReport = clat.check(model, x, y, eps="8/255")
    matrix = clat.transfer({"one": model, "two": network}, x, y, eps="8/255", protocol="pgd-10")
    curve = clat.eps_curve(model, x, y, eps=["0", "8/255"])

    recipe: clat.Recipe = clat.read_recipe("demo", ["--seed", "1"])
    result: clat.Result = clat.train(recipe, out / "run", quiet=True)
    result = clat.resume(out / "run")
    hardened: nn.Module = clat.harden(model, images, images, out / "hard", budget="30m").model

    folder: Path = clat.save_pretrained(hardened, out / "folder", network="resnet18", num_classes=10)
    again: nn.Module = clat.from_pretrained(folder)
    address: str = clat.push(folder, "owner/name", card="keep")
    moved: dict[str, Tensor] = clat.save_delta(model, again, out / "delta.safetensors")
    moved = clat.apply_delta(model, out / "delta.safetensors")
    difference: float = clat.export_network(model, out / "net.onnx", x).difference
    entry = clat.robustbench_entry(record, name="A", authors="B", architecture="C")
    try:
        clat.load_split("absent")
    except clat.ClatError as error:
        print(error, version, features, comparison, total, metadata, accuracy, paired, seeds, signs, matrix, curve)
    print(result, address, moved, difference, entry)
'''

pytest.importorskip("mypy")


def test_the_consumer_uses_every_public_name() -> None:
    used = {
        node.attr
        for node in ast.walk(ast.parse(CONSUMER))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "clat"
    }
    assert set(clat.__all__) - used == set()


@pytest.mark.slow
def test_a_consumer_passes_the_strict_check(tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    source = Path(clat.__file__).parents[1]
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path),
            "consumer.py",
        ],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(source)}, timeout=900,
    )  # fmt: skip
    assert done.stdout.startswith("Success"), done.stdout + done.stderr

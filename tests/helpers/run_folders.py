"""Run folders as training would write them, with numbers from a formula: the same bytes each time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

LAYERS_18 = ["conv1"] + [f"layer{s}.{b}.conv{c}" for s in range(1, 5) for b in range(2) for c in (1, 2)] + ["fc"]
EPOCHS, FIRST_CLAT, SELECTIONS = 30, 16, (16, 21, 26)


def layer_names(count: int) -> list[str]:
    if count == 18:
        return LAYERS_18
    return ["features.conv0"] + [
        f"features.denseblock{i // 30 + 1}.denselayer{i % 30 + 1}.conv{i % 2 + 1}" for i in range(1, count)
    ]


def accuracy(value: float, n: int = 1000) -> dict[str, Any]:
    half = 1.96 * math.sqrt(value * (1 - value) / n)
    bounds = {"low": value - half, "high": value + half}
    return {"value": value, "n": n, **bounds, "confidence": 0.95, "method": "wilson"}


def evaluation(label: str, clean: float, robust: float, n: int = 1000) -> dict[str, Any]:
    return {
        "what": "evaluation",
        "label": label,
        "model": "resnet18",
        "weights": f"weights/{label}.safetensors",
        "data": {"name": "cifar10", "split": "test", "n": n},
        "protocol": {
            "name": "pgd-20",
            "hash": "ab12cd34",
            "norm": "linf",
            "attacks": [{"name": "pgd", "steps": 20, "restarts": 1}],
        },
        "eps": {"text": "8/255", "value": 8 / 255},
        "seed": 0,
        "precision": "float32",
        "clean_accuracy": accuracy(clean, n),
        "robust_accuracy": accuracy(robust, n),
        "per_attack": [{"name": "pgd", "robust_accuracy": accuracy(robust, n)}],
        "cost": {"forwards": 21000, "backwards": 20000, "seconds": 41.5, "peak_memory_bytes": None},
        "environment": {"device": "cpu"},
    }


def criticality(epoch: int, layers: int) -> dict[str, Any]:
    rows = []
    for i, name in enumerate(layer_names(layers)):
        value = 1.2e-4 if i == 0 else 1.1 + 0.7 * math.sin(2.3 * i) + 0.02 * epoch * math.sin(i) ** 2
        rows.append(
            {
                "index": i + 1,
                "name": name,
                "kind": "conv",
                "num_params": 432 * (i + 1),
                "feature_shape": [16, 32, 32],
                "weakness": 1.2e-4 * (1 + i / 7),
                "criticality": None if i == 5 else value,
            }
        )
    head = {"what": "criticality", "eps": "8/255", "steps": 10, "norm": "linf", "n": 100}
    return {**head, "rows": rows, "normaliser": "numel", "tap": "output", "metric": "weakness", "seed": 0}


def most_critical(report: dict[str, Any], k: int) -> list[str]:
    rows = [row for row in report["rows"][1:] if row["criticality"] is not None]
    return [row["name"] for row in sorted(rows, key=lambda row: -row["criticality"])[:k]]


def epoch_record(epoch: int, lift: float) -> dict[str, Any]:
    stage = int(epoch >= FIRST_CLAT)
    rise = 1 - math.exp(-epoch / 6)
    wiggle = 0.008 * math.sin(3 * epoch)
    robust = 0.22 + lift + 0.16 * rise - 0.0025 * max(0, epoch - 20) + wiggle
    parts = {"cross_entropy": 2.2 - 0.9 * rise} | ({"feature_weakness": 0.4 - 0.01 * epoch} if stage else {})
    return {
        "event": "epoch",
        "stage": stage,
        "stage_name": ("pgd-at", "clat")[stage],
        "epoch": epoch,
        "lr": 0.1,
        "loss": sum(parts.values()),
        "parts": parts,
        "heldout_clean": 0.3 + lift + 0.3 * rise + wiggle,
        "heldout_robust": robust,
        "heldout_n": 500,
        "train_seconds": 12.1,
        "images_per_second": 145.0,
        "best": epoch == 20,
    }


def recipe(name: str) -> str:
    return f"""name = {json.dumps(name)}
seed = 0
eps = "8/255"

[model]
name = "resnet18"
width = 16

[data]
name = "cifar10"

[[stages]]
name = "pgd-at"
epochs = 15
objective = {{ name = "pgd-at", steps = 10 }}

[[stages]]
name = "clat"
epochs = 15
objective = {{ name = "clat", lambda = 0.05 }}
selection = {{ rule = "critical", k = 0.05, every = 5 }}
"""


def metrics(layers: int, lift: float) -> list[dict[str, Any]]:
    sizes = {"total_parameters": 11173962}
    first = {"event": "stage", "stage": 0, "name": "pgd-at", "epochs": 15, "first_epoch": 1}
    second = {"event": "stage", "stage": 1, "name": "clat", "epochs": 15, "first_epoch": FIRST_CLAT}
    records: list[dict[str, Any]] = [{**first, "trainable_parameters": 11173962, **sizes}]
    for epoch in range(1, EPOCHS + 1):
        if epoch == FIRST_CLAT:
            records.append({**second, "trainable_parameters": 589824, **sizes})
        if epoch in SELECTIONS:
            chosen = most_critical(criticality(epoch, layers), max(1, round(0.05 * layers)))
            head = {"event": "selection", "stage": 1, "epoch": epoch, "rule": "critical", "layers": chosen}
            report = f"criticality/epoch-{epoch:04d}.json"
            records.append({**head, "trainable_parameters": 589824, "report": report, "seconds": 1.2})
        records.append(epoch_record(epoch, lift))
    message = "held-out robust accuracy fell from 38 % to 2 % within an epoch"
    return [
        *records,
        {"event": "warning", "epoch": 12, "kind": "catastrophic-overfitting", "message": message},
    ]


def summary(lift: float) -> dict[str, Any]:
    epochs = [epoch_record(epoch, lift) for epoch in range(1, EPOCHS + 1)]
    best, last = max(epochs, key=lambda one: one["heldout_robust"]), epochs[-1]
    keys = ("epoch", "heldout_clean", "heldout_robust")
    stage = {"epochs": 15, "seconds": 181.5, "images_per_second": 145.0}
    return {
        "best": {key: best[key] for key in keys},
        "last": {key: last[key] for key in keys},
        "robust_overfitting": best["heldout_robust"] - last["heldout_robust"],
        "cost": {"forwards": 1234567, "backwards": 1100000, "seconds": 363.0, "peak_memory_bytes": 3 * 2**30},
        "stages": [
            {**stage, "name": "pgd-at", "trainable_parameters": 11173962},
            {**stage, "name": "clat", "trainable_parameters": 589824},
        ],
        "warnings": [],
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def write_run(
    path: Path,
    *,
    name: str = "pgd-at + clat",
    layers: int = 18,
    lift: float = 0.0,
    robust: tuple[float, float] = (0.341, 0.350),
    n: int = 1000,
) -> Path:
    """A finished run with every file; `robust` is the test result after stage 1 and at the end."""
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(recipe(name), encoding="utf-8")
    environment = {"python": "3.11.9", "torch": "2.5.1", "platform": "Linux", "device": "cpu", "threads": 2}
    write_json(
        path / "run.json",
        {
            "clat": "0.1.0",
            "command": ["clat", "train", "pgd-at-clat.toml"],
            "started": "2025-01-01T10:00:00",
            "finished": "2025-01-01T10:06:03",
            "status": "finished",
            "environment": environment,
            "model": {"name": "resnet18", "parameters": 11173962},
            "seed": 0,
            "recipe_hash": "0f1e2d3c",
        },
    )
    lines = (json.dumps(record) for record in metrics(layers, lift))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for epoch in SELECTIONS:
        write_json(path / "criticality" / f"epoch-{epoch:04d}.json", criticality(epoch, layers))
    write_json(path / "summary.json", summary(lift))
    before, after = robust
    results = (
        ("stage-1", 0.551 + lift, before),
        ("best", 0.57 + lift, after + 0.012),
        ("last", 0.563 + lift, after),
    )
    for label, clean, value in results:
        write_json(path / "evaluations" / f"{label}.json", evaluation(label, clean, value, n))
    return path


def write_interrupted(path: Path) -> Path:
    """What a run leaves that was killed in its third epoch, in the middle of a line."""
    path.mkdir(parents=True)
    write_json(path / "run.json", {"clat": "0.1.0", "status": "interrupted", "finished": None})
    lines = [json.dumps(record) for record in metrics(18, 0.0)[:4]]
    (path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"event": "ep', encoding="utf-8")
    return path

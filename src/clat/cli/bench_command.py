"""`clat bench`: what a training step costs."""

from __future__ import annotations

import json
import typing
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from clat.bench import Bench, measure
from clat.bench.table import profile_table, steps_table, surroundings_lines
from clat.cli.running import console
from clat.core.errors import ClatError, unknown
from clat.core.files import claim_output, write_text
from clat.models import load_model
from clat.network.outputs import logits_only
from clat.objectives import AnyObjective
from clat.recipe.schema import StageConfig
from clat.recipe.toml import build_recipe
from clat.runtime.engine import EngineConfig
from clat.training.prepare import check_model
from clat.training.trial import check_training_mode


def bench(options: Namespace) -> int:
    """The table on screen, JSON on request."""
    if options.out is not None:
        claim_output(options.out)
    engine = EngineConfig(
        device=options.device,
        precision=options.precision,
        channels_last=not options.contiguous,
        compile=options.compile,
    )
    settings = Bench(
        stages=bench_stages(options.objectives, options.layers, options.steps),
        image_shape=(3, options.image_size, options.image_size),
        num_classes=options.num_classes,
        batch_size=options.batch_size,
        engine=engine,
        rounds=options.rounds,
        plain=not options.no_plain,
        surroundings=not options.no_surroundings,
        train_size=options.train_size,
        profile=options.profile,
        seed=options.seed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        depths = tuple(options.depths) if options.depths else None
        model = load_model(options.model, num_classes=options.num_classes, width=options.width, depths=depths)
    check_model(model, torch.zeros(1, *settings.image_shape), options.num_classes)
    check_training_mode(model, torch.zeros(1, *settings.image_shape), options.num_classes)
    with logits_only(model):
        measured = measure(model, settings)
    result = {"model": options.model, "width": options.width, "depths": depths, **measured}
    console.print(steps_table(result))
    for line in surroundings_lines(result):
        console.print(line)
    for label, row in result["rows"].items():
        if "profile" in row:
            console.print(profile_table(label, row["profile"]))
    if options.out is not None:
        write_text(options.out, json.dumps(result, indent=1) + "\n")
        console.print(f"wrote {options.out}")
    return 0


def bench_stages(objectives: Sequence[str], layers: Sequence[str], steps: int | None) -> dict[str, StageConfig]:
    """Label -> stage of each objective's name, at its defaults but for `steps`; CLAT's move `layers`, by number or
    name."""
    known = {one.name: one for one in typing.get_args(typing.get_args(AnyObjective)[0])}
    found = {}
    for name in objectives:
        if name not in known:
            raise unknown("objective", name, known)
        settings: dict[str, Any] = {"name": "row", "epochs": 1, "objective": {"name": name}}
        label = name
        if steps is not None and "steps" in {field.name for field in fields(known[name])}:
            settings["objective"]["steps"] = steps
        if name.startswith("clat"):
            if not layers:
                raise ClatError(f"the objective '{name}' needs layers to move: --layers 11")
            settings["selection"] = {"rule": "named", "layers": list(layers)}
            # A label is a column's width: few layers are named, many are counted.
            label = f"{name} {','.join(layers)}" if len(layers) <= 5 else f"{name}, {len(layers)} layers"
        found[label] = build_recipe({"stages": [settings]}).stages[0]
    return found

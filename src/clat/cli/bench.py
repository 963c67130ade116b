"""`clat bench`: what a training step costs."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from clat.cli.console import console, say, show
from clat.cli.options import add_device_option, add_model_arguments, add_result_option, add_seed_option
from clat.cli.outputs import Outputs
from clat.core.errors import ClatError, unknown

if TYPE_CHECKING:
    from clat.recipe.schema import StageConfig

HELP = "what a training step costs, beside PGD-AT's and a plain one"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat bench`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.epilog = "clat bench --model resnet18 --width 32 --objectives pgd-at trades clat --layers 11"
    parser.add_argument(
        "--model", default="resnet18", help="a built-in network, or as for evaluate (default: resnet18)"
    )
    add_model_arguments(parser)
    parser.add_argument("--width", type=int, help="base channels of a built-in network")
    parser.add_argument("--depths", nargs="+", type=int, metavar="N", help="blocks of each stage")
    parser.add_argument(
        "--objectives",
        nargs="+",
        default=["pgd-at"],
        metavar="NAME",
        help="pgd-at, trades, clat, ... (default: pgd-at)",
    )
    parser.add_argument(
        "--layers", nargs="+", default=[], metavar="LAYER", help="what clat moves: numbers or names"
    )
    parser.add_argument("--steps", type=int, help="of the inner attacks (default: the objectives' own, 10)")
    parser.add_argument("--batch-size", type=int, default=64, help="images of a step (default: 64)")
    parser.add_argument(
        "--image-size", type=int, default=32, metavar="PIXELS", help="height and width of the images (default: 32)"
    )
    parser.add_argument("--num-classes", type=int, default=10, help="outputs of the network (default: 10)")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16 (default: auto)")
    parser.add_argument("--contiguous", action="store_true", help="the default memory layout, not channels_last")
    parser.add_argument("--compile", action="store_true", help="let torch.compile fuse the blocks")
    parser.add_argument("--rounds", type=int, default=5, help="in which all steps take turns (default: 5)")
    parser.add_argument("--train-size", type=int, default=50_000, help="images of an epoch (default: 50000)")
    parser.add_argument("--no-plain", action="store_true", help="leave the plain reference steps out")
    parser.add_argument("--no-surroundings", action="store_true", help="leave the data path and the selections out")
    parser.add_argument("--profile", action="store_true", help="where the time goes, beside its floor")
    add_seed_option(parser)
    add_device_option(parser)
    add_result_option(parser)


def run(options: argparse.Namespace) -> int:
    """Time training steps, show the tables, and write JSON on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If there is no such objective or layer, or an objective cannot train the network.
    """
    import torch

    from clat.bench import Bench, measure
    from clat.bench.table import profile_table, steps_table, surroundings_lines
    from clat.cli.inputs import model_arguments
    from clat.core.progress import watching
    from clat.core.random_states import preserve_all_states
    from clat.models import load_model
    from clat.network.outputs import logits_only
    from clat.runtime.engine import EngineConfig
    from clat.training.prepare import check_model
    from clat.training.trial import check_training_mode, runs_channels_last

    outputs = Outputs(options.out)
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
    with preserve_all_states():
        torch.manual_seed(options.seed)
        depths = tuple(options.depths) if options.depths else None
        args = model_arguments(options.model_args)
        size = {"num_classes": options.num_classes, "width": options.width, "depths": depths}
        model = load_model(options.model, args=args, **size)
    sample = torch.zeros(1, *settings.image_shape)
    check_model(model, sample, options.num_classes)
    check_training_mode(model, sample, options.num_classes)
    if engine.channels_last and not runs_channels_last(model, sample):
        settings = replace(settings, engine=replace(engine, channels_last=False))
    with logits_only(model), watching(console()):
        measured = measure(model, settings)
    result = {"model": options.model, "width": options.width, "depths": depths, **measured}
    show(steps_table(result))
    for line in surroundings_lines(result):
        say(line)
    for label, row in result["rows"].items():
        if "profile" in row:
            show(profile_table(label, row["profile"]))
    outputs.write(result)
    return 0


def _has_steps(objective: Any) -> bool:
    return "steps" in {field.name for field in fields(objective)}


def bench_stages(objectives: Sequence[str], layers: Sequence[str], steps: int | None) -> dict[str, StageConfig]:
    """Return a one-epoch stage for each objective, at its defaults but for `steps`.

    Args:
        objectives: names, such as "pgd-at".
        layers: what objectives that need a selection move, by number or name.
        steps: steps of the inner attacks; None: the objectives' own.

    Returns:
        Label -> stage, in the order of the names.

    Raises:
        ClatError: If a name is unknown, or layers are missing or not needed.
    """
    from clat.objectives import AnyObjective
    from clat.recipe.toml import build_recipe

    known = {one.name: one for one in typing.get_args(typing.get_args(AnyObjective)[0])}
    moving = sorted(name for name, one in known.items() if one.needs_selection)
    if layers and not set(objectives) & set(moving):
        raise ClatError(f"--layers names what {', '.join(moving)} move, but none of them is among --objectives")
    for name in objectives:
        if name not in known:
            raise unknown("objective", name, known)
    if steps is not None and not any(_has_steps(known[name]) for name in objectives):
        raise ClatError(f"--steps is for inner attacks of several steps: {', '.join(objectives)} has none")
    found = {}
    for name in objectives:
        settings: dict[str, Any] = {"name": "row", "epochs": 1, "objective": {"name": name}}
        label = name
        if steps is not None and _has_steps(known[name]):
            settings["objective"]["steps"] = steps
        if known[name].needs_selection:
            if not layers:
                raise ClatError(f"the objective '{name}' needs layers to move: --layers 11")
            settings["selection"] = {"rule": "named", "layers": list(layers)}
            # A label is a column's width: few layers are named, many are counted.
            label = f"{name} {','.join(layers)}" if len(layers) <= 5 else f"{name}, {len(layers)} layers"
        found[label] = build_recipe({"stages": [settings]}).stages[0]
    return found

"""What each command of the command line does, with its options already parsed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from clat import models
from clat.config import EngineConfig
from clat.data import ImageSet, Loader, load_split
from clat.errors import ClatError, unknown
from clat.evaluation import Accuracy, Evaluation, Protocol, evaluate_set, find_protocol
from clat.evaluation.cost import Cost
from clat.evaluation.live import evaluation_progress
from clat.evaluation.subset import check_ids, read_ids
from clat.files import claim_output
from clat.models import load_model, robustbench
from clat.recipe import built_in_recipes, read_recipe
from clat.training.engine import Engine, is_first_process
from clat.training.interrupt import Interrupted
from clat.training.prepare import check_model
from clat.training.run import Result
from clat.training.run import resume as resume_run
from clat.training.run import train as start_run
from clat.units import parse_size

console = Console(highlight=False)
DEFAULT_PROTOCOL = "pgd-20"
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """What an evaluation on the command line needs; `settings`: the options of `evaluate_set`."""

    model: nn.Module
    images: ImageSet
    ids: Tensor
    engine: Engine
    settings: dict[str, Any]

    def run(self, measure: Callable[[dict[str, Any]], T]) -> T | None:
        """Return what `measure` finds, told these settings; None in all processes but the first, which speaks."""
        try:
            with evaluation_progress(console) as report:
                found = measure({**self.settings, "report": report if self.engine.rank == 0 else None})
        except ClatError:
            if self.engine.rank == 0:
                raise
            return None
        return found if self.engine.rank == 0 else None


def prepare_evaluation(options: Namespace, protocol: Protocol) -> Prepared:
    """Check everything that can be wrong before other processes are started, and start them. `protocol` says how
    many images are customary."""
    if options.out is not None:
        claim_output(options.out)
    parse_size(options.eps, norm=options.norm)
    device = pick_device(options.device)
    if options.devices < 1:
        raise ClatError(f"--devices is {options.devices}: expected at least 1")
    if device.type == "cuda" and options.devices > torch.cuda.device_count():
        raise ClatError(f"--devices is {options.devices}, but there are {torch.cuda.device_count()} GPUs")
    images = load_split(options.data, options.split, image_size=options.image_size)
    ids = _chosen(options, images, protocol)
    # Whatever can be wrong with the network is found before other processes are started.
    model = build_model(options, images, device)
    engine = Engine(EngineConfig(device=device.type, devices=options.devices))
    engine.launch()
    model = model.to(engine.device)
    engine.share(model)
    settings = {name: getattr(options, name) for name in ("eps", "norm", "batch_size", "seed", "precision")}
    settings["about"] = {"model": options.model, "weights": options.weights}
    return Prepared(model, images, ids, engine, settings)


def evaluate(options: Namespace) -> int:
    """`clat evaluate` of one protocol: accuracies with intervals on screen, JSON on request."""
    protocol = find_protocol(options.protocol or DEFAULT_PROTOCOL)
    prepared = prepare_evaluation(options, protocol)
    result = prepared.run(
        lambda settings: evaluate_set(
            prepared.model, prepared.images, ids=prepared.ids, protocol=protocol, state=options.state, **settings
        )
    )
    if result is not None:
        say_result(result, options, prepared.images)
        write_result(result, options)
    return 0


def say_result(result: Evaluation, options: Namespace, images: ImageSet) -> None:
    """Print an evaluation."""
    for note in result.notes:
        console.print(f"note: {note}")
    for name, accuracy in result.per_attack.items():
        console.print(f"after {name:10} {accuracy}")
    say_clean(result.clean_accuracy, options, images)
    console.print(
        f"robust accuracy  {result.robust_accuracy}   {result.protocol.title}, {options.norm} eps {result.eps}"
    )
    console.print(f"cost  {cost_text(result.cost)}; protocol hash {result.protocol.hash}")


def say_clean(clean: Accuracy, options: Namespace, images: ImageSet) -> None:
    """Print the clean accuracy, beside what RobustBench lists."""
    console.print(f"clean accuracy   {clean}")
    if options.model.startswith(robustbench.PREFIX):
        listed = robustbench.entry(options.model, images.num_classes)
        console.print(f"RobustBench lists {listed.clean} % clean and {listed.robust} % under AutoAttack")


def cost_text(cost: Cost) -> str:
    return f"{cost.forwards:,} forwards, {cost.backwards:,} backwards, {cost.seconds:.1f} s"


def write_result(result: Any, options: Namespace) -> None:
    """Write JSON where --out says so."""
    if options.out is not None:
        result.to_json(options.out)
        console.print(f"wrote {options.out}")


def _chosen(options: Namespace, images: ImageSet, protocol: Protocol) -> Tensor:
    """The numbers of the images to evaluate: --ids, else the first --num-samples, else the protocol's count."""
    if options.ids is not None:
        if options.num_samples is not None:
            raise ClatError("--ids and --num-samples both choose images: give one of them")
        return check_ids(read_ids(options.ids), len(images), f"'{images.name}/{images.split}'")
    if options.num_samples is None:
        return torch.arange(min(protocol.num_samples or len(images), len(images)))
    if not 1 <= options.num_samples <= len(images):
        raise ClatError(f"--num-samples is {options.num_samples}: '{options.data}' has {len(images)} images")
    return torch.arange(options.num_samples)


def train(options: Namespace) -> int:
    """`clat train`: run or resume a recipe, then draw its page."""
    if options.list:
        for name, path in built_in_recipes().items():
            console.print(f"{name:24} {path.read_text().splitlines()[0].lstrip('# ')}")
        return 0
    if options.resume is not None:
        beside = ("recipe", "out", "reuse", "overrides", "device", "devices", "precision", "compile")
        if any(getattr(options, name) for name in beside):
            raise ClatError("--resume goes on with the recipe in the run's folder: give nothing beside it")
        return _finish(lambda: resume_run(options.resume))
    if options.recipe is None or options.out is None:
        raise ClatError("name a recipe and a new folder: clat train RECIPE.toml --out DIR (or --resume DIR)")
    short = {name: getattr(options, name) for name in ("device", "devices", "precision")}
    overrides = [
        word
        for name, value in short.items()
        if value is not None
        for word in (f"--engine.{name}", f'"{value}"' if name == "precision" else value)
    ]
    if options.compile:
        overrides += ["--engine.compile", "true"]
    recipe = read_recipe(options.recipe, [*options.overrides, *overrides])
    return _finish(lambda: start_run(recipe, options.out, reuse=options.reuse))


def report(options: Namespace) -> int:
    """`clat report`: the page of a run."""
    from clat.report.page import write_report

    path = write_report(Path(options.run), against=[Path(other) for other in options.against])
    console.print(f"wrote {path}")
    return 0


def demo(options: Namespace) -> int:
    """`clat demo`: digits, PGD-AT then CLAT, against PGD-AT alone with the same budget."""
    from clat.report.page import write_report

    out = Path(options.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ClatError(f"{out} exists already: name a new folder with --out, or remove it")
    runs: list[Path] = []
    for name in ("demo", "demo-pgd-at"):
        console.print(f"\n[bold]recipe {name}[/bold]")
        reuse = runs[0] if runs else None
        try:
            start_run(read_recipe(name), out / name, reuse=reuse)
        except Interrupted as stopped:
            return stopped.exit_code
        runs.append(out / name)
    path = write_report(runs[0], against=runs[1:])
    console.print(f"\nopen {path} in a browser")
    return 0


def _finish(run: object) -> int:
    """Run to the end and draw the page; a stopped run returns its exit code."""
    try:
        result = run()  # type: ignore[operator]
    except Interrupted as stopped:
        # The first process speaks for all; where another fails, the launcher kills it.
        return stopped.exit_code if is_first_process() else 0
    assert isinstance(result, Result)
    if not result.evaluations:
        return 0
    from clat.report.page import write_report

    console.print(f"wrote {write_report(result.out)}")
    return 0


def pick_device(name: str) -> torch.device:
    """`--device`: cpu, cuda, or auto for CUDA where there is some."""
    if name not in ("auto", "cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ClatError("--device cuda: torch sees no CUDA device, use cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _model_of_recipe(options: Namespace, num_classes: int) -> nn.Module:
    """The network of a recipe's [model], with all of `--weights` instead of its own if they are given."""
    if options.width is not None or options.normalize is not None:
        raise ClatError(f"--model {options.model}: the recipe says width and normalize; leave the options out")
    config = read_recipe(options.model).model
    config = config if options.weights is None else replace(config, weights=options.weights, classifier=None)
    return models.build_model(config, num_classes)


def build_model(options: Namespace, images: ImageSet, device: torch.device) -> nn.Module:
    """`--model` with its width, normalisation and weights, tried on an image of the set, on the device."""
    if options.model.endswith(".toml"):
        model = _model_of_recipe(options, images.num_classes)
    else:
        model = load_model(
            options.model,
            num_classes=images.num_classes,
            width=options.width,
            normalize=options.normalize,
            weights=options.weights,
        )
    sample, _ = next(iter(Loader(images.take(1), 1, workers=0).epoch()))
    check_model(model, sample, images.num_classes)
    return model.to(device).eval()

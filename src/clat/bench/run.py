"""Training steps of several objectives on one network, timed in turn beside plain ones, in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn

from clat.bench.floor import layer_multiplications, step_floor
from clat.bench.memory import peak_memory
from clat.bench.profile import profile_step
from clat.bench.reference import PLAIN
from clat.bench.repeated_step import RepeatedStep, repeated_step, with_statistics
from clat.bench.timing import Timing, interleaved, ratio
from clat.core.environment import describe_environment
from clat.core.errors import ClatError
from clat.core.units import Size, parse_size
from clat.criticality.index import measure_criticality
from clat.data import ImageSet
from clat.network.computed import copied_network
from clat.network.cost import metered
from clat.recipe.schema import StageConfig
from clat.runtime.engine import Engine, EngineConfig

BASE = "pgd-at"
"""The objective that every other is held against, if it is among those measured."""

PERIOD = 10
"""Epochs between two selections, in the paper."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings of a benchmark of training steps.

    Objectives bring their own eps; `eps` is that of the plain steps and of the selections.
    """

    stages: Mapping[str, StageConfig]
    """Label -> stage: the rows."""
    image_shape: tuple[int, int, int] = (3, 32, 32)
    """Channels, height and width."""
    num_classes: int = 10
    """Outputs of the network."""
    batch_size: int = 64
    """Images of a step, at least 1."""
    eps: Size = "8/255"
    """l-inf radius in image units, such as "8/255"."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    """Device, precision, memory layout and compilation of the steps; the plain ones run in float32."""
    rounds: int = 5
    """Rounds in which all steps take turns, at least 1; the median counts."""
    plain: bool = True
    """Also time the plain reference steps, see `clat.bench.reference`."""
    surroundings: bool = True
    """Also time what a run does besides: a batch from the loader, a selection from 100 and from 10 images."""
    train_size: int = 50_000
    """Images of an epoch, for the share of a selection in ten epochs."""
    profile: bool = False
    """Also where the time of a step goes, see `clat.bench.profile`."""
    seed: int = 0
    """Seed of the images, the selections and the attacks' random starts."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ClatError("there is no objective to measure: name one, such as pgd-at")
        for what in ("batch_size", "rounds", "train_size"):
            if getattr(self, what) < 1:
                raise ClatError(f"{what} is {getattr(self, what)}: expected at least 1")


@dataclass
class Timed:
    """One row of results.

    Times are medians over the rounds, ratios medians of the rounds' ratios. None: not measured, or nothing to
    compare with.

    Attributes:
        seconds: time of a step by wall clock.
        cpu_seconds: time of a step by processor time.
        images_per_second: speed by wall clock.
        forwards: samples through the network forward, for each image of the batch.
        backwards: samples through the network backward, for each image of the batch.
        peak_memory: bytes of tensors.
        floor: multiplications that a step needs, in forward passes of the whole network.
        warmup_seconds: time of the first step, with compilation.
        to_pgd_at: `seconds` over those of PGD-AT; the next three are the same of processor time, floor and memory.
        faster_than_plain: seconds of the plain step over `seconds`; `faster_than_plain_cpu`: by processor time.
        profile: shares of groups of operations, see `clat.bench.profile`.
    """

    seconds: float
    cpu_seconds: float
    images_per_second: float
    forwards: float
    backwards: float
    peak_memory: int
    floor: float | None = None
    warmup_seconds: float = 0.0
    to_pgd_at: float | None = None
    to_pgd_at_cpu: float | None = None
    to_pgd_at_floor: float | None = None
    to_pgd_at_memory: float | None = None
    faster_than_plain: float | None = None
    faster_than_plain_cpu: float | None = None
    profile: dict[str, Any] | None = None


def measure(model: nn.Module, bench: Bench) -> dict[str, Any]:
    """Time every row of a benchmark on copies of a network, in turn, beside plain steps.

    The BatchNorm statistics of the copies are set to those of the images, which are noise.

    Args:
        model: the network: takes images (N, C, H, W) in [0, 1] of the bench's shape, returns logits; it is left as
            it was.
        bench: what to measure.

    Returns:
        Plain data: settings, `rows` (label -> `Timed`), `plain`, `surroundings`, `environment`.

    Raises:
        ClatError: If an objective cannot train the network.
    """
    images = _noise(bench)
    rows: dict[str, Timed] = {}
    engine = Engine(bench.engine)
    with ExitStack() as stack:
        model = with_statistics(copied_network(model).cpu(), images.images[:64].float() / 255)  # type: ignore[index]
        measured: dict[str, RepeatedStep] = {}
        for label, stage in bench.stages.items():
            stage.objective.requires(model, torch.zeros(1, *bench.image_shape))
            measured[label] = stack.enter_context(
                repeated_step(model, images, stage, engine, bench.engine, seed=bench.seed)
            )
        one, device = next(iter(measured.values())), engine.device
        candidates: dict[str, Callable[[], object]] = {label: made.run_step for label, made in measured.items()}
        warmup = {
            label: interleaved({label: made.run_step}, 1, 0)[label].seconds for label, made in measured.items()
        }
        plain = _plain_steps(model, bench, one) if bench.plain else {}
        times = interleaved({**candidates, **plain}, bench.rounds)
        layers = layer_multiplications(model, torch.zeros(1, *bench.image_shape))
        for label, made in measured.items():
            with metered(made.model, memory=False) as cost:
                made.run_step()
            rows[label] = Timed(
                seconds=times[label].seconds,
                cpu_seconds=times[label].cpu_seconds,
                images_per_second=bench.batch_size / times[label].seconds,
                forwards=cost.forwards / bench.batch_size,
                backwards=cost.backwards / bench.batch_size,
                peak_memory=peak_memory(made.run_step, made.tensors(), device),
                floor=step_floor(made.runner.config.objective, layers, made.runner.trainable.step.layers),
                warmup_seconds=warmup[label],
            )
            if bench.profile:
                rows[label].profile = profile_step(made, engine.precision)
        _compare(rows, times, bench)
    return {
        "benchmark": "steps",
        "batch_size": bench.batch_size,
        "image_shape": bench.image_shape,
        "engine": asdict(bench.engine.resolved()),
        "rounds": bench.rounds,
        "rows": {label: {k: v for k, v in asdict(row).items() if v is not None} for label, row in rows.items()},
        "plain": {name: {"seconds": times[name].seconds, "cpu_seconds": times[name].cpu_seconds} for name in plain},
        "surroundings": _surroundings(measured, bench) if bench.surroundings else {},
        "environment": describe_environment(device),
    }


def _noise(bench: Bench) -> ImageSet:
    generator = torch.Generator().manual_seed(bench.seed)
    size = (bench.batch_size, *bench.image_shape)
    pixels = torch.randint(256, size, dtype=torch.uint8, generator=generator)
    classes = tuple(str(number) for number in range(bench.num_classes))
    return ImageSet("noise", "train", classes, pixels, torch.arange(bench.batch_size) % bench.num_classes)


def _plain_steps(model: nn.Module, bench: Bench, one: RepeatedStep) -> dict[str, Callable[[], None]]:
    """Return the plain step of every measured method that has one; of PGD-AT at least."""
    objectives = {str(stage.objective.name): stage.objective for stage in bench.stages.values()}
    x, y = one.x.contiguous(memory_format=torch.contiguous_format), one.y
    found = {}
    for name in sorted((objectives.keys() & PLAIN.keys()) | {BASE}):
        steps = getattr(objectives.get(name), "steps", 10)
        net = copied_network(model).to(one.runner.engine.device)
        found[f"plain {name}"] = PLAIN[name](net, x, y, eps=float(parse_size(bench.eps)), steps=steps)
    return found


def _surroundings(measured: Mapping[str, RepeatedStep], bench: Bench) -> dict[str, dict[str, Any]]:
    """Return the cost of what a run does besides its steps: a batch from the loader, and selections.

    Each stands beside a step, or ten epochs, of CLAT, or else of the first row.
    """
    clat = (label for label, stage in bench.stages.items() if stage.objective.name == "clat")
    label = next(clat, next(iter(bench.stages)))
    one = measured[label]

    def batch() -> None:
        x, _ = next(iter(one.runner.loader.epoch()))
        one.runner.engine.images(x)

    def selection(count: int) -> Callable[[], object]:
        x, y = (torch.cat([part] * -(-count // len(one.x)))[:count] for part in (one.x, one.y))
        return lambda: measure_criticality(one.model, x, y, eps=bench.eps, steps=10)

    period = PERIOD * max(bench.train_size // bench.batch_size, 1)
    candidates: dict[str, tuple[Callable[[], object], int, str]] = {"a batch": (batch, 1, f"a step of {label}")}
    for count in (100, 10):
        candidates[f"selection, {count} images"] = (selection(count), period, f"{PERIOD} epochs of {label}")
    times = interleaved({"a step": one.run_step, **{name: run for name, (run, _, _) in candidates.items()}}, 2)
    return {
        name: {
            "seconds": times[name].seconds,
            "share": ratio(times[name], times["a step"]) / steps,
            "of": what,
        }
        for name, (_, steps, what) in candidates.items()
    }


def _compare(rows: dict[str, Timed], times: Mapping[str, Timing], bench: Bench) -> None:
    for label, row in rows.items():
        name = f"plain {bench.stages[label].objective.name}"
        name = name if name in times else f"plain {BASE}"
        if name in times:
            row.faster_than_plain = 1 / ratio(times[label], times[name])
            row.faster_than_plain_cpu = 1 / ratio(times[label], times[name], "cpu")
        if BASE in rows:
            base = rows[BASE]
            row.to_pgd_at = ratio(times[label], times[BASE])
            row.to_pgd_at_cpu = ratio(times[label], times[BASE], "cpu")
            row.to_pgd_at_memory = row.peak_memory / base.peak_memory
            if row.floor is not None and base.floor is not None:
                row.to_pgd_at_floor = row.floor / base.floor

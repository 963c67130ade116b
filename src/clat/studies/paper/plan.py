"""What a table would take: its runs, the hours, the memory, from a few training steps measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from clat.bench.memory import peak_memory
from clat.bench.repeated_step import repeated_step
from clat.bench.timing import interleaved
from clat.core.console import Table as RichTable
from clat.core.errors import ClatError
from clat.core.formatting import duration, memory
from clat.recipe.schema import StageConfig
from clat.recipe.toml import recipe_hash
from clat.runtime.engine import Engine
from clat.studies.cost import data_shape, training_images
from clat.studies.paper.accuracy import Request, specs_of
from clat.studies.paper.attack_plan import Attacks, attack_seconds, pass_seconds
from clat.studies.paper.figures import figure_specs
from clat.studies.paper.lines import TableLine
from clat.studies.paper.measured_passes import Passes, passes_seconds
from clat.studies.paper.paper_table import PaperTable
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.step_cost import network_and_batch
from clat.studies.paper.store import Store, StoredRun

STEPS = 2
"""Steps that are timed of each kind of stage, after one that is not."""
SHARE = 1.05
"""What selections, saving and starting add to the steps and the checks on held-out images."""


@dataclass(frozen=True)
class PaperPlan:
    """What is still to be trained, and what it takes here."""

    runs: int
    finished: int
    seconds: float
    """Of training."""
    attacks: float
    """Seconds of the attacks on test images."""
    rankings: float
    """Seconds of the rankings that a table asks for; those by which CLAT selects are part of training."""
    memory: int
    """Bytes that the tensors of the largest step take."""
    slowest: tuple[tuple[str, float], ...]
    """Networks -> seconds of training, the longest first."""
    expected: tuple[float, float]
    """The shares of test images that are right and robust, for which attacks are planned."""

    def table(self, title: str) -> RichTable:
        """Return the plan as a table for a terminal.

        Args:
            title: what it is for.

        Returns:
            A table to print.
        """
        caption = (
            "From steps and passes measured here, one network after the other. "
            f"Attacks on test images: with {self.expected[0]:.0%} of them right and {self.expected[1]:.0%} robust."
        )
        shown = RichTable(title=title, caption=caption)
        for column in ("runs", "done before", "training", "attacks", "rankings", "largest step"):
            shown.add_column(column, justify="right")
        times = map(duration, (self.seconds, self.attacks, self.rankings))
        shown.add_row(str(self.runs), str(self.finished), *times, memory(self.memory))
        return shown

    def to_dict(self) -> dict[str, Any]:
        """Return plain data.

        Returns:
            The fields.
        """
        return {**vars(self), "slowest": [list(one) for one in self.slowest]}


def needed_specs(request: Request, networks: Sequence[str], datasets: Sequence[str]) -> list[RunSpec]:
    """Return every network that a table trains.

    Args:
        request: what would be run.
        networks: of a figure.
        datasets: of a figure.

    Returns:
        Specs, each once.
    """
    table: PaperTable = request.table
    if table.kind in ("sweep", "strength", "curves"):
        wanted = [name for name in datasets if name not in request.missing]
        return figure_specs(table, networks, wanted, request)
    if not table.trains and table.id != "T10":
        return []
    if (table.kind == "layers" and table.id == "T8") or table.id == "T10":
        lines = dict.fromkeys(_pgd_at(line) for line in request.lines if line.dataset not in request.missing)
        return [line.spec(replace(table, share=0.5), request.seeds[0], 0.1) for line in lines]
    if table.kind == "transfer":
        every = [
            replace(line, network=net, source="") for line in request.lines for net in (line.network, line.source)
        ]
        return specs_of(replace(request, lines={line: [] for line in every}))
    if table.id == "T13":  # its layers are those of one seed
        return specs_of(replace(request, seeds=request.seeds[:1]))
    return specs_of(request)


def _pgd_at(line: TableLine) -> TableLine:
    return TableLine(dataset=line.dataset, network=line.network, method="pgd-at")


def make_plan(
    specs: Sequence[RunSpec],
    store: Store,
    attacks: Attacks = (),
    transfers: Sequence[Passes] = (),
    rankings: Sequence[Passes] = (),
) -> PaperPlan:
    """Return what training and attacking take, after a few steps of each kind of stage on each network.

    Args:
        specs: the networks; those that are in the store already are counted apart.
        store: where they would be.
        attacks: how networks are measured; what is in the store already is left out.
        transfers: passes of examples that are shown to other networks.
        rankings: passes of the rankings that tables ask for.

    Returns:
        The plan. Stages that another run shares are counted once.

    Raises:
        ClatError: If a recipe or a network cannot be built.
    """
    asked = map(store.run_of, dict.fromkeys(specs))
    runs = list({run.key: run for one in asked for run in (*store.needs(one), one)}.values())
    todo = [run for run in runs if not store.is_finished(run)]
    times: dict[str, tuple[float, int]] = {}
    timed: dict[str, float] = {}
    begun: set[str] = set()
    spent: dict[str, float] = {}
    largest = 0
    for run in todo:
        for number, stage in enumerate(run.recipe.stages):
            if number == 0 and len(run.recipe.stages) > 1:
                first = recipe_hash(run.recipe, 1)
                if first in begun or store.donor(run):
                    continue
                begun.add(first)
            seconds, peak = _step(run, stage, store, times)
            seconds *= _batches(run) * stage.epochs
            seconds += _check_passes(run, stage) * pass_seconds(run, store, timed)
            name = f"{run.spec.network}, {run.spec.dataset}"
            spent[name] = spent.get(name, 0.0) + SHARE * seconds
            largest = max(largest, peak)
    slowest = tuple(sorted(spent.items(), key=lambda one: -one[1]))
    return PaperPlan(
        runs=len(runs),
        finished=len(runs) - len(todo),
        seconds=sum(spent.values()),
        attacks=attack_seconds(attacks, store, timed) + passes_seconds(transfers, store, timed),
        rankings=passes_seconds(rankings, store, timed),
        memory=largest,
        slowest=slowest,
        expected=store.scale.expected,
    )


def _check_passes(run: StoredRun, stage: StageConfig) -> float:
    """Return the passes of images, forward or back, that a stage's checks on held-out images take."""
    monitor = run.recipe.monitor
    held = min(monitor.num_samples, run.recipe.data.heldout)
    return stage.epochs / monitor.every * held * 2 * (monitor.steps + 1)


def _batches(run: StoredRun) -> int:
    size = training_images(run.recipe.data, data_shape(run.recipe.data))
    return max(size // run.recipe.batch_size, 1)


def _step(
    run: StoredRun, stage: StageConfig, store: Store, times: dict[str, tuple[float, int]]
) -> tuple[float, int]:
    """Return the seconds and the memory of a step; measured once for a kind of stage on a network."""
    kind = f"{run.recipe.model} {run.recipe.data.image_size} {stage.objective} {stage.treatments}"
    if stage.selection is not None:
        kind += f" {stage.selection.rule} {stage.selection.k}"
    if kind not in times:
        try:
            model, batch = network_and_batch(store, run)
            with repeated_step(model, batch, stage, Engine(run.recipe.engine), run.recipe.engine) as step:
                timed = interleaved({"step": step.run_step}, STEPS)["step"].seconds
                peak = peak_memory(step.run_step, list(step.tensors()), step.x.device)
        except ClatError as error:
            raise ClatError(f"{run.spec.label}: a step cannot be measured: {error}") from None
        times[kind] = (timed, peak)
    return times[kind]

"""The networks and results that tables share: each is trained once, and measured once by a protocol.

OUT/store holds recipes/, runs/ and logs/ by a run's key (see `clat.studies.run`), evaluations/KEY/MEASURE.json and
transfers/. A key ends in the hash of all that decides the weights: the recipe, which names the data and the seed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from clat.core.errors import ClatError
from clat.core.files import read_json, write_json, write_text
from clat.data import ImageSet
from clat.data.cache import data_root
from clat.evaluation.result import EvaluationRecord
from clat.models import load_weights
from clat.recipe.schema import Recipe
from clat.recipe.toml import read_recipe, recipe_hash, recipe_toml
from clat.runtime.settings import PRECISIONS, EngineConfig
from clat.studies.measurement import DIGEST, Measurement, computing_device, file_digest
from clat.studies.paper.folder import in_one_spelling
from clat.studies.paper.lines import Measure
from clat.studies.paper.methods import METHODS
from clat.studies.paper.runs import Inputs, RunSpec, recipe
from clat.studies.paper.scales import PaperScale
from clat.studies.paper.stored import PENDING, Gathered, StoredRun
from clat.studies.row import Row, Scale
from clat.studies.row_words import finished
from clat.studies.run import run_row, write_recipe
from clat.studies.tables.baselines import write_stand_in
from clat.training.prepare import build_network, read_split
from clat.training.state import state_hash
from clat.training.status import DIED, run_status

GENERATED = {"cifar10": "edm_1m.npz", "cifar100": "edm_1m-cifar100.npz"}
"""Data set -> the file of generated images for it that Wang et al. published, if it lies in CLAT_DATA_DIR."""


_STAGE_1 = "weights/stage-1.safetensors"
TRAIN_ANEW = "move the run's folder away, and it is trained anew"


class Store:
    """All runs and results of one folder.

    Attributes:
        folder: OUT/store.
        scale: of all its runs.
        failures: key -> why a run failed in this call.
        unmeasured: result's file -> why it could not be measured in this call.
        precisions: label -> key of a network that was asked for, its precision by its recipe, and what is automatic
            here.
        gathered: None; else `train` and `evaluate` only note here what they are asked for.
    """

    def __init__(self, out: Path, scale: PaperScale, data: Mapping[str, str] | None = None) -> None:
        """Make the folders.

        Args:
            out: the folder above.
            scale: of all runs.
            data: data set -> a folder of it, where its name alone does not find it.
        """
        self.folder, self.scale, self.data = out / "store", scale, in_one_spelling(data or {})
        self.failures: dict[str, str] = {}
        self.precisions: dict[str, tuple[str, str, str]] = {}
        self.unmeasured: dict[Path, str] = {}
        self.gathered: Gathered | None = None
        self._images: dict[str, ImageSet] = {}
        self._in_float32: dict[str, bool] = {}
        for name in ("recipes", "runs", "logs", "inputs", "evaluations", "transfers"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def run_of(self, spec: RunSpec) -> StoredRun:
        """Return the run of a network, trained or not.

        Args:
            spec: the network.

        Returns:
            The run, whose key is the same in every call.

        Raises:
            ClatError: If the recipe cannot be made.
        """
        members: list[Path] = []
        if spec.base == "bai2024":
            members = [Path("runs") / self.run_of(one).key / _STAGE_1 for one in spec.start_alike()]
        generated = self._generated(spec.dataset)
        within = recipe(spec, self.scale, Inputs(data=self.data, generated=generated, members=members))
        automatic = within.resolved().engine.precision
        within, key = self._as_trained(spec, within)
        self.precisions[spec.label] = key, within.resolved().engine.precision, automatic
        if not members and not METHODS[spec.base].generated:
            return StoredRun(key, spec, within)
        here = self.folder.resolve()
        if generated not in GENERATED.values():
            generated = str(here / generated)
        where = Inputs(data=self.data, generated=generated, members=[here / one for one in members])
        return StoredRun(key, spec, replace(recipe(spec, self.scale, where), engine=within.engine))

    def _as_trained(self, spec: RunSpec, wanted: Recipe) -> tuple[Recipe, str]:
        """Return the recipe in the precision in which its network is there already, and the key, which is the same
        wherever the store lies: it may come from a machine where automatic precision is another one."""
        runs, key = self.folder / "runs", _key(spec, wanted)
        if wanted.engine.precision != "auto" or (runs / key).exists():
            return wanted, key
        here = wanted.resolved().engine.precision
        for precision in sorted(set(PRECISIONS.values()) - {"auto", here}):
            other = replace(wanted, engine=EngineConfig(**vars(wanted.engine) | {"precision": precision}))
            foreign = _key(spec, other)
            if finished(runs / foreign) or (precision == "32" and self._began_in_float32(spec)):
                return other, foreign
        return wanted, key

    def _recorded_precision(self, key: str) -> str | None:
        """Return the precision of a run, which may be on a machine where the automatic one is another; None: it has
        not begun."""
        file = self.folder / "runs" / key / "run.json"
        return read_json(file, TRAIN_ANEW).get("environment", {}).get("precision") if file.exists() else None

    def _began_in_float32(self, spec: RunSpec) -> bool:
        """Return whether most networks like it were begun in float32: rows that are compared differ in nothing
        else then, and every machine has units for it, as not every one has for bfloat16."""
        like = f"{spec.dataset}-{spec.network}-"
        if like not in self._in_float32:
            about = [read_json(file, TRAIN_ANEW) for file in (self.folder / "runs").glob(f"{like}*/run.json")]
            found = [one["environment"]["precision"] for one in about]
            self._in_float32[like] = found.count("32") > len(found) / 2
        return self._in_float32[like]

    def precision_notes(self) -> list[str]:
        """Return what there is to say of the precision of the networks that were asked for.

        Returns:
            A sentence where it is not this machine's or not one; none else.
        """
        labels: dict[str, list[str]] = {}
        moved: set[tuple[str, str]] = set()
        for label, (key, expected, here) in self.precisions.items():
            precision = self._recorded_precision(key) or expected
            labels.setdefault(precision, []).append(label)
            moved |= {(precision, here)} if precision != here else set()
        if len(labels) > 1:
            fewest = min(labels, key=lambda precision: len(labels[precision]))
            rest = ", ".join(sorted(set(labels) - {fewest}))
            return [f"trained in {fewest}: {', '.join(labels[fewest])}; all others in {rest}"]
        return [
            f"all networks trained in {precision}, where this machine takes {here}" for precision, here in moved
        ]

    def needs(self, run: StoredRun) -> list[StoredRun]:
        """Return the runs whose weights another starts from, to be trained before it; none for most.

        Args:
            run: the run.
        """
        return [self.run_of(one) for one in run.spec.start_alike()] if run.spec.base == "bai2024" else []

    def is_finished(self, run: StoredRun) -> bool:
        """Return whether a run has been trained.

        Args:
            run: the run.

        Returns:
            True once it has ended.
        """
        return finished(self.folder / "runs" / run.key)

    def train(self, run: StoredRun, console: Console) -> str | None:
        """Train a network, or go on with it, unless it is there.

        Args:
            run: the network.
            console: where what happens is said.

        Returns:
            None, or why it failed, in a line; also what it starts from may have failed.

        Raises:
            KeyboardInterrupt: If it was asked to stop.
        """
        if self.gathered is not None:
            self.gathered.runs |= {one.key: one for one in (*self.needs(run), run)}
            failed = [self.failures[one.key] for one in (*self.needs(run), run) if one.key in self.failures]
            if failed:
                return failed[0]
            return None if self.gathered.measuring else PENDING
        if self.is_finished(run):
            return None
        if run.key in self.failures:
            return self.failures[run.key]
        for one in self.needs(run):
            failure = self.train(one, console)
            if failure:
                return failure
        if METHODS[run.spec.base].generated:
            self.stand_in(run)
        died = run_status(self.folder / "runs" / run.key) == DIED
        console.print(f"training {run.key}{', going on with a run that died' if died else ''} ...")
        row = Row(run.key, run.recipe, reuse=self.donor(run))
        failure = run_row(row, self.write_recipe(row), self.folder)
        if failure:
            console.print(f"{run.key}: failed: {failure}", style="red")
            self.failures[run.key] = failure
        return failure

    def write_recipe(self, row: Row) -> Path:
        """Write a network's recipe to recipes/KEY.toml, or see that the file there says the same.

        Args:
            row: the network, its key as the name.

        Returns:
            The file. One that was written where its precision was the automatic one names the precision now.

        Raises:
            ClatError: If the file that is there says something else.
        """
        file, precision = self.folder / "recipes" / f"{row.name}.toml", row.recipe.engine.precision
        if precision != "auto" and file.exists():
            held = read_recipe(file)
            if held.engine.precision == "auto":
                write_text(file, recipe_toml(replace(held, engine=replace(held.engine, precision=precision))))
        return write_recipe(row, self.folder)

    def donor(self, run: StoredRun) -> str | None:
        """Return the key of a finished run that begins with the same stage.

        Args:
            run: a run to be trained.

        Returns:
            The key; None if there is no such run.
        """
        if len(run.recipe.stages) < 2:
            return None
        wanted = recipe_hash(run.recipe, 1)
        for file in sorted((self.folder / "runs").glob("*/states/stage-1.safetensors")):
            if state_hash(file) == wanted and finished(file.parent.parent):
                return file.parent.parent.name
        return None

    def network(self, run: StoredRun, weights: str = "last") -> nn.Module:
        """Return a trained network.

        Args:
            run: a finished run.
            weights: last, best, or stage-1.

        Returns:
            The network in evaluation mode.
        """
        images = self.test_images(run)
        model = build_network(run.recipe, images.num_classes, images.shape[0])
        load_weights(model, self._weights(run, weights))
        return model.eval().to(computing_device())

    def evaluate(self, run: StoredRun, measure: Measure) -> EvaluationRecord:
        """Return a result of a trained network, measured now unless it is there.

        Args:
            run: a finished run.
            measure: protocol, eps, weights and number of images.

        Returns:
            The record, with verdicts on every image.

        Raises:
            ClatError: If it cannot be measured.
        """
        what = self.measurement(run, measure)
        file = Path(what.file)
        if self.gathered is not None:
            if not file.exists() and file not in self.unmeasured:
                self.gathered.measurements[file] = (run, what)
            raise ClatError("to be measured")
        if not file.exists():
            if file in self.unmeasured:
                raise ClatError(self.unmeasured[file])
            what.measure(self.test_images(run))
        return what.result()

    def measurement(self, run: StoredRun, measure: Measure) -> Measurement:
        """Return what has to be measured of a network, for this process or another.

        Args:
            run: a run, finished or to be finished.
            measure: protocol, eps, weights and number of images.

        Returns:
            The measurement, whose paths are absolute.
        """
        folder = self.folder.absolute()
        return Measurement(
            run=str(folder / "runs" / run.key),
            file=str(folder / "evaluations" / run.key / f"{measure.file}.json"),
            protocol=measure.protocol,
            eps=measure.eps,
            norm=measure.norm,
            weights=measure.weights,
            num_samples=measure.samples,
            about={"label": run.key, "weights": measure.weights},
        )

    def kept(
        self,
        kind: str,
        about: Mapping[str, Any],
        make: Callable[[], Mapping[str, Any]],
        runs: Iterable[StoredRun] = (),
        weights: str = "last",
    ) -> dict[str, Any]:
        """Return a result, made now unless it is there and of the weights that its networks have.

        Args:
            kind: the folder, such as "transfers".
            about: all that decides the result, in plain data.
            make: measures it.
            runs: the networks that it is of; a run that was trained anew keeps its key.
            weights: which of theirs.

        Returns:
            `about`, what `make` returned, and the networks' digests.
        """
        file = self._kept_file(kind, about)
        now = {run.key: file_digest(self._weights(run, weights)) for run in runs}
        if file.exists():
            held = read_json(file, "move it away, and it is measured anew")
            then = held.get(DIGEST, now)
            if all(then[key] == now[key] for key in now if then[key] and now[key]):
                return held
        held = {**about, **make(), DIGEST: now}
        file.parent.mkdir(exist_ok=True)
        write_json(file, held)
        return held

    def has_kept(self, kind: str, about: Mapping[str, Any]) -> bool:
        """Return whether a result is there, be it of the weights that its networks have now or of earlier ones.

        Args:
            kind: as for `kept`.
            about: as for `kept`.

        Returns:
            True or False.
        """
        return self._kept_file(kind, about).exists()

    def _kept_file(self, kind: str, about: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / kind / f"{digest}.json"

    def summary(self, run: StoredRun) -> dict[str, Any]:
        """Return what a finished run says of itself: summary.json and run.json together.

        Args:
            run: a finished run.

        Returns:
            Plain data.
        """
        folder = self.folder / "runs" / run.key
        summary, about = (read_json(folder / name, TRAIN_ANEW) for name in ("summary.json", "run.json"))
        return {**about, **summary}

    def records(self, run: StoredRun) -> list[dict[str, Any]]:
        """Return the events of a run's training, a record each, as metrics.jsonl has them.

        Args:
            run: a run that has begun.

        Returns:
            The records, in the order of the events.
        """
        text = (self.folder / "runs" / run.key / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    def test_images(self, run: StoredRun) -> ImageSet:
        """Return the test split of a run's data set; read once.

        Args:
            run: the run.

        Returns:
            The images.
        """
        config = run.recipe.data
        key = f"{config.name} {config.image_size}"
        if key not in self._images:
            self._images[key] = read_split(config, "test")
        return self._images[key]

    def _weights(self, run: StoredRun, name: str) -> Path:
        """Return the file of a network's weights."""
        return self.folder / "runs" / run.key / "weights" / f"{name}.safetensors"

    def _generated(self, dataset: str) -> str:
        """Return the file of generated images of a data set, or what stands in for it, within the store."""
        file = GENERATED.get(dataset)
        return file if file is not None and (data_root() / file).exists() else f"inputs/{dataset}.npz"

    def stand_in(self, run: StoredRun) -> None:
        """Write training images that no run uses, where none are generated.

        Args:
            run: a network whose recipe asks for generated ones.
        """
        extra = run.recipe.data.extra
        if extra is None or extra.file in GENERATED.values() or Path(extra.file).exists():
            return
        data = {"name": run.recipe.data.name, "heldout": run.recipe.data.heldout}
        if run.recipe.data.train_size is not None:
            data["train_size"] = run.recipe.data.train_size
        write_stand_in(Scale("", 1, 1, {"data": data}, ""), self.folder, Path(extra.file))


def _key(spec: RunSpec, of: Recipe) -> str:
    return f"{spec.label}-{recipe_hash(of)[:8]}"

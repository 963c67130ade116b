"""Where a run's numbers go beside metrics.jsonl: loggers in the manner of Lightning Fabric.

A logger has `log_metrics(metrics, step)`, and may have `log_hyperparams(params)`, `save()` and `finalize(status)`;
so those of Fabric and of PyTorch Lightning fit as they are. A library is imported only where its name is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError
from clat.recipe.loggers import LOGGERS, OWN_LOGGERS
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_data
from clat.training.threads import QuietThreads

Metrics = dict[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """What a logger is told of the run it belongs to."""

    folder: Path
    recipe: Recipe
    about: Mapping[str, Any]
    """What run.json says of it, when it first started among the rest."""
    epoch: int
    """Epochs that are over already, in a run that is resumed."""

    @property
    def name(self) -> str:
        """Return the name by which the run is listed."""
        return self.recipe.name

    @property
    def identity(self) -> str:
        """Return a short hash that stays the same when the run is resumed, and is another's in another run."""
        whole = f"{self.about['run_hash']} {self.about['started']} {self.folder.name}"
        return hashlib.sha256(whole.encode()).hexdigest()[:12]

    @property
    def settings(self) -> dict[str, Any]:
        """Return the recipe as plain data."""
        return recipe_data(self.recipe)


class WandbTracker:
    """Weights & Biases, by its own settings (WANDB_PROJECT, WANDB_MODE, ...)."""

    def __init__(self, wandb: Any, run: TrackedRun) -> None:
        self.run = wandb.init(
            name=run.name, id=run.identity, resume="allow", dir=str(run.folder), config=dict(run.settings)
        )

    def log_metrics(self, metrics: Metrics, step: int) -> None:
        """Send the numbers of an epoch."""
        self.run.log(metrics, step=step)

    def finalize(self, status: str) -> None:
        """End the run."""
        self.run.finish(exit_code=int(status != "success"))


class MlflowTracker:
    """MLflow, by its own settings (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...)."""

    def __init__(self, mlflow: Any, run: TrackedRun) -> None:
        self.mlflow, known = mlflow, run.folder / "mlflow.json"
        started = json.loads(known.read_text())["run_id"] if known.exists() else None
        active = mlflow.start_run(run_id=started) if started else mlflow.start_run(run_name=run.name)
        if started is None:
            known.write_text(json.dumps({"run_id": active.info.run_id}) + "\n")
            mlflow.log_params({key: str(value)[:500] for key, value in flattened(run.settings).items()})

    def log_metrics(self, metrics: Metrics, step: int) -> None:
        """Send the numbers of an epoch."""
        self.mlflow.log_metrics(metrics, step=step)

    def finalize(self, status: str) -> None:
        """End the run."""
        self.mlflow.end_run("FINISHED" if status == "success" else "FAILED")


class TrackioTracker:
    """trackio, whose project is TRACKIO_PROJECT or "clat"."""

    def __init__(self, trackio: Any, run: TrackedRun) -> None:
        self.run = trackio.init(
            project=environ.get("TRACKIO_PROJECT", "clat"), name=f"{run.name}-{run.identity}", resume="allow",
            config=dict(run.settings),
        )  # fmt: skip

    def log_metrics(self, metrics: Metrics, step: int) -> None:
        """Send the numbers of an epoch."""
        self.run.log(metrics, step=step)

    def finalize(self, status: str) -> None:
        """End the run."""
        self.run.finish()


class TensorboardTracker:
    """TensorBoard: its file in the run's folder, by torch's own writer. Fabric's takes seconds to import."""

    def __init__(self, tensorboard: Any, run: TrackedRun) -> None:
        self.writer = tensorboard.SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.epoch + 1)

    def log_metrics(self, metrics: Metrics, step: int) -> None:
        """Write the numbers of an epoch."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finalize(self, status: str) -> None:
        """End the run."""
        self.writer.close()


def _csv(library: Any, run: TrackedRun) -> Any:
    from lightning_fabric.loggers import CSVLogger

    (run.folder / "csv" / "metrics.csv").unlink(missing_ok=True)  # written again, from the epochs so far
    return CSVLogger(run.folder, name="csv", version="", flush_logs_every_n_steps=1)


_OPENED: dict[str, tuple[str, Callable[[Any, TrackedRun], Any]]] = {
    "csv": ("lightning_fabric", _csv),
    "mlflow": ("mlflow", MlflowTracker),
    "tensorboard": ("torch.utils.tensorboard", TensorboardTracker),
    "trackio": ("trackio", TrackioTracker),
    "wandb": ("wandb", WandbTracker),
}
"""Name -> the module that it needs, and what opens it."""
assert set(_OPENED) == set(LOGGERS)


def wanted_loggers(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the loggers that a run opens.

    Args:
        names: the recipe's `monitor.loggers`; None asks for TensorBoard if it is installed.

    Returns:
        The names as they were given; without any, TensorBoard's or none.

    Raises:
        ClatError: a logger's library is not installed.
    """
    if names is None:
        return ("tensorboard",) if _library("tensorboard") is not None else ()
    for name in names:
        if name in _OPENED and _library(name) is None:
            raise ClatError(f"the logger '{name}' needs {name}, which is not installed: pip install {name}")
    return tuple(names)


def check_trackers(given: Iterable[Any]) -> None:
    """Raise an error unless each object has the methods of a logger.

    Args:
        given: loggers of the caller's own.

    Raises:
        ClatError: one has no `log_metrics`.
    """
    for one in given:
        if not callable(getattr(one, "log_metrics", None)):
            raise ClatError(
                f"a {type(one).__name__} is no logger: it has no log_metrics(metrics, step), as those of Lightning "
                "Fabric have"
            )


class TrackerList:
    """The loggers of a run. One that fails gets no more, and the run goes on: metrics.jsonl has everything."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.members: dict[str, Any] = {}
        self._threads = QuietThreads("tensorboard")

    def open(self, names: Sequence[str], given: Sequence[Any], run: TrackedRun) -> None:
        """Open the loggers of a run, and tell them its settings.

        Args:
            names: as `wanted_loggers` returns them.
            given: loggers of the caller's own, open already.
            run: what they are told of it.

        Raises:
            ClatError: what a name of the user's own means is no logger.
        """
        self._threads.start()
        for name in names:
            with_name = self._guarded(name, lambda name=name: _open(name, run))  # type: ignore[misc]
            if with_name is not None:
                self.members[name] = with_name
        for number, one in enumerate(given):
            self.members[f"{type(one).__name__} {number + 1}"] = one
        for name, one in list(self.members.items()):
            # Fabric's CSV file has no place for them.
            if hasattr(one, "log_hyperparams") and name != "csv":
                self._guarded(name, lambda one=one: one.log_hyperparams(flattened(run.settings)))  # type: ignore[misc]

    def log(self, metrics: Metrics, step: int, only: str | None = None) -> None:
        """Send the numbers of an epoch.

        Args:
            metrics: name -> number.
            step: the epoch, counted from 1.
            only: the name of the one logger that gets them; None: all do.
        """
        for name, one in list(self.members.items()):
            if only in (None, name):
                self._guarded(name, lambda one=one: one.log_metrics(metrics, step))  # type: ignore[misc]
                if hasattr(one, "save"):
                    self._guarded(name, one.save)

    def close(self, status: str) -> None:
        """Let all finish.

        Args:
            status: "success" or "failed".
        """
        for name, one in list(self.members.items()):
            if hasattr(one, "finalize"):
                self._guarded(name, lambda one=one: one.finalize(status))  # type: ignore[misc]
        self.members = {}
        self._threads.stop()

    def _guarded(self, name: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except ClatError:
            raise
        except Exception as error:  # of a library, and of the network behind it
            reason = next(iter(str(error).strip().splitlines()), "")[:160]
            self.say(f"the logger '{name}' gets no more, it failed: {type(error).__name__}: {reason}")
            self.members.pop(name, None)
            return None


def flattened(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings as one table with dotted names.

    >>> flattened({"a": {"b": 1}, "c": [{"d": 2}]})
    {'a.b': 1, 'c.0.d': 2}

    Args:
        settings: tables and lists within each other; an empty list becomes "[]".
        before: what each name begins with, as "a.".

    Returns:
        Dotted name -> value.
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{before}{key}"
        if isinstance(value, list):
            value = {str(number): one for number, one in enumerate(value)} if value else "[]"
        found |= flattened(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def _library(name: str) -> Any:
    try:
        return importlib.import_module(_OPENED[name][0])
    except ImportError:
        return None


def _open(name: str, run: TrackedRun) -> Any:
    if name in _OPENED:
        return _OPENED[name][1](_library(name), run)
    factory = OWN_LOGGERS.find(name)
    if not callable(factory):
        raise ClatError(f"logger '{name}' is a {type(factory).__name__}, expected a function of the run's folder")
    made = factory(run.folder)
    check_trackers([made])
    return made

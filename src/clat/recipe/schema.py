"""A run's settings: plain dataclasses, one a concern, checked where they are built.

A recipe file (TOML) has the same shape; `clat.recipe` reads and writes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from clat.core.checks import at_least
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.core.units import Size
from clat.criticality.selection import Selection
from clat.models.settings import ModelConfig
from clat.objectives import AnyObjective
from clat.recipe.data_settings import DataConfig
from clat.recipe.eps_schedule import EpsSchedule
from clat.recipe.loggers import check_loggers
from clat.recipe.optimizer import AnyOptimizer, OptimizerConfig, TorchOptimizer
from clat.recipe.schedules import Schedule, learning_rate, momentum
from clat.recipe.sharding import check_sharding
from clat.runtime.engine import EngineConfig
from clat.treatments import AnyTreatment, Treatment


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One part of a run: an objective, the parameters it moves, and for how long."""

    name: str
    """Shown in the log and the report."""
    epochs: int
    objective: AnyObjective
    """The loss of a batch: {name = "pgd-at", ...}."""
    selection: Selection | None = None
    """Which layers move; None: the whole network."""
    treatments: tuple[AnyTreatment, ...] = ()
    """What is done to the weights meanwhile: {name = "awp", gamma = 0.01} and the like, in this order."""
    batch_norm: Literal["frozen", "update", "update-selected"] | None = None
    """BatchNorm statistics: see `clat.network.modes.BN_POLICIES`. None: `frozen` with a selection, else
    `update`."""
    schedule: Schedule | None = None
    """A learning rate of the stage's own, counted from its first epoch; None: the run's goes on."""
    eps_schedule: EpsSchedule | None = None
    """{from = 0, until = 0.75}: the attack's eps rises over the stage; None: it is full from the first step."""
    optimizer: AnyOptimizer | None = None
    """None: the run's."""

    def __post_init__(self) -> None:
        at_least(f"epochs of stage '{self.name}'", self.epochs, 1)
        if self.selection is None and self.objective.needs_selection:
            raise ClatError(f"stage '{self.name}': the objective '{self.objective.name}' needs a selection")
        if self.selection is None and self.batch_norm == "update-selected":
            raise ClatError(f"stage '{self.name}': batch_norm = 'update-selected' needs a selection: take 'update'")
        if self.eps_schedule is not None and not self.objective.attacks:
            raise ClatError(f"stage '{self.name}': '{self.objective.name}' has no attack for an eps_schedule")
        names = [treatment.name for treatment in self.treatments]
        for treatment in self.treatments:
            try:
                treatment.check_beside(names)
            except ClatError as error:
                raise ClatError(f"stage '{self.name}' {error}") from None
            self._check_beside(treatment)
            treatment.check(self.epochs)
        self._check_ranking()

    def _check_beside(self, treatment: Treatment) -> None:
        """Raise an error for a treatment that the objective cannot share a stage with."""
        objective = self.objective
        if treatment.name in objective.apart or (objective.owns_weights and treatment.reparametrises):
            raise ClatError(
                f"stage '{self.name}': '{objective.name}' works on weights that '{treatment.name}' replaces: give "
                f"'{treatment.name}' a stage of its own, before or after this one"
            )
        if objective.goes_back and treatment.averages:
            raise ClatError(
                f"stage '{self.name}': '{objective.name}' goes back to weights by their held-out accuracy, where "
                f"'{treatment.name}' has its average measured: give '{treatment.name}' another stage"
            )

    def _check_ranking(self) -> None:
        """Raise an error for a ranking that moves or rewinds weights which are not a layer's own."""
        guests = [one.name for one in (self.objective, *self.treatments) if one.reparametrises]
        if guests and self.selection is not None and self.selection.ranking.reads_weights:
            raise ClatError(
                f"stage '{self.name}': the ranking '{self.selection.ranking.name}' reads the weights of a plain "
                f"network, which '{guests[0]}' changes: rank by criticality or activation, or name the layers"
            )

    @property
    def bn_policy(self) -> str:
        """Return the policy for BatchNorm statistics, the default filled in."""
        return self.batch_norm or ("update" if self.selection is None else "frozen")


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """The robust accuracy on held-out images after each epoch, which also picks the best checkpoint."""

    steps: int = 10
    """PGD steps of 2.5 * eps / steps, from a random start that is the same each epoch."""
    num_samples: int = 500
    every: int = 1
    """Epochs between two checks; the last epoch is always checked."""
    stop_on_collapse: bool = False
    """End a stage of one-step training at the check that shows catastrophic overfitting, and go back to the best
    weights so far, from which the next stage starts."""
    loggers: tuple[str, ...] | None = None
    """Where the numbers of each epoch go beside metrics.jsonl: tensorboard, csv, wandb, mlflow, trackio, or a
    function of your own, "package.module:name". None: TensorBoard where it is installed; an empty list: nowhere."""

    def __post_init__(self) -> None:
        check_loggers(self.loggers or ())
        for what in ("steps", "num_samples", "every"):
            at_least(f"monitor.{what}", getattr(self, what), 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """The final evaluation on the test split: of each stage's end, the best and the last checkpoint."""

    protocol: str = "pgd-20"
    num_samples: int | None = None
    """Test images, the first or of each class in proportion (`clat.data.ImageSet.sampled`); None: all."""
    batch_size: int = 250
    weights: Literal["all", "best-and-last", "none"] = "all"
    """Which weights are measured. `all`: also those at the start, if they were given, and at the end of each
    earlier stage. `none`: the test split stays unread, as it must while runs are compared to decide something."""

    def __post_init__(self) -> None:
        at_least("evaluation.batch_size", self.batch_size, 1)
        if self.num_samples is not None:
            at_least("evaluation.num_samples", self.num_samples, 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole run."""

    stages: tuple[StageConfig, ...]
    name: str = "run"
    seed: int = 0
    eps: Size = "8/255"
    """The threat model's radius: of training, selection, monitoring and evaluation alike."""
    norm: str = "linf"
    batch_size: int = 128
    micro_batch: int | None = None
    """At most so many images of a process's batch are in the network at a time, and their gradients are added up:
    the same step in less memory, but for BatchNorm that normalises by the batch. None: the whole batch."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: Schedule = field(default_factory=Schedule)
    """The learning rate over all epochs of the run; a stage with a schedule of its own has that instead."""
    optimizer: AnyOptimizer = field(default_factory=OptimizerConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ClatError("a recipe needs at least one stage: [[stages]] with name, epochs and objective")
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1:
                raise ClatError(f"two stages are called '{name}': give each its own name")
        if self.engine.shard:
            check_sharding(self.stages, self.optimizer)
        for stage in self.stages:
            if self.data.mixes and not stage.objective.mixed_labels:
                name = stage.objective.name
                raise ClatError(
                    f"stage '{stage.name}': '{name}' needs one label an image, and {self.data.mixes} mixes them"
                )
        at_least("batch_size", self.batch_size, 1)
        if self.micro_batch is not None:
            at_least("micro_batch", self.micro_batch, 1)
        if self.threat.eps == 0:
            raise ClatError("eps is 0: selection, monitoring and evaluation need a perturbation, such as 8/255")
        object.__setattr__(self, "eps", self.threat.text)
        self.schedule.check(self.total_epochs)
        for stage in self.stages:
            if stage.schedule is not None:
                stage.schedule.check(stage.epochs)
            try:
                stage.objective.check(self.threat)
            except ClatError as error:
                raise ClatError(f"stage '{stage.name}': {error}") from None
            try:
                if stage.selection is not None and stage.selection.ranks:
                    stage.selection.ranking.check(self.threat)
            except ClatError as error:
                raise ClatError(f"stage '{stage.name}': selection: {error}") from None
            if self.micro_batch is not None and not stage.objective.splits:
                name = stage.objective.name
                raise ClatError(f"stage '{stage.name}': '{name}' takes a batch as a whole: leave micro_batch out")
            if self.engine.checkpoint_blocks and stage.objective.reparametrises:
                name = stage.objective.name
                raise ClatError(
                    f"stage '{stage.name}': a block of '{name}' computes otherwise when it runs again: leave "
                    "engine.checkpoint_blocks out"
                )
            if self.engine.compile and stage.objective.second_order:
                raise ClatError(
                    f"stage '{stage.name}': '{stage.objective.name}' differentiates a gradient, which compiled "
                    "blocks do not allow: leave engine.compile out"
                )

    @property
    def threat(self) -> ThreatModel:
        """Return the threat model that `eps` and `norm` name."""
        return ThreatModel.parse(self.eps, self.norm)

    def resolved(self) -> Recipe:
        """Return the recipe as it runs on this machine.

        Returns:
            The same recipe, whose precision is what "auto" means here, and float32 where a stage differentiates a
            gradient, which bfloat16 has too few digits for.
        """
        twice = self.engine.precision == "auto" and any(stage.objective.second_order for stage in self.stages)
        engine = replace(self.engine, precision="32") if twice else self.engine.resolved()
        return replace(self, data=self.data.resolved(), engine=engine)

    @property
    def total_epochs(self) -> int:
        """Return the epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def optimizer_of(self, stage: int) -> OptimizerConfig | TorchOptimizer:
        """Return the optimizer of a stage: its own, or else the run's.

        Args:
            stage: its number, from 0.

        Returns:
            The settings that the stage trains with.
        """
        return self.stages[stage].optimizer or self.optimizer

    def check_rates(self) -> None:
        """Raise an error where a run that begins would train at a rate of 0, or at one that was not asked for.

        Raises:
            ClatError: a schedule ends before the stages that are trained under it, or has a setting that its kind
                does not read.
        """
        for schedule in (self.schedule, *(stage.schedule for stage in self.stages)):
            if schedule is not None:
                schedule.check_kind()
        shared = 0
        for number, stage in enumerate(self.stages):
            if stage.schedule is None:
                shared = self.first_epoch(number) + stage.epochs
            else:
                stage.schedule.check_rate(stage.epochs)
        self.schedule.check_rate(shared)

    def keeps_optimizer(self, stage: int) -> bool:
        """Return whether a stage's optimizer can go on with what that of the stage before remembers.

        Args:
            stage: its number, from 0.

        Returns:
            False for the first stage, and where the two optimizers keep different states.
        """
        return stage > 0 and self.optimizer_of(stage - 1).succeeded_by(self.optimizer_of(stage))

    def method_since(self, stage: int) -> int:
        """Return the first of the stages that a stage goes on with: those before it that move the same.

        The best weights of a run are taken over these stages alone: those of X are no result of "X + CLAT".

        Args:
            stage: its number, from 0.

        Returns:
            A number from 0 to `stage`; `stage` itself where the one before differs in its selection, its
            treatments, or in that its objective puts other parameters in the weights' place.
        """

        def method(number: int) -> tuple[object, ...]:
            one = self.stages[number]
            return one.selection, [each.name for each in one.treatments], one.objective.reparametrises

        while stage > 0 and method(stage - 1) == method(stage):
            stage -= 1
        return stage

    def first_epoch(self, stage: int) -> int:
        """Return the number of a stage's first epoch within the run.

        Args:
            stage: its number, from 0.

        Returns:
            The epochs of all earlier stages together, so the first stage has 0.
        """
        return sum(earlier.epochs for earlier in self.stages[:stage])

    def learning_rate(self, stage: int, done: float) -> float:
        """Return the schedule's learning rate at a place of a stage.

        Args:
            stage: its number, from 0.
            done: epochs since the run began, those of earlier stages included; a step counts as its fraction of an
                epoch.

        Returns:
            The rate of the stage's own schedule, or else of the run's.
        """
        return learning_rate(*self._on_schedule(stage, done))

    def momentum(self, stage: int, done: float) -> float | None:
        """Return the schedule's momentum at a place of a stage.

        Args:
            stage: as for `learning_rate`.
            done: as for `learning_rate`.

        Returns:
            The momentum; None where the optimizer keeps its own.
        """
        return momentum(*self._on_schedule(stage, done))

    def _on_schedule(self, stage: int, done: float) -> tuple[Schedule, float, int]:
        """Return the schedule of a stage, the epochs since it began, and those that are trained under it."""
        own = self.stages[stage].schedule
        if own is not None:
            return own, done - self.first_epoch(stage), self.stages[stage].epochs
        return self.schedule, done, self.total_epochs

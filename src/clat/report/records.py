"""A run folder's contents as plain records, and what is asked of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clat.core.formatting import number
from clat.evaluation.gallery import Gallery
from clat.evaluation.result import EvaluationRecord

Json = dict[str, Any]
ENDS = ("last", "after")
"""What the test result of a run's end is called, and of a hardening's."""


@dataclass(frozen=True)
class Stage:
    """A stretch of epochs with one objective and one selection.

    Attributes:
        number: its place in the run, from 1.
        name: the recipe's name of it.
        first: its first epoch, from 1.
        last: its last epoch, itself included.
        raw: all that events and summary say of it.
    """

    number: int  # from 1, as people count
    name: str
    first: int
    last: int
    raw: Json


@dataclass
class Run:
    """A run folder's contents; what is missing or damaged is empty, and `notices` says so.

    Attributes:
        path: the folder.
        recipe_text: `recipe.toml` as it stands.
        recipe: the same, parsed.
        info: `run.json`: status, environment, command.
        summary: `summary.json`: best and last epoch, costs.
        epochs: a record for each epoch, in order.
        stages: the stages that trained at least one epoch.
        selections: epoch -> the selection of layers before it.
        criticality: epoch -> the criticality report measured before it.
        rankings: epoch -> the ranking measured before it, where it is another than CLAT's criticality.
        evaluations: results on the test split, in the order of training.
        gallery: pictures, which a hardening keeps.
        masking: signs of gradient masking, which a hardening looks for.
        warnings: what training warned of, each with its `message`.
        notices: a sentence for each thing that is missing or damaged.
    """

    path: Path
    recipe_text: str | None = None
    recipe: Json = field(default_factory=dict)
    info: Json = field(default_factory=dict)
    summary: Json = field(default_factory=dict)
    epochs: list[Json] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    selections: dict[int, Json] = field(default_factory=dict)
    criticality: dict[int, Json] = field(default_factory=dict)
    rankings: dict[int, Json] = field(default_factory=dict)  # other than CLAT's criticality, by epoch as well
    evaluations: list[EvaluationRecord] = field(default_factory=list)
    gallery: Gallery | None = None
    masking: Json = field(default_factory=dict)
    warnings: list[Json] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def decides_on_test(self) -> bool:
        """Return whether the test split decided, so that what else is called held out is that one."""
        return part(self.recipe, "data").get("decide_on") == "test-split"

    @property
    def name(self) -> str:
        """Return the recipe's name, or else the folder's."""
        return text(self.recipe, "name") or self.path.resolve().name

    @property
    def status(self) -> str:
        """Return "running", "interrupted", "failed", "finished", "died" or, where nothing says, "unknown"."""
        return text(self.info, "status") or "unknown"

    @property
    def end(self) -> EvaluationRecord | None:
        """Return the result on the test split of the run's end, or of a hardening's; None if there is none."""
        return next((one for one in map(self.evaluation, ENDS) if one is not None), None)

    def evaluation(self, label: str) -> EvaluationRecord | None:
        """Return the result on the test split with a label.

        Args:
            label: "best", "last" or "stage-k", the model after k stages; "before" or "after" a hardening.

        Returns:
            The result, or None if there is none so called.
        """
        return next((one for one in self.evaluations if one.label == label), None)


def text(record: Any, *keys: str) -> str | None:
    """Return the value at a path of keys as text.

    Args:
        record: nested dictionaries.
        *keys: the path, outermost key first.

    Returns:
        The text; None where the path ends early or at a container.
    """
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return None if record is None or isinstance(record, dict | list) else str(record)


def part(record: Json, key: str) -> Json:
    """Return the object under a key, or an empty one where there is none.

    Args:
        record: a JSON object.
        key: the key.

    Returns:
        The object itself, not a copy.
    """
    inner = record.get(key)
    return inner if isinstance(inner, dict) else {}


def listed(record: Json, key: str) -> list[Any]:
    """Return the list under a key.

    Args:
        record: one of a run's records.
        key: a name in it.

    Returns:
        The list, or an empty one where there is none.
    """
    inner = record.get(key)
    return inner if isinstance(inner, list) else []


def series(epochs: Iterable[Json], key: str) -> tuple[list[int], list[float]]:
    """Return epoch numbers and a recorded quantity, without the epochs at which it was not measured.

    Args:
        epochs: records of epochs.
        key: the quantity, such as "heldout_robust".

    Returns:
        Two lists of one length: epochs and values.
    """
    pairs = [(record["epoch"], number(record.get(key))) for record in epochs]
    known = [(epoch, value) for epoch, value in pairs if value is not None]
    return [epoch for epoch, _ in known], [value for _, value in known]


def moment(run: Run, which: str) -> Json:
    """Return the record of the best or the last epoch: the summary's, or else the one that the epochs show.

    An interrupted run has no summary, so that its epochs are asked: best is the highest held-out robust accuracy of
    the last stage.

    Args:
        run: the run.
        which: "best" or "last".

    Returns:
        The record with `epoch`; empty if no held-out robust accuracy was measured.
    """
    written = part(run.summary, which)
    if isinstance(written.get("epoch"), int):
        return written
    measured = [one for one in run.epochs if number(one.get("heldout_robust")) is not None]
    if not measured:
        return {}
    if which == "last":
        return measured[-1]
    same = [one for one in measured if one.get("stage") == measured[-1].get("stage")]
    return max(same, key=lambda one: one["heldout_robust"])

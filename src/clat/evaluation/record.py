"""Results of evaluations as their files tell them, whatever version wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clat.core.errors import ClatError
from clat.core.files import SavedAsJson
from clat.core.formatting import counted, number
from clat.core.parsing import parse_json
from clat.evaluation.protocols import ball_text, protocol_title, unbounded_attacks
from clat.evaluation.shown import evaluation_html

UNNAMED = "this evaluation"
"""What a result is called that nobody gave a name."""
TEST_DECIDES = (
    "the test split decides in this run (data.decide_on): its accuracies there are chosen for, and no estimate of "
    "those on new images"
)
"""The note of results of a run with that option."""


@dataclass(frozen=True)
class RecordedAccuracy:
    """A share of images with its 95 % interval as a file holds it; what the file does not say is None.

    Attributes:
        value: the share, in [0, 1].
        low: the lower end of the interval.
        high: the upper end.
        n: how many images it is a share of.
    """

    value: float
    low: float | None
    high: float | None
    n: int | None

    @classmethod
    def from_dict(cls, data: Any) -> RecordedAccuracy | None:
        """Return what `Accuracy.to_dict` wrote.

        Args:
            data: plain data of a JSON file, of any kind.

        Returns:
            The accuracy; None for what holds no value.
        """
        value = number(data.get("value")) if isinstance(data, dict) else None
        if value is None:
            return None
        n = number(data.get("n"))
        return cls(value, number(data.get("low")), number(data.get("high")), None if n is None else int(n))

    def __str__(self) -> str:
        known = self.low is not None and self.high is not None
        return f"{self.value:.1%}" + (f" [{self.low:.1%}, {self.high:.1%}]" if known else "")

    def overlaps(self, other: RecordedAccuracy) -> bool | None:
        """Return whether two intervals share a point.

        Args:
            other: the other accuracy.

        Returns:
            True if they do; None where one of them is not known.
        """
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class EvaluationRecord(SavedAsJson):
    """A result as its file tells it, whatever version wrote it: what is not there, or torn, is None.

    Attributes:
        name: what to call it, such as the file's name.
        data: all that the file holds, as `Evaluation.to_dict` gives it.
    """

    name: str
    data: dict[str, Any]

    @classmethod
    def from_dict(cls, data: Any, name: str = UNNAMED) -> EvaluationRecord:
        """Return the record of what `Evaluation.to_dict` wrote.

        Args:
            data: plain data of a JSON file, of any kind.
            name: what to call the result, in messages too.

        Returns:
            The record.

        Raises:
            ClatError: the data says that it is something else.
        """
        if not isinstance(data, dict) or data.get("what", "evaluation") != "evaluation":
            raise ClatError(f"{name} is no result of `clat evaluate`: it holds something else")
        return cls(name, data)

    @classmethod
    def from_json(cls, path: str | Path) -> EvaluationRecord:
        """Read what `Evaluation.to_json` wrote.

        Args:
            path: the file, by which the result is called.

        Returns:
            The record.

        Raises:
            ClatError: a file that cannot be read, or holds something else.
        """
        if Path(path).is_dir():
            raise _folder_error(Path(path))
        try:
            data = parse_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ClatError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise ClatError(f"{path} is no result of `clat evaluate`: {error}") from None
        return cls.from_dict(data, str(path))

    def _repr_html_(self) -> str:
        title = f"{self.name}: {self.protocol}" + (f" at {self.ball}" if self.ball else "")
        clean, robust = self.clean_accuracy or "-", self.robust_accuracy or "-"
        caption = "\n".join([counted(self.setting["n"], "image"), *self.notes])
        return evaluation_html(title, clean, self.per_attack, robust, caption)

    def to_dict(self) -> dict[str, Any]:
        """Return the data as it was read.

        Returns:
            Plain data, with what this version does not know too.
        """
        return self.data

    def text(self, *keys: str) -> str | None:
        """Return a value of the data as text.

        Args:
            keys: the path to it, from the outermost key on.

        Returns:
            The text; None where the path ends early or at a container.
        """
        record: Any = self.data
        for key in keys:
            record = record.get(key) if isinstance(record, dict) else None
        return None if record is None or isinstance(record, dict | list) else str(record)

    @property
    def label(self) -> str:
        """Return the label that a run gave the result ("last"), else its name."""
        return self.text("label") or self.name

    @property
    def protocol(self) -> str:
        """Return the protocol's name as results show it, see `protocol_title`."""
        named = self.text("protocol", "name")
        return protocol_title(self.data["protocol"]) if named else "unnamed protocol"

    @property
    def protocol_hash(self) -> str | None:
        """Return the hash of the protocol's attacks."""
        return self.text("protocol", "hash")

    @property
    def bounded_by_eps(self) -> bool:
        """Return whether any of the protocol's attacks heeds eps."""
        return not unbounded_attacks(self.data.get("protocol"), alone=True)

    @property
    def eps(self) -> str | None:
        """Return the radius as exact text, "8/255"; None too where no attack heeds it."""
        return (self.text("eps", "text") or self.text("eps")) if self.bounded_by_eps else None

    @property
    def ball(self) -> str:
        """Return norm and radius, "linf eps 8/255"; nothing where no attack heeds them."""
        return ball_text(self.data.get("protocol"), self.text("protocol", "norm"), self.eps)

    @property
    def notes(self) -> list[str]:
        """Return all that qualifies the accuracies, a line each: the result's notes and its plan's warning."""
        listed = self.data.get("notes")
        said = [*(listed if isinstance(listed, list) else []), self.text("warning") or ""]
        return list(dict.fromkeys(line for one in said if (line := " ".join(str(one).split()))))

    @property
    def images(self) -> str | None:
        """Return the digest of what was evaluated; None in a file of a version that had none."""
        return self.text("images")

    @property
    def attack_sources(self) -> dict[str, str]:
        """Return for each attack of a user's own the digest of its code, as far as the file says."""
        said = self.data.get("attack_sources")
        return {str(name): str(one) for name, one in said.items()} if isinstance(said, dict) else {}

    @cached_property
    def clean_accuracy(self) -> RecordedAccuracy | None:
        """Return the accuracy on clean images."""
        return RecordedAccuracy.from_dict(self.data.get("clean_accuracy"))

    @cached_property
    def robust_accuracy(self) -> RecordedAccuracy | None:
        """Return the accuracy under all attacks."""
        return RecordedAccuracy.from_dict(self.data.get("robust_accuracy"))

    @cached_property
    def per_attack(self) -> dict[str, RecordedAccuracy]:
        """Return for each attack the accuracy left after it and those before it."""
        listed = self.data.get("per_attack")
        entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        found = {str(one.get("name")): RecordedAccuracy.from_dict(one.get("robust_accuracy")) for one in entries}
        return {name: accuracy for name, accuracy in found.items() if accuracy is not None}

    @cached_property
    def correct(self) -> Tensor | None:
        """Return which samples are right on the clean image, (N,) bool."""
        return _flags(self.data.get("correct"))

    @cached_property
    def robust(self) -> Tensor | None:
        """Return which samples are right whatever the attacks do, (N,) bool."""
        return _flags(self.data.get("robust"))

    @cached_property
    def labels(self) -> Tensor | None:
        """Return the right classes, (N,) int64."""
        return _classes(self.data.get("labels"))

    @cached_property
    def predicted(self) -> Tensor | None:
        """Return the classes that the samples are taken for in the end, (N,) int64, see `Evaluation`."""
        return _classes(self.data.get("predicted"))

    @cached_property
    def setting(self) -> dict[str, Any]:
        """Return what has to agree where two results are compared, with None for what the file does not say."""
        n = self.text("data", "n") if self.correct is None else len(self.correct)
        return {
            "protocol": {"name": self.protocol, "hash": self.protocol_hash},
            "norm": self.text("protocol", "norm"),
            "eps": self.eps,
            "data": {"name": self.text("data", "name"), "split": self.text("data", "split")},
            "n": n,
        }

    def verdicts(self) -> tuple[Tensor, Tensor]:
        """Return which samples are right on the clean image and under attack.

        Returns:
            Two times one flag a sample, (N,) bool.

        Raises:
            ClatError: they are not there or damaged, or the file does not say what they are of.
        """
        said = (self.protocol_hash, self.text("protocol", "norm"), self.text("eps", "text"))
        digest_holds = self.data.get("images") is None or isinstance(self.data["images"], str)
        if self.correct is None or self.robust is None or None in said or not digest_holds:
            raise ClatError(f"{self.name} is no result of `clat evaluate`: it lacks verdicts or what they are of")
        if len(self.correct) != len(self.robust) or len(self.correct) == 0:
            raise ClatError(
                f"{self.name} is damaged: {len(self.correct)} clean and {len(self.robust)} robust verdicts"
            )
        return self.correct, self.robust


def notes_of(results: Mapping[str, EvaluationRecord]) -> list[str]:
    """Return what qualifies several results' accuracies, each note once.

    Args:
        results: what each is called -> the result.

    Returns:
        The notes; one that not all have begins with whose it is.
    """
    whose: dict[str, list[str]] = {}
    for name, result in results.items():
        for note in result.notes:
            whose.setdefault(note, []).append(name)
    return [note if len(names) == len(results) else f"{', '.join(names)}: {note}" for note, names in whose.items()]


def _folder_error(folder: Path) -> ClatError:
    """Return the error for a folder where a result is meant: it names those that a run left in it."""
    inside = sorted(folder.glob("evaluations/*.json"), key=lambda file: (file.stem != "last", file.name))
    inside += sorted(folder.glob("*.json"))
    results = [str(file) for file in inside if _holds_result(file)][:3]
    hint = f"name the result: {' or '.join(results)}" if results else "name a file that clat evaluate --out wrote"
    return ClatError(f"{folder} is a folder: {hint}")


def _holds_result(file: Path) -> bool:
    try:
        EvaluationRecord.from_json(file).verdicts()
    except ClatError:
        return False
    return True


def _flags(bits: Any) -> Tensor | None:
    """Return the flags that `_bits` wrote, None for what is no string of 0 and 1."""
    if not isinstance(bits, str) or set(bits) - {"0", "1"}:
        return None
    return torch.tensor([bit == "1" for bit in bits], dtype=torch.bool)


def _classes(numbers: Any) -> Tensor | None:
    """Return the classes that `Evaluation.to_dict` wrote, None for anything else."""
    try:
        return torch.tensor([int(one) for one in numbers.split()], dtype=torch.int64)
    except (AttributeError, ValueError, OverflowError):
        return None

"""The result of an evaluation: as it comes from the measurement, and as a file tells it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clat.core.errors import ClatError
from clat.core.files import write_json
from clat.core.formatting import number
from clat.core.units import parse_size
from clat.evaluation.protocols import Protocol, protocol_title
from clat.evaluation.state import UNTRIED, robust_after
from clat.evaluation.statistics import Accuracy, nrr
from clat.network.cost import Cost
from clat.network.fingerprint import digest


@dataclass(frozen=True)
class Evaluation:
    """`correct`, `robust`: bool per sample, (N,), on the CPU; a robust sample is correct on its clean image too.
    `fooled_by`: the position of the attack that fooled each sample, -1 where none did. `labels`, `predicted`: the
    right class, and the one that it is taken for in the end, by the example where it was fooled; (N,) int64.
    `samples`: a digest of each sample's image, label and number, (N,) int64. `x_adv`: the examples, if they were
    asked for. `notes`: what differs from the protocol's letter. `about`: what the caller adds to the JSON."""

    protocol: Protocol
    eps: str
    norm: str
    seed: int
    precision: str
    correct: Tensor
    fooled_by: Tensor
    labels: Tensor
    predicted: Tensor
    samples: Tensor
    cost: Cost
    environment: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    x_adv: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def robust(self) -> Tensor:
        return self.correct & (self.fooled_by == UNTRIED)

    @property
    def clean_accuracy(self) -> Accuracy:
        return Accuracy(int(self.correct.sum()), len(self.correct))

    @property
    def robust_accuracy(self) -> Accuracy:
        return Accuracy(int(self.robust.sum()), len(self.correct))

    @property
    def images(self) -> str:
        """A digest of what was evaluated, by which results of other images, labels or numbers are told apart."""
        return digest(self.samples)

    @property
    def per_attack(self) -> dict[str, Accuracy]:
        """For each attack, the accuracy left after it and those before it."""
        found: dict[str, Accuracy] = {}
        for position, spec in enumerate(self.protocol.attacks):
            label = f"{spec.label} ({position + 1})" if spec.label in found else spec.label
            found[label] = Accuracy(
                int(robust_after(self.correct, self.fooled_by, position).sum()), len(self.correct)
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": "evaluation",
            **self.about,
            "protocol": {**self.protocol.data(), "hash": self.protocol.hash, "norm": self.norm},
            "eps": {"text": self.eps, "value": float(parse_size(self.eps, norm=self.norm))},
            "seed": self.seed,
            "precision": self.precision,
            "clean_accuracy": self.clean_accuracy.to_dict(),
            "robust_accuracy": self.robust_accuracy.to_dict(),
            "nrr": nrr(self.clean_accuracy.value, self.robust_accuracy.value),
            "per_attack": [
                {"name": name, "robust_accuracy": accuracy.to_dict()} for name, accuracy in self.per_attack.items()
            ],
            "notes": self.notes,
            "images": self.images,
            "correct": _bits(self.correct),
            "robust": _bits(self.robust),
            "labels": _numbers(self.labels),
            "predicted": _numbers(self.predicted),
            "cost": asdict(self.cost),
            "environment": self.environment,
        }

    def to_json(self, path: str | Path) -> None:
        """Write everything, the per-sample verdicts as strings of 0 and 1; an existing file is replaced.
        `EvaluationRecord.from_json` reads it."""
        write_json(path, self.to_dict())


def _bits(flags: Tensor) -> str:
    return "".join("1" if flag else "0" for flag in flags.tolist())


def _numbers(values: Tensor) -> str:
    return " ".join(map(str, values.tolist()))


@dataclass(frozen=True)
class RecordedAccuracy:
    """A share of `n` images with its 95 % interval as a file holds it; what the file does not say is None."""

    value: float
    low: float | None
    high: float | None
    n: int | None

    @classmethod
    def from_dict(cls, data: Any) -> RecordedAccuracy | None:
        """Return what `Accuracy.to_dict` wrote, or None for what holds no value."""
        value = number(data.get("value")) if isinstance(data, dict) else None
        if value is None:
            return None
        n = number(data.get("n"))
        return cls(value, number(data.get("low")), number(data.get("high")), None if n is None else int(n))

    def __str__(self) -> str:
        known = self.low is not None and self.high is not None
        return f"{self.value:.1%}" + (f" [{self.low:.1%}, {self.high:.1%}]" if known else "")

    def overlaps(self, other: RecordedAccuracy) -> bool | None:
        """Return whether the two intervals share a point; None where one of them is not known."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class EvaluationRecord:
    """A result as its file tells it, whatever version wrote it: what is not there, or torn, is None.

    `name`: what to call it, such as the file's; `data`: all that the file holds, as `Evaluation.to_dict` gives it.
    """

    name: str
    data: dict[str, Any]

    @classmethod
    def from_dict(cls, data: Any, name: str = "this evaluation") -> EvaluationRecord:
        """Return what `Evaluation.to_dict` wrote.

        Raises:
            ClatError: the data says that it is something else.
        """
        if not isinstance(data, dict) or data.get("what", "evaluation") != "evaluation":
            raise ClatError(f"{name} is no result of `clat evaluate`: it holds something else")
        return cls(name, data)

    @classmethod
    def from_json(cls, path: str | Path) -> EvaluationRecord:
        """Return what `Evaluation.to_json` wrote.

        Raises:
            ClatError: a file that cannot be read, or holds something else.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ClatError(f"cannot read {path}: {error.strerror}") from None
        except ValueError as error:
            raise ClatError(f"{path} is no result of `clat evaluate`: {error}") from None
        return cls.from_dict(data, str(path))

    def to_dict(self) -> dict[str, Any]:
        """Return the data as it was read."""
        return self.data

    def to_json(self, path: str | Path) -> None:
        """Write the data as it was read; an existing file is replaced."""
        write_json(path, self.data)

    def text(self, *keys: str) -> str | None:
        """Return the value at a path of keys as text, None where the path ends early or at a container."""
        record: Any = self.data
        for key in keys:
            record = record.get(key) if isinstance(record, dict) else None
        return None if record is None or isinstance(record, dict | list) else str(record)

    @property
    def label(self) -> str:
        """The label that a run gave it ("last"), else the name."""
        return self.text("label") or self.name

    @property
    def protocol(self) -> str:
        named = self.text("protocol", "name")
        return protocol_title(self.data["protocol"]) if named else "unnamed protocol"

    @property
    def protocol_hash(self) -> str | None:
        return self.text("protocol", "hash")

    @property
    def eps(self) -> str | None:
        """The radius as exact text, "8/255"."""
        return self.text("eps", "text") or self.text("eps")

    @property
    def images(self) -> str | None:
        """The digest of what was evaluated; None in a file of a version that had none."""
        return self.text("images")

    @cached_property
    def clean_accuracy(self) -> RecordedAccuracy | None:
        return RecordedAccuracy.from_dict(self.data.get("clean_accuracy"))

    @cached_property
    def robust_accuracy(self) -> RecordedAccuracy | None:
        return RecordedAccuracy.from_dict(self.data.get("robust_accuracy"))

    @cached_property
    def per_attack(self) -> dict[str, RecordedAccuracy]:
        """For each attack, the accuracy left after it and those before it."""
        listed = self.data.get("per_attack")
        entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        found = {str(one.get("name")): RecordedAccuracy.from_dict(one.get("robust_accuracy")) for one in entries}
        return {name: accuracy for name, accuracy in found.items() if accuracy is not None}

    @cached_property
    def correct(self) -> Tensor | None:
        """Who is right on the clean image, (N,) bool."""
        return _flags(self.data.get("correct"))

    @cached_property
    def robust(self) -> Tensor | None:
        """Who is right whatever the attacks do, (N,) bool."""
        return _flags(self.data.get("robust"))

    @cached_property
    def labels(self) -> Tensor | None:
        """The right classes, (N,) int64."""
        return _classes(self.data.get("labels"))

    @cached_property
    def predicted(self) -> Tensor | None:
        """The classes that the samples are taken for in the end, (N,) int64, see `Evaluation`."""
        return _classes(self.data.get("predicted"))

    @cached_property
    def setting(self) -> dict[str, Any]:
        """What has to agree where two results are compared, with None for what the file does not say."""
        n = self.text("data", "n") if self.correct is None else len(self.correct)
        return {
            "protocol": {"name": self.protocol, "hash": self.protocol_hash},
            "norm": self.text("protocol", "norm"),
            "eps": self.eps,
            "data": {"name": self.text("data", "name"), "split": self.text("data", "split")},
            "n": n,
        }

    def verdicts(self) -> tuple[Tensor, Tensor]:
        """Return who is right on the clean image and under attack, (N,) bool each.

        Raises:
            ClatError: they are not there, or it does not say what they are of.
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


def _flags(bits: Any) -> Tensor | None:
    """Return the flags that `_bits` wrote, None for what is no string of 0 and 1."""
    if not isinstance(bits, str) or set(bits) - {"0", "1"}:
        return None
    return torch.tensor([bit == "1" for bit in bits], dtype=torch.bool)


def _classes(numbers: Any) -> Tensor | None:
    """Return the classes that `_numbers` wrote, None for anything else."""
    try:
        return torch.tensor([int(one) for one in numbers.split()], dtype=torch.int64)
    except (AttributeError, ValueError, OverflowError):
        return None

"""Where an evaluation stands, sample by sample: what resumes after an interruption."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clat.core.errors import ClatError
from clat.core.tensors import write_tensors

UNTRIED = -1


@dataclass
class EvaluationState:
    """`correct`: (N,) bool, right on the clean image; `fooled_by`: (N,) int64, the attack's position, or UNTRIED
    while none has; `passed`: (N,) int64, how many passes the sample has been through."""

    correct: Tensor
    fooled_by: Tensor
    passed: Tensor

    @classmethod
    def fresh(cls, correct: Tensor) -> EvaluationState:
        return cls(correct, torch.full(correct.shape, UNTRIED), torch.zeros(correct.shape, dtype=torch.int64))

    @property
    def alive(self) -> Tensor:
        return self.correct & (self.fooled_by == UNTRIED)

    def robust_after(self, attack: int) -> Tensor:
        """Which samples withstand attacks 0 ... `attack`."""
        return self.correct & ((self.fooled_by == UNTRIED) | (self.fooled_by > attack))


@dataclass(frozen=True)
class Extent:
    """How far an evaluation takes its samples through a protocol, which then is not done in full.

    `attacks`: (N,) int64, through so many of its attacks. `correct`, `fooled_by`: what an earlier evaluation found
    that took all samples through the first `known` attacks; None: nothing is known.
    """

    attacks: Tensor
    known: int = 0
    correct: Tensor | None = None
    fooled_by: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Extent:
        """Return the extent of some of the samples, by their places, (M,) int64."""
        correct, fooled_by = (None if part is None else part[rows] for part in (self.correct, self.fooled_by))
        return Extent(self.attacks[rows], self.known, correct, fooled_by)

    def standing(self, passes: int) -> EvaluationState | None:
        """Return where the samples stand; `passes`: how many the first `known` attacks have."""
        if self.correct is None or self.fooled_by is None:
            return None
        return EvaluationState(self.correct, self.fooled_by.clone(), torch.full(self.correct.shape, passes))


class StateFile:
    """Saves a standing to a file, at most every `seconds`; `path` None keeps nothing. `key` says what is being
    evaluated, so that the state of another evaluation is refused."""

    def __init__(self, path: Path | None, key: dict[str, str], seconds: float = 30.0) -> None:
        self.path, self.key, self.seconds = path, key, seconds
        self._saved = time.monotonic()

    def load(self) -> EvaluationState | None:
        """The saved standing, None if there is none. Raises ClatError if it belongs to another evaluation."""
        if self.path is None or not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                key = json.loads((file.metadata() or {})["key"])
                standing = EvaluationState(*(file.get_tensor(name) for name in ("correct", "fooled_by", "passed")))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ClatError(f"{self.path} is not an evaluation's state: {str(error).splitlines()[0]}") from None
        for name, value in self.key.items():
            if key.get(name) != value:
                raise ClatError(
                    f"{self.path} belongs to another evaluation ({name} {key.get(name)}, here {value}): "
                    "name another state file or remove it"
                )
        return standing

    def save(self, standing: EvaluationState, *, now: bool = False) -> None:
        if self.path is None or not (now or time.monotonic() - self._saved > self.seconds):
            return
        tensors = {"correct": standing.correct, "fooled_by": standing.fooled_by, "passed": standing.passed}
        write_tensors(self.path, tensors, {"key": json.dumps(self.key)})
        self._saved = time.monotonic()

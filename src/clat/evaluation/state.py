"""How far an evaluation is, sample by sample, so that it resumes after an interruption."""

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
    """How far each sample is, between two passes.

    Attributes:
        correct: right on the clean image, (N,) bool.
        fooled_by: the position of the attack that fooled it, or UNTRIED while none has, (N,) int64.
        passed: how many passes the sample has been through, (N,) int64.
        predicted: the class that the clean image is taken for, and once it is fooled the example, (N,) int64;
            UNTRIED where that is not known.
    """

    correct: Tensor
    fooled_by: Tensor
    passed: Tensor
    predicted: Tensor

    @classmethod
    def fresh(cls, correct: Tensor, predicted: Tensor | None = None) -> EvaluationState:
        """Return the state of samples that no attack has seen.

        Args:
            correct: right on the clean image, (N,) bool.
            predicted: what the clean images are taken for, (N,) int64; None: not known.

        Returns:
            A state with no pass done.
        """
        untried = torch.full(correct.shape, UNTRIED)
        return cls(correct, untried, torch.zeros_like(untried), untried.clone() if predicted is None else predicted)

    @property
    def alive(self) -> Tensor:
        """Return which samples are right and no attack has fooled yet, (N,) bool."""
        return self.correct & (self.fooled_by == UNTRIED)

    def robust_after(self, attack: int) -> Tensor:
        """Return which samples withstand the first attacks.

        Args:
            attack: the position of the last of them; those before it count too.

        Returns:
            One flag a sample, (N,) bool.
        """
        return robust_after(self.correct, self.fooled_by, attack)


def robust_after(correct: Tensor, fooled_by: Tensor, attack: int) -> Tensor:
    """Return which samples withstand the first attacks.

    Args:
        correct: right on the clean image, (N,) bool.
        fooled_by: the position of the attack that fooled a sample, or UNTRIED, (N,) int64.
        attack: the position of the last of the attacks; those before it count too.

    Returns:
        One flag a sample, (N,) bool.
    """
    return correct & ((fooled_by == UNTRIED) | (fooled_by > attack))


@dataclass(frozen=True)
class Extent:
    """How far an evaluation takes its samples through a protocol, which then is not done in full.

    Attributes:
        attacks: so many attacks are for each sample, (N,) int64.
        known: so many attacks an earlier evaluation took all samples through.
        correct: what it found, as of EvaluationState; None: nothing is known.
        fooled_by: the same.
        predicted: the same.
    """

    attacks: Tensor
    known: int = 0
    correct: Tensor | None = None
    fooled_by: Tensor | None = None
    predicted: Tensor | None = None

    def __getitem__(self, rows: Tensor) -> Extent:
        """Return the extent of some of the samples, by their places, (M,) int64."""
        known = (self.correct, self.fooled_by, self.predicted)
        return Extent(self.attacks[rows], self.known, *(None if part is None else part[rows] for part in known))

    def known_state(self, passes: int) -> EvaluationState | None:
        """Return the state of samples after the attacks that are known.

        Args:
            passes: how many passes the first `known` attacks have.

        Returns:
            A state of its own; None where nothing is known.
        """
        if self.correct is None or self.fooled_by is None or self.predicted is None:
            return None
        passed = torch.full(self.correct.shape, passes)
        return EvaluationState(self.correct, self.fooled_by.clone(), passed, self.predicted.clone())


class StateFile:
    """A file that keeps the state of an evaluation, saved now and then.

    Attributes:
        path: where it is kept; None: nowhere.
        key: what is being evaluated, so that the state of another evaluation is refused.
        outputs: the network's logits of an image or more, (M, classes), which are saved with it; None: none are.
        recorded: those that a loaded state has; None: nothing was loaded, or it has none.
        seconds: it is saved no more often than that.
    """

    def __init__(
        self, path: Path | None, key: dict[str, str], outputs: Tensor | None = None, seconds: float = 30.0
    ) -> None:
        self.path, self.key, self.outputs, self.seconds = path, key, outputs, seconds
        self.recorded: Tensor | None = None
        self._saved = time.monotonic()

    def load(self) -> EvaluationState | None:
        """Load the state that was saved.

        Returns:
            The state; None if there is none.

        Raises:
            ClatError: the file is no state, or belongs to another evaluation.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                key = json.loads((file.metadata() or {})["key"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                unknown = torch.full_like(found["passed"], UNTRIED)  # of a state that an older version wrote
                state = EvaluationState(
                    found["correct"], found["fooled_by"], found["passed"], found.get("predicted", unknown)
                )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ClatError(f"{self.path} is not an evaluation's state: {str(error).splitlines()[0]}") from None
        for name, value in self.key.items():
            if key.get(name) != value:
                raise ClatError(
                    f"{self.path} belongs to another evaluation ({name} {key.get(name)}, here {value}): "
                    "name another state file or remove it"
                )
        self.recorded = found.get("outputs")
        return state

    def save(self, state: EvaluationState, *, now: bool = False) -> None:
        """Save a state, unless the last time was but `seconds` ago.

        Args:
            state: how far the samples are.
            now: save it in any case.
        """
        if self.path is None or not (now or time.monotonic() - self._saved > self.seconds):
            return
        tensors = {name: getattr(state, name) for name in ("correct", "fooled_by", "passed", "predicted")}
        tensors |= {} if self.outputs is None else {"outputs": self.outputs}
        write_tensors(self.path, tensors, {"key": json.dumps(self.key)})
        self._saved = time.monotonic()

"""Results of evaluations as they come from the measurement; `clat.evaluation.record` reads their files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from clat.core.files import SavedAsJson
from clat.core.formatting import counted
from clat.core.threat_model import ThreatModel
from clat.evaluation.protocols import Protocol, ball_text, setting_text
from clat.evaluation.record import EvaluationRecord, RecordedAccuracy
from clat.evaluation.shown import evaluation_html
from clat.evaluation.state import UNTRIED, robust_after
from clat.evaluation.statistics import Accuracy, nrr
from clat.network.cost import Cost
from clat.network.fingerprint import digest

__all__ = ["Evaluation", "EvaluationRecord", "RecordedAccuracy"]


@dataclass(frozen=True)
class Evaluation(SavedAsJson):
    """The result of an evaluation, sample by sample.

    Attributes:
        protocol: the attacks.
        threat: the ball that the attacks search.
        seed: of all random choices.
        precision: of the searches.
        correct: which samples are right on their clean image, (N,) bool, on the CPU.
        fooled_by: the position of the attack that fooled each sample, -1 where none did, (N,) int64.
        labels: the right classes, (N,) int64.
        predicted: the classes that the samples are taken for in the end, (N,) int64: by the example that fooled a
            sample, else by the clean image; UNTRIED where that is not known. Passes with several targets share
            batches, so that which of several examples this is may change with the batch size; verdicts do not.
        samples: a digest of each sample's image, label and number, (N,) int64.
        cost: forward and backward passes, and seconds.
        environment: versions and machine.
        notes: what differs from the protocol's letter.
        x_adv: the adversarial examples, (N, C, H, W), if they were asked for.
        about: what the caller adds to the JSON (model, weights, data).
        network: hashes of the network's weights and structure, which tell whose result it is; its normalisation.
        attack_sources: for each attack of the user's own, a digest of its code, as far as that can be read.
    """

    protocol: Protocol
    threat: ThreatModel
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
    network: dict[str, Any] | None = None
    attack_sources: dict[str, str] = field(default_factory=dict)

    @property
    def eps(self) -> str:
        """Return the radius as exact text, such as "8/255"."""
        return self.threat.text

    @property
    def norm(self) -> str:
        """Return the norm: "linf", "l2" or "l1"."""
        return self.threat.norm

    @property
    def robust(self) -> Tensor:
        """Return which samples are right on the clean image and under every attack, (N,) bool."""
        return self.correct & (self.fooled_by == UNTRIED)

    @property
    def clean_accuracy(self) -> Accuracy:
        """Return the share of the samples that are right on their clean image, with its interval."""
        return Accuracy(int(self.correct.sum()), len(self.correct))

    @property
    def robust_accuracy(self) -> Accuracy:
        """Return the share of the samples that withstand every attack, with its interval."""
        return Accuracy(int(self.robust.sum()), len(self.correct))

    @property
    def images(self) -> str:
        """Return a digest of what was evaluated, which tells apart results of other images, labels or numbers."""
        return digest(self.samples)

    @property
    def per_attack(self) -> dict[str, Accuracy]:
        """Return for each attack the accuracy left after it and those before it."""
        found: dict[str, Accuracy] = {}
        for position, spec in enumerate(self.protocol.attacks):
            label = f"{spec.shown} ({position + 1})" if spec.shown in found else spec.shown
            found[label] = Accuracy(
                int(robust_after(self.correct, self.fooled_by, position).sum()), len(self.correct)
            )
        return found

    def __repr__(self) -> str:
        clean = RecordedAccuracy.from_dict(self.clean_accuracy.to_dict())
        ball = ball_text(self.protocol.data(), self.norm, self.eps)
        found = f"clean {clean}  {self.protocol.title} robust {self.robust_accuracy}"
        return f"{found}, {ball}" if ball else found

    def _repr_html_(self) -> str:
        title = setting_text(self.protocol.data(), self.norm, self.eps)
        caption = "\n".join([counted(f"{len(self.correct):,}", "image"), *self.notes])
        return evaluation_html(title, self.clean_accuracy, self.per_attack, self.robust_accuracy, caption)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            Settings, accuracies, cost and environment; the per-sample verdicts as strings of 0 and 1.
        """
        return {
            "what": "evaluation",
            **self.about,
            "protocol": {**self.protocol.data(), "hash": self.protocol.hash, "norm": self.threat.norm},
            "eps": self.threat.eps_data(),
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
            "network": self.network,
            **({"attack_sources": self.attack_sources} if self.attack_sources else {}),
            "correct": _bits(self.correct),
            "robust": _bits(self.robust),
            "labels": _numbers(self.labels),
            "predicted": _numbers(self.predicted),
            "cost": asdict(self.cost),
            "environment": self.environment,
        }


def _bits(flags: Tensor) -> str:
    return "".join("1" if flag else "0" for flag in flags.tolist())


def _numbers(values: Tensor) -> str:
    return " ".join(map(str, values.tolist()))

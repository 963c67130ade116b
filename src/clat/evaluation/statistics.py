"""How sure an accuracy is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binomtest


@dataclass(frozen=True)
class Accuracy:
    """A share of correct samples with its 95 % Wilson interval."""

    correct: int
    n: int
    confidence: float = 0.95

    @property
    def value(self) -> float:
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson score interval, which stays within [0, 1] and is honest near both ends."""
        low, high = binomtest(self.correct, self.n).proportion_ci(self.confidence, method="wilson")
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval
        return {"value": self.value, **asdict(self), "low": low, "high": high, "method": "wilson"}

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}] (n = {self.n})"

"""The objectives that a hardening chooses from, the cheapest first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An objective, and how many epochs of it a clean start needs before it is worth more than the cheaper ones."""

    objective: dict[str, Any]
    """As in a recipe."""
    worth_from: int
    """Epochs from which it is chosen (`docs/results/hardening`)."""
    norms: tuple[str, ...] = field(default=("linf", "l2"))
    """Norms that it is made for."""


NEVER = 10_000

CANDIDATES: dict[str, Candidate] = {
    "fast-at": Candidate(objective={"name": "fast-at"}, worth_from=NEVER, norms=("linf",)),
    "gat": Candidate(objective={"name": "gat"}, worth_from=NEVER),
    "n-fgsm": Candidate(objective={"name": "n-fgsm"}, worth_from=1, norms=("linf",)),
    "pgd-2": Candidate(objective={"name": "pgd-at", "steps": 2}, worth_from=5),
    "pgd-10": Candidate(objective={"name": "pgd-at", "steps": 10}, worth_from=30),
    "trades": Candidate(objective={"name": "trades", "steps": 10}, worth_from=NEVER),
}
"""Name -> candidate. TRADES is taken only when asked for: at equal time it was not better
(`docs/results/hardening`)."""

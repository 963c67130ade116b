"""What a hardening returns, also long after it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from clat.core.parsing import parse_json
from clat.evaluation import Evaluation, EvaluationRecord
from clat.evaluation.compare import Comparison, compare
from clat.evaluation.shown import results_html
from clat.hardening.finish import discard_attempts
from clat.hardening.plan import Plan
from clat.models import load_weights
from clat.report.page import write_report

RESULT, WEIGHTS = "result.json", "model.safetensors"


@dataclass(frozen=True)
class Hardened:
    """A hardened network with its results on test images, before and after."""

    model: nn.Module
    """The hardened network, in evaluation mode."""
    plan: Plan
    out: Path
    """The folder."""
    before: Evaluation | EvaluationRecord
    """The result on test images of the network that was given; as its file has it, if the hardening had ended."""
    after: Evaluation | EvaluationRecord
    """The result of the hardened one, on the same images."""
    comparison: Comparison
    """The paired difference between the two."""
    promise: dict[str, Any] | None
    """What was chosen between start and end, where clean accuracy was promised."""

    def _repr_html_(self) -> str:
        found = {"before": self.before, "after": self.after}
        records = [EvaluationRecord.from_dict(one.to_dict(), name) for name, one in found.items()]
        return results_html(records, f"the hardening in {self.out}")


def as_it_ended(out: Path, model: nn.Module, plan: Plan) -> Hardened:
    """Return the result of a hardening that had ended, and draw its page where that is all that is missing.

    Args:
        out: its folder.
        model: gets the weights of the hardened network.
        plan: what was trained.

    Returns:
        What `run_hardening` returned when it ended, the results as their files have them.
    """
    load_weights(model, out / WEIGHTS)
    told = parse_json((out / RESULT).read_text())
    before, after = (EvaluationRecord.from_dict(told[one], one) for one in ("before", "after"))
    discard_attempts(out)
    if not (out / "report.html").exists():
        write_report(out)
    return Hardened(model.eval(), plan, out, before, after, compare(before, after), told["promise"])

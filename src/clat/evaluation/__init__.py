"""Measuring robustness: protocols, verdicts, intervals, cost."""

from clat.evaluation.dataset import evaluate_set
from clat.evaluation.evaluate import Evaluation, evaluate
from clat.evaluation.protocols import PROTOCOLS, AttackSpec, Protocol, find_protocol
from clat.evaluation.statistics import Accuracy

__all__ = [
    "PROTOCOLS",
    "Accuracy",
    "AttackSpec",
    "Evaluation",
    "Protocol",
    "evaluate",
    "evaluate_set",
    "find_protocol",
]

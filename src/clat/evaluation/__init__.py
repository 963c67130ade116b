"""Measuring robustness: protocols, verdicts, intervals, cost."""

from clat.evaluation.evaluate import Evaluation, evaluate, evaluate_batches
from clat.evaluation.protocols import PROTOCOLS, Protocol, find_protocol
from clat.evaluation.statistics import Accuracy

__all__ = [
    "PROTOCOLS",
    "Accuracy",
    "Evaluation",
    "Protocol",
    "evaluate",
    "evaluate_batches",
    "find_protocol",
]

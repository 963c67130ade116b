"""Measurement of robustness: protocols, verdicts, intervals, cost.

evaluate, dataset          clean and robust accuracy, sample by sample; of images in memory, of a set of any size
job, state, shares         the work that these two give out; resuming it, and dividing it among processes
in_precision               the network as searches call it, and as an attack of one's own is given it
result, record             what comes of it, in memory and as a file tells it
protocols, planned_search  named lists of attacks as data with a hash, and the searches that they come to
budget, effort             what fits into a given time, and what an attack costs
sampled, widen, fast       AutoAttack on a sample, more images until an interval is narrow, cr with signs of masking
subset, predict            evaluating chosen images; predictions without an attack
compare                    two results sample by sample, or seeds against seeds
masking                    signs that gradients mislead attacks
transfer                   examples made on one network, shown to others
curve                      accuracy against eps
heldout                    the quick check that decides while a training goes on
statistics, finite         intervals and tests; bounds of a count in a finite set
"""

from clat.evaluation.dataset import evaluate_set
from clat.evaluation.evaluate import evaluate
from clat.evaluation.live import evaluation_progress
from clat.evaluation.protocols import PROTOCOLS, AttackSpec, Protocol, find_protocol
from clat.evaluation.record import EvaluationRecord
from clat.evaluation.result import Evaluation
from clat.evaluation.statistics import Accuracy

__all__ = [
    "PROTOCOLS",
    "Accuracy",
    "AttackSpec",
    "Evaluation",
    "EvaluationRecord",
    "Protocol",
    "evaluate",
    "evaluate_set",
    "evaluation_progress",
    "find_protocol",
]

"""Measuring robustness: protocols, verdicts, intervals, cost.

evaluate, dataset    clean and robust accuracy, sample by sample; of images in memory, of an image set of any size
job, result          the work that these two give out; what comes of it, in memory and as a file tells it
protocols, passes    named lists of attacks as data with a hash, and the searches that they come to
progress, subset     resuming after an interruption; evaluating chosen images
compare              two results sample by sample, or seeds against seeds
check                signs that gradients mislead attacks
transfer             examples made on one network, shown to others
curve                accuracy against eps
statistics, cost     intervals and tests; forward and backward passes, seconds, memory
"""

from clat.evaluation.dataset import evaluate_set
from clat.evaluation.evaluate import evaluate
from clat.evaluation.protocols import PROTOCOLS, AttackSpec, Protocol, find_protocol
from clat.evaluation.result import Evaluation, EvaluationRecord
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
    "find_protocol",
]

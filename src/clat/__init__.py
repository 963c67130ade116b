"""clat: Criticality-Leveraged Adversarial Training.

report = clat.measure_criticality(model, x, y, eps="8/255")     # which layers are robustness-critical
result = clat.train("cifar10-clat", "runs/first")               # fine-tune just those
clat.evaluate(model, x, y, protocol="pgd-20", eps="8/255")      # what it brought
clat.check(model, x, y, eps="8/255")                            # whether to believe it
"""

from clat import attacks, objectives
from clat.config import Recipe
from clat.criticality import measure_criticality
from clat.criticality_report import CriticalityReport
from clat.data import ImageSet, load_split
from clat.errors import ClatError
from clat.evaluation import Accuracy, Evaluation, evaluate
from clat.evaluation.check import check
from clat.evaluation.check_report import CheckReport
from clat.evaluation.compare import compare, compare_seeds
from clat.evaluation.curve import eps_curve
from clat.evaluation.transfer import transfer
from clat.features import read_features
from clat.layers import Layer, enumerate_layers
from clat.models import Normalized, load_model, load_weights, save_weights
from clat.rankings.activation import measure_activation_ranking
from clat.rankings.comparison import RankingComparison, compare_rankings
from clat.rankings.report import RankingReport
from clat.rankings.rewinding import measure_rewinding_criticality, measure_rewinding_drop
from clat.rankings.robust_criticality import measure_robust_criticality
from clat.recipe import read_recipe
from clat.selection import Selection, select
from clat.training.run import Result, resume, train

__all__ = [
    "Accuracy",
    "CheckReport",
    "ClatError",
    "CriticalityReport",
    "Evaluation",
    "ImageSet",
    "Layer",
    "Normalized",
    "RankingComparison",
    "RankingReport",
    "Recipe",
    "Result",
    "Selection",
    "attacks",
    "check",
    "compare",
    "compare_rankings",
    "compare_seeds",
    "enumerate_layers",
    "eps_curve",
    "evaluate",
    "load_model",
    "load_split",
    "load_weights",
    "measure_activation_ranking",
    "measure_criticality",
    "measure_rewinding_criticality",
    "measure_rewinding_drop",
    "measure_robust_criticality",
    "objectives",
    "read_features",
    "read_recipe",
    "resume",
    "save_weights",
    "select",
    "train",
    "transfer",
]

"""Layers that are critical for robustness: CLAT's index, rival rankings, and the selection made by one of them."""

from clat.criticality.activation import measure_activation_ranking
from clat.criticality.choice import select_layers
from clat.criticality.comparison import RankingComparison, compare_rankings
from clat.criticality.index import METRICS, NORMALISERS, PREDECESSORS, measure_criticality
from clat.criticality.ranking_report import RankingReport, RankingRow
from clat.criticality.rankings import (
    ActivationRanking,
    CriticalityRanking,
    Ranking,
    RewindingDropRanking,
    RewindingRanking,
    RobustCriticalityRanking,
)
from clat.criticality.report import CriticalityReport
from clat.criticality.rewinding import measure_rewinding_criticality, measure_rewinding_drop
from clat.criticality.robust_criticality import measure_robust_criticality
from clat.criticality.selection import Selection, select

__all__ = [
    "METRICS",
    "NORMALISERS",
    "PREDECESSORS",
    "ActivationRanking",
    "CriticalityRanking",
    "CriticalityReport",
    "Ranking",
    "RankingComparison",
    "RankingReport",
    "RankingRow",
    "RewindingDropRanking",
    "RewindingRanking",
    "RobustCriticalityRanking",
    "Selection",
    "compare_rankings",
    "measure_activation_ranking",
    "measure_criticality",
    "measure_rewinding_criticality",
    "measure_rewinding_drop",
    "measure_robust_criticality",
    "select",
    "select_layers",
]

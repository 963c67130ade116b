"""An attack that should be the weaker of two, and is not."""

from __future__ import annotations

from torch import Tensor

from clat.evaluation.masking.attacked_network import AttackedNetwork
from clat.evaluation.masking.network_signs import Finding
from clat.evaluation.masking.report import OK, SUSPICIOUS
from clat.evaluation.statistics import PairedDifference

CONFIDENCE = 0.98
"""Confidence of a two-sided interval, whose lower end is then passed by chance in 1 % of cases."""


def must_not_beat(
    network: AttackedNetwork, weaker: Tensor, stronger: Tensor, names: tuple[str, str], usual: float = 0.0
) -> Finding:
    """Return how many more images the attack fools that should be the weaker one.

    Attacks are random, so that only an excess beyond chance is suspicious.

    Args:
        network: the network under check.
        weaker: which images withstand it, (N,) bool.
        stronger: which images withstand the other one, (N,) bool.
        names: of the two, for the reason.
        usual: a share of all images that is no sign.

    Returns:
        The share of all images, the verdict and why.
    """
    excess = PairedDifference.between(weaker, stronger, CONFIDENCE)
    first, second = (int((network.clean & ~robust).sum()) for robust in (weaker, stronger))
    why = f"{names[0]} fools {first}, {names[1]} {second} of {int(network.clean.sum())}"
    allowed = f"; up to {usual:.0%} more is usual" if usual else ""
    return excess.value, SUSPICIOUS if excess.interval[0] > usual else OK, why + allowed

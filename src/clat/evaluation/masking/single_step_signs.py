"""Signs of gradient masking that training on single steps leaves: it may teach a network to mislead attacks."""

from __future__ import annotations

from clat.core.units import size_text
from clat.evaluation.masking.attacked_network import (
    BLACK_BOX,
    LONG,
    ONE_STEP,
    OTHER_LOSS,
    RELAXED,
    STRONG,
    AttackedNetwork,
)
from clat.evaluation.masking.excess import must_not_beat
from clat.evaluation.masking.network_signs import Finding

USUAL_OF_STRONGEST = 0.07
"""Excess of all attacks together over PGD where nothing is masked: AutoAttack took 2 to 7 points from PGD-50 on all
but four of 62 networks (FastAT_Benchmark by Pan et al.), of which one or two are masked."""
USUAL_OF_HALF_A_STEP = 0.1
"""Excess of half a step over a whole one: either is a poor attack, but that half is the better one is odd."""


def half_a_step(network: AttackedNetwork) -> Finding:
    """Measure how many more images one step fools at half the eps than at the whole.

    Training on single steps of one size may teach a network to look robust to these alone.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    half, whole = (network.robust(ONE_STEP, size) for size in (network.threat.eps / 2, network.threat.eps))
    names = (f"one step at {size_text(network.threat.eps / 2)}", f"at {size_text(network.threat.eps)}")
    return must_not_beat(network, half, whole, names, USUAL_OF_HALF_A_STEP)


def strongest(network: AttackedNetwork) -> Finding:
    """Measure how many more images all attacks together fool than PGD-100.

    They are constraint relaxation, APGD on two losses and Square. A gap beyond the usual gives away a network that
    has learned to mislead PGD.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    together = network.robust_to_all(RELAXED, STRONG, OTHER_LOSS, BLACK_BOX)
    names = ("all attacks together", "PGD-100")
    return must_not_beat(network, together, network.robust(LONG), names, USUAL_OF_STRONGEST)


def relaxed(network: AttackedNetwork) -> Finding:
    """Measure how many more images the other attacks together fool than constraint relaxation.

    Where nothing is masked it is hardly ever behind them.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    together = network.robust_to_all(LONG, STRONG, OTHER_LOSS, BLACK_BOX)
    return must_not_beat(network, together, network.robust(RELAXED), ("the other attacks together", "cr"))

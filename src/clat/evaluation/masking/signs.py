"""The signs of gradient masking, in order, and those of them that attacks show.

They are those of Athalye et al. 2018 (Obfuscated gradients give a false sense of security), Carlini et al. 2019 (On
evaluating adversarial robustness) and Pintor et al. 2022 (Indicators of attack failure), one for CLAT, which trains
on a feature attack, and those of training on single steps, which may teach a network to mislead attacks.

Most compare two attacks of which the one cannot be the better if gradients lead anywhere. Attacks are random, so a
difference counts only where it is beyond chance: above what is usual with 99 % confidence, on the same images.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from clat.attacks.ball import Ball
from clat.attacks.feature import feature_attack
from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.core.seeds import derive_seed, generator
from clat.core.units import size_text
from clat.evaluation.masking.attacked_network import (
    BLACK_BOX,
    LONG,
    ONE_STEP,
    OTHER_LOSS,
    RESTARTED,
    SHORT,
    UNBOUNDED,
    AttackedNetwork,
)
from clat.evaluation.masking.excess import CONFIDENCE, must_not_beat
from clat.evaluation.masking.network_signs import (
    FEW,
    DoesNotApply,
    Finding,
    batch_dependence,
    broken_gradients,
    jumps,
    randomness,
    saturation,
    squashed,
    zero_gradients,
)
from clat.evaluation.masking.report import OK, SUSPICIOUS
from clat.evaluation.masking.single_step_signs import half_a_step, relaxed, strongest
from clat.evaluation.statistics import Accuracy
from clat.network.layers import enumerate_layers

USUAL_OF_RESTARTS = 0.1
USUAL_OF_LOSSES = 0.08
"""Excess that sound networks show too: ten steps may end well short of the optimum, and adversarially trained
networks lose some five points more to a margin loss."""
DRAWS = 20
"""Random points of the ball, each as far out as the ball goes."""


def one_step(network: AttackedNetwork) -> Finding:
    """Measure how many more images one large step fools than PGD-10.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    return must_not_beat(network, network.robust(ONE_STEP), network.robust(SHORT), ("one step", "PGD-10"))


def more_steps(network: AttackedNetwork) -> Finding:
    """Measure how many more images PGD-10 fools than PGD-100.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    return must_not_beat(network, network.robust(SHORT), network.robust(LONG), ("PGD-10", "PGD-100"))


def restarts(network: AttackedNetwork) -> Finding:
    """Measure how many more images PGD-10 fools with five starts than with one.

    They cannot raise accuracy, as an image's worst case counts; a large drop says that the start decides.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    five, one = network.robust(RESTARTED), network.robust(SHORT)
    return must_not_beat(network, five, one, ("PGD-10 with 5 starts", "with 1"), USUAL_OF_RESTARTS)


def larger_eps(network: AttackedNetwork) -> Finding:
    """Measure how many more images PGD-10 fools at a smaller eps than at a larger one.

    It is the worse of half against whole and of whole against double.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    eps = network.threat.eps
    sizes = [size for size in (eps / 2, eps, eps * 2) if size <= network.largest]
    findings = []
    for small, large in pairwise(sizes):
        names = (f"PGD-10 at {size_text(small)}", f"at {size_text(large)}")
        findings.append(must_not_beat(network, network.robust(SHORT, small), network.robust(SHORT, large), names))
    return max(findings, key=lambda finding: (finding[1] == SUSPICIOUS, finding[0]))


def unbounded_eps(network: AttackedNetwork) -> Finding:
    """Measure how many images withstand APGD where eps bounds nothing.

    A ball that holds every image holds those of other classes; half as large, all hold uniform grey.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    largest = network.largest
    robust = network.robust(UNBOUNDED, largest / 2) & network.robust(UNBOUNDED, largest)
    left = Accuracy(int(robust.sum()), len(robust), CONFIDENCE)
    why = f"APGD at eps {size_text(largest)} leaves {left.correct} of {int(network.clean.sum())}"
    return left.value, SUSPICIOUS if left.interval[0] > FEW else OK, why


def random_noise(network: AttackedNetwork) -> Finding:
    """Measure how many more images random points of the ball fool than PGD-10.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    eps = network.threat.radius
    robust = network.clean
    for draw in range(DRAWS):

        def noisy(number: int, x: Tensor, draw: int = draw) -> Tensor:
            noise = torch.randn(x.shape, generator=generator(network.seed, "check-noise", number, draw))
            ball = Ball(x, eps, network.threat.norm)
            return ball.project(x + eps * ball.unit(noise.to(x.device)))

        robust = robust & network.right(noisy)
    return must_not_beat(network, robust, network.robust(SHORT), (f"noise in {DRAWS} draws", "PGD-10"))


def black_box(network: AttackedNetwork) -> Finding:
    """Measure how many more images Square, which asks for no gradient, fools than PGD-100.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    names = ("Square with 500 queries", "PGD-100")
    return must_not_beat(network, network.robust(BLACK_BOX), network.robust(LONG), names)


def other_loss(network: AttackedNetwork) -> Finding:
    """Measure how many more images APGD on a margin loss fools than PGD-100 on the cross-entropy.

    The margin is the DLR, which the logits' scale does not touch.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        ClatError: the network makes one of the attacks impossible.
    """
    names = ("APGD on the margin", "PGD-100 on the cross-entropy")
    return must_not_beat(network, network.robust(OTHER_LOSS), network.robust(LONG), names, USUAL_OF_LOSSES)


def feature_space(network: AttackedNetwork) -> Finding:
    """Measure how many more images the feature attack fools than PGD-10.

    Features moved without an eye on the labels should fool less than the loss itself.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        DoesNotApply: the network has no hidden layer to attack.
    """
    layers = network.layers
    if layers is None:
        try:
            with listening(lambda text: None):  # which layers there are is nobody's question here
                layers = enumerate_layers(network.model, network.x[:1].to(network.device))
        except ClatError as error:
            raise DoesNotApply(f"no hidden layer to attack: {error}") from None

    def moved(number: int, x: Tensor) -> Tensor:
        seed = derive_seed(network.seed, "check-feature", number)
        return feature_attack(
            network.model, x, layers, eps=network.threat.eps, norm=network.threat.norm, relative=True, seed=seed
        )  # fmt: skip

    return must_not_beat(network, network.right(moved), network.robust(SHORT), ("the feature attack", "PGD-10"))


SIGNS: dict[str, Callable[[AttackedNetwork], Finding]] = {
    "zero gradients": zero_gradients,
    "broken gradients": broken_gradients,
    "saturated softmax": saturation,
    "squashed outputs": squashed,
    "jumping logits": jumps,
    "random forward": randomness,
    "batch dependence": batch_dependence,
    "one step": one_step,
    "half a step": half_a_step,
    "more steps": more_steps,
    "restarts": restarts,
    "larger eps": larger_eps,
    "unbounded eps": unbounded_eps,
    "random noise": random_noise,
    "black box": black_box,
    "other loss": other_loss,
    "strongest attack": strongest,
    "cr": relaxed,
    "feature attack": feature_space,
}
"""Name -> sign, as reported: what the network is, what steps do, what eps does, what other attacks do."""

"""The signs of gradient masking, a function each: what it measures, and from where on it is suspicious.

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

from clat.attacks import losses
from clat.attacks.ascent import input_gradient
from clat.attacks.ball import Ball
from clat.attacks.feature import feature_attack
from clat.core.errors import ClatError
from clat.core.seeds import derive_seed, generator
from clat.core.units import size_text
from clat.evaluation.batch_dependence import cause, differing, is_random, logits_alone, logits_among
from clat.evaluation.masking.attacked_network import (
    BLACK_BOX,
    LONG,
    ONE_STEP,
    OTHER_LOSS,
    RELAXED,
    RESTARTED,
    SHORT,
    STRONG,
    UNBOUNDED,
    AttackedNetwork,
)
from clat.evaluation.masking.report import OK, SUSPICIOUS
from clat.evaluation.statistics import Accuracy, PairedDifference
from clat.network import modes
from clat.network.layers import enumerate_layers

CONFIDENCE = 0.98
"""Of a two-sided interval, whose lower end is then passed by chance in 1 % of cases."""
FEW = 0.01
"""The share of images that may show what none should."""
USUAL_OF_RESTARTS = 0.1
USUAL_OF_LOSSES = 0.08
"""What sound networks show too: ten steps may end well short of the optimum, and adversarially trained networks
lose some five points more to a margin loss."""
USUAL_OF_STRONGEST = 0.07
"""What all attacks together take from PGD where nothing is masked: AutoAttack took 2 to 7 points from PGD-50 on all
but four of 62 networks (FastAT_Benchmark by Pan et al.), of which one or two are masked."""
USUAL_OF_HALF_A_STEP = 0.1
"""One step is a poor attack at any size; that half of it is the better one is odd beyond this."""
NUDGE = 1e-5
"""A change of each pixel that nobody sees, and a hundred of float32's own steps."""
JUMP = 0.01
"""A change of the logits, as a share of their spread, that such a nudge cannot cause where gradients say anything:
with such a slope the logits would change by a hundred times their spread within a tenth of the image range."""
ALONE = 20
"""Images that are looked at one by one."""
DRAWS = 20
"""Random points of the ball, each as far out as the ball goes."""

Finding = tuple[float, str, str]
"""Value, verdict, why."""


class DoesNotApply(Exception):
    """What a check needs, this network has not."""


def zero_gradients(network: AttackedNetwork) -> Finding:
    """On the images and at a random point of each ball, which a detector may tell from an image."""
    zero = torch.stack([_gradient_sizes(network, around=around) == 0 for around in (False, True)])
    return _rare(zero.any(0), "the cross-entropy's input gradient is exactly zero")


def broken_gradients(network: AttackedNetwork) -> Finding:
    return _rare(_gradient_sizes(network).isnan(), "the cross-entropy's input gradient is not finite")


def jumps(network: AttackedNetwork) -> Finding:
    """Logits that jump have no slope that an attack could follow: rounded inputs or activations, noise that depends
    on the image, only the strongest units passed on."""
    if randomness(network)[1] == SUSPICIOUS:
        raise DoesNotApply("the outputs are random")
    seed = derive_seed(network.seed, "check-nudge")
    jumped = []
    with modes.attack_mode(network.model), torch.no_grad():
        for number, (x, _) in enumerate(network.batches()):
            way = torch.randn(x.shape, generator=generator(seed, "batch", number)).sign().to(x.device)
            first, second = (network.model(point).float() for point in (x, (x + NUDGE * way).clamp(0, 1)))
            spread = (first - first.mean(1, keepdim=True)).abs().amax(1)
            jumped.append(((first - second).abs().amax(1) > JUMP * spread).cpu())
    return _rare(torch.cat(jumped), f"a nudge of {NUDGE:g} makes the logits jump")


def saturation(network: AttackedNetwork) -> Finding:
    """Where the other classes' probabilities underflow in float32, the gradient of the cross-entropy does too."""
    others = network.logits.softmax(1).topk(2, dim=1).values[:, 1]
    return _rare(others < torch.finfo(torch.float32).tiny, "the softmax is saturated beyond float32")


def randomness(network: AttackedNetwork) -> Finding:
    """Two passes over the same images, in one go: the random state must be free to move on."""
    changed = []
    with modes.attack_mode(network.model), torch.no_grad():
        for x, _ in network.batches():
            first, second = (network.model(x).float() for _ in range(2))
            scale = (first - first.mean(1, keepdim=True)).abs().amax(1)
            # Sums in another order, as on a GPU, differ by a millionth or so.
            changed.append(((first - second).abs().amax(1) > 1e-4 * scale).cpu())
    return _rare(torch.cat(changed), "two passes give different logits")


def batch_dependence(network: AttackedNetwork) -> Finding:
    """A few images alone against the same images in a batch."""
    model, x, y = network.model, network.x[:ALONE], network.y[:ALONE]
    changed = differing(model, logits_alone(model, x, y), logits_among(model, x, y, network.batch_size))
    if changed.any() and is_random(model, x, y):
        raise DoesNotApply("the outputs are random")
    return _rare(changed, f"an image alone gets other logits than in a batch{cause(model)}")


def one_step(network: AttackedNetwork) -> Finding:
    return _must_not_beat(network, network.robust(ONE_STEP), network.robust(SHORT), ("one step", "PGD-10"))


def half_a_step(network: AttackedNetwork) -> Finding:
    """Training on single steps of one size may teach a network to look robust to these alone."""
    half, whole = (network.robust(ONE_STEP, size) for size in (network.eps / 2, network.eps))
    names = (f"one step at {size_text(network.eps / 2)}", f"at {size_text(network.eps)}")
    return _must_not_beat(network, half, whole, names, USUAL_OF_HALF_A_STEP)


def more_steps(network: AttackedNetwork) -> Finding:
    return _must_not_beat(network, network.robust(SHORT), network.robust(LONG), ("PGD-10", "PGD-100"))


def restarts(network: AttackedNetwork) -> Finding:
    """They cannot raise accuracy, as an image's worst case counts; a large drop says that the start decides."""
    five, one = network.robust(RESTARTED), network.robust(SHORT)
    return _must_not_beat(network, five, one, ("PGD-10 with 5 starts", "with 1"), USUAL_OF_RESTARTS)


def larger_eps(network: AttackedNetwork) -> Finding:
    """The worse of half against whole and of whole against double."""
    sizes = [size for size in (network.eps / 2, network.eps, network.eps * 2) if size <= network.largest]
    findings = []
    for small, large in pairwise(sizes):
        names = (f"PGD-10 at {size_text(small)}", f"at {size_text(large)}")
        findings.append(_must_not_beat(network, network.robust(SHORT, small), network.robust(SHORT, large), names))
    return max(findings, key=lambda finding: (finding[1] == SUSPICIOUS, finding[0]))


def unbounded_eps(network: AttackedNetwork) -> Finding:
    """A ball that holds every image holds those of other classes; half as large, all hold uniform grey."""
    largest = network.largest
    robust = network.robust(UNBOUNDED, largest / 2) & network.robust(UNBOUNDED, largest)
    left = Accuracy(int(robust.sum()), len(robust), CONFIDENCE)
    why = f"APGD at eps {size_text(largest)} leaves {left.correct} of {int(network.clean.sum())}"
    return left.value, SUSPICIOUS if left.interval[0] > FEW else OK, why


def random_noise(network: AttackedNetwork) -> Finding:
    eps = float(network.eps)
    robust = network.clean
    for draw in range(DRAWS):

        def noisy(number: int, x: Tensor, draw: int = draw) -> Tensor:
            noise = torch.randn(x.shape, generator=generator(network.seed, "check-noise", number, draw))
            ball = Ball(x, eps, network.norm)
            return ball.project(x + eps * ball.unit(noise.to(x.device)))

        robust = robust & network.right(noisy)
    return _must_not_beat(network, robust, network.robust(SHORT), (f"noise in {DRAWS} draws", "PGD-10"))


def black_box(network: AttackedNetwork) -> Finding:
    names = ("Square with 500 queries", "PGD-100")
    return _must_not_beat(network, network.robust(BLACK_BOX), network.robust(LONG), names)


def other_loss(network: AttackedNetwork) -> Finding:
    """The DLR, which the logits' scale does not touch, against the cross-entropy."""
    names = ("APGD on the margin", "PGD-100 on the cross-entropy")
    return _must_not_beat(network, network.robust(OTHER_LOSS), network.robust(LONG), names, USUAL_OF_LOSSES)


def strongest(network: AttackedNetwork) -> Finding:
    """All attacks of the check together against PGD: a gap beyond the usual is what gives away a network that has
    learned to mislead PGD."""
    together = network.robust_to_all(RELAXED, STRONG, OTHER_LOSS, BLACK_BOX)
    names = ("all attacks together", "PGD-100")
    return _must_not_beat(network, together, network.robust(LONG), names, USUAL_OF_STRONGEST)


def relaxed(network: AttackedNetwork) -> Finding:
    """Constraint relaxation is hardly ever behind all the others together where nothing is masked."""
    together = network.robust_to_all(LONG, STRONG, OTHER_LOSS, BLACK_BOX)
    return _must_not_beat(network, together, network.robust(RELAXED), ("the other attacks together", "cr"))


def feature_space(network: AttackedNetwork) -> Finding:
    """Features moved without an eye on the labels should fool less than the loss itself."""
    layers = network.layers
    if layers is None:
        try:
            layers = enumerate_layers(network.model, network.x[:1].to(network.device))
        except ClatError as error:
            raise DoesNotApply(f"no hidden layer to attack: {error}") from None

    def moved(number: int, x: Tensor) -> Tensor:
        seed = derive_seed(network.seed, "check-feature", number)
        return feature_attack(
            network.model, x, layers, eps=network.eps, norm=network.norm, relative=True, seed=seed
        )  # fmt: skip

    return _must_not_beat(network, network.right(moved), network.robust(SHORT), ("the feature attack", "PGD-10"))


SIGNS: dict[str, Callable[[AttackedNetwork], Finding]] = {
    "zero gradients": zero_gradients,
    "broken gradients": broken_gradients,
    "saturated softmax": saturation,
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
"""In the order of the report: what the network is, what steps do, what eps does, what other attacks do."""


def _rare(flags: Tensor, what: str) -> Finding:
    """Suspicious where more than a few of the images, (N,) bool, show something."""
    share = float(flags.double().mean())
    return share, SUSPICIOUS if share > FEW else OK, f"{what} on {int(flags.sum())} of {len(flags)} images"


def _must_not_beat(
    network: AttackedNetwork, weaker: Tensor, stronger: Tensor, names: tuple[str, str], usual: float = 0.0
) -> Finding:
    """How many more the attack fools that should be weaker. `weaker`, `stronger`: who withstands, (N,) bool."""
    excess = PairedDifference.between(weaker, stronger, CONFIDENCE)
    first, second = (int((network.clean & ~robust).sum()) for robust in (weaker, stronger))
    why = f"{names[0]} fools {first}, {names[1]} {second} of {int(network.clean.sum())}"
    allowed = f"; up to {usual:.0%} more is usual" if usual else ""
    return excess.value, SUSPICIOUS if excess.interval[0] > usual else OK, why + allowed


def _gradient_sizes(network: AttackedNetwork, *, around: bool = False) -> Tensor:
    """Return the largest entry of each image's loss gradient, (N,); NaN where one is not finite. `around`: at a
    random point of the image's ball."""
    sizes = []
    for number, (x, y) in enumerate(network.batches()):
        if around:
            ball = Ball(x, float(network.eps), network.norm)
            x = ball.random_point(generator(network.seed, "check-around", number))
        with modes.attack_mode(network.model), torch.enable_grad():
            point = x.detach().requires_grad_(True)
            value = losses.cross_entropy(network.model(point).float(), y).sum()
            gradient = input_gradient(value, point).flatten(1)
        size = gradient.abs().amax(1)
        sizes.append(torch.where(gradient.isfinite().all(1), size, torch.nan).cpu())
    return torch.cat(sizes)

"""Signs of gradient masking in the network itself: its gradients, its softmax, what its outputs depend on."""

from __future__ import annotations

import torch
from torch import Tensor

from clat.attacks import losses
from clat.attacks.ascent import input_gradient
from clat.attacks.ball import Ball
from clat.core.seeds import derive_seed, generator
from clat.evaluation.batch_dependence import cause, differing, is_random, logits_alone, logits_among
from clat.evaluation.masking.attacked_network import AttackedNetwork
from clat.evaluation.masking.report import OK, SUSPICIOUS
from clat.network import modes
from clat.network.logits import within_unit

FEW = 0.01
"""The share of images that may show what none should."""
NUDGE = 1e-5
"""A change of each pixel that nobody sees, and a hundred of float32's own steps."""
JUMP = 0.01
"""A change of the logits, as a share of their spread, that such a nudge cannot cause where gradients say anything:
with such a slope the logits would change by a hundred times their spread within a tenth of the image range."""
ALONE = 20
"""Images that are looked at one by one."""

Finding = tuple[float, str, str]
"""Value, verdict, why."""


class DoesNotApply(Exception):
    """The network lacks what a check needs."""


def zero_gradients(network: AttackedNetwork) -> Finding:
    """Measure on how many images the cross-entropy's input gradient is exactly zero.

    It is looked at on the image and at a random point of its ball, which a detector may tell from an image.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.
    """
    zero = torch.stack([_gradient_sizes(network, around=around) == 0 for around in (False, True)])
    return _rare(zero.any(0), "the cross-entropy's input gradient is exactly zero")


def broken_gradients(network: AttackedNetwork) -> Finding:
    """Measure on how many images the cross-entropy's input gradient is not finite.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.
    """
    return _rare(_gradient_sizes(network).isnan(), "the cross-entropy's input gradient is not finite")


def jumps(network: AttackedNetwork) -> Finding:
    """Measure on how many images a nudge makes the logits jump.

    Logits that jump have no slope that an attack could follow: rounded inputs or activations, noise that depends on
    the image, only the strongest units passed on.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        DoesNotApply: the outputs are random.
    """
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
    """Measure on how many images the softmax is saturated.

    Where the other classes' probabilities underflow in float32, the gradient of the cross-entropy does too.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.
    """
    others = network.logits.softmax(1).topk(2, dim=1).values[:, 1]
    return _rare(others < torch.finfo(torch.float32).tiny, "the softmax is saturated beyond float32")


def squashed(network: AttackedNetwork) -> Finding:
    """Measure on how many images all outputs lie in [0, 1], as those of a sigmoid do.

    The slope of such an output vanishes where the network is sure, so that attacks find less than on logits. That
    logits lie there on some images is nothing unusual.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.
    """
    inside = within_unit(network.logits)
    why = f"all outputs lie in [0, 1], as probabilities do, on {int(inside.sum())} of {len(inside)} images"
    return float(inside.double().mean()), SUSPICIOUS if inside.all() else OK, why


def randomness(network: AttackedNetwork) -> Finding:
    """Measure on how many images two passes in a row give different logits.

    Both go in one go: the random state must be free to move on.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.
    """
    changed = []
    with modes.attack_mode(network.model), torch.no_grad():
        for x, _ in network.batches():
            first, second = (network.model(x).float() for _ in range(2))
            scale = (first - first.mean(1, keepdim=True)).abs().amax(1)
            # Sums in another order, as on a GPU, differ by a millionth or so.
            changed.append(((first - second).abs().amax(1) > 1e-4 * scale).cpu())
    return _rare(torch.cat(changed), "two passes give different logits")


def batch_dependence(network: AttackedNetwork) -> Finding:
    """Measure on how many of a few images logits alone differ from those in a batch.

    Args:
        network: the network under check.

    Returns:
        The share of all images, the verdict and why.

    Raises:
        DoesNotApply: the outputs are random.
    """
    model, x, y = network.model, network.x[:ALONE], network.y[:ALONE]
    if is_random(model, x, y):
        raise DoesNotApply("the outputs are random")
    changed = differing(model, logits_alone(model, x, y), logits_among(model, x, y, network.batch_size))
    return _rare(changed, f"an image alone gets other logits than in a batch{cause(model)}")


def _rare(flags: Tensor, what: str) -> Finding:
    """Return a finding that is suspicious where more than a few of the images, (N,) bool, show something."""
    share = float(flags.double().mean())
    return share, SUSPICIOUS if share > FEW else OK, f"{what} on {int(flags.sum())} of {len(flags)} images"


def _gradient_sizes(network: AttackedNetwork, *, around: bool = False) -> Tensor:
    """Return the largest entry of each image's loss gradient, (N,); NaN where one is not finite.

    `around`: at a random point of the image's ball instead.
    """
    sizes = []
    for number, (x, y) in enumerate(network.batches()):
        if around:
            ball = Ball(x, network.threat.radius, network.threat.norm)
            x = ball.random_point(generator(network.seed, "check-around", number, device=x.device))
        with modes.attack_mode(network.model), torch.enable_grad():
            point = x.detach().requires_grad_(True)
            value = losses.cross_entropy(network.model(point).float(), y).sum()
            gradient = input_gradient(value, point).flatten(1)
        size = gradient.abs().amax(1)
        sizes.append(torch.where(gradient.isfinite().all(1), size, torch.nan).cpu())
    return torch.cat(sizes)

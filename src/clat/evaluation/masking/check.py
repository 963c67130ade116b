"""The check for gradient masking: networks that only look robust because their gradients mislead attacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from clat.core.checks import at_least
from clat.core.environment import describe_environment
from clat.core.errors import ClatError
from clat.core.progress import counted
from clat.core.threat_model import ThreatModel
from clat.core.units import Size, size_text
from clat.evaluation.masking.attacked_network import BLACK_BOX, AttackedNetwork
from clat.evaluation.masking.network_signs import DoesNotApply
from clat.evaluation.masking.report import NOT_RUN, SUSPICIOUS, CheckReport, CheckRow
from clat.evaluation.masking.signs import SIGNS
from clat.evaluation.statistics import Accuracy
from clat.network.cost import metered
from clat.network.edge import accept
from clat.network.fingerprint import device_of
from clat.network.layers import Layer


def check(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    norm: str = "linf",
    seed: int = 0,
    batch_size: int = 250,
    layers: Sequence[Layer] | None = None,
    about: dict[str, Any] | None = None,
) -> CheckReport:
    """Look for signs of gradient masking.

    A hundred images show what is broken, a thousand a difference of a few points. Costs at most about 700 forward
    and backward passes an image, and 700 forward passes alone.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits; it is left as it is.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,) int64.
        eps: the radius, a number or a fraction such as "8/255".
        norm: "linf" or "l2".
        seed: of the attacks.
        batch_size: images in a forward pass.
        layers: those of the feature attack, such as the ones that CLAT trained; None: all.
        about: what is added to the report's JSON, such as model and data.

    Returns:
        A row for each sign, with its value, verdict and reason.

    Raises:
        ClatError: for bad input, as `clat.evaluate` does, and where the network is right on no image.
    """
    model, x = accept(model, x, y)
    threat = ThreatModel.parse(eps, norm)
    at_least("batch_size", batch_size, 1)
    network = AttackedNetwork(model, x, y, threat, seed, batch_size, layers)
    if threat.eps > network.largest:
        raise ClatError(
            f"eps {threat.text} in {norm} is above {size_text(network.largest)}, where a ball holds every image of "
            "this size: sizes are those of images in [0, 1], 128 of 255 is 128/255"
        )
    with metered(model) as cost:
        # It asks nothing of the gradient, so what it refuses is bad input and no sign.
        network.robust(BLACK_BOX)
        if not network.clean.any():
            raise ClatError(
                f"the network is right on none of the {len(x)} images: do weights and labels belong to it?"
            )
        rows = list(_rows(network))
    return CheckReport(
        rows=rows,
        clean=Accuracy(int(network.clean.sum()), len(x)),
        threat=threat,
        seed=seed,
        cost=cost,
        environment=describe_environment(device_of(model, x.device)),
        about=about or {},
    )


def _rows(network: AttackedNetwork) -> Iterator[CheckRow]:
    """Yield the row of every sign.

    Where the network makes an attack impossible, that is a sign too, once.
    """
    refusals: set[str] = set()
    for name, look in counted("looking for signs", SIGNS.items()):
        try:
            yield CheckRow(name, *look(network))
        except DoesNotApply as reason:
            yield CheckRow(name, None, NOT_RUN, str(reason))
        except ClatError as error:
            verdict = NOT_RUN if str(error) in refusals else SUSPICIOUS
            refusals.add(str(error))
            yield CheckRow(name, None, verdict, str(error))

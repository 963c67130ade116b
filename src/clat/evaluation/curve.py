"""Robust accuracy against the size of the perturbation (CLAT's Fig. 4).

Every size is attacked on its own and nothing is smoothed: a curve that rises is a sign that an attack failed, which
hiding would not mend (`clat.check` looks for it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.files import SavedAsJson
from clat.core.notebook import html_table
from clat.core.units import Size, parse_size, size_text
from clat.evaluation.evaluate import evaluate
from clat.evaluation.protocols import Protocol, find_protocol
from clat.evaluation.result import Evaluation
from clat.evaluation.statistics import Accuracy


@dataclass(frozen=True)
class EpsCurve(SavedAsJson):
    """Accuracies by rising eps, and the evaluations that they come from.

    Attributes:
        points: eps as exact text with the accuracy under attack; at eps 0 the clean accuracy.
        results: one evaluation for each eps above 0.
    """

    points: tuple[tuple[str, Accuracy], ...]
    results: tuple[Evaluation, ...]

    @property
    def expected_accuracy(self) -> float | None:
        """The accuracy to expect where every eps from the smallest to the largest is as likely as any other: the
        area under the points joined by straight lines, over its width. None for a single eps."""
        sizes = [float(Fraction(eps)) for eps, _ in self.points]
        values = [accuracy.value for _, accuracy in self.points]
        pieces = [
            (right - left) * (one + other) / 2
            for (left, right), (one, other) in zip(pairwise(sizes), pairwise(values), strict=True)
        ]
        return sum(pieces) / (sizes[-1] - sizes[0]) if pieces else None

    def _repr_html_(self) -> str:
        return html_table(["eps", "accuracy under attack"], self.points, title=self.results[0].protocol.title)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            The protocol, the points, and each evaluation without what all share.
        """
        one = self.results[0]
        shared = {"what", "protocol", "environment", *one.about}
        return {
            "what": "eps-curve",
            **one.about,
            "protocol": {**one.protocol.data(), "hash": one.protocol.hash, "norm": one.norm},
            "points": [
                {"eps": {"text": eps, "value": float(Fraction(eps))}, "accuracy": accuracy.to_dict()}
                for eps, accuracy in self.points
            ],
            "expected_accuracy": self.expected_accuracy,
            "evaluations": [
                {key: value for key, value in result.to_dict().items() if key not in shared}
                for result in self.results
            ],
            "environment": one.environment,
        }


def eps_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Size | Sequence[Size],
    protocol: str | Path | Protocol = "pgd-20",
    norm: str = "linf",
    **options: Any,
) -> EpsCurve:
    """Evaluate a network at several sizes of the perturbation.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits; it is left as it is.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,) int64.
        eps: the sizes, or one of them, numbers or fractions such as "8/255"; 0 adds the clean accuracy.
        protocol: a built-in name, a TOML file or a Protocol.
        norm: "linf", "l2", or of protocols of APGD alone "l1".
        options: further ones of `clat.evaluate`.

    Returns:
        The accuracies by rising eps.

    Raises:
        ClatError: as `clat.evaluate` does, where no attack heeds eps, and unless at least one eps is above 0.
    """
    protocol = heeding_eps(protocol)
    sizes = [eps] if isinstance(eps, Size) else eps
    return trace_curve(
        lambda size: evaluate(model, x, y, protocol=protocol, eps=size, norm=norm, **options), sizes, norm
    )


def heeding_eps(protocol: str | Path | Protocol) -> Protocol:
    """Return a protocol whose attacks a curve can be drawn of.

    Args:
        protocol: a built-in name, a TOML file or a Protocol.

    Returns:
        The protocol.

    Raises:
        ClatError: there is none of that name, or no attack of it heeds eps.
    """
    found = find_protocol(protocol)
    if not found.bounded_by_eps:
        raise ClatError(
            f"protocol '{found.name}' heeds no eps, so that a curve would show nothing of it: take another, or "
            "measure once with clat evaluate"
        )
    return found


def trace_curve(measure: Callable[[Fraction], Evaluation], eps: Sequence[Size], norm: str = "linf") -> EpsCurve:
    """Return the curve of any evaluation at an eps, such as one of a streamed image set.

    Args:
        measure: returns the evaluation at an eps, which is above 0.
        eps: the sizes, numbers or fractions, in any order; one that is there twice counts once.
        norm: "linf", "l2", or of protocols of APGD alone "l1".

    Returns:
        The accuracies by rising eps.

    Raises:
        ClatError: no eps is above 0, or one is no size.
    """
    sizes = sorted({parse_size(size, norm=norm) for size in eps})
    results = [measure(size) for size in sizes if size > 0]
    if not results:
        raise ClatError("a curve needs at least one eps above 0: clean accuracy comes with every evaluation")
    points = [(result.eps, result.robust_accuracy) for result in results]
    if sizes[0] == 0:
        points.insert(0, (size_text(sizes[0]), results[0].clean_accuracy))
    return EpsCurve(tuple(points), tuple(results))

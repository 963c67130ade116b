"""RiFT's last step (Zhu et al., ICCV 2023): go part of the way from the robust network to the fine-tuned one.

    theta_a = (1 - a) theta_start + a theta_end,    a in {0, 0.1, ..., 1},

over the whole state, BatchNorm statistics included. Of the points whose robust accuracy is at most `margin` below
that of the start, the one with the largest clean accuracy is kept. The released code measures both, and picks the
fine-tuned checkpoint, on the test split; here it is the held-out part of train.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.evaluation.heldout import heldout_accuracies, heldout_clean_accuracy
from clat.network.exchange import copied, put, tensors_of
from clat.runtime.callback import StageCallback, StageContext
from clat.treatments.base import Treatment

ALPHAS = tuple(number / 10 for number in range(11))
"""The points of the search."""


class LinePoint(NamedTuple):
    """One point of the line and its held-out accuracies, in [0, 1]."""

    alpha: float
    clean: float
    robust: float


@dataclass(frozen=True, kw_only=True)
class Interpolation(Treatment):
    """End of a stage between the weights that it started from and those that it reached.

    To be named before the treatments that change the network's structure or average its weights, and with `end =
    "last"` beside them: the line is that of the networks they leave.
    """

    name: Literal["interpolation"] = "interpolation"
    before: ClassVar[tuple[str, ...]] = ("lora", "ema", "swa")
    alpha: float | None = None
    """Where to stop between start (0) and end (1); None: search."""
    margin: float = 0.001
    """Robust accuracy that the search may give up, as a fraction (paper: 0.1 percentage points). Less than one
    held-out image, it allows no loss at all."""
    steps: int = 10
    """Steps of the PGD attack (2.5 * eps / steps each, from a random start) behind the robust accuracy."""
    end: Literal["best-clean", "last"] = "best-clean"
    """The end of the line: the epoch with the best clean accuracy on all held-out images, looked at after each
    (RiFT), or the last."""

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ClatError(f"interpolation.alpha is {self.alpha}: expected a value from 0 to 1")
        if not 0 <= self.margin <= 1:
            raise ClatError(
                f"interpolation.margin is {self.margin}: expected a fraction, 0.001 for 0.1 percentage points"
            )
        if self.steps < 1:
            raise ClatError(f"interpolation.steps is {self.steps}: expected at least 1")

    def check_beside(self, names: Sequence[str]) -> None:
        super().check_beside(names)
        for other in names:
            if other in self.before and self.end != "last":
                raise ClatError(
                    f"has 'interpolation' beside '{other}', whose network is there only at the end of the stage: "
                    "give it end = 'last'"
                )

    def on_stage_start(self, context: StageContext) -> StageCallback:
        return Line(self, context)


def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return (1 - alpha) start + alpha end, entry by entry.

    Args:
        start: the state of one network, by name.
        end: the state of the other, with the same names.
        alpha: from 0 to 1, which give the two networks bit for bit.

    Returns:
        New tensors by name. Between the two, integers (BatchNorm's counters) are those of the end.

    Raises:
        ClatError: if the entries differ in name.
    """
    if start.keys() != end.keys():
        odd = sorted(start.keys() ^ end.keys())[0]
        raise ClatError(f"cannot interpolate between two networks of which only one has '{odd}'")
    if alpha in (0, 1):
        return copied(end if alpha else start)
    return {
        name: _between(start[name], value, alpha)
        if value.is_floating_point() or value.is_complex()
        else value.clone()
        for name, value in end.items()
    }


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    """Return the point between two tensors; what they have in common stays, also an infinity of a mask."""
    return torch.where(start == end, end, torch.lerp(start, end, alpha))


def choose_alpha(points: Iterable[LinePoint], margin: float) -> LinePoint:
    """Return the point with the largest clean accuracy that keeps the robust one.

    Args:
        points: the line's, that at alpha = 0 among them.
        margin: robust accuracy that may be lost against alpha = 0, as a fraction.

    Returns:
        The point; of equals the more robust one, then the one nearest to the start.
    """
    points = sorted(points)
    floor = points[0].robust - margin - 1e-9  # accuracies are ratios of counts: 0.537 - 0.001 is to be 0.536
    allowed = [point for point in points if point.robust >= floor]
    return max(allowed, key=lambda point: (point.clean, point.robust, -point.alpha))


class Line(StageCallback):
    """Stage callback that holds the weights at the start and, for `end = "best-clean"`, of the best epoch since."""

    def __init__(self, settings: Interpolation, context: StageContext) -> None:
        super().__init__()
        self.settings, self.context, self.model = settings, context, context.model
        self.start = copied(tensors_of(self.model))
        self.best: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        kept = (("start", self.start), ("best", self.best))
        return {f"{kind}.{name}": value for kind, state in kept for name, value in state.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        put(self.start, {k.removeprefix("start."): v for k, v in tensors.items() if k.startswith("start.")})
        best = {k.removeprefix("best."): v for k, v in tensors.items() if k.startswith("best.")}
        self.best = copied(self.start) if best else {}
        put(self.best, best)

    def after_epoch(self, check: dict[str, Any] | None) -> None:
        if self.settings.end == "last":
            return
        here = self.context
        if check is not None and check["heldout_n"] == len(here.heldout[0]):
            clean = check["heldout_clean"]
        else:
            clean = heldout_clean_accuracy(
                self.model, here.engine, *here.heldout, batch_size=here.batch_size, micro_batch=here.micro_batch
            )
        if clean > self.scalars.get("best_clean", -1.0):
            self.scalars["best_clean"] = clean
            self.best = copied(tensors_of(self.model))

    def on_stage_end(self) -> dict[str, Any]:
        end = self.best or copied(tensors_of(self.model))
        fixed = self.settings.alpha
        alphas = ALPHAS if fixed is None else sorted({0.0, fixed, 1.0})
        points = [self._measured(end, alpha) for alpha in alphas]
        if fixed is None:
            chosen = choose_alpha(points, self.settings.margin)
        else:
            chosen = next(point for point in points if point.alpha == fixed)
        put(tensors_of(self.model), interpolate(self.start, end, chosen.alpha))
        first, last = points[0], points[-1]
        return {
            "alpha": chosen.alpha,
            "clean_start": first.clean,
            "robust_start": first.robust,
            "clean_end": last.clean,
            "robust_end": last.robust,
            "clean": chosen.clean,
            "robust": chosen.robust,
            "points": [point._asdict() for point in points],
        }

    def _measured(self, end: Mapping[str, Tensor], alpha: float) -> LinePoint:
        """Return the accuracies of the network at `alpha` on all held-out images.

        All processes learn the same accuracies, so all choose alike.
        """
        here = self.context
        put(tensors_of(self.model), interpolate(self.start, end, alpha))
        attack = Attack(here.threat, steps=self.settings.steps)
        seed = derive_seed(here.seed, "interpolation")
        clean, robust = heldout_accuracies(
            self.model,
            here.engine,
            *here.heldout,
            attack,
            batch_size=here.batch_size,
            seed=seed,
            micro_batch=here.micro_batch,
        )
        return LinePoint(alpha, clean, robust)

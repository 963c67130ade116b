"""AutoAttack bounded by a sample: its robust accuracy within a point, at a third of its passes.

FAB and Square cost four fifths of AutoAttack's passes and, after the others, fool next to nothing. So all images
are screened by a cheap strong attack, and AutoAttack goes on with a random sample of those that the screen left.
How many of the rest it would fool is then bounded, whatever the network (`clat.evaluation.finite`).

With the screen "apgd", AutoAttack's own first two attacks, full AutoAttack leaves at most as many as they left less
those of the sample that fell. With "cr", which is cheaper, the images that cr fooled are not robust either, though
AutoAttack might leave one of them; the lower bound holds for AutoAttack's own verdict with either.

The verdicts lie in a state of the full protocol, so that `autoattack` with the same state file goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.core.files import SavedAsJson
from clat.core.seeds import permutation
from clat.core.threat_model import ThreatModel
from clat.core.units import Size
from clat.data import ImageSet
from clat.evaluation.dataset import evaluate_set
from clat.evaluation.evaluate import RESUMED_NOTE, Evaluation
from clat.evaluation.finite import most_in_set, sample_needed
from clat.evaluation.protocols import PROTOCOLS
from clat.evaluation.state import UNTRIED, Extent
from clat.evaluation.statistics import Accuracy
from clat.network.cost import Cost

NAME = "autoattack-sampled"
SCREENS = ("cr", "apgd")
CONFIDENCE = 0.95
FULL, CR = PROTOCOLS["autoattack"], PROTOCOLS["cr"]
APGD = 2
"""So many attacks of the full protocol are the screen "apgd"."""


@dataclass(frozen=True, kw_only=True)
class SampledEvaluation(SavedAsJson):
    """Bounds of what AutoAttack would leave of all images, from a random sample.

    Attributes:
        n: how many images there are.
        clean: the accuracy on clean images, all of them.
        screen: what all images went through first, "cr" or "apgd".
        left: images that are right and withstood the screen.
        sample: how many of these went through AutoAttack.
        fell: how many of the sample it fooled.
        confidence: of the lower bound alone.
        threat: the ball that the attacks search.
        seed: of the attacks and of the sample.
        precision: of the searches.
        screen_cost: passes and seconds of the screen.
        sample_cost: the same of AutoAttack on the sample.
        environment: versions and machine.
        notes: what differs from the protocol's letter.
        about: what the caller adds to the JSON (model, weights, data).
    """

    n: int
    clean: Accuracy
    screen: str
    left: int
    sample: int
    fell: int
    confidence: float
    threat: ThreatModel
    seed: int
    precision: str
    screen_cost: Cost
    sample_cost: Cost
    environment: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def estimate(self) -> float:
        """Return the robust accuracy if the rest of the images fared as the sample did."""
        return self.left / self.n * (1 - self.fell / self.sample if self.sample else 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Return the lower bound, which holds with `confidence`, and the upper one, which is certain."""
        fooled = most_in_set(self.left, self.sample, self.fell, self.confidence)
        return (self.left - fooled) / self.n, (self.left - self.fell) / self.n

    @property
    def width(self) -> float:
        """Return the width of the interval in percentage points."""
        low, high = self.interval
        return 100 * (high - low)

    @property
    def cost(self) -> Cost:
        """Return the cost of the screen and the sample together."""
        return self.screen_cost + self.sample_cost

    @property
    def full_cost(self) -> Cost | None:
        """Return about what full AutoAttack would cost: the screen, and the sample's part for all that it left.

        None without a sample, and where the passes of an earlier session are not known.
        """
        if not self.sample or RESUMED_NOTE in self.notes:
            return None
        times = self.left / self.sample
        forwards, backwards = (
            round(times * one) for one in (self.sample_cost.forwards, self.sample_cost.backwards)
        )
        return self.screen_cost + Cost(forwards, backwards, times * self.sample_cost.seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            Settings, the estimate and its bounds, counts, and the costs by part.
        """
        low, high = self.interval
        full = self.full_cost
        return {
            "what": "sampled-evaluation",
            **self.about,
            "protocol": {"name": NAME, "screen": self.screen, "samples": FULL.data(), "hash": FULL.hash},
            "norm": self.threat.norm,
            "eps": self.threat.eps_data(),
            "seed": self.seed,
            "precision": self.precision,
            "n": self.n,
            "clean_accuracy": self.clean.to_dict(),
            "left_by_screen": self.left,
            "sample": self.sample,
            "fooled_in_sample": self.fell,
            "robust_accuracy": {
                "estimate": self.estimate,
                "low": low,
                "high": high,
                "confidence": CONFIDENCE,
                "confidence_of_last_look": self.confidence,
                "method": "clopper-pearson, hypergeometric; one-sided: the upper bound is certain",
            },
            "cost": {
                "screen": asdict(self.screen_cost),
                "sample": asdict(self.sample_cost),
                "full AutoAttack, estimated": None if full is None else asdict(full),
            },
            "notes": self.notes,
            "environment": self.environment,
        }


def evaluate_sampled(
    model: nn.Module,
    images: ImageSet,
    *,
    eps: Size,
    norm: str = "linf",
    screen: str = "cr",
    width: float = 1.0,
    sample: int | None = None,
    until: bool = False,
    ids: Tensor | Sequence[int] | None = None,
    state: str | Path | None = None,
    seed: int = 0,
    precision: str = "float32",
    **options: Any,
) -> SampledEvaluation:
    """Bound the robust accuracy that full AutoAttack would leave.

    Args:
        model: an image classifier that takes images in [0, 1] and returns logits; it is left as it is.
        images: the data set.
        eps: the radius, a number or a fraction such as "8/255".
        norm: "linf" or "l2".
        screen: what all images go through first: "cr", or "apgd", AutoAttack's APGD-CE and APGD-T.
        width: aim at an interval this wide, in percentage points: the sample is as large as that takes if none of
            it is fooled.
        sample: this many images instead, or all that the screen leaves if these are fewer.
        until: go on with more images until the interval is as narrow as `width`. Each further look at it spends
            confidence: the j-th has 1 - 0.05 / (j (j + 1)), so that all of them hold together with 95 %.
        ids: evaluate these images of the set only, by number, as for `clat.evaluation.evaluate_set`; None: all.
        state: a file from which an interrupted evaluation, or `autoattack`, goes on.
        seed: of the attacks and of the sample.
        precision: of the searches, as for `clat.evaluate`.
        options: further ones of `evaluate_set`.

    Returns:
        The bounds, and what they follow from.

    Raises:
        ClatError: as `evaluate_set` does, and for a width, sample or screen that makes no sense.
    """
    check_sample(screen, sample)
    if not 0 < width <= 100:
        raise ClatError(f"the width is {width}: expected percentage points, more than 0 and at most 100")
    if sample is not None and until:
        raise ClatError("a sample's size and a width to go on to contradict each other: give one of them")
    shared = {"eps": eps, "norm": norm, "ids": ids, "seed": seed, "precision": precision, **options}

    def through(extent: Extent) -> Evaluation:
        return evaluate_set(model, images, protocol=FULL, state=state, extent=extent, **shared)

    if screen == "cr":
        beside = None if state is None else Path(state).with_name(f"{Path(state).name}.cr")
        first = evaluate_set(model, images, protocol=CR, state=beside, **shared)
        untried = first.fooled_by == UNTRIED
        # What cr fooled was right as it is.
        clean = torch.where(untried, first.predicted, first.labels.to(first.predicted))
        unseen = torch.full_like(first.fooled_by, UNTRIED)
        robust, result = first.robust, replace(first, fooled_by=unseen, predicted=clean)
    else:
        first = result = through(Extent(torch.full((_count(images, ids),), APGD)))
        robust = first.correct & ((first.fooled_by == UNTRIED) | (first.fooled_by >= APGD))
    begun = APGD if screen == "apgd" else 0
    order = robust.nonzero().squeeze(1)
    order = order[permutation(len(order), seed, NAME)]
    allowed = int(width * len(robust) / 100 + 1e-9)

    own = screen == "apgd"
    looks, size, spent, notes = 0, 0, Cost(), list(first.notes)
    while True:
        looks += 1
        confidence = 1 - (1 - CONFIDENCE) / (looks * (looks + 1) if until else 1)
        wanted = min(_next_size(len(order), size, allowed, confidence) if sample is None else sample, len(order))
        if wanted > size:
            attacks = torch.full((len(robust),), begun)
            attacks[order[size:wanted]] = len(FULL.attacks)
            result = through(Extent(attacks, begun, result.correct, result.fooled_by, result.predicted))
            spent, size = spent + result.cost, wanted
            # What this session has written to the state itself is counted.
            notes += [note for note in result.notes if note != RESUMED_NOTE or not own]
            own = True
        found = SampledEvaluation(
            n=len(robust),
            clean=first.clean_accuracy,
            screen=screen,
            left=len(order),
            sample=size,
            fell=int((result.fooled_by[order[:size]] != UNTRIED).sum()),
            confidence=confidence,
            threat=first.threat,
            seed=seed,
            precision=precision,
            screen_cost=first.cost,
            sample_cost=spent,
            environment=first.environment,
            notes=list(dict.fromkeys(notes)),
            about=first.about,
        )
        if not until or found.width <= width or size == len(order):
            return found


def check_sample(screen: str, sample: int | None) -> None:
    """Raise an error for a screen that there is not, or a sample of no image.

    Args:
        screen: what all images go through first.
        sample: images of the sample, None: as many as an interval takes.

    Raises:
        ClatError: as said.
    """
    if screen not in SCREENS:
        raise unknown("screen", screen, SCREENS)
    if sample is not None and sample < 1:
        raise ClatError(f"the sample is {sample}: expected at least 1 image")


def _count(images: ImageSet, ids: Tensor | Sequence[int] | None) -> int:
    """Return how many images are to be evaluated."""
    return len(images) if ids is None else len(ids)


def _next_size(left: int, size: int, allowed: int, confidence: float) -> int:
    """Return how many images to go on to: what is enough if none falls, then half as many again."""
    return sample_needed(left, allowed, confidence) if size == 0 else max(size + 1, size * 3 // 2)

"""CLAT's lambda, which no paper prints: chosen on held-out images, among a few ratios, by one rule.

The rule: PGD-AT + CLAT is trained with each ratio from the first seed; taken is the ratio whose last weights have
the highest robust accuracy on the held-out training images (PGD-10), the smaller one of a tie; one whose network
could not be trained is left out. One ratio is chosen for a network and a data set, and every X takes it. The test
split is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.console import Console

from clat.core.errors import ClatError
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.store import Store
from clat.studies.paper.stored import PENDING, StoredRun

RULE = (
    "the ratio whose PGD-AT + CLAT network has the highest robust accuracy on held-out training images (PGD-10, "
    "last weights, first seed), the smaller one of a tie"
)


@dataclass(frozen=True)
class ChosenRatio:
    """The ratio for one network and data set, and how it came about."""

    ratio: float
    how: str
    robust: Mapping[str, float]
    """Ratio, as text -> held-out robust accuracy in [0, 1]; empty where nothing was chosen."""
    clean: Mapping[str, float] = field(default_factory=dict)
    """The same for clean accuracy, where it has a part in the choice."""
    score: Mapping[str, float] = field(default_factory=dict)
    """Ratio, as text -> what was compared, where that is not robust accuracy alone."""

    def to_dict(self) -> dict[str, object]:
        """Return plain data.

        Returns:
            The fields.
        """
        return asdict(self)


def ratio_specs(
    ratios: Sequence[float],
    network: str,
    dataset: str,
    *,
    seed: int,
    base: str = "pgd-at",
    follower: str = "clat",
) -> dict[float, RunSpec]:
    """Return the networks from which a ratio is chosen: none where there is but one ratio.

    Args:
        ratios: of losses, above 0.
        network: the paper's network.
        dataset: the data set.
        seed: the first seed.
        base: X, behind which it is chosen.
        follower: the form of CLAT that it is for.

    Returns:
        Ratio -> what is trained.
    """
    return {
        ratio: RunSpec(base=base, follower=follower, network=network, dataset=dataset, seed=seed, ratio=ratio)
        for ratio in (ratios if len(ratios) > 1 else ())
    }


def choose_ratio(
    store: Store,
    network: str,
    dataset: str,
    console: Console,
    *,
    seed: int = 0,
    base: str = "pgd-at",
    follower: str = "clat",
    score: Callable[[Mapping[str, float]], float] | None = None,
) -> ChosenRatio:
    """Return the ratio for a network and a data set, training what it is chosen from unless that is there.

    Args:
        store: where the networks are; its scale has the ratios.
        network: the paper's network.
        dataset: the data set.
        console: where what happens is said.
        seed: the first seed.
        base: X, behind which it is chosen.
        follower: the form of CLAT that it is for.
        score: of the accuracies on held-out images that a run's summary has of its last weights; the ratio with the
            highest is taken. None: robust accuracy.

    Returns:
        The ratio; of a scale with a single one, that one, and it says that it was not chosen.

    Raises:
        ClatError: If a network could not be trained.
        KeyboardInterrupt: If one was asked to stop.
    """
    ratios = store.scale.ratios
    if len(ratios) == 1:
        return ChosenRatio(ratios[0], f"{ratios[0]:g}, not chosen at this scale", {})
    runs: dict[float, StoredRun] = {}
    failures: dict[float, str] = {}
    for ratio, spec in ratio_specs(ratios, network, dataset, seed=seed, base=base, follower=follower).items():
        runs[ratio] = store.run_of(spec)
        failure = None if store.is_finished(runs[ratio]) else store.train(runs[ratio], console)
        if failure or not store.is_finished(runs[ratio]):
            failures[ratio] = failure or PENDING
    if len(failures) == len(runs) or PENDING in failures.values():
        ratio, failure = next(iter(failures.items()))
        raise ClatError(f"lambda could not be chosen: ratio {ratio:g}: {failure}")
    last = {ratio: store.summary(run)["last"] for ratio, run in runs.items() if ratio not in failures}
    scores = {ratio: score(one) if score else one["heldout_robust"] for ratio, one in last.items()}
    best = max(last, key=lambda ratio: (scores[ratio], -ratio))
    shown = dict.fromkeys(runs, "failed")
    for ratio, one in last.items():
        shown[ratio] = f"{one['heldout_robust']:.1%}"
        if score:
            shown[ratio] = f"{one['heldout_clean']:.1%} clean, {shown[ratio]} robust, score {scores[ratio]:+.3f}"
    listed = ("; " if score else ", ").join(f"{ratio:g}: {shown[ratio]}" for ratio in runs)
    return ChosenRatio(
        best,
        f"{best:g}, chosen on {store.scale.monitored} held-out images ({listed})",
        {f"{ratio:g}": one["heldout_robust"] for ratio, one in last.items()},
        {f"{ratio:g}": one["heldout_clean"] for ratio, one in last.items()} if score else {},
        {f"{ratio:g}": value for ratio, value in scores.items()} if score else {},
    )

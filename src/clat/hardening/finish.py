"""What comes after the training of a hardening: the promise, the measurements, the look for masking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.files import write_json
from clat.core.parsing import parse_json
from clat.core.seeds import derive_seed
from clat.data import Loader, PerImage
from clat.evaluation import Evaluation, evaluate_set
from clat.evaluation.by_class import class_accuracies
from clat.evaluation.heldout import heldout_accuracies
from clat.evaluation.job import Report
from clat.evaluation.masking import check
from clat.evaluation.masking.report import signs_in_words
from clat.evaluation.predict import is_right
from clat.hardening.inputs import HardenInputs
from clat.hardening.promise import CONFIDENCE, PromisePoint, most_robust_within, set_point, walk_line
from clat.hardening.settings import HardenConfig
from clat.hardening.testing import LEAST_MASKING, FinalTest, images_to_check
from clat.network.computed import copied_network
from clat.network.exchange import copied, tensors_of
from clat.recipe.schema import Recipe
from clat.training.augmentation import augmentation
from clat.training.frozen import Frozen, frozen_names
from clat.training.log import RunLog
from clat.training.start import as_batch

PROMISE = "promise.json"
PICTURES = 24
"""Of the page's gallery: six of each kind."""
STATISTICS_BATCHES = 20
"""Training batches on which BatchNorm statistics of points between two networks are counted."""


def measured(file: Path, model: nn.Module, test: FinalTest, config: HardenConfig, report: Report) -> Evaluation:
    """Measure a network on test images into `file`, going on where an earlier attempt was stopped.

    Args:
        file: the JSON file of the result; how far an attempt was lies beside it until `discard_attempts`.
        model: a classifier in [0, 1] on its device, measured as it stands.
        test: the images and the protocol.
        config: the threat model and the seed.
        report: told how far it is.

    Returns:
        The result with its verdicts on each image.
    """
    state = file.with_suffix(".state")
    result = evaluate_set(
        model,
        test.images,
        ids=test.ids,
        protocol=test.protocol,
        eps=config.threat.eps,
        norm=config.norm,
        seed=derive_seed(config.seed, "evaluation"),
        state=state,
        report=report,
        about={"label": file.stem},
    )
    if not file.exists():  # else it has what the first attempt cost, and this one found its verdicts beside it
        result.to_json(file)
    return result


def discard_attempts(out: Path) -> None:
    """Remove what an interrupted ending goes on from, once all of it is done.

    Args:
        out: the hardening's folder.
    """
    for left in (*(out / "evaluations").glob("*.state.*"), out / PROMISE):
        left.unlink(missing_ok=True)


def keep_promise(
    out: Path,
    inputs: HardenInputs,
    config: HardenConfig,
    recipe: Recipe,
    log: RunLog,
    augment: Callable[[Tensor], Any] | None = None,
) -> dict[str, Any]:
    """Give the network the weights of the most robust point that holds the promise, or of the end if none does.

    Args:
        out: the hardening's folder; the points are kept in it until `discard_attempts`, and are not measured twice.
        inputs: the network before the training and at its end, of which the latter is changed, and the images that
            decide.
        config: `max_clean_drop`, which is set.
        recipe: the training's; its augmentation is used where BatchNorm statistics are counted.
        log: told what was chosen.
        augment: the callable that the training had in the place of the recipe's augmentation.

    Returns:
        Plain data: whether it is kept, at which alpha, and every point that was measured.
    """
    assert config.max_clean_drop is not None
    model, end = inputs.model, copied(tensors_of(inputs.model))
    start = copied(tensors_of(inputs.engine.place(copied_network(inputs.original))))
    x, y = as_batch(inputs.heldout, inputs.engine)
    attack = Attack(config.threat, steps=10)

    def judge() -> tuple[Tensor, float]:
        seed = derive_seed(config.seed, "promise")
        _, robust = heldout_accuracies(model, inputs.engine, x, y, attack, batch_size=250, seed=seed)
        return is_right(model, x, y), robust

    def batches() -> Iterator[Tensor]:
        size = min(config.batch_size, len(inputs.train))
        loader = Loader(
            inputs.train, size, device=inputs.engine.device, seed=config.seed, shuffle=True,
            augment=augmentation(recipe.data) if augment is None else PerImage(augment), drop_last=True,
        )  # fmt: skip
        for number, (images, _) in enumerate(loader.epoch(0)):
            if number == STATISTICS_BATCHES:
                return
            yield inputs.engine.images(images)

    norms = Frozen(model, frozen_names(inputs.original)).counted(model)
    points = _points(out / PROMISE, lambda: walk_line(model, start, end, batches, judge, norms=norms))
    chosen = most_robust_within(points, config.max_clean_drop / 100)
    alpha = 1.0 if chosen is None else chosen.alpha
    set_point(model, start, end, alpha, batches, norms=norms)
    kept = chosen is not None
    sure = f"with a confidence of {CONFIDENCE:.0%} on {len(x)} held-out images"
    log.say(
        f"  promise of {config.max_clean_drop:g} points of clean accuracy: "
        + (
            f"of the points on the line between start (0) and end (1), the one at {alpha:g} holds that {sure}"
            if chosen is not None
            else f"no point of the line between start and end holds that {sure}"
        ),
        style="cyan" if kept else "yellow",
    )
    return {
        "max_clean_drop": config.max_clean_drop,
        "kept": kept,
        "alpha": alpha,
        "heldout_n": len(x),
        "confidence": CONFIDENCE,
        "points": [point._asdict() for point in points],
    }


def _points(file: Path, measure: Callable[[], list[PromisePoint]]) -> list[PromisePoint]:
    if not file.exists():
        write_json(file, [point._asdict() for point in measure()])
    return [PromisePoint(**point) for point in parse_json(file.read_text())]


def look_for_masking(
    out: Path, model: nn.Module, test: FinalTest, config: HardenConfig, seconds_per_pass: float, log: RunLog
) -> str:
    """Write the check for gradient masking where the budget allows it, and say what it found, or why there is none.

    Args:
        out: the hardening's folder; a masking.json that is there already stays.
        model: the hardened classifier.
        test: test images, of which some are looked at.
        config: the threat model, the seed and the budget.
        seconds_per_pass: what a forward and backward pass of one image costs.
        log: told what was found.

    Returns:
        What was found, in a sentence.
    """
    file, count = out / "masking.json", images_to_check(config, len(test.ids), seconds_per_pass)
    words = None
    if not file.exists() and count == 0:
        few = len(test.ids) < LEAST_MASKING
        why = "on so few images" if few else "within this budget; clat check does that"
        words = f"No signs of gradient masking were looked for {why}."
    elif not file.exists():
        images = test.images.subset(test.ids).sample(count)
        x, y = next(iter(Loader(images, len(images), device=torch.device("cpu")).epoch()))
        try:
            check(model, x, y, eps=config.threat.eps, norm=config.norm, seed=config.seed).to_json(file)
        except ClatError as error:  # the network may be right on none of them
            words = f"Signs of gradient masking could not be looked for: {error}."
    if words is None:
        words = (
            signs_in_words(parse_json(file.read_text()), test.protocol.name)
            or f"{file.name} says nothing that can be read."
        )
    log.say(f"  {words}")
    return words


def per_class(before: Evaluation, after: Evaluation, test: FinalTest) -> list[dict[str, Any]]:
    """Return the accuracies of each class, before and after.

    Args:
        before: the result of the network as it was given.
        after: the result of the hardened one, on the same images.
        test: these images.

    Returns:
        A row a class with its name, its number of images and four accuracies in [0, 1]; None for a class without
        images.
    """
    both = [
        class_accuracies(test.images.labels[test.ids], result.correct, result.robust, test.images.class_names)
        for result in (before, after)
    ]
    return [
        {
            "class": first["class"],
            "n": first["n"],
            **{
                f"{kind}_{when}": one[kind]
                for when, one in (("before", first), ("after", second))
                for kind in ("clean", "robust")
            },
        }
        for first, second in zip(*both, strict=True)
    ]

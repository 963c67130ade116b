"""The entry of a network in RobustBench's `model_info`, from a result of the full AutoAttack."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from clat.core.errors import ClatError
from clat.evaluation.batch_dependence import varying_outputs
from clat.evaluation.protocols import PROTOCOLS
from clat.evaluation.result import EvaluationRecord

TEST_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
"""What RobustBench evaluates on, by its name of the data set."""
SPLITS = {"cifar10": ("test",), "cifar100": ("test",), "imagenet": ("test", "validation", "valid", "val")}
"""What the split of these images may be called."""

BOARDS = {
    ("cifar10", "linf"): "8/255",
    ("cifar10", "l2"): "0.5",
    ("cifar100", "linf"): "8/255",
    ("imagenet", "linf"): "4/255",
}
"""The radius of each of RobustBench's tables under AutoAttack, by data set and norm."""


def robustbench_entry(
    result: EvaluationRecord,
    *,
    name: str,
    authors: str,
    architecture: str,
    venue: str = "N/A",
    link: str = "",
    additional_data: bool = False,
    reported: float | None = None,
    footnote: str | None = None,
) -> dict[str, Any]:
    """Return the JSON that RobustBench keeps of a network, `model_info/DATASET/NORM/ID.json`.

    Args:
        result: of `clat evaluate --protocol autoattack`.
        name: the paper's title.
        authors: as it prints them.
        architecture: such as "WideResNet-34-10".
        venue: where it appeared.
        link: to the paper.
        additional_data: whether images beside the data set's were trained on.
        reported: AutoAttack's accuracy by the paper, in percent; None: the measured one.
        footnote: what else a reader has to know.

    Returns:
        The entry by RobustBench's keys; accuracies are texts in percent, with two decimals. What the result says
        of its own numbers is in the footnote; outputs that are random or depend on the batch are unreliable.

    Raises:
        ClatError: the result is none of AutoAttack, or of a data set or split that RobustBench has not.
    """
    full = PROTOCOLS["autoattack"]
    clean, robust = result.clean_accuracy, result.robust_accuracy
    if result.protocol_hash != full.hash or clean is None or robust is None:
        raise ClatError(
            f"{result.name} is a result of {result.protocol}: RobustBench lists the full AutoAttack alone, "
            "clat evaluate --protocol autoattack"
        )
    dataset = result.text("data", "name") or "unknown"
    if dataset not in TEST_IMAGES:
        raise ClatError(f"{result.name} is of '{dataset}': RobustBench has {', '.join(TEST_IMAGES)}")
    split = result.text("data", "split")
    if split is not None and split not in SPLITS[dataset]:
        raise ClatError(
            f"{result.name} is of '{dataset}/{split}': RobustBench lists results on '{SPLITS[dataset][0]}', "
            "evaluate there"
        )
    notes = [*([] if footnote is None else [footnote]), *_images_note(dataset, clean.n)]
    notes += [_radius_note(result, dataset)] if board_of(result) is None else []
    notes += [f"{note[0].upper()}{note[1:]}." for note in result.notes]
    measured = _percent(robust.value)
    return {
        "link": link,
        "name": name,
        "authors": authors,
        "additional_data": additional_data,
        "number_forward_passes": 1,
        "dataset": dataset,
        "venue": venue,
        "architecture": architecture,
        "eps": result.eps,
        "clean_acc": _percent(clean.value),
        "reported": measured if reported is None else f"{reported:.2f}",
        "autoattack_acc": measured,
        **({"footnote": " ".join(notes)} if notes else {}),
        "unreliable": varying_outputs(result.notes),
    }


def board_of(result: EvaluationRecord) -> str | None:
    """Return which of RobustBench's tables a result belongs to.

    Args:
        result: of `clat evaluate`.

    Returns:
        DATASET/NORM, as the folders of `model_info` are called; None where there is none of its norm and radius.
    """
    dataset, norm = result.text("data", "name"), result.text("protocol", "norm")
    listed = BOARDS.get((str(dataset), str(norm)))
    if listed is None or result.eps is None or Fraction(result.eps) != Fraction(listed):
        return None
    return f"{dataset}/{str(norm).capitalize()}"


def _radius_note(result: EvaluationRecord, dataset: str) -> str:
    """Return what a reader has to know of a radius that RobustBench has no table for."""
    own = [f"{norm} {eps}" for (name, norm), eps in BOARDS.items() if name == dataset]
    return f"Evaluated at {result.text('protocol', 'norm')} {result.eps}; RobustBench lists {' and '.join(own)}."


def _images_note(dataset: str, n: int | None) -> list[str]:
    """Return what a reader has to know of the images: a result does not say which of a split they are."""
    usual = TEST_IMAGES[dataset]
    if n is not None and n > usual:
        return [f"Evaluated on {n} images, of which RobustBench takes {usual}."]
    if n != usual:
        return [f"Evaluated on {n} of RobustBench's {usual} images."]
    own = f"Evaluated on {n} images, which need not be the {usual} that RobustBench takes."
    return [own] if dataset == "imagenet" else []


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"

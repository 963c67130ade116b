"""Results class by class: accuracies of each, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def class_accuracies(labels: Tensor, correct: Tensor, robust: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row a class: its name, its number of samples, and the shares right clean and under attack.

    Args:
        labels: the right classes, (N,) int64.
        correct: who is right on the clean image, (N,) bool.
        robust: who is right under attack, (N,) bool.
        names: of the classes.

    Returns:
        `{"class", "n", "clean", "robust"}` each, the accuracies in [0, 1], None for a class without samples.
    """
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        mine = labels == number
        n = int(mine.sum())
        clean, under = (float(verdicts[mine].double().mean()) if n else None for verdicts in (correct, robust))
        rows.append({"class": name, "n": n, "clean": clean, "robust": under})
    return rows


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Return how often each class is taken for each, (classes, classes) int64, the right class down.

    Args:
        labels: the right classes, (N,) int64.
        predicted: what the samples are taken for, (N,) int64; those outside the classes are left out, as an output
            beyond them or one that is not known (negative).
        classes: how many there are.

    Returns:
        Counts, (classes, classes) int64: the right class down, what it is taken for across.
    """
    known = (predicted >= 0) & (predicted < classes)
    counts = torch.bincount(labels[known] * classes + predicted[known], minlength=classes * classes)
    return counts.view(classes, classes)

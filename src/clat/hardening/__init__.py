"""From an ordinary classifier to a robust one within a budget: look, plan, train, keep the promise, measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clat.core.errors import unknown
from clat.core.units import Size
from clat.data import as_train_and_test
from clat.hardening.plan import Plan
from clat.hardening.run import Hardened, plan_hardening, resume_hardening, run_hardening
from clat.hardening.settings import HardenConfig

__all__ = ["HardenConfig", "Hardened", "Plan", "harden", "plan_hardening", "resume_hardening"]


def harden(
    model: nn.Module,
    train: Any,
    test: Any,
    out: str | Path,
    *,
    eps: Size = "8/255",
    budget: str | float | None = None,
    augment: str | Callable[[Tensor], Any] | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Hardened:
    """Make a trained classifier robust within a budget, and measure what that brought.

    Args:
        model: a trained network, images (N, C, H, W) in [0, 1] -> logits; it stays as it is.
        train: images to train on, in any form that `clat.as_image_set` takes; a part is held out and decides
            everything.
        test: images that are read once, at the end; a folder or a mapping of splits may be given for both.
        out: a new folder for the run, the network, the page and the model card.
        eps: the perturbations to withstand, in image units.
        budget: time for everything, such as "30m"; or give `epochs`.
        augment: what is done to training images: as of a recipe's data, or a callable of your own, image (C, H, W)
            to an image of the same shape; None: the crop and flip that the network bears.
        quiet: print nothing.
        settings: further fields of `HardenConfig`, such as `max_clean_drop` or `epochs`.

    Returns:
        The hardened network, its results before and after, and their paired comparison.

    Raises:
        ClatError: the network is at chance or robust already, the budget is too small for one epoch, or anything
            else in the input is wrong; then nothing has been written.
    """
    valid = {field.name for field in fields(HardenConfig)}
    for name in settings.keys() - valid:
        raise unknown("setting", name, valid, where=" of a hardening")
    named, own = (None, augment) if callable(augment) else (augment, None)
    config = HardenConfig(eps=eps, budget=budget, augment=named, **settings)
    train_set, test_set = as_train_and_test((train, test))
    return run_hardening(model, train_set, test_set, out, config, augment=own, quiet=quiet)

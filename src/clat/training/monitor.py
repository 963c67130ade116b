"""The cheap check after each epoch: clean and PGD accuracy on held-out training images, and what they warn of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clat.attacks.settings import Attack
from clat.core.seeds import derive_seed
from clat.evaluation.heldout import heldout_accuracies
from clat.recipe.schema import Recipe
from clat.runtime.engine import Engine
from clat.training.state import Progress


def check_heldout(
    model: nn.Module, engine: Engine, heldout: tuple[Tensor, Tensor], recipe: Recipe
) -> dict[str, Any]:
    """Measure what a recipe's monitor asks for: clean and PGD accuracy on held-out images.

    Args:
        model: as it stands; its modes are put back.
        engine: precision, and the processes that share the work.
        heldout: (x, y) on the device, of which the first `monitor.num_samples` count.
        recipe: the threat model, the steps and the seed, which gives every check the same random starts.

    Returns:
        "heldout_clean" and "heldout_robust" in [0, 1], and "heldout_n", the number of images.
    """
    x, y = (part[: recipe.monitor.num_samples] for part in heldout)
    attack = Attack(recipe.threat, steps=recipe.monitor.steps)
    seed = derive_seed(recipe.seed, "heldout")
    clean, robust = heldout_accuracies(
        model, engine, x, y, attack, batch_size=recipe.batch_size, micro_batch=recipe.micro_batch, seed=seed
    )
    return {"heldout_clean": clean, "heldout_robust": robust, "heldout_n": len(x)}


def overfitted_catastrophically(clean: float, robust: float, best_robust: float) -> bool:
    """Return whether one-step training has overfitted catastrophically (Wong et al. 2020, arXiv 2001.03994).

    Accuracy under multi-step PGD then collapses, here below half of its best, while the clean accuracy does not.

    Args:
        clean: accuracy on clean images, in [0, 1].
        robust: accuracy under multi-step PGD.
        best_robust: the best of the latter so far in the stage.

    Returns:
        False also while the best is below 0.1, from which no collapse can be told.
    """
    return best_robust >= 0.1 and robust < 0.5 * best_robust and clean > best_robust


def watch(check: dict[str, Any], progress: Progress, *, stops: bool) -> str | None:
    """Return a warning if training has just overfitted catastrophically.

    It comes once an event: from then on the stage's best is the low accuracy.

    Args:
        check: the epoch's, as `check_heldout` gives it.
        progress: its best accuracy of the stage is brought up to date.
        stops: the stage ends with it, which changes the advice.

    Returns:
        One line, or None.
    """
    clean, robust, best = check["heldout_clean"], check["heldout_robust"], progress.best_robust_in_stage
    if not overfitted_catastrophically(clean, robust, best):
        progress.best_robust_in_stage = max(best, robust)
        return None
    progress.best_robust_in_stage = robust
    advice = "back to the best weights" if stops else "use a smaller alpha, fewer epochs, or more steps"
    return (
        f"catastrophic overfitting at epoch {progress.epoch}: held-out PGD accuracy fell from {best:.1%} to "
        f"{robust:.1%}; {advice}"
    )

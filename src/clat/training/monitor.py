"""The cheap check after each epoch: clean and PGD accuracy on held-out training images, and what they warn of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clat import modes
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.seeds import derive_seed

if TYPE_CHECKING:  # treatments use this module, and settings name treatments
    from clat.config import Recipe
    from clat.training.engine import Engine
    from clat.training.state import Progress


def heldout_correct(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, *, batch_size: int, seed: int
) -> Tensor:
    """How many of `x` (N, C, H, W), `y` (N,) are right on the clean image and under `attack`: (2,) int64.

    The same seed gives the same start each time, so that epochs are compared on equal terms.
    """
    totals = torch.zeros(2, dtype=torch.int64, device=x.device)
    with modes.for_attack(model):
        for number, (part, labels) in enumerate(zip(x.split(batch_size), y.split(batch_size), strict=True)):
            x_adv = run_pgd(model, part, labels, attack, seed=derive_seed(seed, "monitor", number))
            with torch.no_grad():
                clean, moved = (model(images).argmax(1) == labels for images in (part, x_adv))
            totals += torch.stack([clean.sum(), (clean & moved).sum()])
    return totals


def heldout_accuracies(
    model: nn.Module, engine: Engine, x: Tensor, y: Tensor, attack: Attack, *, batch_size: int, seed: int
) -> tuple[float, float]:
    """Clean and robust accuracy on all of `x`, `y`, each process taking its share and all learning the same."""
    mine, labels = (part[engine.rank :: engine.world] for part in (x, y))
    with engine.autocast():
        correct = heldout_correct(model, engine.images(mine), labels, attack, batch_size=batch_size, seed=seed)
    clean, robust = (engine.total(correct).double() / len(x)).tolist()
    return clean, robust


def check_heldout(
    model: nn.Module, engine: Engine, heldout: tuple[Tensor, Tensor], recipe: Recipe
) -> dict[str, Any]:
    """What a recipe's monitor measures: both accuracies, and on how many images."""
    x, y = (part[: recipe.monitor.num_samples] for part in heldout)
    attack = Attack(eps=recipe.eps, steps=recipe.monitor.steps, norm=recipe.norm)
    seed = derive_seed(recipe.seed, "heldout")
    clean, robust = heldout_accuracies(model, engine, x, y, attack, batch_size=recipe.batch_size, seed=seed)
    return {"heldout_clean": clean, "heldout_robust": robust, "heldout_n": len(x)}


def overfitted_catastrophically(clean: float, robust: float, best_robust: float) -> bool:
    """Catastrophic overfitting of one-step training (Wong et al. 2020): accuracy under multi-step PGD
    collapses, here below half of its best, while the clean accuracy does not."""
    return best_robust >= 0.1 and robust < 0.5 * best_robust and clean > best_robust


def watch(check: dict[str, Any], progress: Progress, *, stops: bool) -> str | None:
    """What to say if training has just overfitted catastrophically, told once an event: from then on the stage's
    best is the low accuracy. `check`: the epoch's, which enters `progress`; `stops`: it ends the stage."""
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

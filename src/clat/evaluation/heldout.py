"""Clean and PGD accuracy on held-out training images: the cheap check that decides while a run goes on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clat.attacks.draws import batch_parts, part_of_batch
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.core.progress import counted
from clat.core.seeds import derive_seed
from clat.network import modes
from clat.runtime.engine import Engine


def heldout_correct(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    batch_size: int,
    seed: int,
    micro_batch: int | None = None,
) -> Tensor:
    """Count the images that are right as they are and under an attack.

    The same seed gives the same start each time, so that epochs are compared on equal terms.

    Args:
        model: the network in training; it is attacked in evaluation mode and keeps its own.
        x: images in [0, 1], (N, C, H, W), on the model's device.
        y: their labels, (N,) int64, there too.
        attack: PGD's settings.
        batch_size: images whose starts are drawn together.
        seed: of the starts.
        micro_batch: so many images of a batch, at most, are in the network at a time; None: all.

    Returns:
        Two counts, (2,) int64: right on the clean image, and right both on it and under attack.
    """
    totals = torch.zeros(2, dtype=torch.int64, device=x.device)
    with modes.attack_mode(model):
        batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
        for number, (part, labels) in enumerate(counted("attacking held-out images", batches)):
            for rows in batch_parts(len(part), micro_batch):
                with part_of_batch(rows.start, len(part)):
                    start = derive_seed(seed, "monitor", number)
                    x_adv = run_pgd(model, part[rows], labels[rows], attack, seed=start)
                with torch.no_grad():
                    clean, moved = (model(images).argmax(1) == labels[rows] for images in (part[rows], x_adv))
                totals += torch.stack([clean.sum(), (clean & moved).sum()])
    return totals


def heldout_accuracies(
    model: nn.Module,
    engine: Engine,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    batch_size: int,
    seed: int,
    micro_batch: int | None = None,
) -> tuple[float, float]:
    """Measure clean and robust accuracy, each process taking its share and all learning the same.

    Where the network is shared out, all take all images: they have to run its blocks together.

    Args:
        model: the network in training, as for `heldout_correct`.
        engine: sets device, precision and memory layout, and knows the processes.
        x: all images in [0, 1], (N, C, H, W), on the engine's device.
        y: their labels, (N,) int64, there too.
        attack: PGD's settings.
        batch_size: images of a batch in one process.
        seed: of the attack's starts.
        micro_batch: so many images of a batch, at most, are in the network at a time; None: all.

    Returns:
        Clean and robust accuracy on all images, in [0, 1].
    """
    mine, labels = _share(engine, x, y)
    with engine.autocast():
        correct = heldout_correct(
            model, mine, labels, attack, batch_size=batch_size, seed=seed, micro_batch=micro_batch
        )
    counts = correct if engine.shards else engine.total(correct)
    clean, robust = (counts.double() / len(x)).tolist()
    return clean, robust


def heldout_clean_accuracy(
    model: nn.Module, engine: Engine, x: Tensor, y: Tensor, *, batch_size: int, micro_batch: int | None = None
) -> float:
    """Measure clean accuracy alone, each process taking its share and all learning the same.

    Args:
        model: as for `heldout_accuracies`, as are the others.
        engine: sets device, precision and memory layout, and knows the processes.
        x: all images.
        y: their labels.
        batch_size: images of a batch in one process.
        micro_batch: so many images of a batch, at most, are in the network at a time; None: all.

    Returns:
        In [0, 1], to the bit what `heldout_accuracies` finds.
    """
    mine, labels = _share(engine, x, y)
    correct = torch.zeros(1, dtype=torch.int64, device=x.device)
    with engine.autocast(), modes.attack_mode(model), torch.no_grad():
        for part, wanted in zip(mine.split(batch_size), labels.split(batch_size), strict=True):
            for rows in batch_parts(len(part), micro_batch):
                correct += (model(part[rows]).argmax(1) == wanted[rows]).sum()
    return float((correct if engine.shards else engine.total(correct)).item()) / len(x)


def _share(engine: Engine, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return this process's images and labels; all of them where the network is shared out."""
    first, every = (0, 1) if engine.shards else (engine.rank, engine.world)
    return engine.images(x[first::every]), y[first::every]

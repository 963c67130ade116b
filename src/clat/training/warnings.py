"""What a run warns of before an epoch: what a stage begins with, and what moves beside the selected layers."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from clat.network.swap import holders
from clat.training.log import RunLog
from clat.training.monitor import check_heldout
from clat.training.stage import StageRunner
from clat.training.state import Progress


def warn(log: RunLog, progress: Progress, kind: str, message: str, *, once: bool = False) -> None:
    """Say a warning, and keep it with the results.

    Args:
        log: prints and records it.
        progress: keeps it for the summary.
        kind: a word that tells its kind apart in metrics.jsonl, such as "nothing-moves".
        message: the line.
        once: say nothing if the same was said before.
    """
    if once and message in progress.warnings:
        return
    progress.warnings.append(message)
    log.record("warning", epoch=progress.epoch, kind=kind, message=message)
    log.say(f"  warning: {message}", style="yellow")


def lacks_robustness(clean: float, robust: float, classes: int) -> bool:
    """Return whether next to nothing of a network's accuracy withstands an attack.

    Args:
        clean: accuracy on clean images, in [0, 1].
        robust: accuracy under attack, in [0, 1].
        classes: how many there are, which tells what guessing gives.

    Returns:
        True for a quarter or less of the clean accuracy, and for no more than guessing gives.
    """
    return robust <= max(clean / 4, 1 / classes)


def warnings_before_epoch(
    progress: Progress, runner: StageRunner, heldout: tuple[Tensor, Tensor], *, first: bool
) -> Iterator[tuple[str, str]]:
    """Yield the warnings after a selection and when a stage begins. All processes must call it.

    Args:
        progress: where the run stands, with the last held-out accuracies, if there are any.
        runner: the stage.
        heldout: (x, y) on the device, which may be looked at.
        first: whether the stage begins.

    Yields:
        The kind and the text of each.
    """
    if first and runner.config.objective.keeps_robustness:
        yield from _weak_start(progress, runner, heldout)
    yield from _shared_weights(runner)


def _weak_start(
    progress: Progress, runner: StageRunner, heldout: tuple[Tensor, Tensor]
) -> Iterator[tuple[str, str]]:
    check = progress.last if progress.stage else None
    if check is None:
        check = check_heldout(runner.model, runner.engine, heldout, runner.recipe)
    clean, robust = check["heldout_clean"], check["heldout_robust"]
    if lacks_robustness(clean, robust, runner.loader.image_set.num_classes):
        yield (
            "no-robustness",
            f"stage '{runner.config.name}' begins with a network that is right on {clean:.1%} of held-out images "
            f"and on {robust:.1%} under attack: {runner.config.objective.name} keeps a network's robustness and "
            "gives it none; train it adversarially first, as clat harden does, or the recipe pgd-at-clat",
        )


def _shared_weights(runner: StageRunner) -> Iterator[tuple[str, str]]:
    """Yield a warning for layers that are not selected, but hold a weight of one that is."""
    model, layers = runner.model, runner.trainable.step.layers
    if not layers:
        return
    selected = {part for layer in layers for part in model.get_submodule(layer.name).modules()}
    others = holders(model, runner.trainable.parameters.values(), without=selected)
    if others:
        one = len(others) == 1
        named = ", ".join(name or "the network itself" for name in others)
        what = f"{named} {'shares' if one else 'share'} weights with the selected layers"
        yield "shared-weights", f"{what}, and {'moves' if one else 'move'} with them"

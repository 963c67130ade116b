"""What a run writes down and says of its events: the records of metrics.jsonl, the summary's stages, the lines."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from clat.network.cost import Cost
from clat.recipe.schema import Recipe
from clat.training.stage import StageRunner
from clat.training.state import Progress
from clat.training.trainable import TrainableSet


def nothing_moves(stage: str) -> str:
    """Return the warning of an epoch of which no step depended on what moves.

    Args:
        stage: the stage's name.

    Returns:
        One line.
    """
    return (
        f"stage '{stage}': in an epoch, no step reached what the stage moves: does the network leave these layers "
        "out in training mode?"
    )


def stage_record(progress: Progress, runner: StageRunner) -> dict[str, Any]:
    """Return the record of a stage that begins with the next epoch.

    Args:
        progress: where the run stands.
        runner: the stage, its first layers selected.

    Returns:
        Plain data for metrics.jsonl.
    """
    return {
        "stage": progress.stage,
        "name": runner.config.name,
        "epochs": runner.config.epochs,
        "first_epoch": progress.epoch + 1,
        "trainable_parameters": runner.trainable.count,
        "total_parameters": sum(parameter.numel() for parameter in runner.model.parameters()),
        "batch_norm": runner.config.bn_policy,
        "objective_state": runner.callbacks.all_scalars().get("objective", {}),
    }


def selection_record(
    progress: Progress, rule: str, trainable: TrainableSet, report: str | None, seconds: float
) -> dict[str, Any]:
    """Return the record of layers that are selected for the next epoch.

    Args:
        progress: where the run stands.
        rule: the name of the rule that selected.
        trainable: what moves from now on.
        report: the file of the ranking within the run's folder; None where nothing was ranked.
        seconds: what it took.

    Returns:
        Plain data for metrics.jsonl.
    """
    return {
        "stage": progress.stage,
        "epoch": progress.epoch + 1,
        "rule": rule,
        "layers": [layer.name for layer in trainable.step.layers],
        "indices": [layer.index for layer in trainable.step.layers],
        "trainable_parameters": trainable.count,
        "report": report,
        "seconds": seconds,
    }


def selection_line(record: dict[str, Any]) -> str:
    """Return the line that tells the user which layers are selected.

    Args:
        record: as `selection_record` gives it.

    Returns:
        The layers by number and name, and how many parameters move.
    """
    listed = ", ".join(f"{index} {name}" for index, name in zip(record["indices"], record["layers"], strict=True))
    return f"  selected ({record['rule']}): {listed}; {record['trainable_parameters']:,} parameters move"


def epoch_record(
    progress: Progress, recipe: Recipe, runner: StageRunner, *, steps: int, images: int, rate: float
) -> dict[str, Any]:
    """Return the record of the epoch that ends, whose number from 1 `progress` holds.

    Args:
        progress: sums and seconds of the epoch.
        recipe: the run's.
        runner: the epoch's stage.
        steps: batches of the epoch.
        images: images that it trained on, over all processes.
        rate: the learning rate at its end.

    Returns:
        Plain data for metrics.jsonl: means of the loss and its parts, and the speed.
    """
    means = {name: total / steps for name, total in progress.sums.items()}
    values = {
        "stage": progress.stage,
        "stage_name": recipe.stages[progress.stage].name,
        "epoch": progress.epoch,
        "lr": rate,
        "loss": means.pop("loss"),
        "parts": means,
        "train_seconds": progress.epoch_seconds,
        "images_per_second": images / progress.epoch_seconds,
        "trainable_parameters": runner.trainable.count,
        "objective_state": runner.callbacks.all_scalars().get("objective", {}),
    }
    stage = recipe.stages[progress.stage]
    if stage.eps_schedule is not None:
        done = Fraction(progress.epoch - recipe.first_epoch(progress.stage), stage.epochs)
        values["eps_share"] = float(stage.eps_schedule.share(done))
    if recipe.engine.compile:
        values["compile_seconds"] = progress.compile_seconds
    return values


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """Return the line that tells the user of an epoch.

    Args:
        record: as `epoch_record` gives it, with the check's numbers where there was one.
        epochs: epochs of the run.

    Returns:
        The line; a star marks the best weights so far.
    """
    line = f"  epoch {record['epoch']}/{epochs}  lr {record['lr']:.4f}  loss {record['loss']:.3f}"
    if "eps_share" in record:
        line += f"  eps x {record['eps_share']:.2f}"
    if "heldout_robust" in record:
        line += f"  held-out clean {record['heldout_clean']:.1%} robust {record['heldout_robust']:.1%}"
        line += " *" if record["best"] else ""
    return f"{line}  {record['images_per_second']:.0f} images/s"


def finish_line(facts: dict[str, Any]) -> str:
    """Return the line of the callbacks' closing facts, those that are numbers, by callback.

    Args:
        facts: callback -> fact -> value, as `StageRunner.finish` gives them.

    Returns:
        One line.
    """
    return "  finished: " + "; ".join(
        f"{name}: "
        + ", ".join(
            f"{key.replace('_', ' ')} {value:.4g}" for key, value in one.items() if isinstance(value, int | float)
        )
        for name, one in facts.items()
    )


def stage_summary(
    progress: Progress, name: str, epochs: int, images: int, moved: int, spent: Cost
) -> dict[str, Any]:
    """Return what a stage took.

    Args:
        progress: the run at the stage's end, with the summaries of the stages before.
        name: the stage's.
        epochs: epochs that were trained, fewer than planned where it was ended early.
        images: images that it trained on, over all processes.
        moved: parameters that moved at its end.
        spent: the run's cost so far, of which the stages before had their share.

    Returns:
        Plain data for summary.json.
    """
    return {
        "name": name,
        "epochs": epochs,
        "seconds": progress.stage_seconds,
        "forwards": spent.forwards - sum(earlier["forwards"] for earlier in progress.stages),
        "backwards": spent.backwards - sum(earlier["backwards"] for earlier in progress.stages),
        "trainable_parameters": moved,
        "images_per_second": images / progress.stage_seconds,
    }

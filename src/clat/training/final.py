"""The test split's only use: the accuracies of the weights that a run ends with."""

from __future__ import annotations

import filecmp
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from clat.core.seeds import derive_seed
from clat.data import ImageSet
from clat.evaluation import Evaluation, EvaluationRecord, evaluate_set, evaluation_progress, find_protocol
from clat.evaluation.record import TEST_DECIDES
from clat.evaluation.result import RecordedAccuracy
from clat.models import load_weights
from clat.recipe.schema import Recipe
from clat.runtime.engine import Engine
from clat.training.log import RunLog


def final_evaluations(
    recipe: Recipe, out: Path, model: nn.Module, test: ImageSet, engine: Engine, log: RunLog, name: str
) -> dict[str, dict[str, Any]]:
    """Measure each stage's end, the best and the last weights on test images, under the recipe's protocol.

    Results already on disk are kept, and so is how far the one was that was interrupted. The model ends with the
    last weights.

    Args:
        recipe: its `evaluation` says what is measured; with "none" nothing is.
        out: the run's folder, with its weights.
        model: the run's network, into which the weights are loaded.
        test: the test images, of which a sample of `num_samples` counts.
        engine: only its first process writes.
        log: told each accuracy and each new note.
        name: what the network is called in the results.

    Returns:
        Label -> the result as in its file; labels are "stage-0" for a given start, "stage-1", ..., "best" and
        "last".
    """
    config = recipe.evaluation
    if config.weights == "none":
        return {}
    said = set(test.notes)  # when the images were read
    test, ids = test.sampled(config.num_samples)
    protocol = find_protocol(config.protocol).title
    results: dict[str, EvaluationRecord] = {}
    for label in evaluated_weights(recipe, out):
        weights, file = out / "weights" / f"{label}.safetensors", out / "evaluations" / f"{label}.json"
        load_weights(model, weights)
        if file.exists():
            results[label] = EvaluationRecord.from_json(file)
        elif label == "last" and filecmp.cmp(weights, out / "weights" / "best.safetensors", shallow=False):
            named = {"label": label, "weights": str(weights.relative_to(out))}  # the last epoch is the best one
            results[label] = EvaluationRecord.from_dict(results["best"].data | named)
            if engine.rank == 0:
                results[label].to_json(file)
        else:
            about = {"label": label, "weights": str(weights.relative_to(out)), "model": name}
            with evaluation_progress(log.console) as report:
                result = evaluate_weights(
                    recipe,
                    model,
                    test,
                    config.protocol,
                    file,
                    about,
                    ids=ids,
                    report=report if engine.rank == 0 else None,
                )
            if recipe.data.decide_on == "test-split":
                result = replace(result, notes=[TEST_DECIDES, *result.notes])
            results[label] = EvaluationRecord.from_dict(result.to_dict())
            if engine.rank == 0:
                result.to_json(file)
        if engine.rank == 0:  # also what a run left that was killed just after it had written the result
            discard_state(file)
        for note in results[label].data.get("notes", []):
            if note not in said:
                log.say(f"test, {label}: note: {note}", style="yellow")
        said |= set(results[label].data.get("notes", []))
        clean, robust = results[label].clean_accuracy, results[label].robust_accuracy
        n = clean.n if clean else None
        log.say(
            f"test, {label}: clean {_shown(clean)}  {protocol} {_shown(robust)}  (n = {n})",
            style="green",
        )
    return {label: result.data for label, result in results.items()}


def evaluated_weights(recipe: Recipe, out: Path) -> list[str]:
    """Return the names of the weights that a run evaluates at its end.

    Args:
        recipe: the run's.
        out: its folder.

    Returns:
        The names, in the order of the evaluations.
    """
    if recipe.evaluation.weights == "none":
        return []
    given = ["stage-0"] if (out / "weights" / "stage-0.safetensors").exists() else []
    stages = [*given, *(f"stage-{number}" for number in range(1, len(recipe.stages)))]
    return [*(stages if recipe.evaluation.weights == "all" else ()), "best", "last"]


def evaluate_weights(
    recipe: Recipe,
    model: nn.Module,
    test: ImageSet,
    protocol: str,
    file: Path,
    about: dict[str, Any],
    **options: Any,
) -> Evaluation:
    """Measure the model, as it is, under the threat model of its recipe, with the seed of all its final numbers.

    Args:
        recipe: the threat model, the batch size and the seed.
        model: a classifier in [0, 1] on its device.
        test: the images, all of them.
        protocol: a protocol's name, see `clat.evaluation.find_protocol`.
        file: where the result will lie, and until then beside it how far it is.
        about: what the JSON says beside the network's name.
        options: further arguments of `evaluate_set`.

    Returns:
        The result, which is not written.
    """
    return evaluate_set(
        model,
        test,
        protocol=protocol,
        eps=recipe.eps,
        norm=recipe.norm,
        batch_size=recipe.evaluation.batch_size,
        seed=derive_seed(recipe.seed, "evaluation"),
        channels_last=recipe.engine.channels_last,
        state=file.with_suffix(".state"),
        about={"model": recipe.model.name, **about},
        **options,
    )


def discard_state(file: Path) -> None:
    """Remove how far an evaluation was, which is of no use once its result is in `file`.

    Args:
        file: the result's.
    """
    for state in file.parent.glob(f"{file.stem}.state.*"):
        state.unlink()


def _shown(accuracy: RecordedAccuracy | None) -> str:
    return "-" if accuracy is None else str(accuracy)

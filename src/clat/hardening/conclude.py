"""The end of a hardening, after its training: promise, test before and after, card, pictures, page. What an earlier
attempt has done is not done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from clat.core.files import write_json
from clat.core.progress import watching
from clat.evaluation import EvaluationRecord, evaluation_progress
from clat.evaluation.compare import compare
from clat.evaluation.gallery import make_gallery
from clat.evaluation.protocols import Protocol, find_protocol
from clat.evaluation.record import notes_of
from clat.hardening.card import write_card
from clat.hardening.finish import PICTURES, discard_attempts, keep_promise, look_for_masking, measured, per_class
from clat.hardening.hardened import RESULT, WEIGHTS, Hardened, as_it_ended
from clat.hardening.inputs import HardenInputs
from clat.hardening.plan import Plan
from clat.hardening.settings import HardenConfig
from clat.hardening.testing import MOST, FinalTest
from clat.models import load_weights, save_weights
from clat.network.computed import copied_network
from clat.report.page import write_report
from clat.training.log import RunLog


def conclude(
    out: Path,
    inputs: HardenInputs,
    config: HardenConfig,
    plan: Plan,
    recorded: dict[str, Any],
    *,
    augment: Callable[[Tensor], Any] | None = None,
    quiet: bool,
) -> Hardened:
    """Keep the promise, measure, and write what a hardening leaves.

    Args:
        out: the folder, with the weights of the training.
        inputs: the network before the training, its copy that gets the hardened weights, and the images.
        config: what the user asked for.
        plan: what was trained, and how many images are tested.
        recorded: what harden.json says.
        augment: the callable that the training had in the place of the recipe's augmentation.
        quiet: print nothing.

    Returns:
        The hardened network with its results; of a hardening that had ended, as its files have them.
    """
    model = inputs.model
    if (out / RESULT).exists():
        return as_it_ended(out, model, plan)
    log = RunLog(None, quiet=quiet)
    load_weights(model, out / "weights" / ("last.safetensors" if config.keep == "last" else "best.safetensors"))
    promise = None
    if config.max_clean_drop is not None:
        with watching(log.console):
            promise = keep_promise(out, inputs, config, plan.recipe, log, augment)
    save_weights(model, out / WEIGHTS)
    test = _final_test(inputs, config, plan, recorded)
    start = inputs.engine.place(copied_network(inputs.original))
    files = {one: out / "evaluations" / f"{one}.json" for one in ("before", "after")}
    log.say(f"measuring before and after on {len(test.ids):,} test images", style="bold")
    with evaluation_progress(log.console) as report:
        before = measured(files["before"], start, test, config, report)
        after = measured(files["after"], model, test, config, report)
    comparison = compare(before, after)
    with watching(log.console):
        masking = look_for_masking(out, model, test, config, recorded["seconds_per_pass"], log)
    records = {one: EvaluationRecord.from_json(file) for one, file in files.items()}
    write_card(out, comparison, plan, config, masking, test, promise, after.environment, notes_of(records))
    networks = {"before hardening": start, "after hardening": model}
    make_gallery(networks, [before, after], test.images, PICTURES, ids=test.ids).to_json(out / "gallery.json")
    write_json(
        out / RESULT,
        {
            **{one: record.to_dict() for one, record in records.items()},
            "comparison": comparison.to_dict(),
            "promise": promise,
            "per_class": per_class(before, after, test),
        },
    )
    discard_attempts(out)
    write_report(out)
    log.close()
    return Hardened(model.eval(), plan, out, before, after, comparison, promise)


def _final_test(inputs: HardenInputs, config: HardenConfig, plan: Plan, recorded: dict[str, Any]) -> FinalTest:
    """Return what is measured; a protocol that came from a file is as it was when the hardening began."""
    images, ids = inputs.test.sampled(plan.test_images or config.num_samples or MOST)
    known = recorded.get("protocol")
    protocol = find_protocol(config.protocol) if known is None else Protocol.from_data(known)
    return FinalTest(images, ids, protocol)

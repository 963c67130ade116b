"""A hardening in its folder: a training run (`clat.training.run`) with what comes before and after it.

harden.json        the settings, the first look and the plan
model.safetensors  the hardened network
result.json        before, after, and the paired difference on test images
evaluations/       before.json and after.json, with the verdict on every image
masking.json       signs of gradient masking, where the budget allows to look
gallery.json       test images, what an attack changed, what both networks said
report.html        the page
README.md          the model card
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.parsing import parse_json
from clat.core.progress import watching
from clat.data import ImageSet, as_train_and_test
from clat.evaluation.protocols import find_protocol
from clat.hardening.augmentation import chosen_augmentation
from clat.hardening.candidates import CANDIDATES
from clat.hardening.conclude import conclude
from clat.hardening.cost import MEASURED_SHARE, check_seconds, closing_seconds, step_seconds
from clat.hardening.finish import PICTURES
from clat.hardening.hardened import RESULT, Hardened
from clat.hardening.inputs import HardenInputs, harden_inputs
from clat.hardening.look import FirstLook, look
from clat.hardening.plan import Plan, make_plan
from clat.hardening.promise import refuse_hopeless
from clat.hardening.recipe import MONITOR_STEPS, MONITORED, TUNING, harden_recipe, stage_alone
from clat.hardening.settings import HardenConfig
from clat.hardening.testing import ending, image_seconds, images_to_test, number_reason
from clat.recipe.schema import MonitorConfig
from clat.recipe.toml import read_recipe
from clat.training.beginning import FIRST, holds
from clat.training.log import RunLog
from clat.training.resuming import HARDENING
from clat.training.run import resume, train
from clat.training.run_folder import no_run, refuse_taken
from clat.training.start import as_batch


def run_hardening(
    model: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    out: str | Path,
    config: HardenConfig,
    *,
    augment: Callable[[Tensor], Any] | None = None,
    about: dict[str, Any] | None = None,
    quiet: bool = False,
) -> Hardened:
    """Make a classifier robust within a budget, and measure what that brought.

    Args:
        model: a trained network, images (N, C, H, W) in [0, 1] -> logits; it stays as it is.
        train_set: images to train on; a part is held out and decides everything.
        test_set: images that are read once, at the end.
        out: a new folder.
        config: eps, budget and the rest.
        augment: a callable of your own in place of `config.augment`: image (C, H, W) to an image of the same shape.
        about: what harden.json says of where the network comes from.
        quiet: print nothing.

    Returns:
        The hardened network, its results before and after, and their paired comparison.

    Raises:
        ClatError: the network is at chance or robust already, the budget is too small for one epoch, or anything
            else in the input is wrong; then nothing has been written.
    """
    started, out = time.perf_counter(), Path(out)
    config = config if augment is None else replace(config, augment="none")
    refuse_taken(out, (HARDENING,))
    find_protocol(config.protocol)
    inputs = harden_inputs(model, train_set, test_set, config)
    log = RunLog(None, quiet=quiet)
    plan, seen = _planned(inputs, config, log, started)
    log.close()
    recorded = {
        "config": asdict(config),
        "about": about or {},
        "look": seen.to_dict(),
        "plan": plan.to_dict(),
        "seconds_per_pass": seen.seconds_per_pass,
        "protocol": find_protocol(config.protocol).data(),
    }
    train(
        plan.recipe,
        out,
        model=inputs.model,
        data=(train_set, test_set),
        augment=augment,
        quiet=quiet,
        beside={HARDENING: recorded},
    )
    return conclude(out, inputs, config, plan, recorded, augment=augment, quiet=quiet)


def plan_hardening(
    model: nn.Module, train_set: Any, test_set: Any, config: HardenConfig, *, quiet: bool = False
) -> tuple[Plan, FirstLook]:
    """Return what `run_hardening` would do, without doing it.

    Args:
        model: as for `run_hardening`.
        train_set: as for `run_hardening`.
        test_set: as for `run_hardening`.
        config: as for `run_hardening`.
        quiet: print nothing.

    Returns:
        The plan, and the first look at the network that it rests on.

    Raises:
        ClatError: as for `run_hardening`.
    """
    train_set, test_set = as_train_and_test((train_set, test_set))
    find_protocol(config.protocol)
    inputs = harden_inputs(model, train_set, test_set, config)
    log = RunLog(None, quiet=quiet)
    found = _planned(inputs, config, log, time.perf_counter())
    log.close()
    return found


def resume_hardening(
    out: str | Path,
    model: nn.Module,
    train_set: Any,
    test_set: Any,
    *,
    augment: Callable[[Tensor], Any] | None = None,
    quiet: bool = False,
) -> Hardened:
    """Go on with a hardening that was stopped.

    Args:
        out: its folder.
        model: the network as it was given to `run_hardening`.
        train_set: the images as they were given there.
        test_set: the images as they were given there.
        augment: the callable that was given there, if one was.
        quiet: print nothing.

    Returns:
        The same as `run_hardening`.

    Raises:
        ClatError: there is none in `out`, or the network or the images are others.
    """
    out = Path(out)
    train_set, test_set = as_train_and_test((train_set, test_set))
    config, recorded = read_hardening(out)
    inputs = harden_inputs(model, train_set, test_set, config)
    _refuse_other_start(out, inputs.model)
    recipe = read_recipe(out / "recipe.toml")
    plan = Plan(recipe=recipe, **{**recorded["plan"], "reasons": tuple(recorded["plan"]["reasons"])})
    resume(out, model=inputs.model, data=(train_set, test_set), augment=augment, quiet=quiet)
    return conclude(out, inputs, config, plan, recorded, augment=augment, quiet=quiet)


def _refuse_other_start(out: Path, model: nn.Module) -> None:
    """Refuse a network that the hardening did not begin with: it would be measured as "before", and be the start of
    the line on which a promise is kept."""
    first = out / "weights" / FIRST
    if not (out / RESULT).exists() and first.is_file() and not holds(first, model):
        raise ClatError(
            f"the hardening in {out} began with other weights: give the network that it began with, which "
            f"{first} holds"
        )


def read_hardening(out: Path) -> tuple[HardenConfig, dict[str, Any]]:
    """Return the settings of the hardening in a folder, and all that its harden.json says.

    Args:
        out: the folder.

    Returns:
        The settings, and the file's content.

    Raises:
        ClatError: there is no usable harden.json.
    """
    try:
        recorded = parse_json((out / HARDENING).read_text())
        return HardenConfig(**recorded["config"]), recorded
    except (OSError, ValueError, KeyError, TypeError):
        raise no_run(out, "hardening to resume", f"usable {HARDENING}") from None


def _planned(inputs: HardenInputs, config: HardenConfig, log: RunLog, started: float) -> tuple[Plan, FirstLook]:
    names, monitor = _possible(config)
    if config.max_clean_drop is not None:
        refuse_hopeless(config.max_clean_drop / 100, len(inputs.heldout))
    log.say("looking at the network", style="bold")
    x, y = as_batch(inputs.heldout.take(min(MONITORED, len(inputs.heldout))), inputs.engine)
    with watching(log.console):
        classes, name = inputs.train.num_classes, inputs.train.name
        seen = look(inputs.model, x, y, config.threat, num_classes=classes, seed=config.seed, name=name)
        check = check_seconds(inputs, x, y, config)
        alike = monitor.steps == MONITOR_STEPS
        watched = check if alike else check_seconds(inputs, x, y, config, steps=monitor.steps)
    log.say(f"  held-out clean {seen.clean}  PGD robust {seen.robust}")
    count = min(config.batch_size, len(inputs.train))
    stages = {name: stage_alone(config, name) for name in names}
    log.say("measuring what a step costs here")
    images = inputs.train.take(count).load()
    if config.keep in TUNING:
        stages[config.keep] = stage_alone(config, names[0], number=1)
    share = 0.0 if config.budget is None else MEASURED_SHARE * config.budget_seconds
    with watching(log.console):
        costs = step_seconds(inputs.model, images, stages, inputs.engine_config, seed=config.seed, seconds=share)
    for name, seconds in costs.items():
        log.say(f"  {name:8} {count / seconds:8.0f} images/s")
    classes, available = inputs.train.num_classes, len(inputs.test)
    each = image_seconds(find_protocol(config.protocol), seen, classes)
    tested = images_to_test(config, available, each)
    attacked = tested + min(PICTURES, tested)  # those of the page are attacked once more
    after_training = attacked * each + closing_seconds(config, inputs, seen.seconds_per_pass, check, tested)
    plan = make_plan(
        config,
        inputs.model,
        costs,
        train_images=len(inputs.train),
        check_seconds=min(monitor.num_samples, len(inputs.heldout)) * watched / monitor.every,
        measuring_seconds=after_training,
        spent=time.perf_counter() - started,
        settings={
            "data": {
                "name": inputs.train.name,
                "heldout": len(inputs.heldout),
                "train_size": config.train_size,
                **chosen_augmentation(inputs, config),
            }
        },
        test_images=tested,
        test_reason=number_reason(config, tested, available),
    )
    for reason in plan.reasons:
        log.say(f"  {reason}")
    log.say(f"  will take {ending(plan.seconds)}")
    return plan, seen


def _possible(config: HardenConfig) -> tuple[list[str], MonitorConfig]:
    """Return the objectives that the user's fields leave, and the check after an epoch; a slip in the fields is
    told at once, as the first objective has it."""
    names = [name for name, one in CANDIDATES.items() if config.norm in one.norms and one.worth_from < 1000]
    found: dict[str, MonitorConfig] = {}
    slip: ClatError | None = None
    for name in [config.objective] if config.objective else names:
        try:
            found[name] = harden_recipe(config, name, 2, convolutional=True).monitor
        except ClatError as error:
            slip = slip or error
    if not found:
        assert slip is not None
        raise slip
    return list(found), next(iter(found.values()))

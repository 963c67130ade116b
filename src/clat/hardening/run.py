"""A hardening in its folder: a training run (`clat.training.run`) with what comes before and after it.

harden.json        the settings, the first look and the plan
model.safetensors  the hardened network
result.json        before, after, and the paired difference on test images
masking.json       signs of gradient masking, where the budget allows to look
README.md          the model card
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.files import write_json
from clat.core.seeds import derive_seed
from clat.data import ImageSet, Loader, hold_out
from clat.evaluation import Evaluation, evaluate_set
from clat.evaluation.compare import Comparison, compare
from clat.evaluation.heldout import heldout_accuracies
from clat.evaluation.masking import check
from clat.evaluation.protocols import find_protocol
from clat.hardening.augmentation import fitting_augmentation
from clat.hardening.candidates import CANDIDATES
from clat.hardening.card import write_card
from clat.hardening.cost import step_seconds
from clat.hardening.look import FirstLook, look
from clat.hardening.plan import MONITORED, Plan, make_plan
from clat.hardening.promise import most_robust_within, set_point, walk_line
from clat.hardening.settings import HardenConfig
from clat.models import load_weights, save_weights
from clat.network.exchange import copied, tensors_of
from clat.recipe.schema import Recipe
from clat.recipe.toml import build_recipe, read_recipe
from clat.runtime.engine import Engine, EngineConfig
from clat.training.log import RunLog
from clat.training.prepare import augmentation, check_model
from clat.training.run import refuse_taken, resume, train

ABOUT = "harden.json"
CHECKED = 100
"""Images of the check for masking, whose passes an image cost about MASKING_PASSES."""
MASKING_PASSES = 800
MASKING_SHARE = 0.1
"""The part of the budget that this check may take."""
STATISTICS_BATCHES = 20
"""Training batches on which BatchNorm statistics of points between two networks are counted."""


@dataclass(frozen=True)
class Hardened:
    """`model`: the hardened network, in evaluation mode; `before`, `after`: its results on test images, None where
    only a plan was asked for; `comparison`: paired; `plan`; `out`: the folder."""

    model: nn.Module
    plan: Plan
    out: Path
    before: Evaluation
    after: Evaluation
    comparison: Comparison
    promise: dict[str, Any] | None
    """What was chosen between start and end, where clean accuracy was promised."""


@dataclass(frozen=True)
class _Inputs:
    """The network and images of a hardening, cut as the training run cuts them."""

    model: nn.Module
    train: ImageSet
    heldout: ImageSet
    test: ImageSet
    engine: Engine
    engine_config: EngineConfig


def run_hardening(
    model: nn.Module,
    train_set: ImageSet,
    test_set: ImageSet,
    out: str | Path,
    config: HardenConfig,
    *,
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
        about: what harden.json says of where the network comes from.
        quiet: print nothing.

    Raises:
        ClatError: the network is at chance or robust already, the budget is too small for one epoch, or anything
        else
            in the input is wrong; then nothing has been written.
    """
    started, out = time.perf_counter(), Path(out)
    refuse_taken(out)
    find_protocol(config.protocol)
    inputs = _inputs(model, train_set, test_set, config)
    log = RunLog(None, quiet=quiet)
    plan, seen = _planned(inputs, config, log, started)
    log.close()
    recorded = {
        "config": asdict(config),
        "about": about or {},
        "look": seen.to_dict(),
        "plan": plan.to_dict(),
        "seconds_per_pass": seen.seconds_per_pass,
    }
    train(
        plan.recipe,
        out,
        model=inputs.model,
        data=(train_set, test_set),
        quiet=quiet,
        beside={ABOUT: recorded},
    )
    return _finished(out, model, inputs, config, plan, recorded, quiet=quiet)


def plan_hardening(
    model: nn.Module, train_set: ImageSet, test_set: ImageSet, config: HardenConfig, *, quiet: bool = False
) -> tuple[Plan, FirstLook]:
    """Return what `run_hardening` would do, without doing it. Arguments and errors as there."""
    inputs = _inputs(model, train_set, test_set, config)
    log = RunLog(None, quiet=quiet)
    found = _planned(inputs, config, log, time.perf_counter())
    log.close()
    return found


def resume_hardening(
    out: str | Path, model: nn.Module, train_set: ImageSet, test_set: ImageSet, *, quiet: bool = False
) -> Hardened:
    """Go on with a hardening that was stopped; the network and images as they were given to `run_hardening`.

    Raises:
        ClatError: there is none in `out`, or the images are others.
    """
    out = Path(out)
    config, recorded = read_hardening(out)
    inputs = _inputs(model, train_set, test_set, config)
    recipe = read_recipe(out / "recipe.toml")
    plan = Plan(recipe=recipe, **{**recorded["plan"], "reasons": tuple(recorded["plan"]["reasons"])})
    resume(out, model=inputs.model, data=(train_set, test_set), quiet=quiet)
    return _finished(out, model, inputs, config, plan, recorded, quiet=quiet)


def read_hardening(out: Path) -> tuple[HardenConfig, dict[str, Any]]:
    """Return the settings of the hardening in `out`, and all that its harden.json says. Raises ClatError."""
    try:
        recorded = json.loads((out / ABOUT).read_text())
        return HardenConfig(**recorded["config"]), recorded
    except (OSError, ValueError, KeyError, TypeError):
        raise ClatError(f"{out} holds no hardening to resume: there is no usable {ABOUT} in it") from None


def _inputs(model: nn.Module, train_set: ImageSet, test_set: ImageSet, config: HardenConfig) -> _Inputs:
    engine_config = EngineConfig(device=config.device, precision=config.precision)  # type: ignore[arg-type]
    engine = Engine(engine_config)
    heldout = config.heldout or min(max(len(train_set) // 10, 1), 1000)
    train_part, heldout_part = hold_out(train_set, heldout, 0, config.train_size)
    sample, _ = next(iter(Loader(heldout_part.take(1), 1, workers=0).epoch()))
    check_model(model, sample, train_set.num_classes)
    return _Inputs(engine.place(copy.deepcopy(model)), train_part, heldout_part, test_set, engine, engine_config)


def _planned(inputs: _Inputs, config: HardenConfig, log: RunLog, started: float) -> tuple[Plan, FirstLook]:
    log.say("looking at the network", style="bold")
    x, y = _batch(inputs.heldout.take(min(MONITORED, len(inputs.heldout))), inputs.engine)
    seen = look(inputs.model, x, y, config.threat, num_classes=inputs.train.num_classes, seed=config.seed)
    log.say(f"  held-out clean {seen.clean}  PGD robust {seen.robust}")
    names = (
        [config.objective]
        if config.objective
        else [name for name, one in CANDIDATES.items() if config.norm in one.norms and one.worth_from < 1000]
    )
    count = min(config.batch_size, len(inputs.train))
    stages = {name: _stage(config, name) for name in names}
    log.say("measuring what a step costs here")
    images = inputs.train.take(count).load()
    costs = step_seconds(inputs.model, images, stages, inputs.engine_config, seed=config.seed)
    for name, seconds in costs.items():
        log.say(f"  {name:8} {count / seconds:8.0f} images/s")
    tested = min(config.num_samples or len(inputs.test), len(inputs.test))
    plan = make_plan(
        config,
        inputs.model,
        costs,
        steps_per_epoch=max(len(inputs.train) // count, 1),
        check_seconds=len(x) * 12 * seen.seconds_per_pass,
        measuring_seconds=2 * tested * 21 * seen.seconds_per_pass,
        spent=time.perf_counter() - started,
        settings={
            "data": {
                "name": inputs.train.name,
                "heldout": len(inputs.heldout),
                "train_size": config.train_size,
                **fitting_augmentation(inputs.model, inputs.heldout, inputs.engine, seed=config.seed),
            }
        },
    )
    for reason in plan.reasons:
        log.say(f"  {reason}")
    return plan, seen


def _stage(config: HardenConfig, name: str) -> Any:
    settings = {"name": name, "epochs": 1, "objective": CANDIDATES[name].objective}
    return build_recipe({"eps": config.threat.text, "norm": config.norm, "stages": [settings]}).stages[0]


def _batch(images: ImageSet, engine: Engine) -> tuple[Tensor, Tensor]:
    """All images as one batch on the device, in its memory layout."""
    x, y = next(iter(Loader(images, len(images), device=engine.device).epoch()))
    return engine.images(x), y


def _finished(
    out: Path,
    original: nn.Module,
    inputs: _Inputs,
    config: HardenConfig,
    plan: Plan,
    recorded: dict[str, Any],
    *,
    quiet: bool,
) -> Hardened:
    """What comes after the training; what is in its file already is not done again."""
    log, model = RunLog(None, quiet=quiet), inputs.model
    load_weights(model, out / "weights" / ("last.safetensors" if config.keep == "last" else "best.safetensors"))
    promise = None
    if config.max_clean_drop is not None:
        promise = _keep_promise(out, original, inputs, config, plan.recipe, log)
    save_weights(model, out / "model.safetensors")
    test = inputs.test.take(min(config.num_samples or len(inputs.test), len(inputs.test)))
    before = _measured(
        out / "evaluations" / "before.json", inputs.engine.place(copy.deepcopy(original)), test, config
    )
    after = _measured(out / "evaluations" / "after.json", model, test, config)
    comparison = compare(before, after)
    _look_for_masking(out, model, test, config, recorded["seconds_per_pass"], log)
    write_json(
        out / "result.json",
        {
            "before": before.to_dict(),
            "after": after.to_dict(),
            "comparison": comparison.to_dict(),
            "promise": promise,
            "per_class": _per_class(before, after, test),
        },
    )
    write_card(out, comparison, plan, config, recorded, test, promise)
    log.close()
    return Hardened(model.eval(), plan, out, before, after, comparison, promise)


def _measured(file: Path, model: nn.Module, test: ImageSet, config: HardenConfig) -> Evaluation:
    state = file.with_suffix(".state")
    result = evaluate_set(
        model,
        test,
        protocol=config.protocol,
        eps=config.threat.eps,
        norm=config.norm,
        seed=derive_seed(config.seed, "evaluation"),
        state=state,
        about={"label": file.stem},
    )
    result.to_json(file)
    for left in file.parent.glob(f"{file.stem}.state.*"):
        left.unlink()
    return result


def _keep_promise(
    out: Path, original: nn.Module, inputs: _Inputs, config: HardenConfig, recipe: Recipe, log: RunLog
) -> dict[str, Any]:
    """The network gets the weights of the most robust point that holds the promise, or of the end if none does."""
    assert config.max_clean_drop is not None
    model, end = inputs.model, copied(tensors_of(inputs.model))
    start = copied(tensors_of(inputs.engine.place(copy.deepcopy(original))))
    x, y = _batch(inputs.heldout, inputs.engine)
    attack = Attack(config.threat, steps=10)

    def judge() -> tuple[float, float]:
        seed = derive_seed(config.seed, "promise")
        return heldout_accuracies(model, inputs.engine, x, y, attack, batch_size=250, seed=seed)

    def batches() -> Iterator[Tensor]:
        size = min(config.batch_size, len(inputs.train))
        loader = Loader(
            inputs.train, size, device=inputs.engine.device, seed=config.seed, shuffle=True,
            augment=augmentation(recipe.data), drop_last=True,
        )  # fmt: skip
        for number, (images, _) in enumerate(loader.epoch(0)):
            if number == STATISTICS_BATCHES:
                return
            yield inputs.engine.images(images)

    points = walk_line(model, start, end, batches, judge)
    chosen = most_robust_within(points, config.max_clean_drop / 100)
    alpha = 1.0 if chosen is None else chosen.alpha
    set_point(model, start, end, alpha, batches)
    kept = chosen is not None
    log.say(
        f"  promise of {config.max_clean_drop:g} points of clean accuracy: "
        + (f"alpha {alpha:g} on the line from start to end" if kept else "no point of the line holds it"),
        style="cyan" if kept else "yellow",
    )
    return {
        "max_clean_drop": config.max_clean_drop,
        "kept": kept,
        "alpha": alpha,
        "heldout_n": len(x),
        "points": [point._asdict() for point in points],
    }


def _look_for_masking(
    out: Path, model: nn.Module, test: ImageSet, config: HardenConfig, seconds_per_pass: float, log: RunLog
) -> None:
    """The check's file, where the budget allows it, or the reason why there is none."""
    file, images = out / "masking.json", test.take(min(CHECKED, len(test)))
    needed = len(images) * MASKING_PASSES * seconds_per_pass
    if file.exists():
        return
    if config.budget is not None and needed > MASKING_SHARE * config.budget:
        log.say("  signs of gradient masking: not looked for, which would take too much of the budget (clat check)")
        return
    x, y = next(iter(Loader(images, len(images), device=torch.device("cpu")).epoch()))
    found = check(model, x, y, eps=config.threat.eps, norm=config.norm, seed=config.seed)
    found.to_json(file)
    log.say("  signs of gradient masking: " + ("found, see masking.json" if found.suspicious else "none"))


def _per_class(before: Evaluation, after: Evaluation, test: ImageSet) -> list[dict[str, Any]]:
    """Accuracies of each class, before and after."""
    rows = []
    for number, name in enumerate(test.class_names):
        mine = test.labels == number
        rows.append(
            {
                "class": name,
                "n": int(mine.sum()),
                **{
                    f"{kind}_{when}": float(verdicts[mine].double().mean()) if mine.any() else None
                    for when, result in (("before", before), ("after", after))
                    for kind, verdicts in (("clean", result.correct), ("robust", result.robust))
                },
            }
        )
    return rows

"""The recipe of a hardening: one stage of the chosen objective from a clean start, and what guards its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clat.hardening.candidates import CANDIDATES
from clat.hardening.settings import HardenConfig
from clat.recipe.schema import Recipe, StageConfig
from clat.recipe.source import set_fields
from clat.recipe.toml import build_recipe, merged

EPS_FROM, EPS_UNTIL = 0.0, 0.5
LABEL_SMOOTHING = 0.1
MONITORED = 500
"""Held-out images on which each epoch is checked, at most."""
MONITOR_STEPS = 10
TUNING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clat": ({"name": "clat"}, {}),
    "clat-plus": ({"name": "clat-plus", "ratio": 0.3}, {"normaliser": "relative", "tap": "norm"}),
}
"""Values of `keep` that tune the critical layers at the end -> the objective, and how layers are ranked: as in the
recipes clat-finetune and clat-plus-finetune."""
TUNED = 0.2
"""The part of the epochs that they get."""


def tuning_epochs(epochs: int) -> int:
    """Return how many epochs tune the critical layers alone, where `keep` asks for that.

    Args:
        epochs: of the training, in all.

    Returns:
        TUNED of them, at least one; 0 where there is but one.
    """
    return max(round(TUNED * epochs), 1) if epochs > 1 else 0


def harden_schedule(*, convolutional: bool = True) -> dict[str, Any]:
    """Return the learning rate over the training, as a recipe has it.

    Args:
        convolutional: whether SGD trains the network; AdamW, which trains others, takes a lower rate.

    Returns:
        The table `schedule` of a recipe: one cycle.
    """
    return {"kind": "one-cycle", "lr": 0.05 if convolutional else 5e-4, "peak": 0.3}


def harden_stages(objective: str, epochs: int, *, keep: str = "best", ema: bool = True) -> list[dict[str, Any]]:
    """Return the stages of a hardening, as a recipe has them.

    Args:
        objective: one of CANDIDATES.
        epochs: of all stages together.
        keep: what guards against robust overfitting, as of HardenConfig.
        ema: whether weights are averaged.

    Returns:
        One table a stage, as in TOML: the hardening, and the tuning of critical layers where `keep` asks for it.
    """
    tuning = tuning_epochs(epochs) if keep in TUNING else 0
    stage: dict[str, Any] = {
        "name": "harden",
        "epochs": epochs - tuning,
        "objective": {**CANDIDATES[objective].objective, "label_smoothing": LABEL_SMOOTHING},
        "treatments": [{"name": "ema"}] if ema else [],
        "eps_schedule": {"from": EPS_FROM, "until": EPS_UNTIL},
    }
    if not tuning:
        return [stage]
    objective_of_tuning, ranked = TUNING[keep]
    selection = {"rule": "critical", "k": 1, "every": max(tuning // 2, 1), **ranked}
    return [stage, {"name": keep, "epochs": tuning, "objective": {**objective_of_tuning}, "selection": selection}]


def harden_recipe(
    config: HardenConfig,
    objective: str,
    epochs: int,
    *,
    convolutional: bool,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """Return the recipe that repeats the training of a hardening.

    Args:
        config: what the user asked for.
        objective: one of CANDIDATES.
        epochs: of all stages together.
        convolutional: whether the network has BatchNorm: then SGD trains it, else AdamW.
        settings: further fields of the recipe, such as `data` and `model`.

    Returns:
        The recipe, checked.
    """
    return build_recipe(
        with_fields(
            config,
            merged(
                {
                    "name": "harden",
                    "seed": config.seed,
                    "eps": config.threat.text,
                    "norm": config.norm,
                    "batch_size": config.batch_size,
                    "schedule": harden_schedule(convolutional=convolutional),
                    "optimizer": {"momentum": 0.9} if convolutional else {"name": "adamw", "weight_decay": 0.05},
                    "monitor": {"steps": MONITOR_STEPS, "num_samples": MONITORED, "stop_on_collapse": True},
                    "evaluation": {"weights": "none", "protocol": config.protocol},
                    "engine": {"precision": config.precision, "device": config.device},
                    "stages": harden_stages(objective, epochs, keep=config.keep),
                    **(settings or {}),
                },
                dict(config.origin),
            ),
        )
    )


def stage_alone(config: HardenConfig, objective: str, *, number: int = 0) -> StageConfig:
    """Return a stage of the hardening with a candidate, to be measured.

    Args:
        config: what the user asked for.
        objective: one of CANDIDATES.
        number: of the stage, from 0: 1 is the tuning of critical layers, where `config.keep` asks for it.

    Returns:
        The stage, checked.
    """
    stages = harden_stages(objective, 2, keep=config.keep)
    table = {"eps": config.threat.text, "norm": config.norm, "stages": stages}
    return build_recipe(with_fields(config, table, only="stages")).stages[number]


def with_fields(config: HardenConfig, data: dict[str, Any], *, only: str | None = None) -> dict[str, Any]:
    """Return a recipe's plain data with the fields that the user gave.

    Args:
        config: what the user asked for.
        data: nested tables, changed in place.
        only: the table whose fields are set; None: all.

    Returns:
        `data`.

    Raises:
        ClatError: one of them cannot be placed.
    """
    set_fields(data, [pair for pair in config.fields.items() if only in (None, pair[0].partition(".")[0])])
    return data

"""What run.json says a run is: which network, which images, on what machine, called how."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from clat.core.environment import describe_environment, invocation
from clat.core.version import __version__
from clat.network.fingerprint import structure_hash
from clat.recipe.schema import Recipe
from clat.recipe.toml import recipe_hash
from clat.runtime.engine import Engine
from clat.training.prepare import RunInputs


def about_run(recipe: Recipe, inputs: RunInputs, engine: Engine) -> dict[str, Any]:
    """Return the record of a run that begins now.

    A network or images of the user's own are named as what they are, not as the recipe's. `run_hash` tells apart
    runs of one recipe on other networks or images.

    Args:
        recipe: resolved for this machine, whose precision is recorded.
        inputs: the network and the images.
        engine: the device and the number of processes.

    Returns:
        Plain data for run.json; "finished" is None.
    """
    structure = structure_hash(inputs.model)
    whole = json.dumps([recipe_hash(recipe), structure, inputs.fingerprint])
    return {
        "clat": __version__,
        "command": invocation(),
        "started": now(),
        "finished": None,
        "environment": {
            **describe_environment(engine.device),
            "precision": recipe.engine.precision,
            "processes": engine.world,
            **({"sharded": True} if engine.shards else {}),
        },
        "model": {
            "name": inputs.model_name(recipe),
            "own": inputs.own_model,
            "class": f"{type(inputs.model).__module__}.{type(inputs.model).__qualname__}",
            "parameters": sum(parameter.numel() for parameter in inputs.model.parameters()),
            "structure": structure,
            **({"frozen": sorted(inputs.frozen), "frozen_statistics": "kept"} if inputs.frozen else {}),
        },
        "data": {
            "name": inputs.train.name,
            "own": inputs.own_data,
            "classes": list(inputs.train.class_names),
            "train": len(inputs.train),
            "heldout": len(inputs.heldout),
            "extra": None if inputs.extra is None else len(inputs.extra),
            "fingerprint": inputs.fingerprint,
        },
        "seed": recipe.seed,
        "notes": list(inputs.notes),
        "recipe_hash": recipe_hash(recipe),
        "run_hash": hashlib.sha256(whole.encode()).hexdigest()[:16],
    }


def now() -> str:
    """Return the time in UTC, to the second.

    Returns:
        ISO 8601 with the offset.
    """
    return datetime.now(UTC).isoformat(timespec="seconds")

"""What run.json says a run is: which network, which images, on what machine, called how."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from clat.core.environment import describe_environment, invocation
from clat.core.formatting import counted
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


def run_in_words(recipe: Recipe, about: dict[str, Any]) -> str:
    """Return in one line what is trained, on what and where: nobody meant a network that only a default named.

    Args:
        recipe: resolved for this machine.
        about: the record of the run, see `about_run`.

    Returns:
        Such as "resnet18, 11,173,962 parameters; digits, 997 training and 100 held-out images; linf eps 8/255; cpu,
        float32".
    """
    model, data, machine = (about[part] for part in ("model", "data", "environment"))
    precision = "bfloat16" if machine["precision"] == "bf16-mixed" else "float32"
    place = [machine["device"], precision]
    if machine["processes"] > 1:
        place.append(f"{machine['processes']} processes")
    heldout = counted(f"{data['heldout']:,}", "held-out image")
    extra = "" if data["extra"] is None else f", {data['extra']:,} extra"
    return "; ".join(
        (
            f"{model['name']}, {model['parameters']:,} parameters",
            f"{data['name']}, {data['train']:,} training{extra} and {heldout}",
            f"{recipe.norm} eps {recipe.eps}",
            ", ".join(place),
        )
    )


def now() -> str:
    """Return the time in UTC, to the second.

    Returns:
        ISO 8601 with the offset.
    """
    return datetime.now(UTC).isoformat(timespec="seconds")

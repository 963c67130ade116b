"""What clat wrote, and somebody changed since: results, and the folders of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tests.robustness.inputs.values import (
    SMALL,
    Content,
    Input,
    changed,
    damaged,
    hostile_values,
    leaves,
    value_at,
    values_like,
)

SOUND: dict[str, bytes] = {}
"""The files of a finished run, with paths from its folder; filled by `keep`."""


def keep(place: Path, network: Path) -> None:
    """Remember a folder in which the run `run` has finished, and the file of the network that it trained."""
    SOUND[network.name] = network.read_bytes()
    for file in (place / "run").rglob("*"):
        if file.is_file() and "tensorboard" not in file.parts:
            SOUND[str(file.relative_to(place))] = file.read_bytes()


@st.composite
def _altered(draw: st.DrawFn, text: bytes) -> bytes:
    """A file of JSON, or of a record a line, with one or two values changed."""
    lines = text.decode().splitlines() if text.startswith(b'{"event"') else [text.decode()]
    number = draw(st.integers(0, len(lines) - 1))
    data: Any = json.loads(lines[number])
    for _ in range(draw(st.integers(1, 2))):
        paths = leaves(data)
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        if draw(st.integers(0, 2)) == 0:
            data = changed(data, path, remove=True)
        else:
            new = values_like(value_at(data, path)) if draw(st.booleans()) else hostile_values() | st.none()
            data = changed(data, path, draw(new))
    lines[number] = json.dumps(data)
    return "\n".join(lines).encode(errors="surrogateescape")


@st.composite
def records(draw: st.DrawFn) -> Input:
    """A run with one file changed, damaged or gone, which is shown, resumed, reused or compared."""
    files: dict[str, Content] = dict(SOUND)
    names = sorted(name for name in SOUND if name.startswith("run/") and not name.endswith((".html", ".lock")))
    name = draw(st.sampled_from(names))
    whole = SOUND[name]
    match draw(st.sampled_from(["alter", "alter", "alter", "damage", "gone", "folder"])):
        case "alter" if name.endswith((".json", ".jsonl")):
            files[name] = draw(_altered(whole))
        case "gone":
            del files[name]
        case "folder":
            files[name] = None
        case _:
            files[name] = draw(damaged(whole))
    evaluation = "run/evaluations/last.json"
    words = draw(
        st.sampled_from(
            [("report", "run"), ("report", "run", "--against", "run"), ("train", "--resume", "run"),
             ("compare", evaluation, "run/evaluations/best.json"), ("compare", evaluation, name),
             ("compare", "--seeds", evaluation, name),
             ("train", "run/recipe.toml", "--out", "new", "--reuse", "run"),
             ("evaluate", "--model", "run/recipe.toml", "--weights", "run/weights/last.safetensors", *SMALL,
              "--protocol", "fgsm")]
        )
    )  # fmt: skip
    return Input(words, files, kept=words[0] in ("compare", "evaluate"))

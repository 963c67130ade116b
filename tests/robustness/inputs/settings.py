"""Recipes and protocols: a sound file with values changed, taken out or put in, or with its text damaged."""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any

import tomli_w
from hypothesis import strategies as st
from tests.robustness.inputs.values import (
    DATES,
    MODEL,
    MODULE,
    NETWORK,
    SMALL,
    Input,
    changed,
    damaged,
    hostile_values,
    leaves,
    value_at,
    values_like,
)

from clat.recipe.toml import build_recipe, recipe_toml

SELECTION = {"k": 1, "every": 1, "num_samples": 4, "steps": 1}
RECIPE = {
    "name": "hostile",
    "eps": "0.1",
    "batch_size": 16,
    "model": {"name": MODEL},
    "data": {"name": "digits", "train_size": 32, "heldout": 16, "pad": 1, "flip": False},
    "stages": [
        {"name": "first", "epochs": 1, "objective": {"name": "pgd-at", "steps": 1}},
        {"name": "clat", "epochs": 1, "objective": {"name": "clat", "steps": 1}, "selection": SELECTION},
    ],
    "monitor": {"steps": 1, "num_samples": 8},
    "evaluation": {"protocol": "fgsm", "num_samples": 8},
    "engine": {"device": "cpu", "precision": "32"},
}
OBJECTIVES = (
    "pgd-at", "trades", "mart", "standard", "fast-at", "free-at", "n-fgsm", "fat", "gat", "grad-align", "clat",
    "clat-fast", "clat-plus", "score-at", "twins", "autolora", "cure",
)  # fmt: skip

PROTOCOL = {
    "name": "mine",
    "attacks": [
        {"attack": "apgd", "loss": "ce", "steps": 2},
        {"attack": "pgd", "steps": 2, "alpha_ratio": "1/4"},
        {"attack": "square", "steps": 4},
        {"attack": "fab", "steps": 2, "targets": 3},
    ],
}


@cache
def _whole_recipe() -> dict[str, Any]:
    """The recipe with every field that it has."""
    return tomllib.loads(recipe_toml(build_recipe(RECIPE)))


def _starts_processes_or_a_compiler(path: tuple[Any, ...], value: Any) -> bool:
    name = path[-1]
    if name in ("engine", "data", "model"):
        return False
    return (name == "devices" and isinstance(value, int) and 1 < value < 10**6) or (
        name == "compile" and value is True
    )


def _text(data: dict[str, Any]) -> bytes:
    try:
        text = tomli_w.dumps(data)
    except (TypeError, ValueError):
        text = repr(data)
    return text.encode(errors="surrogateescape")


@st.composite
def _altered(draw: st.DrawFn, whole: dict[str, Any]) -> bytes:
    data: Any = whole
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        paths = leaves(data)
        if draw(st.integers(0, 9)):  # of the values, rather than of the tables around them
            paths = [path for path in paths if not isinstance(value_at(data, path), dict | list)]
        if not paths:
            break
        path = draw(st.sampled_from(paths))
        how = draw(st.sampled_from(["like"] * 12 + ["objective"] * 3 + ["set", "set", "remove", "add", "date"]))
        value = draw(values_like(value_at(data, path)) if how == "like" else hostile_values())
        if how == "remove":
            data = changed(data, path, remove=True)
        elif how == "date":
            data = changed(data, path, draw(st.sampled_from(DATES)))
        elif how == "objective" and "stages" in data:
            place = ("stages", draw(st.integers(0, 1)), "objective")
            if place in paths:
                data = changed(data, place, {"name": draw(st.sampled_from(OBJECTIVES))})
        elif how == "add":
            data = changed(data, (*path[:-1], "extra") if isinstance(path[-1], str) else path, value)
        elif not _starts_processes_or_a_compiler(path, value):
            data = changed(data, path, value)
    text = _text(data)
    return draw(damaged(text)) if draw(st.integers(0, 19)) == 0 else text


@st.composite
def recipes(draw: st.DrawFn) -> Input:
    """A recipe that is trained, or shown in full."""
    text = draw(_altered(_whole_recipe()) | _altered(RECIPE))
    files = {MODULE: NETWORK.encode(), "mine.toml": text}
    if draw(st.integers(0, 4)) == 0:
        return Input(("recipes", "show", "mine.toml"), files)
    return Input(("train", "mine.toml", "--out", "run"), files)


@st.composite
def protocols(draw: st.DrawFn) -> Input:
    """A protocol under which a small network is evaluated."""
    files = {MODULE: NETWORK.encode(), "mine.toml": draw(_altered(PROTOCOL))}
    return Input(("evaluate", "--model", MODEL, *SMALL, "--protocol", "mine.toml", "--eps", "0.1"), files)

"""What a study is made of: rows, each a recipe with a name, at one of several scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError, unknown
from clat.recipe.schema import Recipe
from clat.recipe.toml import build_recipe, merged

Table = dict[str, Any]


@dataclass(frozen=True)
class Paper:
    """What a paper prints for a row, in percent, and where; our numbers stand beside it. `clean`: None if it prints
    none."""

    clean: float | None
    robust: float
    attack: str
    source: str


@dataclass(frozen=True)
class Row:
    """One line of a study's table. `reuse`: the row whose finished first stages this one may take over; `needs`:
    rows whose weights it starts from; `group`: what it is a seed of, if the study has several."""

    name: str
    recipe: Recipe
    reuse: str | None = None
    needs: tuple[str, ...] = ()
    group: str = ""
    paper: Paper | None = None
    note: str = ""


@dataclass(frozen=True)
class Scale:
    """How large a study is run: the settings that all its rows share, and the budget.

    `start`, `rest`: epochs of the first and of the second part ("X", then CLAT or more of X), so that every row
    has start + rest; `settings`: recipe fields, as in TOML; `remark`: what the numbers can and cannot say; `seeds`:
    every row is run once with each.
    """

    name: str
    start: int
    rest: int
    settings: Table
    remark: str
    seeds: tuple[int, ...] = (0,)

    @property
    def epochs(self) -> int:
        return self.start + self.rest


@dataclass(frozen=True)
class Study:
    """A named list of rows, and the scales at which it can be run. `rows(scale, out)`: the rows for the study's
    folder `out`, in which some find others' weights; `prepare(scale, out)`: writes what rows read besides."""

    name: str
    title: str
    rows: Callable[[Scale, Path], Sequence[Row]]
    scales: tuple[Scale, ...]
    prepare: Callable[[Scale, Path], None] | None = None

    def at(self, scale: str) -> Scale:
        found = next((one for one in self.scales if one.name == scale), None)
        if found is None:
            names = [one.name for one in self.scales]
            raise unknown("scale", scale, names, where=f" of the study '{self.name}'")
        return found


def make_recipe(
    scale: Scale, name: str, stages: Sequence[Mapping[str, Any]], changes: Table | None = None
) -> Recipe:
    """The scale's recipe with these stages and a row's own `changes`."""
    return build_recipe(
        merged(scale.settings, {**(changes or {}), "name": name, "stages": [dict(s) for s in stages]})
    )


def stage(name: str, epochs: int, objective: str | Mapping[str, Any], **settings: Any) -> Table:
    """A stage's table; an objective that needs no settings is given by its name."""
    return {
        "name": name,
        "epochs": epochs,
        "objective": {"name": objective} if isinstance(objective, str) else dict(objective),
        **settings,
    }


def clat_stage(epochs: int, *, fast: bool = False, k: int = 1, every: int = 10, **settings: Any) -> Table:
    """CLAT as every "X + CLAT" row has it: one critical layer, L_C a tenth of the cross-entropy. `fast`: its
    one-step form; `settings`: more of the selection."""
    return stage(
        "clat",
        epochs,
        {"name": "clat-fast" if fast else "clat", "ratio": 0.1},
        selection={"rule": "critical", "k": k, "every": every, **settings},
    )


def seeded(rows: Sequence[Row], seeds: Sequence[int]) -> list[Row]:
    """Each row once a seed, as ROW@SEED, the first seed of all rows first. One seed only: the rows as they are."""
    if len(seeds) == 1:
        return [replace(row, recipe=replace(row.recipe, seed=seeds[0]), group=row.name) for row in rows]
    return [
        replace(
            row,
            name=f"{row.name}@{seed}",
            recipe=replace(row.recipe, seed=seed),
            reuse=row.reuse and f"{row.reuse}@{seed}",
            needs=tuple(f"{name}@{seed}" for name in row.needs),
            group=row.name,
        )
        for seed in seeds
        for row in rows
    ]


def named(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows called `names`, or of the groups so called; all of them if none is named."""
    by_name = {row.name: row for row in rows}
    if len(by_name) < len(rows):
        raise ClatError("two rows of the study have one name")
    groups = {row.group for row in rows}
    for name in names:
        if name not in by_name and name not in groups:
            raise unknown("row", name, by_name)
    return [row for row in rows if not names or row.name in names or row.group in names]


def chosen(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows called `names` (or of the groups so called), and what they reuse; all of them if none is named."""
    wanted = {row.name for row in named(rows, names)}
    for row in reversed(rows):
        if row.name in wanted:
            wanted |= {*row.needs, *([row.reuse] if row.reuse else [])}
    return [row for row in rows if row.name in wanted]

"""The parts of a study: rows, each a recipe with a name, at one of several scales."""

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
    """Accuracies that a paper prints for a row; ours stand beside them.

    Attributes:
        clean: clean accuracy in percent; None if the paper prints none.
        robust: robust accuracy in percent.
        attack: what it was measured with, such as "PGD-10".
        source: paper and table.
    """

    clean: float | None
    robust: float
    attack: str
    source: str


@dataclass(frozen=True)
class Row:
    """One line of a study's table.

    Attributes:
        name: its name, once in a study.
        recipe: what is trained and measured.
        reuse: the row whose finished first stages this one may take over; None: none.
        needs: rows whose weights it starts from.
        group: what it is a seed of, if the study has several.
        paper: what a paper prints for it, if one does.
        note: what a reader of the table should know of it.
    """

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

    Attributes:
        name: its name, once in a study.
        start: epochs of the first part ("X").
        rest: epochs of the second part (CLAT, or more of X), so that every row has start + rest.
        settings: recipe fields, as in TOML.
        remark: what the numbers can and cannot say.
        seeds: every row is run once with each.
    """

    name: str
    start: int
    rest: int
    settings: Table
    remark: str
    seeds: tuple[int, ...] = (0,)

    @property
    def epochs(self) -> int:
        """Return the epochs of every row."""
        return self.start + self.rest


@dataclass(frozen=True)
class Study:
    """A named list of rows, and the scales at which it can be run.

    Attributes:
        name: its name on the command line.
        title: the question it asks.
        rows: called with the scale and the study's folder, in which some rows find others' weights.
        scales: the scales, the default first.
        prepare: called with the same before the rows are run; writes what they read besides. None: nothing.
    """

    name: str
    title: str
    rows: Callable[[Scale, Path], Sequence[Row]]
    scales: tuple[Scale, ...]
    prepare: Callable[[Scale, Path], None] | None = None

    def at(self, scale: str) -> Scale:
        """Return one of the study's scales.

        Args:
            scale: its name.

        Returns:
            The scale.

        Raises:
            ClatError: If the study has no scale of that name.
        """
        found = next((one for one in self.scales if one.name == scale), None)
        if found is None:
            names = [one.name for one in self.scales]
            raise unknown("scale", scale, names, where=f" of the study '{self.name}'")
        return found


def make_recipe(
    scale: Scale, name: str, stages: Sequence[Mapping[str, Any]], changes: Table | None = None
) -> Recipe:
    """Return a recipe of the scale's settings, the stages given and a row's own changes.

    Args:
        scale: the study's scale.
        name: the recipe's name.
        stages: tables of stages, as `stage` makes them.
        changes: recipe fields, as in TOML, that differ from the scale's; None: none.

    Returns:
        The recipe, checked.

    Raises:
        ClatError: If a field is unknown or its value not possible.
    """
    return build_recipe(
        merged(scale.settings, {**(changes or {}), "name": name, "stages": [dict(s) for s in stages]})
    )


def stage(name: str, epochs: int, objective: str | Mapping[str, Any], **settings: Any) -> Table:
    """Return a stage's table, as it stands in a recipe.

    Args:
        name: the stage's name.
        epochs: its length.
        objective: the objective's name or, where it needs settings, its table.
        **settings: more fields of the stage.

    Returns:
        The table.
    """
    return {
        "name": name,
        "epochs": epochs,
        "objective": {"name": objective} if isinstance(objective, str) else dict(objective),
        **settings,
    }


def clat_stage(epochs: int, *, fast: bool = False, k: int = 1, every: int = 10, **settings: Any) -> Table:
    """Return CLAT's stage as every "X + CLAT" row has it: L_C a tenth of the cross-entropy.

    Args:
        epochs: its length.
        fast: take CLAT's one-step form.
        k: number of critical layers that move.
        every: epochs from one selection to the next; fewer where the stage would else select once, which is the
            variant that the paper calls non-dynamic. 0: once.
        **settings: more fields of the selection.

    Returns:
        The stage's table.
    """
    return stage(
        "clat",
        epochs,
        {"name": "clat-fast" if fast else "clat", "ratio": 0.1},
        selection={"rule": "critical", "k": k, "every": reselected(every, epochs), **settings},
    )


def reselected(every: int, epochs: int) -> int:
    """Return after how many epochs a stage selects again, so that it selects at least twice.

    Args:
        every: as asked for; 0: never.
        epochs: of the stage; of a single one, layers are selected once.

    Returns:
        `every`, or half of the epochs where the stage is not longer than that.
    """
    return every if every == 0 or epochs > every else max(1, epochs // 2)


def seeded(rows: Sequence[Row], seeds: Sequence[int]) -> list[Row]:
    """Return each row once for every seed, as ROW@SEED, the first seed of all rows first.

    Args:
        rows: a study's rows.
        seeds: at least one; of a single one, the rows keep their names.

    Returns:
        The rows, whose `group` is the name without the seed.
    """
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
    """Return the rows called `names`, or of the groups so called.

    Args:
        rows: a study's rows.
        names: rows or groups; none: all rows.

    Returns:
        The rows, in the study's order.

    Raises:
        ClatError: If a name is unknown, or two rows have one name.
    """
    by_name = {row.name: row for row in rows}
    if len(by_name) < len(rows):
        raise ClatError("two rows of the study have one name")
    groups = {row.group for row in rows}
    for name in names:
        if name not in by_name and name not in groups:
            raise unknown("row", name, by_name)
    return [row for row in rows if not names or row.name in names or row.group in names]


def chosen(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return the rows called `names`, or of the groups so called, and what they build on.

    Args:
        rows: a study's rows; what a row builds on stands before it.
        names: rows or groups; none: all rows.

    Returns:
        The rows, in the study's order.

    Raises:
        ClatError: If a name is unknown, or two rows have one name.
    """
    wanted = {row.name for row in named(rows, names)}
    for row in reversed(rows):
        if row.name in wanted:
            wanted |= {*row.needs, *([row.reuse] if row.reuse else [])}
    return [row for row in rows if row.name in wanted]

"""Comparing results: two networks sample by sample, or seeds against seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from clat.core.console import Table
from clat.core.errors import ClatError
from clat.core.files import SavedAsJson
from clat.core.formatting import counted, p_text, percent, points
from clat.core.notebook import ShownAsTable
from clat.evaluation.protocols import setting_text
from clat.evaluation.record import UNNAMED
from clat.evaluation.result import Evaluation, EvaluationRecord
from clat.evaluation.same_run import one_network_notes, refuse_one_run, structure_notes
from clat.evaluation.statistics import Accuracy, PairedDifference, SeedDifference, SeedSummary

Source = Evaluation | EvaluationRecord | str | Path
"""An evaluation, or the file that `clat evaluate --out` wrote, read or by its name."""
Difference = PairedDifference | SeedDifference

ACCURACIES = ("clean", "robust")


@dataclass(frozen=True)
class Comparison(ShownAsTable, SavedAsJson):
    """Two networks on the same samples.

    Attributes:
        labels: what the two are called.
        setting: protocol, norm, eps, data and number of samples, which they share.
        notes: what could not be checked.
        accuracies: "clean" and "robust" -> that of the first and of the second.
        differences: "clean" and "robust" -> the second's accuracy less the first's.
    """

    labels: tuple[str, str]
    setting: dict[str, Any]
    notes: tuple[str, ...]
    accuracies: dict[str, tuple[Accuracy, Accuracy]]
    differences: dict[str, PairedDifference]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            Both names, the setting, and for "clean" and "robust" the accuracies and their difference.
        """
        accuracies = {kind: [one.to_dict() for one in pair] for kind, pair in self.accuracies.items()}
        return {
            "what": "comparison",
            "first": self.labels[0],
            "second": self.labels[1],
            **self.setting,
            "notes": list(self.notes),
            **{
                kind: {"accuracies": accuracies[kind], "difference": self.differences[kind].to_dict()}
                for kind in ACCURACIES
            },
        }

    def table(self) -> Table:
        """Return a rich table with a row for the clean and one for the robust accuracy.

        Returns:
            Both accuracies, their difference, its 95 % interval and McNemar's exact p value.
        """
        table = Table(
            title=f"B less A, {_setting_text(self.setting)}",
            caption=f"A {self.labels[0]}\nB {self.labels[1]}\np: McNemar, exact",
            caption_justify="left",
        )
        _columns(table, "accuracy", "A", "B", "difference", "95 % interval", "p")
        for kind in ACCURACIES:
            first, second = self.accuracies[kind]
            table.add_row(kind, percent(first.value), percent(second.value), *_written(self.differences[kind]))
        return table


@dataclass(frozen=True)
class SeedComparison(ShownAsTable, SavedAsJson):
    """One or two groups of networks that differ in their seed alone.

    Attributes:
        labels: what the results of each group are called.
        setting: protocol, norm, eps, data and number of samples, which all share.
        notes: what could not be checked.
        summaries: "clean" and "robust" -> one summary a group.
    """

    labels: tuple[tuple[str, ...], ...]
    setting: dict[str, Any]
    notes: tuple[str, ...]
    summaries: dict[str, tuple[SeedSummary, ...]]

    @property
    def differences(self) -> dict[str, SeedDifference]:
        """Return the second group's mean less the first's, by "clean" and "robust"; none for one group."""
        return {kind: SeedDifference(*groups) for kind, groups in self.summaries.items() if len(groups) == 2}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            The groups with their summaries, the setting, and the differences where there are two groups.
        """
        differences = {kind: one.to_dict() for kind, one in self.differences.items()}
        return {
            "what": "seeds",
            "groups": [
                {"results": list(labels), **{kind: self.summaries[kind][place].to_dict() for kind in ACCURACIES}}
                for place, labels in enumerate(self.labels)
            ],
            **self.setting,
            "notes": list(self.notes),
            **({"differences": differences} if differences else {}),
        }

    def table(self) -> Table:
        """Return a rich table with a row for each accuracy and group.

        Returns:
            Mean, deviation and lowest; with two groups, Welch's interval and p value of their difference too.
        """
        *before, last = (len(group) for group in self.labels)
        counts = " and ".join([*map(str, before), counted(last, "seed")])
        table = Table(title=f"{counts}, {_setting_text(self.setting)}")
        groups = "AB" if len(self.labels) == 2 else "A"
        tested = ("95 % interval", "p") if self.differences else ()
        _columns(table, "accuracy", "group", "mean", "deviation", "lowest of n", *tested)
        for kind in ACCURACIES:
            for name, summary in zip(groups, self.summaries[kind], strict=True):
                table.add_row(
                    kind, name, percent(summary.mean), percent(summary.deviation), percent(summary.lowest)
                )
            if kind in self.differences:
                value, interval, p = _written(self.differences[kind])
                table.add_row(kind, "B less A", value, "", "", interval, p)
        return table


def compare(first: Source, second: Source) -> Comparison:
    """Compare two results of one protocol, eps, norm and data, sample by sample.

    Args:
        first: an evaluation, its record, or the JSON file that it was written to.
        second: another one, of the same samples.

    Returns:
        Both accuracies and the paired difference, the second's less the first's.

    Raises:
        ClatError: the settings or images differ, which is named, or a file is no result of an evaluation.
    """
    both = _read_all([first, second])
    one, other = both
    pairs = dict(zip(ACCURACIES, zip(one.verdicts(), other.verdicts(), strict=True), strict=True))
    return Comparison(
        labels=(one.name, other.name),
        setting=one.setting,
        notes=(*_notes(both), *one_network_notes(both)),
        accuracies={kind: (_accuracy(first), _accuracy(second)) for kind, (first, second) in pairs.items()},
        differences={kind: PairedDifference.between(*pair) for kind, pair in pairs.items()},
    )


def compare_seeds(seeds: Sequence[Source], against: Sequence[Source] = ()) -> SeedComparison:
    """Summarize the results of one setting over seeds, and compare two groups of them.

    Args:
        seeds: results of networks that differ in their seed alone, as for `compare`.
        against: a second group, whose mean less the first's is tested; none: only the first is summarized.

    Returns:
        Mean, deviation and lowest of each group, and the difference of the means.

    Raises:
        ClatError: as `compare` does, and where two results of a group are of one network or one run.
    """
    if not seeds:
        raise ClatError("the first group is empty: give results of at least one seed")
    everything = _read_all([*seeds, *against])
    groups = [group for group in (everything[: len(seeds)], everything[len(seeds) :]) if group]
    for sources, group in zip((seeds, against), groups, strict=False):
        refuse_one_run(sources, group)

    def summary(group: Sequence[EvaluationRecord], place: int) -> SeedSummary:
        return SeedSummary(tuple(_accuracy(one.verdicts()[place]).value for one in group))

    return SeedComparison(
        labels=tuple(tuple(one.name for one in group) for group in groups),
        setting=everything[0].setting,
        notes=(
            *_notes(everything),
            *(note for group in groups for note in structure_notes(group)),
        ),
        summaries={kind: tuple(summary(group, place) for group in groups) for place, kind in enumerate(ACCURACIES)},
    )


def _read_all(sources: Sequence[Source]) -> list[EvaluationRecord]:
    if not sources:
        raise ClatError("there is no result to compare: name files that `clat evaluate --out` wrote")
    paths = [str(Path(source).resolve()) for source in sources if isinstance(source, str | Path)]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ClatError(f"{twice} is named twice: a comparison needs different results")
    everything = _told_apart([_read(source) for source in sources])
    first = everything[0]
    for other in everything[1:]:
        for name, value in first.setting.items():
            if _essence(other.setting[name]) != _essence(value):
                raise ClatError(
                    f"{first.name} and {other.name} cannot be compared: {name} is {_plain(value)} in the one and"
                    f" {_plain(other.setting[name])} in the other"
                )
        _refuse_other_code(first, other)
    known = [one for one in everything if one.images is not None]
    for other in known[1:]:
        if other.images != known[0].images:
            raise ClatError(
                f"{known[0].name} and {other.name} are of different images, labels or numbers"
                f" ({known[0].images} and {other.images}): evaluate both on the same"
            )
    return everything


def _refuse_other_code(first: EvaluationRecord, other: EvaluationRecord) -> None:
    """Raise an error where an attack of a user's own had other code in the one than in the other."""
    for attack, source in first.attack_sources.items():
        if other.attack_sources.get(attack, source) != source:
            raise ClatError(
                f"{first.name} and {other.name} cannot be compared: the code of attack '{attack}' changed between "
                "them, evaluate both with the same"
            )


def _notes(everything: Sequence[EvaluationRecord]) -> tuple[str, ...]:
    """Return what has to be taken on trust: results of older versions do not say which images they are of."""
    without = [one.name for one in everything if one.images is None]
    if not without:
        return ()
    samples = f"the {everything[0].setting['n']} samples are taken to be the same, in the same order"
    return (f"{', '.join(without)} without a digest of the images: {samples}",)


def _read(source: Source) -> EvaluationRecord:
    """Return the record of a source. Raises ClatError unless it holds verdicts and what they are of."""
    if isinstance(source, Evaluation):
        known = (source.about.get(what) for what in ("label", "weights"))
        record = EvaluationRecord.from_dict(source.to_dict(), str(next((one for one in known if one), UNNAMED)))
    elif isinstance(source, EvaluationRecord):
        record = source
    else:
        record = EvaluationRecord.from_json(source)
    record.verdicts()
    return record


def _told_apart(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """Return results that have names of their own: by their place where they have none, or share one."""
    names = [record.name for record in records]
    places = ["first", "second", *(f"number {place}" for place in range(3, len(names) + 1))]
    return [
        replace(record, name=place if record.name == UNNAMED else f"{place}, {record.name}")
        if record.name == UNNAMED or names.count(record.name) > 1
        else record
        for place, record in zip(places, records, strict=False)
    ]


def _accuracy(flags: Tensor) -> Accuracy:
    return Accuracy(int(flags.sum()), len(flags))


def _essence(value: Any) -> Any:
    """Return what must agree of a value: a protocol is its hash, whatever somebody calls it."""
    return value.get("hash", value) if isinstance(value, dict) else value


def _plain(value: Any) -> str:
    return " ".join(str(part) for part in value.values()) if isinstance(value, dict) else str(value)


def _setting_text(setting: dict[str, Any]) -> str:
    return f"{setting_text(setting['protocol'], setting['norm'], setting['eps'])}, n = {setting['n']}"


def _columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="left" if name in ("accuracy", "group") else "right")


def _written(difference: Difference) -> tuple[str, str, str]:
    """Return value, interval and p value as text; dashes where a spread is not known."""
    p = difference.p_value
    interval = "–" if difference.interval is None else " to ".join(points(end) for end in difference.interval)
    interval = interval.replace("\N{NO-BREAK SPACE}points", "", 1)
    return points(difference.value), interval, "–" if p is None else p_text(p)

"""Comparing results: two networks sample by sample, or seeds against seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clat.core.console import Table
from clat.core.errors import ClatError
from clat.core.files import write_json
from clat.core.formatting import percent, points
from clat.evaluation.evaluate import Evaluation
from clat.evaluation.protocols import protocol_title
from clat.evaluation.statistics import Accuracy, PairedDifference, SeedDifference, SeedSummary

Source = Evaluation | str | Path
"""An evaluation, or the file that `clat evaluate --out` wrote."""
Difference = PairedDifference | SeedDifference

ACCURACIES = ("clean", "robust")


@dataclass(frozen=True)
class Verdicts:
    """What a comparison needs of a result. `setting`: what has to agree; `images`: the digest of what was
    evaluated, None in a file of a version that had none; `clean`, `robust`: (N,) bool."""

    label: str
    setting: dict[str, Any]
    images: str | None
    clean: Tensor
    robust: Tensor

    def of(self, kind: str) -> Tensor:
        return self.clean if kind == "clean" else self.robust

    def share(self, kind: str) -> float:
        return float(self.of(kind).double().mean())


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same samples; differences are the second's less the first's. `notes`: what could not be
    checked."""

    labels: tuple[str, str]
    setting: dict[str, Any]
    notes: tuple[str, ...]
    accuracies: dict[str, tuple[Accuracy, Accuracy]]
    differences: dict[str, PairedDifference]

    def to_dict(self) -> dict[str, Any]:
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

    def to_json(self, path: str | Path) -> None:
        write_json(path, self.to_dict())

    def table(self) -> Table:
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
class SeedComparison:
    """One or two groups of networks that differ in their seed alone; `differences`: the second less the first;
    `notes`: what could not be checked."""

    labels: tuple[tuple[str, ...], ...]
    setting: dict[str, Any]
    notes: tuple[str, ...]
    summaries: dict[str, tuple[SeedSummary, ...]]

    @property
    def differences(self) -> dict[str, SeedDifference]:
        return {kind: SeedDifference(*groups) for kind, groups in self.summaries.items() if len(groups) == 2}

    def to_dict(self) -> dict[str, Any]:
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

    def to_json(self, path: str | Path) -> None:
        write_json(path, self.to_dict())

    def table(self) -> Table:
        counts = " and ".join(str(len(group)) for group in self.labels)
        table = Table(title=f"{counts} seeds, {_setting_text(self.setting)}")
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
    """The paired comparison of two results of one protocol, eps, norm and data.

    Raises ClatError where these differ, naming what does, and for a file that is no result of an evaluation.
    """
    both = _read_all([first, second])
    one, other = both
    return Comparison(
        labels=(one.label, other.label),
        setting=one.setting,
        notes=_notes(both),
        accuracies={kind: (_accuracy(one.of(kind)), _accuracy(other.of(kind))) for kind in ACCURACIES},
        differences={kind: PairedDifference.between(one.of(kind), other.of(kind)) for kind in ACCURACIES},
    )


def compare_seeds(seeds: Sequence[Source], against: Sequence[Source] = ()) -> SeedComparison:
    """Mean, deviation and lowest over the results of one setting; with `against`, the second group less the first.
    Raises ClatError as `compare` does."""
    everything = _read_all([*seeds, *against])
    groups = [group for group in (everything[: len(seeds)], everything[len(seeds) :]) if group]
    return SeedComparison(
        labels=tuple(tuple(one.label for one in group) for group in groups),
        setting=everything[0].setting,
        notes=_notes(everything),
        summaries={
            kind: tuple(SeedSummary(tuple(one.share(kind) for one in group)) for group in groups)
            for kind in ACCURACIES
        },
    )


def _read_all(sources: Sequence[Source]) -> list[Verdicts]:
    if not sources:
        raise ClatError("there is no result to compare: name files that `clat evaluate --out` wrote")
    paths = [str(Path(source).resolve()) for source in sources if not isinstance(source, Evaluation)]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ClatError(f"{twice} is named twice: a comparison needs different results")
    everything = [read_verdicts(source) for source in sources]
    first = everything[0]
    for other in everything[1:]:
        for name, value in first.setting.items():
            if _essence(other.setting[name]) != _essence(value):
                raise ClatError(
                    f"{first.label} and {other.label} cannot be compared: {name} is {_plain(value)} in the one and"
                    f" {_plain(other.setting[name])} in the other"
                )
    known = [one for one in everything if one.images is not None]
    for other in known[1:]:
        if other.images != known[0].images:
            raise ClatError(
                f"{known[0].label} and {other.label} are of different images, labels or numbers"
                f" ({known[0].images} and {other.images}): evaluate both on the same"
            )
    return everything


def _notes(everything: Sequence[Verdicts]) -> tuple[str, ...]:
    """What has to be taken on trust: results of older versions do not say which images they are of."""
    without = [one.label for one in everything if one.images is None]
    if not without:
        return ()
    samples = f"the {everything[0].setting['n']} samples are taken to be the same, in the same order"
    return (f"{', '.join(without)} without a digest of the images: {samples}",)


def read_verdicts(source: Source) -> Verdicts:
    """Raises ClatError for what is no result of an evaluation."""
    if isinstance(source, Evaluation):
        data, label = source.to_dict(), str(source.about.get("label", "this evaluation"))
    else:
        label = str(source)
        try:
            data = json.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise ClatError(f"cannot read {source}: {error.strerror}") from None
        except ValueError as error:
            raise ClatError(f"{source} is no result of `clat evaluate`: {error}") from None
    try:
        clean, robust = (_flags(data[name]) for name in ("correct", "robust"))
        protocol, eps, images = data["protocol"], data["eps"], data.get("data") or {}
        setting = {
            "protocol": {"name": protocol_title(protocol), "hash": protocol["hash"]},
            "norm": protocol["norm"],
            "eps": eps["text"],
            "data": {"name": images.get("name"), "split": images.get("split")},
            "n": len(clean),
        }
        digest = data.get("images")
        if digest is not None and not isinstance(digest, str):
            raise ValueError
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ClatError(f"{label} is no result of `clat evaluate`: it lacks verdicts or what they are of") from None
    if len(clean) != len(robust) or len(clean) == 0:
        raise ClatError(f"{label} is damaged: {len(clean)} clean and {len(robust)} robust verdicts")
    return Verdicts(label, setting, digest, clean, robust)


def _flags(bits: str) -> Tensor:
    if set(bits) - {"0", "1"}:
        raise ValueError
    return torch.tensor([bit == "1" for bit in bits], dtype=torch.bool)


def _accuracy(flags: Tensor) -> Accuracy:
    return Accuracy(int(flags.sum()), len(flags))


def _essence(value: Any) -> Any:
    """A protocol is its hash, whatever somebody calls it."""
    return value.get("hash", value) if isinstance(value, dict) else value


def _plain(value: Any) -> str:
    return " ".join(str(part) for part in value.values()) if isinstance(value, dict) else str(value)


def _setting_text(setting: dict[str, Any]) -> str:
    return f"{setting['protocol']['name']}, {setting['norm']} eps {setting['eps']}, n = {setting['n']}"


def _columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="left" if name in ("accuracy", "group") else "right")


def _written(difference: Difference) -> tuple[str, str, str]:
    """Value, interval and p value as text; dashes where a spread is not known."""
    p = difference.p_value
    interval = "–" if difference.interval is None else " to ".join(points(end) for end in difference.interval)
    interval = interval.replace("\N{NO-BREAK SPACE}points", "", 1)
    return points(difference.value), interval, "–" if p is None else f"{p:.2g}" if p >= 1e-4 else "< 0.0001"

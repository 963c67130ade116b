"""The report of `clat.check`: a row a sign, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clat.core.console import Table
from clat.core.files import SavedAsJson
from clat.core.formatting import percent
from clat.core.notebook import ShownAsTable
from clat.core.threat_model import ThreatModel
from clat.evaluation.statistics import Accuracy
from clat.network.cost import Cost

OK, SUSPICIOUS, NOT_RUN = "ok", "suspicious", "not run"


@dataclass(frozen=True)
class CheckRow:
    """The finding on one sign of gradient masking.

    Attributes:
        name: of the sign.
        value: a share of the samples, in [-1, 1]; None where nothing could be measured.
        verdict: "ok", "suspicious" or "not run".
        why: the numbers in words.
    """

    name: str
    value: float | None
    verdict: str
    why: str


@dataclass(frozen=True)
class CheckReport(ShownAsTable, SavedAsJson):
    """The signs of gradient masking that were looked for on one network.

    Attributes:
        rows: one a sign.
        clean: the accuracy on clean images.
        threat: the ball that the attacks search.
        seed: of the attacks.
        cost: forward and backward passes, and seconds.
        environment: versions and machine.
        about: what the caller adds to the JSON (model, data).
    """

    rows: Sequence[CheckRow]
    clean: Accuracy
    threat: ThreatModel
    seed: int
    cost: Cost
    environment: dict[str, Any]
    about: dict[str, Any]

    @property
    def suspicious(self) -> bool:
        """Return whether any sign is.

        No sign is no proof of robustness: signs are what the known failures leave behind.
        """
        return any(row.verdict == SUSPICIOUS for row in self.rows)

    def __getitem__(self, name: str) -> CheckRow:
        return next(row for row in self.rows if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            Settings, a row for each sign, cost and environment.
        """
        return {
            "what": "check",
            **self.about,
            "eps": self.threat.text,
            "norm": self.threat.norm,
            "seed": self.seed,
            "clean_accuracy": self.clean.to_dict(),
            "suspicious": self.suspicious,
            "rows": [asdict(row) for row in self.rows],
            "cost": asdict(self.cost),
            "environment": self.environment,
        }

    def table(self) -> Table:
        """Return a rich table with a row a sign.

        Returns:
            Name, value, verdict and reason; suspicious rows stand out.
        """
        table = Table(
            title=f"Signs of gradient masking, {self.threat}, n = {self.clean.n}",
            caption=f"clean accuracy {self.clean}",
        )
        table.add_column("check", no_wrap=True)
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("why")
        for row in self.rows:
            style = {SUSPICIOUS: "bold red", NOT_RUN: "dim"}.get(row.verdict)
            table.add_row(row.name, percent(row.value), row.verdict, row.why, style=style)
        return table


def signs_in_words(data: Mapping[str, Any], protocol: str | None = None) -> str | None:
    """Return what a check found, in one sentence.

    Args:
        data: `CheckReport.to_dict()`, or what was read from its file.
        protocol: the name of the one behind the robust accuracy beside which the sentence stands.

    Returns:
        The sentence; None where the data is something else.
    """
    try:
        verdicts = {row["name"]: row["verdict"] for row in data["rows"]}
        n = int(data["clean_accuracy"]["n"])
    except (KeyError, TypeError, ValueError):
        return None
    where = f"on {n:,} test image{'s' if n != 1 else ''}"
    found = [name for name, verdict in verdicts.items() if verdict == SUSPICIOUS]
    if found:
        advice = "" if protocol == "autoattack" else "; let AutoAttack judge"
        return (
            f"There are signs of gradient masking {where} ({', '.join(found)}): robust accuracy is likely lower "
            f"than measured{advice}."
        )
    if OK not in verdicts.values():
        return f"No sign of gradient masking could be looked for {where}."
    return f"No sign of gradient masking was found {where}."

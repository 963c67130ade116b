"""Make the package's data file of printed numbers: `python -m benchmarks.paper_printed transcribed.csv`.

The transcription has a line a number: paper, table, dataset, model, method, layers, source_model, attack, metric,
value, note. Kept are the papers that `clat paper` runs. A note that begins with "batch_size=",
"epoch=" or "checkpoint=" becomes a column of its own, and what is known of a number's reliability another one.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

PAPERS = ("clat-v2", "clat-v1", "cure")
TARGET = Path(__file__).parent.parent / "src" / "clat" / "studies" / "paper" / "printed.csv"
FLAGS = {
    "misprint": r"comma missing|copy of the VGG19|row shifted|arithmetic says 2\.36M|misprinted|is VGG19, so"
    r"|RiFT prints",
    "contradiction": r"arithmetic from the printed|(T1|T5|T12|T10|T14 fixed|T9) prints|although AA contains"
    r"|below AA|matches no subset|none of them the printed|better than PGD-AT|formula gives|text elsewhere says"
    r"|below the true|T6 prints|v1 T10 prints",
    "borrowed": r"verbatim|AutoAttack value|PGD-20|RobustBench|Gowal|from Auto|ImageNet-robust|extra data|mixes"
    r"|Hwang|Rebuffi|as listed in|probably a robust base",
}
"""Flag -> what a note says of such a number: one the paper itself gets wrong, one that another of its numbers
speaks against, one that it takes from elsewhere, measured otherwise. The first that fits counts."""
COLUMNS = (
    *("paper", "table", "dataset", "network", "method", "layers", "source", "variant", "attack", "metric"),
    *("value", "flag", "note"),
)


def flag(note: str) -> str:
    """Return what a note says of its number's reliability: a key of FLAGS, or nothing.

    Args:
        note: the note.

    Returns:
        The flag.
    """
    return next((name for name, pattern in FLAGS.items() if re.search(pattern, note)), "")


def line(row: dict[str, str]) -> dict[str, str]:
    """Return a line of the data file for a line of the transcription.

    Args:
        row: the line, by column.

    Returns:
        The columns of the data file.
    """
    variant, note = "", row["note"]
    found = re.match(r"(batch_size|epoch|checkpoint)=(\w+);?\s*", note)
    if found:
        variant, note = f"{found[1]}={found[2]}", note[found.end() :]
    table = row["table"].replace(".", "")
    kept = {key: row[key] for key in ("paper", "dataset", "method", "layers", "attack", "metric", "value")}
    named = {"table": table, "network": row["model"], "source": row["source_model"], "variant": variant}
    return {**kept, **named, "flag": flag(note), "note": note}


def repeated(lines: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the lines, those that repeat a borrowed number of another table with that one's note and flag.

    Args:
        lines: of the data file.

    Returns:
        As many lines.
    """
    same = ("paper", "dataset", "network", "method", "attack", "metric", "value")
    borrowed = {tuple(one[key] for key in same): one for one in lines if one["flag"] == "borrowed"}
    found = []
    for one in lines:
        other = borrowed.get(tuple(one[key] for key in same))
        if other is not None and not one["note"] and other["table"] != one["table"]:
            one = {**one, "note": f"as in {other['table']}: {other['note']}", "flag": "borrowed"}
        found.append(one)
    return found


def least_critical(lines: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the lines, those of T20's least critical layers with the note and flag of their network's PGD-10: all
    of their numbers are above those of PGD-AT.

    Args:
        lines: of the data file.

    Returns:
        As many lines.
    """
    row = ("paper", "table", "network", "layers")
    under_pgd = {
        tuple(one[key] for key in row): one
        for one in lines
        if (one["paper"], one["table"], one["layers"], one["attack"]) == ("clat-v2", "T20", "smallest", "pgd-10")
    }
    found = []
    for one in lines:
        known = under_pgd.get(tuple(one[key] for key in row))
        if known is not None and not one["note"]:
            one = {**one, "flag": known["flag"], "note": f"as under PGD-10: {known['note']}"}
        found.append(one)
    return found


def main() -> None:
    """Read the transcription named on the command line and write the data file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("transcribed", type=Path)
    rows = csv.DictReader(parser.parse_args().transcribed.open(encoding="utf-8"))
    with TARGET.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(least_critical(repeated([line(row) for row in rows if row["paper"] in PAPERS])))


if __name__ == "__main__":
    main()

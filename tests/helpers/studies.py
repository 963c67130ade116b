"""A study of seconds: two rows, of which the second takes over the first one's stage, and one that cannot run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, Any

import pytest
from rich.console import Console

from clat import cli
from clat.studies.row import Paper, Row, Scale, Study
from clat.studies.tables.baselines import pair

TINY = Scale(
    name="tiny",
    start=1,
    rest=1,
    settings={
        "eps": "0.1",
        "batch_size": 32,
        "model": {"name": "resnet18", "width": 4},
        "data": {"name": "digits", "train_size": 64, "heldout": 32},
        "monitor": {"num_samples": 16, "steps": 1},
        "evaluation": {"protocol": "fgsm", "num_samples": 32},
    },
    remark="A test.",
)
PAPERS = (Paper(81.46, 53.63, "PGD-10", "T1"), None)
QUIET = Console(quiet=True)


def tiny_rows(scale: Scale, out: Path | None = None) -> list[Row]:
    broken = pair(scale, "broken", {"name": "pgd-at", "steps": 1}, changes={"model": {"weights": "nowhere.pt"}})
    return [*pair(scale, "pgd-at", {"name": "pgd-at", "steps": 1}, papers=PAPERS), broken[0]]


STUDY = Study("tiny-study", "Two rows and one that cannot run", tiny_rows, (TINY,))


@contextmanager
def rows_in_this_process() -> Iterator[None]:
    """Inside, a study's rows are run by this process: where they are not what is tested, none has to load torch."""

    def run(command: Sequence[str], output: IO[str]) -> int:
        with redirect_stdout(output), redirect_stderr(output):
            return cli.main(list(command[3:]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clat.studies.run._exit_code", run)
        yield


def apart_from_time(table: dict[str, Any]) -> dict[str, Any]:
    """A study's table without what differs from one computation of the same to the next."""

    def kept(entry: dict[str, Any]) -> dict[str, Any]:
        times = {"seconds", "peak_memory_bytes", "environment"}
        stages = [{key: one[key] for key in ("name", "epochs")} for one in entry.get("stages", ())]
        return {key: value for key, value in entry.items() if key not in times} | {"stages": stages}

    return {**table, "rows": [kept(row) for row in table["rows"]], "environment": None}

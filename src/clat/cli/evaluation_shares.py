"""`clat evaluate --jobs`: an evaluation in shares, each a command of its own, taken by whoever is free.

What a share has found lies in its state file. When all are there, this process goes through them as it would after
an interruption, and so has the whole result; a share that is missing it would measure itself.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clat.cli.console import console, say
from clat.cli.evaluation_setup import Prepared
from clat.cli.options import option_words
from clat.cli.places import check_place, place_for
from clat.core.errors import ClatError
from clat.core.formatting import counted
from clat.evaluation import Evaluation, Protocol
from clat.evaluation.dataset import count_shares, evaluate_set
from clat.evaluation.evaluate import RESUMED_NOTE
from clat.network.cost import Cost
from clat.runtime.jobs.job import Job
from clat.runtime.jobs.schedule import run_jobs
from clat.runtime.jobs.shown import jobs_shown

OWN = ("jobs", "on", "address", "cpus", "memory", "out", "state", "share", "gallery")
"""Options that a share's command does not get, or gets anew."""


def parse_share(text: str) -> tuple[int, int]:
    """Return which share is meant.

    Args:
        text: "K/N": the K-th, from 0, of the shares that N workers divide.

    Returns:
        (K, N).

    Raises:
        ClatError: If it is something else.
    """
    number, _, workers = text.partition("/")
    if not (number.isdecimal() and workers.isdecimal()) or int(workers) < 1:
        raise ClatError(f"--share {text}: expected K/N, the K-th share (from 0) of those that N workers divide")
    return int(number), int(workers)


def in_shares(
    options: Namespace,
    protocol: Protocol,
    prepared: Prepared,
    add_options: Callable[[argparse.ArgumentParser], None],
) -> Evaluation | None:
    """Return the result of an evaluation whose shares run beside one another.

    Args:
        options: those of `clat evaluate`.
        protocol: the one that they name.
        prepared: the network and the images, checked.
        add_options: adds the options of the command, of which a share gets those that differ from their defaults.

    Returns:
        The result, with the cost of all shares.

    Raises:
        ClatError: If a share failed twice, or measured another network.
        JobsStopped: If it was asked to stop; with a state it can be gone on from.
    """
    if options.jobs is None:
        raise ClatError("an evaluation on a cluster is cut for so many workers: add --jobs N")
    with _state(options) as state, place_for(options, state.parent) as place:
        count = count_shares(prepared.images, len(prepared.ids), protocol, options.jobs)
        records = [state.with_name(f"{state.name}.{options.jobs}p-{number}.json") for number in range(count)]
        earlier = {record for record in records if _is_done(record)}
        for record in set(records) - earlier:
            record.unlink(missing_ok=True)  # of a state that was removed
        start = time.perf_counter()
        if place is not None:
            words = ["evaluate", *option_words(options, add_options, without=OWN)]
            jobs = [
                _job(options, number, words, state, record)
                for number, record in enumerate(records)
                if record not in earlier
            ]
            with jobs_shown(console()) as shown:
                failures = run_jobs(jobs, place, show=shown.show, changed=shown.changed)
            if failures:
                name, failure = next(iter(failures.items()))
                raise ClatError(f"{name} failed: {failure}")
        seconds = time.perf_counter() - start
        result = prepared.run(
            lambda settings: evaluate_set(
                prepared.model,
                prepared.images,
                ids=prepared.ids,
                protocol=protocol,
                state=state,
                workers=options.jobs,
                **settings,
            )
        )
        return None if result is None else _with_cost(result, records, earlier, seconds, options.jobs)


def _is_done(record: Path) -> bool:
    """Return whether a share was measured before: its result says what it cost, and its state what it found."""
    return record.exists() and record.with_suffix("").exists()


@contextmanager
def _state(options: Namespace) -> Iterator[Path]:
    """Yield the name of the state's files: as given, else of a folder that goes away afterwards."""
    if options.state is not None:
        state = Path(options.state).absolute()
        try:
            state.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClatError(f"cannot write to {state.parent}: {error.strerror or error}") from None
        yield state
    elif options.on == "ray":
        raise ClatError("an evaluation on a cluster needs --state, a file name on storage that all machines share")
    else:
        with tempfile.TemporaryDirectory(prefix="clat-shares-") as folder:
            yield Path(folder) / "state"


def _job(options: Namespace, number: int, words: list[str], state: Path, record: Path) -> Job:
    """Return a share as a job."""
    share = [f"--state={state}", f"--share={number}/{options.jobs}", f"--out={record}"]
    return Job(
        name=f"share {number + 1}",
        words=lambda: [*words, *share],
        log=record.with_suffix(".log"),
        device=options.device,
    )


def _with_cost(
    result: Evaluation, records: list[Path], earlier: set[Path], seconds: float, workers: int
) -> Evaluation:
    """Return the result with what all shares took, and the time that passed meanwhile; shares of an earlier session
    took a worker's part of theirs."""
    shares = {record: json.loads(record.read_text()) for record in records if record.exists()}
    costs = {record: Cost(**share["cost"]) for record, share in shares.items()}
    total = sum(costs.values(), result.cost)
    before = sum(costs[record].seconds for record in earlier) / workers
    cost = replace(total, seconds=before + seconds + result.cost.seconds)
    # This process went on from the shares' states, whose cost is counted, unless one of them was gone on from too.
    counted = len(shares) == len(records) and not any(RESUMED_NOTE in share["notes"] for share in shares.values())
    notes = [note for note in result.notes if not (counted and note == RESUMED_NOTE)]
    return replace(result, cost=cost, notes=notes, environment={**result.environment, "processes": workers})


def one_share(options: Namespace, protocol: Protocol, prepared: Prepared, number: int, workers: int) -> int:
    """Measure a single share, whose state others make a whole of.

    Args:
        options: those of `clat evaluate`.
        protocol: the one that they name.
        prepared: the network and the images, checked.
        number: the share's, from 0.
        workers: of how many workers it is a share.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If there is no such share, or it cannot be measured.
    """
    model, images, state = prepared.model, prepared.images, options.state
    divided = {"ids": prepared.ids, "protocol": protocol, "state": state, "workers": workers, "share": number}
    result = prepared.run(lambda settings: evaluate_set(model, images, **divided, **settings))
    if result is not None:
        right, robust = int(result.correct.sum()), int(result.robust.sum())
        say(
            f"share {number} of {workers} workers: {counted(len(result.correct), 'image')}, {right} right, "
            f"{robust} robust"
        )
        prepared.outputs.write(result)
    return 0


def shares_asked(options: Namespace) -> bool:
    """Return whether shares are to run beside one another.

    Args:
        options: those of `clat evaluate`.

    Returns:
        True for several at a time, or a cluster.
    """
    return (options.jobs or 1) > 1 or options.on == "ray"


def check_shares(options: Namespace, *, planned: bool) -> None:
    """Raise an error for options of shares that do not go with the others.

    Args:
        options: those of `clat evaluate`.
        planned: they ask for more than one protocol on the images named.

    Raises:
        ClatError: Some do not.
    """
    check_place(options)
    place = next((name for name in ("jobs", "on", "share") if getattr(options, name) is not None), None)
    if place is not None and planned:
        raise ClatError(
            f"--{place} goes with one protocol on all images, not with autoattack-sampled, fast, --budget or "
            "--target-width: leave out one or the other"
        )
    if place is not None and options.devices != 1:
        raise ClatError(f"--devices and --{place} both divide the images: give one of them")
    if options.share is not None and shares_asked(options):
        raise ClatError("--share is one of the shares that --jobs runs: give one of them")
    if options.share is not None and options.gallery is not None:
        raise ClatError(
            "--gallery shows the whole result: leave it out beside --share, and give it to --jobs, which joins the "
            "shares"
        )

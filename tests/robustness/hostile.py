"""Hostile inputs through the command line: each ends in a result or in one clear line, and changes no file of the
user's. They run in forks of this process, a fork a kind, so that one that dies takes no others along."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase
from tests.robustness.inputs import KINDS
from tests.robustness.inputs.values import Content, Input, Link

from clat import cli

SECONDS = 3.0
"""Of computing, after which an input is taken for sound, and Ctrl-C is pressed."""
HANGS = 90.0
"""Seconds by the wall after which an input is taken to hang."""
MEMORY = 4 * 2**30
"""Bytes of data that a process may have."""


@dataclass(frozen=True)
class Outcome:
    """How an input ended: "result", "refused" with one line, "stopped" by Ctrl-C in the midst of its work, or
    "fault"; `line`: what was said last; `words`: the command; `number`: of the input, within its kind."""

    kind: str
    number: int
    ended: str
    line: str
    words: tuple[str, ...]


class Slow(BaseException):
    """A second Ctrl-C had to be pressed."""


def run_kind(kind: str, count: int, seed: int, place: Path, say: Callable[[str], object]) -> list[Outcome]:
    """Run so many inputs of a kind, in as many processes as it takes."""
    outcomes: list[Outcome] = []
    start = time.monotonic()
    while len(outcomes) < count:
        begun = len(outcomes)
        found = _in_a_process(kind, count - begun, seed + begun, begun, place)
        outcomes += found
        if not found:
            raise RuntimeError(f"the generator of {kind} gives nothing more")
        for outcome in found:
            if outcome.ended == "fault":
                say(f"{kind} {outcome.number}: {outcome.line}\n    clat {' '.join(outcome.words)!r}")
    say(f"{kind}: {count} inputs, {time.monotonic() - start:.0f} s")
    return outcomes


def _in_a_process(kind: str, count: int, seed: int, first: int, place: Path) -> list[Outcome]:
    """Run inputs in a fork until all are through, or it dies."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as journal:
            _work(kind, count, seed, first, place, journal)
    os.close(writing)
    outcomes: list[Outcome] = []
    begun: dict[str, Any] | None = None
    pending, died = b"", ""
    while True:
        ready, _, _ = select.select([reading], [], [], HANGS)
        if not ready:
            died = f"hangs: still at work after {HANGS:.0f} s"
            os.kill(pid, signal.SIGKILL)
            break
        more = os.read(reading, 2**16)
        if not more:
            break
        *lines, pending = (pending + more).split(b"\n")
        for line in lines:
            record = json.loads(line)
            if "ended" in record:
                outcomes.append(Outcome(**{**record, "words": tuple(record["words"])}))
                begun = None
            else:
                begun = record
    os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if begun is not None:
        line = died or f"the process died of {code}"
        outcomes.append(Outcome(kind, begun["number"], "fault", line, tuple(begun["words"])))
    elif code:
        raise RuntimeError(f"the process of {kind} ended with {code}")
    return outcomes


def _work(kind: str, count: int, seed: int, first: int, place: Path, journal: Any) -> None:
    """Generate and run inputs, in the fork, which ends here."""
    code = 1
    try:
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        number = [first]
        settings = hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            derandomize=False,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )

        def tell(record: Mapping[str, Any]) -> None:
            journal.write(json.dumps(record) + "\n")
            journal.flush()

        @hypothesis.seed(seed)
        @settings
        @hypothesis.given(KINDS[kind][0]())
        def run(given: Input) -> None:
            if number[0] - first >= count:
                return
            about = {"kind": kind, "number": number[0], "words": given.words}
            tell(about)
            ended, line = run_input(given, place / f"{kind}-{number[0]}")
            tell(about | {"ended": ended, "line": line})
            number[0] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def run_input(given: Input, folder: Path) -> tuple[str, str]:
    """Return how an input ended, and what was said; its folder stays where that was a fault."""
    folder.mkdir()
    lay_out(given.files, folder)
    before = snapshot(folder)
    code, out, err = _command(given.words, folder)
    ended, line = _judged(code, out, err, alone="--json" in given.words)
    if ended != "fault" and (given.kept or ended == "refused"):
        after = snapshot(folder)
        lost = [path for path, content in before.items() if after.get(path) != content]
        if lost:
            ended, line = "fault", f"changed {lost[0]!r} ({line})"
    if ended == "fault":
        (folder / "said.txt").write_text(f"{given.words}\n{code}\n{out[-5000:]}\n{err[-5000:]}", errors="replace")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return ended, line


def lay_out(files: Mapping[str, Content], folder: Path) -> None:
    """Write the files of an input; of paths that stand in each other's way, the first stays."""
    for name, content in files.items():
        path = folder / os.fsdecode(name.encode(errors="surrogateescape"))
        with contextlib.suppress(OSError):
            (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
            if isinstance(content, Link):
                path.symlink_to(content.target)
            elif content is not None:
                path.write_bytes(content)


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Return what is in a folder: of files the bytes, of links the target."""
    found: dict[str, bytes | str] = {}
    for root, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(root, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path) and "__pycache__" not in path:
                found[path] = Path(path).read_bytes()
    return found


def _command(words: Sequence[str], folder: Path) -> tuple[int | str, str, str]:
    """Run a command in this process, in the folder; its exit code, or the traceback where it gives none."""
    for name in [name for name in sys.modules if name.startswith("hostile_")]:
        del sys.modules[name]
    code: int | str
    said = [folder.parent / f"{folder.name}.{end}" for end in ("out", "err")]
    with _screen(*said), contextlib.chdir(folder), _stopped_in_time():
        outside, sys.argv = sys.argv, ["clat", *words]
        try:
            code = cli.main(list(words))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else f"SystemExit({error.code!r})"
        except BaseException:
            code = traceback.format_exc()
        finally:
            sys.argv = outside
            torch.set_default_dtype(torch.float32)
    texts = [file.read_text(errors="replace") for file in said]
    for file in said:
        file.unlink()
    return code, texts[0], texts[1]


@contextlib.contextmanager
def _screen(out: Path, err: Path) -> Iterator[None]:
    """Inside, what is printed goes into two files, which take the characters that a terminal does."""
    streams, kept = (sys.stdout, sys.stderr), [os.dup(number) for number in (1, 2)]
    with out.open("w", encoding="utf-8") as one, err.open("w", encoding="utf-8", errors="backslashreplace") as two:
        for number, file in ((1, one), (2, two)):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = one, two
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)


@contextlib.contextmanager
def _stopped_in_time() -> Iterator[None]:
    """Press Ctrl-C after some seconds of computing, once more after as many, and then end the test."""
    presses = [0]

    def press(number: int, frame: object) -> None:
        presses[0] += 1
        if presses[0] > 2:
            raise Slow
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPROF, press)
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _judged(code: int | str, out: str, err: str, *, alone: bool = False) -> tuple[str, str]:
    """Return how an input ended; `alone`: standard output is the result's, and what is told on the way is an error
    stream's, before the error."""
    if isinstance(code, str):
        return "fault", code.strip().splitlines()[-1]
    if "Traceback" in out + err:
        return "fault", "a traceback on the screen"
    if code in (0, 1):
        return "result", ""
    if code == 130:
        return "stopped", ""
    lines = err.splitlines()
    if code == 2:
        told = [line for line in lines if line.startswith("clat: error: ")]
        clear = lines[-1:] == told and (alone or len(lines) == 1)
        return ("refused", lines[-1]) if clear else ("fault", f"not one clear line: {lines}"[:300])
    return "fault", f"exit code {code}"


def counted(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return the outcomes as plain data."""
    ends = ("result", "refused", "stopped", "fault")
    by_kind = {kind: Counter(one.ended for one in outcomes if one.kind == kind) for kind in KINDS}
    return {
        "inputs": len(outcomes),
        **{end: sum(one.ended == end for one in outcomes) for end in ends},
        "by_kind": {kind: {end: found[end] for end in ends} for kind, found in by_kind.items()},
        "faults": [asdict(one) for one in outcomes if one.ended == "fault"],
    }


def share_out(count: int, only: Sequence[str] | None = None) -> dict[str, int]:
    """Return how many of `count` inputs are of each kind, or of each of some."""
    shares = {kind: share for kind, (_, share) in KINDS.items() if only is None or kind in only}
    counts = {kind: count * share // sum(shares.values()) for kind, share in shares.items()}
    counts[next(iter(counts))] += count - sum(counts.values())
    return counts

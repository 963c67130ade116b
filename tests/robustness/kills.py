"""Commands killed at random moments, and gone on with: each must end as one that was left alone, bit for bit."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.robustness import disks
from tests.robustness.process import Command, Ended
from tests.robustness.subjects import STUDY, TRAIN, Subject, evaluation

LIMIT = 2.0
SLACK = 1.5
"""Seconds in which a signal must end a command, and what a busy machine may add."""
LONG = 600.0
"""Seconds that no command here takes."""

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
ENDS = {"SIGKILL": (-9,), "SIGTERM": (143, -15), "SIGINT": (130, -2), "disk full": (2,), "read-only": (2, 1)}
"""How a command may end that was hit; it may also have come to its end just before, 0. A study whose row failed
says so with 1."""
WAYS = (*SIGNALS, "disk full", "read-only")


@dataclass(frozen=True)
class Kill:
    """One kill. `moment`: the share of the command's time, or of its bytes on a disk, at which it hit; `anew`: in
    an interpreter of its own; `code`: how it ended; `fault`: what was wrong, None if nothing."""

    command: str
    way: str
    moment: float
    anew: bool
    code: int | None
    fault: str | None


class Fault(Exception):
    """Something went wrong that must not."""


class Campaign:
    """Kills commands in the folder `place`; `say`: is told of each one."""

    def __init__(self, place: Path, seed: int, say: Callable[[str], object]) -> None:
        self.place, self.random, self.say = place, random.Random(seed), say
        self.skipped: list[str] = []
        self.mounts = disks.can_mount(place / "mount-test")
        if not self.mounts:
            self.skipped = ["disk full: nothing can be mounted here", "read-only: nothing can be mounted here"]
        self._commands = 0

    def run(self, count: int) -> list[Kill]:
        """Kill so many times, shared out over commands and ways."""
        self.reference: dict[str, Path] = {}
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}
        self._refer(TRAIN)
        weights = self.reference["train"] / "run" / "weights" / "last.safetensors"
        subjects = [TRAIN, evaluation(weights), STUDY]
        for subject in subjects[1:]:
            self._refer(subject)
        ways = WAYS if self.mounts else tuple(SIGNALS)
        plan = [(subjects[(0, 1, 0, 2)[k % 4]], ways[k // 4 % len(ways)]) for k in range(count)]
        kills: list[Kill] = []
        for number, (subject, way) in enumerate(plan):
            anew = subject is not STUDY and way in SIGNALS and number % 8 in (0, 1)
            kills.append(self._case(number, subject, way, anew))
            self.say(f"kill {number + 1}/{count}: {kills[-1]}")
        return kills

    def _refer(self, subject: Subject) -> None:
        """Run it once, left alone."""
        folder = self.place / f"whole-{subject.name}"
        folder.mkdir()
        on_disk = self.mounts and disks.small_disk(folder, 2**26)
        start = time.monotonic()
        ended = self._to_the_end(subject, subject.start(folder))
        if ended.code:
            raise RuntimeError(f"{subject.name} does not work: {ended}")
        self.seconds[subject.name] = time.monotonic() - start
        self.say(f"{subject.name} takes {self.seconds[subject.name]:.1f} s")
        if on_disk:
            self.bytes[subject.name] = disks.used(folder)
        self.reference[subject.name] = folder

    def _case(self, number: int, subject: Subject, way: str, anew: bool) -> Kill:
        folder = self.place / f"case-{number}"
        folder.mkdir()
        moment = self.random.random()
        code = fault = None
        try:
            ended = (self._signalled if way in SIGNALS else self._on_a_bad_disk)(subject, way, moment, folder, anew)
            code = ended.code
            self._judge(way, ended)
            self._go_on(subject, folder)
        except Fault as error:
            fault = str(error)
        return Kill(subject.name, way, round(moment, 4), anew, code, fault)

    def _signalled(self, subject: Subject, way: str, moment: float, folder: Path, anew: bool) -> Ended:
        command = self._start(subject, subject.start(folder), anew)
        # A new interpreter first imports for some seconds; there it is hit as well.
        time.sleep(moment * (self.seconds[subject.name] + (6.0 if anew else 0.0)))
        alone = way == "SIGTERM" and self.random.random() < 0.5
        start = time.monotonic()
        command.signal(SIGNALS[way], group=not alone)
        ended = command.wait(LONG)
        if ended is None:
            command.signal(signal.SIGKILL)
            raise Fault(f"did not end on {way}")
        if time.monotonic() - start > LIMIT + SLACK:
            raise Fault(f"took {time.monotonic() - start:.1f} s to end on {way}")
        deadline = time.monotonic() + LIMIT
        while command.left_behind():
            if time.monotonic() > deadline:
                command.signal(signal.SIGKILL)
                raise Fault(f"left processes at work after {way}")
            time.sleep(0.05)
        return ended

    def _on_a_bad_disk(self, subject: Subject, way: str, moment: float, folder: Path, anew: bool) -> Ended:
        if way == "disk full":
            disks.small_disk(folder, int(1.1 * moment * self.bytes[subject.name]))
            ended = self._to_the_end(subject, subject.start(folder))
            disks.make_room(folder)
            return ended
        command = self._start(subject, subject.start(folder), anew)
        time.sleep(moment * self.seconds[subject.name])
        disks.lock_writing(folder)
        try:
            ended = self._waited(command)
        finally:
            disks.release(folder)
        return ended

    def _judge(self, way: str, ended: Ended) -> None:
        if ended.code not in (0, *ENDS[way]):
            raise Fault(f"ended with {ended.code} on {way}: {_last(ended)}")
        if "Traceback" in ended.out + ended.err:
            raise Fault(f"a traceback on {way}: {_last(ended)}")
        if ended.code == 2 and (
            not _last(ended).startswith("clat: error: ") or ended.err.count("clat: error") != 1
        ):
            raise Fault(f"no clear line on {way}: {ended.err[-500:]}")

    def _go_on(self, subject: Subject, folder: Path) -> None:
        words = subject.again(folder)
        if words is not None:
            ended = self._to_the_end(subject, words)
            if ended.code or "Traceback" in ended.err:
                raise Fault(f"cannot go on, {ended.code}: {_last(ended)}")
        differing = subject.differs(self.reference[subject.name], folder)
        if differing is not None:
            raise Fault(f"ended otherwise: {differing}")

    def _start(self, subject: Subject, words: Sequence[str], anew: bool = False) -> Command:
        self._commands += 1
        log = self.place / f"log-{self._commands}"
        return Command(words, self.place, log, anew=anew, before=subject.before)

    def _to_the_end(self, subject: Subject, words: Sequence[str]) -> Ended:
        return self._waited(self._start(subject, words))

    def _waited(self, command: Command) -> Ended:
        ended = command.wait(LONG)
        if ended is None:
            command.signal(signal.SIGKILL)
            raise Fault(f"still at work after {LONG:.0f} s")
        return ended

    def close(self) -> None:
        """Take all mounts away."""
        for folder in [*self.place.glob("case-*"), *self.place.glob("whole-*")]:
            disks.release(folder)


def _last(ended: Ended) -> str:
    lines = [line for line in (ended.err or ended.out).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def counted(kills: Sequence[Kill], skipped: Sequence[str]) -> dict[str, object]:
    """Return the kills as plain data."""
    return {
        "kills": len(kills),
        "hit": sum(kill.code != 0 for kill in kills),
        "identical": sum(kill.fault is None for kill in kills),
        "by_command_and_way": {
            f"{command}, {way}": number
            for (command, way), number in sorted(Counter((kill.command, kill.way) for kill in kills).items())
        },
        "skipped": list(skipped),
        "faults": [asdict(kill) for kill in kills if kill.fault is not None],
        "each": [asdict(kill) for kill in kills],
    }

"""A place for jobs that runs them in this process, one after another: what they do, without what processes cost."""

from __future__ import annotations

from collections.abc import Sequence

from clat import cli
from clat.runtime.jobs.job import Job


class InThisProcess:
    """Runs each job where it is started. The attempts numbered in `die` end as a killed process does, before
    they do anything."""

    def __init__(self, count: int = 1, die: Sequence[int] = ()) -> None:
        self.count, self.die = count, tuple(die)
        self.started: list[list[str]] = []

    def check(self, jobs: Sequence[Job]) -> None:
        pass

    def has_room(self, job: Job) -> bool:
        return True

    def start(self, job: Job) -> Ended:
        words = list(job.words())
        self.started.append(words)
        return Ended(-9 if len(self.started) - 1 in self.die else cli.main(words))

    def close(self) -> None:
        pass


class Ended:
    def __init__(self, code: int) -> None:
        self.code = code

    def where(self) -> str:
        return "here"

    def exit_code(self) -> int:
        return self.code

    def stop(self, number: int) -> None:
        pass

"""Jobs in their order, as many as there is room for, once more where they fail; with places that only count."""

from __future__ import annotations

import io
import os
import signal
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console

from clat.core.errors import ClatError
from clat.runtime.jobs import schedule
from clat.runtime.jobs.job import LOST, Job, JobStatus, last_line
from clat.runtime.jobs.processes import LocalProcesses, visible_gpus
from clat.runtime.jobs.schedule import JobsStopped, run_jobs
from clat.runtime.jobs.shown import ShownJobs, jobs_table


class Counted:
    """A place for two jobs at a time, each of which ends after so many looks with the codes given for it."""

    def __init__(self, codes=None, looks=2):
        self.codes, self.looks = codes or {}, looks
        self.began, self.now, self.most, self.sent = [], 0, 0, []

    def check(self, jobs):
        pass

    def has_room(self, job):
        return self.now < 2

    def start(self, job):
        self.began.append(job.name)
        self.now += 1
        self.most = max(self.most, self.now)
        return Fake(self, job.name)

    def close(self):
        pass


class Fake:
    def __init__(self, place, name):
        self.place, self.name, self.left = place, name, place.looks

    def where(self):
        return "here"

    def exit_code(self):
        self.left -= 1
        if self.left > 0:
            return None
        self.place.now -= 1
        return next(iter(self.place.codes.get(self.name, ())), 0) if not self.place.sent else 143

    def stop(self, number):
        self.place.sent.append((self.name, number))
        self.left = 1


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(schedule, "PAUSE", 0.001)


def job(name, tmp_path, *after, **settings):
    return Job(name=name, words=lambda: ["doctor"], log=tmp_path / f"{name}.log", after=after, **settings)


def test_jobs_wait_for_those_they_build_on_and_no_more_run_than_there_is_room_for(tmp_path):
    place, events = Counted(), []
    jobs = [job("a", tmp_path), job("b", tmp_path, "a"), job("c", tmp_path), job("d", tmp_path, "b", "gone")]
    assert run_jobs(jobs, place, changed=lambda one: events.append((one.job.name, one.state))) == {}
    assert place.most == 2
    assert place.began[:2] == ["a", "c"], "the first in order that may"
    assert events.index(("a", "done")) < events.index(("b", "running"))
    assert events.index(("b", "done")) < events.index(("d", "running"))


def test_a_job_that_finds_early_what_it_needs_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "EARLY", 1)
    place = Counted(looks=5)
    run_jobs([job("a", tmp_path), job("b", tmp_path, "a", early=lambda: True)], place)
    assert place.most == 2


def test_a_failure_is_tried_once_more_and_then_named_and_others_go_on(tmp_path):
    (tmp_path / "a.log").write_text("epoch 1\nclat: error: no such file\n")
    place, events = Counted({"a": [2]}), []
    jobs = [job("a", tmp_path), job("b", tmp_path, "a")]
    failures = run_jobs(jobs, place, changed=lambda one: events.append((one.job.name, one.state)))
    assert failures == {"a": "no such file"}
    assert place.began == ["a", "a", "b"]
    assert [state for name, state in events if name == "a"] == ["running", "waiting", "running", "failed"]


def test_a_lost_machine_is_named(tmp_path):
    assert run_jobs([job("a", tmp_path)], Counted({"a": [LOST]})) == {"a": "here is gone"}


def test_a_job_waits_for_what_its_last_attempt_left_at_work(tmp_path):
    left = [True] * 5

    def is_free():
        return not left or left.pop() is None

    place = Counted({"a": [-9]})
    failures = run_jobs([job("a", tmp_path, is_free=is_free)], place)
    assert "SIGKILL" in failures["a"]
    assert (place.began, left) == (["a", "a"], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_that_run_and_starts_no_other(number, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "PATIENCE", 0.01)
    place = Counted(looks=10**9)
    threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
    with pytest.raises(JobsStopped) as caught:
        run_jobs([job(name, tmp_path) for name in "abc"], place)
    assert caught.value.number == number
    assert sorted(place.sent) == [("a", number), ("b", number)]
    assert place.now == 0


def test_a_job_that_was_asked_to_stop_stops_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "PATIENCE", 0.01)
    with pytest.raises(JobsStopped) as caught:
        run_jobs([job("a", tmp_path), job("b", tmp_path)], Counted({"a": [130]}))
    assert caught.value.number == signal.SIGINT


def test_jobs_that_wait_for_one_another_are_named(tmp_path):
    with pytest.raises(ClatError, match="wait for one another, or for more than there is: a, b"):
        run_jobs([job("a", tmp_path, "b"), job("b", tmp_path, "a")], Counted())


PROGRAM = """#!/bin/sh
echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS" >> "$0".seen
sleep 0.3
"""


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """What processes in place of clat find in their environment."""
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setattr("clat.runtime.jobs.processes.sys.executable", str(program))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return lambda: [line.split() for line in (tmp_path / "program.seen").read_text().splitlines()]


def test_gpus_and_threads_are_divided(seen, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    place = LocalProcesses(2, gpus=["3", "GPU-x"])
    jobs = [job(name, tmp_path, device="auto") for name in ("a", "b")]
    assert run_jobs(jobs, place) == {}
    assert sorted(seen()) == [["3", "4"], ["GPU-x", "4"]]
    run_jobs([job("both", tmp_path, device="auto", processes=2)], place)
    assert seen()[-1] == ["3,GPU-x", "2"]


def test_more_jobs_than_gpus_share_them_and_threads_that_are_set_stay(seen, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run_jobs([job(name, tmp_path, device="auto") for name in "abcd"], LocalProcesses(4, gpus=["0", "1"]))
    assert sorted(gpu for gpu, _ in seen()) == ["0", "0", "1", "1"]
    assert {threads for _, threads in seen()} == {"1"}


def test_fewer_gpus_than_a_job_asks_for_are_an_error_before_any_starts(tmp_path):
    place = LocalProcesses(2, gpus=["0"])
    with pytest.raises(ClatError, match=r"b asks for 2 GPUs \(engine.devices\), but there are 1 here"):
        run_jobs([job("a", tmp_path), job("b", tmp_path, device="auto", processes=2)], place)
    assert not (tmp_path / "a.log").exists()


def test_the_gpus_that_a_user_has_named_are_those_that_are_divided(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    assert visible_gpus() == ["5", "7"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1"]


def test_jobs_are_shown_as_lines_and_as_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr("clat.runtime.jobs.shown.time", SimpleNamespace(monotonic=lambda: 1065.0))
    screen = Console(width=80, record=True, file=io.StringIO())
    shown = ShownJobs(screen, None)
    status = JobStatus(job("a", tmp_path, progress=lambda: "epoch 1/2"), state="running", attempts=1, where="GPU 0")
    status.since = 1000.0
    shown.changed(status)
    shown.show([status])
    waiting = JobStatus(job("b", tmp_path), failure="no room")
    shown.changed(waiting)
    waiting.state = "failed"
    shown.changed(waiting)
    screen.print(jobs_table([status, waiting]))
    text = screen.export_text().replace("\N{NO-BREAK SPACE}", " ")
    assert text.splitlines()[:3] == ["a ...", "b: failed: no room; trying once more", "b: failed: no room"]
    assert all(word in text for word in ("GPU 0", "epoch 1/2", "1 min 05 s", "1 running, 1 failed"))


def test_a_log_that_is_not_there_has_no_message(tmp_path):
    assert last_line(tmp_path / "none.log") == "no message"

"""An evaluation in shares that are commands of their own: what comes out is what one process finds."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest

from clat import cli
from clat.cli import evaluate
from clat.cli.evaluation_shares import OWN, parse_share
from clat.cli.options import option_words
from clat.core.errors import ClatError
from clat.runtime.jobs import schedule
from helpers.places import InThisProcess

WORDS = ["evaluate", "--protocol", "pgd-10", "--eps", "0.1", "--num-samples", "31", "--device", "cpu"]


@pytest.fixture
def place(monkeypatch):
    """Has `--jobs` run its shares in this process, and keeps what it started."""
    found = InThisProcess()
    monkeypatch.setattr("clat.runtime.jobs.processes.LocalProcesses", lambda count: found)
    monkeypatch.setattr(schedule, "PAUSE", 0.0)
    return found


def known(trained):
    return ["--model", "own_network:Net", "--weights", str(trained / "weights" / "last.safetensors")]


def read(file):
    return json.loads(file.read_text())


def verdicts(file):
    return [read(file)[name] for name in ("correct", "robust", "predicted", "labels", "images")]


def test_shares_beside_one_another_give_the_verdicts_of_one_process_also_where_one_dies(
    clat, place, trained, tmp_path
):
    place.die = (1,)
    assert clat(*WORDS, *known(trained), "--out", tmp_path / "one.json").code == 0
    done = clat(*WORDS, *known(trained), "--jobs", 2, "--out", tmp_path / "two.json")
    assert done.code == 0, done.err
    assert "share 2: failed: died of SIGKILL" in done.out
    assert verdicts(tmp_path / "two.json") == verdicts(tmp_path / "one.json")
    one, two = (read(tmp_path / f"{name}.json") for name in ("one", "two"))
    assert two["environment"]["processes"] == 2
    assert two["cost"]["backwards"] == one["cost"]["backwards"]
    assert two["notes"] == one["notes"], "the cost is of all shares"
    assert len(place.started) == 3
    assert not list(tmp_path.glob("*.state*"))


def test_with_a_state_only_the_shares_that_are_missing_run_again(clat, place, trained, tmp_path):
    words = [*WORDS, *known(trained), "--jobs", 2, "--state", tmp_path / "state"]
    assert clat(*words, "--out", tmp_path / "one.json").code == 0
    assert "went on from a state file" not in str(read(tmp_path / "one.json")["notes"])
    (tmp_path / "state.2p-1.json").unlink()
    (tmp_path / "state.2p-1").unlink()
    place.started.clear()
    assert clat(*words, "--out", tmp_path / "two.json").code == 0
    assert [words[-1].endswith("state.2p-1.json") for words in place.started] == [True]
    assert verdicts(tmp_path / "two.json") == verdicts(tmp_path / "one.json")
    (tmp_path / "state.2p-1.json").unlink()  # its state stays: the share goes on from it, at no cost
    assert clat(*words, "--out", tmp_path / "three.json").code == 0
    assert "went on from a state file" in str(read(tmp_path / "three.json")["notes"])


def test_what_was_measured_before_costs_what_it_did(clat, place, trained, tmp_path):
    words = [*WORDS, *known(trained), "--jobs", 2, "--state", tmp_path / "state"]
    assert clat(*words, "--out", tmp_path / "one.json").code == 0
    for number in range(2):  # as long as on two cores at a time
        file = tmp_path / f"state.2p-{number}.json"
        data = read(file)
        file.write_text(json.dumps({**data, "cost": {**data["cost"], "seconds": 1000.0}}))
    assert clat(*words, "--out", tmp_path / "two.json").code == 0
    one, two = (read(tmp_path / f"{name}.json")["cost"] for name in ("one", "two"))
    assert two["backwards"] == one["backwards"]
    assert 1000 <= two["seconds"] < 1100
    for number in range(2):
        (tmp_path / f"state.2p-{number}").unlink()  # as told where another evaluation's state is in the way
    place.started.clear()
    other = [word if word != "0.1" else "0.05" for word in words]
    assert clat(*other, "--out", tmp_path / "three.json").code == 0
    assert len(place.started) == 2
    single = [word if word != "0.1" else "0.05" for word in WORDS]
    assert clat(*single, *known(trained), "--out", tmp_path / "four.json").code == 0
    assert read(tmp_path / "three.json")["cost"]["backwards"] == read(tmp_path / "four.json")["cost"]["backwards"]


def test_a_network_that_each_draws_for_itself_is_refused(refused, place, tmp_path):
    drawn = ["--model", "own_network:Net", "--jobs", 2, "--out", tmp_path / "out.json"]
    assert "belongs to another evaluation (model" in refused(*WORDS, *drawn)
    assert not (tmp_path / "out.json").exists()


def test_what_does_not_go_together_is_refused(refused, tmp_path):
    model = ["--model", "own_network:Net"]
    for more, says in (
        (["--jobs", 2, "--devices", 2], "--devices and --jobs both divide"),
        (["--jobs", 2, "--budget", "10m"], "--jobs goes with one protocol"),
        (["--share", "0/2"], "--share needs --state"),
        (["--share", "0", "--state", tmp_path / "s"], "expected K/N"),
        (["--share", "7/2", "--state", tmp_path / "s"], "there is no share 7"),
        (["--share", "0/2", "--jobs", 2, "--state", tmp_path / "s"], "--share is one of the shares"),
        (["--share", "0/2", "--gallery", 2, "--state", tmp_path / "s"], "--gallery shows the whole result"),
        (["--on", "ray"], "add --jobs N"),
        (["--jobs", 0], "--jobs is 0"),
        (["--address", "auto"], "--address belongs to a Ray cluster"),
    ):
        assert says in refused(*WORDS, *model, *more)


@pytest.mark.parametrize("text", ["", "1", "1/", "/2", "1/0", "-1/2", "a/b"])
def test_a_share_is_two_numbers(text):
    with pytest.raises(ClatError, match="expected K/N"):
        parse_share(text)


def test_a_share_gets_the_options_that_are_no_defaults(tmp_path):
    from clat.cli.parser import build_parser

    words = [
        "evaluate",
        "--model",
        "a:b",
        "--model-args",
        "x=1",
        "y=2",
        "--eps",
        "0.1",
        "--jobs",
        "2",
        "--seed",
        "3",
    ]
    options, rest = build_parser(cli.COMMANDS).parse_known_args([*words, "--out", "o.json"])
    assert isinstance(options, Namespace)
    assert not rest
    found = option_words(options, evaluate.add_options, without=OWN)
    again, rest = build_parser(cli.COMMANDS).parse_known_args(["evaluate", *found])
    assert not rest
    assert vars(again) == vars(options) | {"jobs": None, "out": None}

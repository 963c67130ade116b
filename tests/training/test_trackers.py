"""Loggers beside metrics.jsonl: the numbers that they get, resuming, failures, names that are none."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import clat
from clat.core.errors import ClatError
from clat.recipe.schema import MonitorConfig
from clat.recipe.toml import recipe_hash
from clat.training.trackers import flattened, wanted_loggers
from helpers import runs as kit

MONITOR = {"steps": 1, "num_samples": 16}


class Recorder:
    """A logger in the manner of Fabric."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.params: dict[str, Any] = {}
        self.ended: list[str] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((step, metrics))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.params = params

    def finalize(self, status: str) -> None:
        self.ended.append(status)


def monitored(*names: str) -> Any:
    return kit.recipe(monitor=MonitorConfig(**MONITOR, loggers=names))


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "csv" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_logger_gets_the_numbers_of_each_epoch(tmp_path: Path) -> None:
    recorder = Recorder()
    result = clat.train(
        monitored("csv"), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True, loggers=[recorder]
    )
    epochs = kit.records(result.out, "epoch")
    assert [step for step, _ in recorder.metrics] == [1, 2, 3, 4]
    for (_, numbers), record in zip(recorder.metrics, epochs, strict=True):
        assert numbers["loss"] == record["loss"]
        assert numbers["heldout_robust"] == record["heldout_robust"]
        assert numbers["cross_entropy"] == record["parts"]["cross_entropy"]
    assert recorder.params["stages.1.objective.name"] == "clat"
    assert recorder.ended == ["success"]
    assert [float(row["loss"]) for row in rows(result.out)] == [record["loss"] for record in epochs]
    assert not (result.out / "tensorboard").exists(), "others were asked for"


def test_they_change_neither_weights_nor_the_recipe_s_hash(finished: Path, tmp_path: Path) -> None:
    plain, tracked = kit.recipe(), monitored("csv")
    assert recipe_hash(plain) == recipe_hash(tracked)
    clat.train(tracked, tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True)
    assert kit.same(kit.weights(finished, "last"), kit.weights(tmp_path / "run", "last"))


def test_a_resumed_run_has_every_epoch_once(tmp_path: Path, monkeypatch: Any) -> None:
    out, recorder = tmp_path / "run", Recorder()
    kit.train_and_stop(monkeypatch, monitored("csv"), out, after_steps=10)
    clat.resume(out, model=kit.tiny(), data=kit.data(), quiet=True, loggers=[recorder])
    assert [int(row["step"]) for row in rows(out)] == [1, 2, 3, 4]
    assert [step for step, _ in recorder.metrics] == [3, 4]


def test_a_logger_that_fails_does_not_end_the_run(tmp_path: Path, capsys: Any) -> None:
    class Failing(Recorder):
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            super().log_metrics(metrics, step)
            if step == 2:
                raise ConnectionError("no route\nto host")

    failing = Failing()
    result = clat.train(
        monitored(), tmp_path / "run", model=kit.tiny(), data=kit.data(), loggers=[failing, Recorder()]
    )
    said = capsys.readouterr().out
    assert said.count("the logger 'Failing 1' gets no more, it failed: ConnectionError: no route\n") == 1
    assert [step for step, _ in failing.metrics] == [1, 2]
    assert len(kit.records(result.out, "epoch")) == 4


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A module in the place of a library, and what it is told."""
    told: list[tuple[Any, ...]] = []

    def log(metrics: Any, step: int) -> None:
        told.append(("log", step, metrics["loss"]))

    def begin(**settings: Any) -> Any:
        told.append(("init", settings))
        return SimpleNamespace(log=log, finish=lambda **end: told.append(("finish", end)))

    def start_run(**settings: Any) -> Any:
        told.append(("init", settings))
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    module = SimpleNamespace(
        init=begin, start_run=start_run, log_metrics=log, log_params=lambda params: told.append(("params", params)),
        end_run=lambda status: told.append(("finish", status)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, name, module)
    return told


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_libraries_get_the_same_and_resume_their_run(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    told = stand_in(name, monkeypatch)
    out = tmp_path / "run"
    kit.train_and_stop(monkeypatch, monitored(name), out, after_steps=10)
    first = [one for one in told if one[0] != "params"]
    assert [one[0] for one in first] == ["init", "log", "log", "finish"]
    told.clear()
    clat.resume(out, model=kit.tiny(), data=kit.data(), quiet=True)
    second = [one for one in told if one[0] != "params"]
    assert [one[:2] for one in second[1:-1]] == [("log", 3), ("log", 4)]
    settings, again = first[0][1], second[0][1]
    if name == "mlflow":
        assert settings == {"run_name": "run"}
        assert again == {"run_id": "abc"}
        assert (first[-1][1], second[-1][1]) == ("FAILED", "FINISHED")
    else:
        key = {"wandb": "id", "trackio": "name"}[name]
        assert settings[key] == again[key]
        assert settings["resume"] == "allow"
        assert settings["config"]["stages"][1]["objective"]["name"] == "clat"
    losses = [record["loss"] for record in kit.records(out, "epoch")]
    assert [one[2] for one in (*first[1:-1], *second[1:-1])] == losses


def test_a_logger_of_one_s_own(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "own_logger.py").write_text(
        "class Lines:\n"
        "    def __init__(self, folder):\n"
        "        self.file = folder / 'lines.txt'\n"
        "    def log_metrics(self, metrics, step):\n"
        "        with self.file.open('a') as file:\n"
        "            print(step, metrics['loss'], file=file)\n"
    )
    monkeypatch.chdir(tmp_path)
    result = clat.train(
        monitored("own_logger:Lines"), tmp_path / "run", model=kit.tiny(), data=kit.data(), quiet=True
    )
    sys.modules.pop("own_logger", None)
    assert len((result.out / "lines.txt").read_text().splitlines()) == 4


def test_loggers_that_are_none(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ClatError, match="unknown logger 'wadnb'; did you mean 'wandb'"):
        MonitorConfig(loggers=("wadnb",))
    with pytest.raises(ClatError, match="no module absent_module in the current folder"):
        MonitorConfig(loggers=("absent_module:Logger",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ClatError, match="'wandb' needs wandb, which is not installed: pip install wandb"):
        clat.train(monitored("wandb"), tmp_path / "run", model=kit.tiny(), data=kit.data())
    with pytest.raises(ClatError, match="a int is no logger"):
        clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(), data=kit.data(), loggers=[3])
    assert not (tmp_path / "run").exists()


def test_without_tensorboard_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted_loggers(()) == ()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert wanted_loggers(None) == ()


def test_settings_as_one_table() -> None:
    assert json.dumps(flattened({"a": 1, "b": {"c": [], "d": ["x", {"e": 2}]}})) == json.dumps(
        {"a": 1, "b.c": "[]", "b.d.0": "x", "b.d.1.e": 2}
    )

"""Same seed, same bits; stopped or killed anywhere and resumed, still the same bits (invariant 7)."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import clat
from clat.core import files
from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.evaluation import heldout
from clat.evaluation.job import EvaluationJob
from clat.models import Normalized, load_weights
from clat.models.settings import ModelConfig
from clat.recipe.schema import DataConfig, MonitorConfig
from clat.runtime.engine import EngineConfig
from clat.training import run, stage
from clat.training.interrupt import Interrupted, stop_on_signals
from clat.training.lock import LOCK, only_one_in
from clat.training.status import run_status
from helpers import runs as kit


class Killed(BaseException):
    """Ends a run at once, as SIGKILL would: nothing is saved on the way out."""


def train(out, recipe=None, **settings):
    return clat.train(recipe or kit.recipe(), out, model=kit.tiny(), data=kit.data(), quiet=True, **settings)


def resume(out, model=None):
    return clat.resume(out, model=model or kit.tiny(seed=123), data=kit.data(), quiet=True)


def saving_every(seconds):
    return kit.recipe(engine=EngineConfig(device="cpu", checkpoint_seconds=seconds))


@pytest.fixture
def at_step(monkeypatch):
    """A function that has `action` happen inside the run's k-th step, counted from 1, before or after it."""

    def arrange(k, action, *, after=True):
        original, count = stage.StageRunner.train_step, [0]

        def step(self, *args, **place):
            count[0] += 1
            if count[0] == k and not after:
                action()
            loss = original(self, *args, **place)
            if count[0] == k and after:
                action()
            return loss

        monkeypatch.setattr(stage.StageRunner, "train_step", step)

    return arrange


def kill():
    raise Killed


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_two_runs_of_one_seed_are_bit_identical_whatever_the_global_random_state(finished, tmp_path):
    torch.manual_seed(4321)
    before = torch.get_rng_state()
    train(tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before), "a run must leave the global random state alone"
    kit.assert_same_run(finished, tmp_path / "again")


class DrawsInPython(kit.TinyNet):
    """Scales from `random` and NumPy in its forward pass, as older stochastic depth draws."""

    def forward(self, x):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if self.training:
            x = x * (0.5 + random.random()) * (0.5 + np.random.rand())  # noqa: NPY002
        return self.head(self.dropout(F.relu(self.bn3(self.conv3(x))).mean((2, 3))))


def drawing():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DrawsInPython()


def test_a_network_that_draws_from_python_and_numpy_gives_the_same_bits_and_leaves_their_states(
    tmp_path, at_step, monkeypatch
):
    def go(out):
        clat.train(kit.recipe(), tmp_path / out, model=drawing(), data=kit.data(), quiet=True)

    random.seed(4321)
    np.random.seed(4321)  # noqa: NPY002
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    go("one")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    with monkeypatch.context():
        at_step(11, interrupt)
        with pytest.raises(Interrupted):
            go("other")
    clat.resume(tmp_path / "other", model=drawing(), data=kit.data(), quiet=True)
    kit.assert_same_run(tmp_path / "one", tmp_path / "other")


class DrawsFromItsOwn(kit.TinyNet):
    """Masks features by generators that it holds."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.of_torch, self.of_numpy = torch.Generator().manual_seed(3), np.random.default_rng(3)

    def forward(self, x):
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if self.training:
            x = x * (torch.rand(x.shape, generator=self.of_torch) < 0.9) * (0.5 + self.of_numpy.random())
        return self.head(self.dropout(F.relu(self.bn3(self.conv3(x))).mean((2, 3))))


def test_a_network_that_draws_from_generators_of_its_own_is_resumed_to_the_same_bits(
    tmp_path, at_step, monkeypatch
):
    def model():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return DrawsFromItsOwn()

    clat.train(kit.recipe(), tmp_path / "one", model=model(), data=kit.data(), quiet=True)
    with monkeypatch.context():
        at_step(11, interrupt)
        with pytest.raises(Interrupted):
            clat.train(kit.recipe(), tmp_path / "other", model=model(), data=kit.data(), quiet=True)
    clat.resume(tmp_path / "other", model=model(), data=kit.data(), quiet=True)
    kit.assert_same_run(tmp_path / "one", tmp_path / "other")


def test_another_seed_gives_other_weights(finished, tmp_path):
    train(tmp_path / "other", kit.recipe(seed=1))
    assert not kit.same(kit.weights(finished, "last"), kit.weights(tmp_path / "other", "last"))


# 16 steps: 1 to 4 and 5 to 8 are stage 1; 9 to 12 and 13 to 16 are stage 2, each after a selection.
@pytest.mark.parametrize("k", [1, 3, 4, 6, 8, 9, 11, 12, 13, 16])
def test_ctrl_c_saves_and_resuming_gives_the_same_bits(finished, tmp_path, monkeypatch, at_step, k):
    out = tmp_path / "run"
    with monkeypatch.context():
        at_step(k, interrupt)
        with pytest.raises(Interrupted) as caught:
            train(out)
    assert caught.value.exit_code == 130
    done = kit.progress(out)
    assert (done["epoch"], done["step"]) == ((k - 1) // 4, (k - 1) % 4 + 1)
    assert '"interrupted"' in (out / "run.json").read_text()
    monkeypatch.undo()
    resume(out)
    kit.assert_same_run(finished, out)
    assert '"finished"' in (out / "run.json").read_text()


@pytest.mark.parametrize("seconds", [0.0, 1e9])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("k", [1, 4, 5, 9, 10, 13, 16])
def test_a_kill_in_a_step_and_resuming_gives_the_same_bits(
    finished, tmp_path, monkeypatch, at_step, k, after, seconds
):
    """With a state saved at every step, and with one at the end of an epoch only."""
    out = tmp_path / "run"
    at_step(k, kill, after=after)
    with pytest.raises(Killed):
        train(out, saving_every(seconds))
    monkeypatch.undo()
    resume(out)
    kit.assert_same_run(finished, out)


def test_several_kills(finished, tmp_path, monkeypatch, at_step):
    out = tmp_path / "run"
    for start in (train, resume, resume):
        at_step(6, kill)
        with pytest.raises(Killed):
            start(out)
        monkeypatch.undo()
        assert len({(r["event"], r["epoch"]) for r in kit.records(out) if "epoch" in r}) == len(
            [r for r in kit.records(out) if "epoch" in r]
        )
    resume(out)
    kit.assert_same_run(finished, out)


def kill_at_write(monkeypatch, n):
    """Killed just after the n-th file was moved into place, which is before the next. Returns the names."""
    original, names, numbers = os.replace, [], itertools.count(1)

    def replace(source, target):
        number = next(numbers)  # the thread that writes behind training may come in between
        names.append(os.path.basename(target))
        original(source, target)
        if number == n:
            raise Killed

    monkeypatch.setattr(files.os, "replace", replace)
    return names


@pytest.fixture(scope="session")
def writes(tmp_path_factory):
    """The files that a run moves into place, in order."""
    with pytest.MonkeyPatch.context() as patch:
        names = kill_at_write(patch, 0)
        train(tmp_path_factory.mktemp("runs") / "counted")
    return names


@pytest.mark.parametrize("n", range(1, 29))
def test_a_kill_at_any_write_and_resuming_gives_the_same_bits(finished, tmp_path, monkeypatch, n):
    out = tmp_path / "run"
    kill_at_write(monkeypatch, n)
    with pytest.raises(Killed):
        train(out)
    monkeypatch.undo()
    # A run of the user's own network that was killed before anything of it was saved needs the same network.
    first = out / "weights" / "stage-0.safetensors"
    resume(out, None if first.exists() else kit.tiny())
    kit.assert_same_run(finished, out)


def test_all_writes_are_covered_above(writes):
    assert len(writes) == 28
    assert writes[0] == "recipe.toml"
    assert {"state.safetensors", "best.safetensors", "summary.json", "stage-1.safetensors"} <= set(writes)


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    result = resume(out)
    kit.assert_same_run(finished, out)
    assert kit.same(result.model.state_dict(), kit.weights(finished, "last"))


def test_a_stop_that_comes_during_the_last_check_is_heeded(finished, tmp_path, monkeypatch):
    """After the last step nothing looks at the flag but the end of the stage."""
    out = tmp_path / "run"
    original, calls = heldout.heldout_correct, [0]

    def check(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 4:
            interrupt()
        return original(*args, **kwargs)

    monkeypatch.setattr(heldout, "heldout_correct", check)
    with pytest.raises(Interrupted):
        train(out)
    assert not list((out / "evaluations").iterdir())
    monkeypatch.undo()
    resume(out)
    kit.assert_same_run(finished, out)


def stop_while_judging(monkeypatch, number, n):
    """The signal comes with the n-th verdict of the final evaluation."""
    original, calls = EvaluationJob._search, [0]

    def search(self, *args):
        calls[0] += 1
        if calls[0] == n:
            os.kill(os.getpid(), number)
        return original(self, *args)

    monkeypatch.setattr(EvaluationJob, "_search", search)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("n", [1, 3])  # of the given weights, which come first, and of the best ones
def test_a_stop_during_the_final_evaluation_and_resuming_goes_on_with_it(
    finished, tmp_path, monkeypatch, capsys, number, code, n
):
    out = tmp_path / "run"
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_while_judging(patch, number, n)
        with pytest.raises(Interrupted) as caught:
            clat.train(kit.recipe(), out, model=kit.tiny(), data=kit.data())
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before
    assert f"go on with: clat.resume('{out}', model=..., data=...)" in capsys.readouterr().out
    assert '"interrupted"' in (out / "run.json").read_text()
    done = [file.name for file in (out / "evaluations").glob("*.json")]
    assert len(done) == n - 1
    trained = (out / "state.safetensors").stat().st_mtime_ns
    again = resume(out)
    assert (out / "state.safetensors").stat().st_mtime_ns == trained, "nothing is trained again"
    kit.assert_same_run(finished, out)
    went_on = [label for label, result in again.evaluations.items() if "went on" in " ".join(result["notes"])]
    assert len(went_on) == 1, "the evaluation that was stopped goes on from where it stood"
    assert {file.suffix for file in (out / "evaluations").iterdir()} == {".json"}
    assert '"finished"' in (out / "run.json").read_text()


def test_a_stop_between_training_and_evaluation_is_heeded(finished, tmp_path, monkeypatch):
    original = run.write_json

    def write(path, data):
        original(path, data)
        if path.name == "summary.json":
            interrupt()

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_json", write)
        with pytest.raises(Interrupted):
            train(out)
    assert not list((out / "evaluations").iterdir())
    assert '"interrupted"' in (out / "run.json").read_text()
    resume(out)
    kit.assert_same_run(finished, out)


@pytest.fixture
def usual_ctrl_c():
    """Python's own handler, which a process started in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_ctrl_c")
def test_a_second_ctrl_c_stops_at_once():
    def twice():
        with stop_on_signals() as flag:
            interrupt()
            assert flag.number == signal.SIGINT
            interrupt()

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_termination_signal_has_its_own_exit_code(tmp_path, at_step):
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as caught:
        train(tmp_path / "run")
    assert caught.value.exit_code == 143


def test_the_flag_is_left_alone_outside_the_main_thread():
    seen = []

    def other():
        with stop_on_signals() as flag:
            seen.append(flag.number)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [0]
    assert signal.getsignal(signal.SIGINT) is before


# One process at a time


def test_a_folder_in_which_another_run_goes_on_is_left_alone(finished, tmp_path, at_step):
    """Neither resumed nor trained in, and the run in it does not notice."""
    out, before = tmp_path / "run", {}

    def intrude():
        before.update({file: file.read_bytes() for file in out.rglob("*") if file.is_file()})
        with pytest.raises(ClatError, match=f"another process is training in {out}"):
            resume(out)
        with pytest.raises(ClatError, match="holds another run already"):
            train(out)
        assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before

    at_step(6, intrude)
    train(out)
    assert before
    kit.assert_same_run(finished, out)


def test_of_two_that_find_the_same_new_folder_one_gets_it(tmp_path, monkeypatch):
    """The other one comes between the look into the folder and taking it."""
    original, out = run.prepare, tmp_path / "run"

    def prepare(*args):
        with monkeypatch.context() as patch:
            patch.setattr(run, "prepare", original)
            train(out)
        return original(*args)

    monkeypatch.setattr(run, "prepare", prepare)
    with pytest.raises(ClatError, match="holds another run already"):
        train(out)
    assert '"finished"' in (out / "run.json").read_text()


def test_while_one_sets_up_a_folder_another_does_not_get_in(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    with only_one_in(out), pytest.raises(ClatError, match="another process is training in"):
        train(out)
    assert [file.name for file in out.iterdir()] == [LOCK]
    train(out)


# What cannot be resumed


def stopped(out, monkeypatch, at_step):
    at_step(6, interrupt)
    with pytest.raises(Interrupted):
        train(out)
    monkeypatch.undo()
    return out


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ClatError, match="no run to resume"):
        resume(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"garbage" * 9, None])
def test_a_damaged_state_is_told_in_one_line(tmp_path, monkeypatch, at_step, damage):
    out = stopped(tmp_path / "run", monkeypatch, at_step)
    file = out / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-50] if damage is None else damage)
    with pytest.raises(ClatError, match="not a usable run state") as caught:
        resume(out)
    assert "\n" not in str(caught.value)


def test_another_recipe_model_or_data_is_refused(tmp_path, monkeypatch, at_step):
    out = stopped(tmp_path / "run", monkeypatch, at_step)
    before = kit.state(out)
    with pytest.raises(ClatError, match="does not fit the model"):
        resume(out, kit.tiny(width=5))
    train_set, test = kit.data()
    other = dataclasses.replace(train_set, images=255 - train_set.images)
    with pytest.raises(ClatError, match="began with other images: give it the same"):
        clat.resume(out, model=kit.tiny(), data=(other, test), quiet=True)
    recipe = out / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("seed = 0", "seed = 5", 1))
    with pytest.raises(ClatError, match="another recipe"):
        resume(out)
    assert kit.same(kit.state(out), before)


def test_a_shortened_metrics_file_is_not_padded_with_zeros(tmp_path, monkeypatch, at_step):
    out = stopped(tmp_path / "run", monkeypatch, at_step)
    (out / "metrics.jsonl").unlink()
    resume(out)
    assert [record["epoch"] for record in kit.records(out, "epoch")] == [2, 3, 4]


def contents(out):
    return {
        file: file.read_bytes() for file in out.rglob("*") if file.is_file() and "tensorboard" not in file.parts
    }


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("weights/stage-1.safetensors", "is damaged or gone"),
        ("weights/best.safetensors", "is damaged or gone"),
        ("weights/last.safetensors", "is damaged or gone"),
        ("evaluations/best.json", "is no result"),
    ],
)
@pytest.mark.parametrize("text", [None, "half"])
def test_a_resume_that_will_miss_a_file_at_its_end_changes_nothing(finished, tmp_path, name, says, text):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / name).unlink()
    if text is not None:
        (out / name).write_text(text)
    before = contents(out)
    if name.startswith("evaluations") and text is None:  # it is measured again
        resume(out)
        kit.assert_same_run(finished, out)
        return
    with pytest.raises(ClatError, match=says):
        resume(out)
    assert contents(out) == before


def test_another_number_of_threads_is_said_as_the_bits_depend_on_it(tmp_path, monkeypatch, at_step, capsys):
    out = stopped(tmp_path / "run", monkeypatch, at_step)
    about = json.loads((out / "run.json").read_text())
    threads = about["environment"]["threads"]
    (out / "run.json").write_text(json.dumps(about | {"environment": about["environment"] | {"threads": 64}}))
    clat.resume(out, model=kit.tiny(seed=123), data=kit.data())
    assert f"the run began with threads 64 (now {threads}): it goes on, but not" in capsys.readouterr().out


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "a run from before that was recorded"])
@pytest.mark.parametrize("missing", [("model", "data"), ("model",), ("data",)])
def test_a_resume_without_what_the_run_was_given_from_python_changes_nothing(
    tmp_path, monkeypatch, at_step, missing, recorded
):
    """The command knows the recipe's network and images only."""
    out = stopped(tmp_path / "run", monkeypatch, at_step)
    if not recorded:
        about = json.loads((out / "run.json").read_text())
        del about["given"]
        (out / "run.json").write_text(json.dumps(about))
    before = contents(out)
    again = {name: make() for name, make in (("model", kit.tiny), ("data", kit.data)) if name not in missing}
    with pytest.raises(ClatError) as caught:
        clat.resume(out, **again, quiet=True)
    assert contents(out) == before
    if recorded:
        held = " and ".join({"model": "model (helpers.runs.TinyNet)", "data": "data (colours)"}[m] for m in missing)
        assert f"was given its {held} from Python" in str(caught.value)
        assert f"clat.resume({str(out)!r}, model=..., data=...)" in str(caught.value)
    resume(out)


def test_a_resume_with_another_network_changes_nothing(tmp_path, monkeypatch, at_step):
    out = stopped(tmp_path / "run", monkeypatch, at_step)
    before = contents(out)
    plain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 6), torch.nn.Flatten())
    for other in (kit.tiny(width=5), plain):
        with pytest.raises(ClatError, match="does not fit the model"):
            resume(out, other)
        assert contents(out) == before


def test_a_stopped_run_says_the_call_that_goes_on(tmp_path, at_step, capsys):
    at_step(6, interrupt)
    with pytest.raises(Interrupted):
        clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(), data=kit.data())
    assert f"clat.resume({str(tmp_path / 'run')!r}, model=..., data=...)" in capsys.readouterr().out


def test_a_run_that_died_is_told_so(finished, tmp_path, monkeypatch, at_step, capsys):
    """A kill leaves run.json at "running", as there is nobody to write another word."""
    out = tmp_path / "run"
    original = run.recorder

    def dead(*args):
        record = original(*args)
        return lambda status: record("running")

    monkeypatch.setattr(run, "recorder", dead)
    at_step(6, kill)
    with pytest.raises(Killed):
        train(out)
    monkeypatch.undo()
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    assert run_status(out) == "died"
    with only_one_in(out):
        assert run_status(out) == "running"
    clat.resume(out, model=kit.tiny(), data=kit.data())
    assert "died without a word: going on from its last saved state" in capsys.readouterr().out
    assert run_status(out) == "finished"
    kit.assert_same_run(finished, out)
    clat.resume(out, model=kit.tiny(), data=kit.data())
    assert "died" not in capsys.readouterr().out


def test_the_status_of_a_folder_that_says_nothing(tmp_path):
    assert run_status(tmp_path) is None
    (tmp_path / "run.json").write_text("[]")
    assert run_status(tmp_path) is None
    (tmp_path / "run.json").write_text('{"status": "running"}')
    assert run_status(tmp_path) == "died"
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]  # looking leaves no trace


# Reuse


def test_reusing_the_first_stage_gives_the_same_bits(finished, tmp_path):
    """CLAT after PGD-AT, taken over from a run that did something else after the same PGD-AT."""
    other = kit.recipe(stages=(kit.pgd_at(), kit.pgd_at(name="on")), name="control")
    train(tmp_path / "control", other)
    train(tmp_path / "reusing", reuse=tmp_path / "control")
    kit.assert_same_run(finished, tmp_path / "reusing")
    assert len(kit.records(tmp_path / "reusing", "epoch")) == 4
    train_seconds = [record["train_seconds"] for record in kit.records(tmp_path / "reusing", "epoch")]
    control_seconds = [record["train_seconds"] for record in kit.records(tmp_path / "control", "epoch")]
    assert train_seconds[:2] == control_seconds[:2], "the first stage must not have been trained again"


def test_the_best_of_a_reused_stage_is_the_one_of_that_stage(tmp_path, monkeypatch):
    """The other run's later stage may have had a better one."""
    scores = iter([(8, 4), (8, 2), (8, 9), (8, 9), (8, 1), (8, 1)])
    monkeypatch.setattr(heldout, "heldout_correct", lambda *a, **k: torch.tensor(next(scores)))
    train(tmp_path / "one")
    train(tmp_path / "two", kit.recipe(stages=(kit.pgd_at(), kit.pgd_at(name="on"))), reuse=tmp_path / "one")
    assert kit.progress(tmp_path / "two")["best"]["epoch"] == 1
    load_weights(kit.tiny(), tmp_path / "two" / "weights" / "best.safetensors")
    assert not kit.same(kit.weights(tmp_path / "one", "best"), kit.weights(tmp_path / "two", "best"))


def test_a_reusing_run_can_be_killed_and_resumed(finished, tmp_path, monkeypatch, at_step):
    out = tmp_path / "run"
    at_step(2, kill)
    with pytest.raises(Killed):
        train(out, reuse=finished)
    monkeypatch.undo()
    resume(out)
    kit.assert_same_run(finished, out)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"batch_size": 8},
        {"eps": "0.04"},
        {"data": DataConfig(heldout=16, pad=2)},
        {"monitor": MonitorConfig(steps=2, num_samples=16)},
        {"stages": "longer"},
        {"stages": "one"},
    ],
)
def test_a_run_that_began_otherwise_is_refused(finished, tmp_path, changes):
    if changes.get("stages") == "longer":
        changes = {"stages": (kit.pgd_at(3), kit.clat(1))}
    elif changes.get("stages") == "one":
        changes = {"stages": (kit.pgd_at(2),)}
    with pytest.raises(ClatError, match="shares no finished stage"):
        train(tmp_path / "run", kit.recipe(**changes), reuse=finished)
    assert not (tmp_path / "run").exists()


def test_other_weights_or_images_at_the_start_are_refused(finished, tmp_path):
    train_set, test = kit.data()
    settings = {"quiet": True, "reuse": finished}
    with pytest.raises(ClatError, match="other weights"):
        clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(seed=9), data=(train_set, test), **settings)
    other = dataclasses.replace(train_set, images=255 - train_set.images)
    with pytest.raises(ClatError, match="other images"):
        clat.train(kit.recipe(), tmp_path / "run", model=kit.tiny(), data=(other, test), **settings)
    with pytest.raises(ClatError, match="no run to reuse"):
        train(tmp_path / "run", reuse=tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_network_that_normalises_otherwise_neither_reuses_nor_resumes(tmp_path):
    def run(what, std, out, **settings):
        model = Normalized(kit.tiny(), 0.5, std)
        return what(*out, model=model, data=kit.data(), quiet=True, **settings)

    run(clat.train, 0.25, (kit.recipe(), tmp_path / "one"))
    with pytest.raises(ClatError, match="normalises images otherwise: it has nothing to reuse"):
        run(clat.train, 0.5, (kit.recipe(), tmp_path / "two"), reuse=tmp_path / "one")
    with pytest.raises(ClatError, match="normalises images otherwise: give it the same"):
        run(clat.resume, 0.5, (tmp_path / "one",))
    run(clat.train, (0.25,) * 3, (kit.recipe(), tmp_path / "two"), reuse=tmp_path / "one")
    kit.assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.fixture
def unsaid():
    """Notices, such as that parameters came in frozen, are no warnings here."""
    with listening(lambda text: None):
        yield


def black(image):
    return image * 0


def white(image):
    return image * 0 + 255


def smooth():
    """The tiny network's weights under another activation."""

    class Smooth(kit.TinyNet):
        def forward(self, x):
            x = F.silu(self.bn2(self.conv2(F.silu(self.bn1(self.conv1(x))))))
            return self.head(self.dropout(F.silu(self.bn3(self.conv3(x))).mean((2, 3))))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Smooth()


def partly_frozen():
    model = kit.tiny()
    model.conv2.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("first", "then", "said"),
    [
        ({"augment": black}, {}, "black as the augmentation from Python"),
        ({}, {"augment": black}, "none as the augmentation from Python"),
        ({"augment": black}, {"augment": white}, "black as the augmentation from Python"),
        ({}, {"model": smooth}, "a network that is built otherwise"),
        ({"model": partly_frozen}, {}, r"parameter conv2.bias was frozen \(requires_grad=False\)"),
        ({}, {"model": partly_frozen}, "parameter conv2.bias was trained"),
    ],
)
def test_what_began_otherwise_neither_reuses_nor_resumes(unsaid, tmp_path, at_step, monkeypatch, first, then, said):
    def settings(given):
        return {"data": kit.data(), "quiet": True, **given, "model": given.get("model", kit.tiny)()}

    with monkeypatch.context():
        at_step(10, interrupt)
        with pytest.raises(Interrupted):
            clat.train(kit.recipe(), tmp_path / "one", **settings(first))
    with pytest.raises(ClatError, match=f"{said}: it has nothing to reuse"):
        clat.train(kit.recipe(), tmp_path / "two", reuse=tmp_path / "one", **settings(then))
    assert not (tmp_path / "two").exists()
    before = (tmp_path / "one" / "run.json").read_bytes()
    again = then | ({"augment": white} if "augment" in first and not then else {})  # without one: told how to go on
    with pytest.raises(ClatError, match=f"{said}: give it the same"):
        clat.resume(tmp_path / "one", **settings(again))
    assert (tmp_path / "one" / "run.json").read_bytes() == before
    clat.resume(tmp_path / "one", **settings(first))


def test_a_run_on_its_recipe_s_network_does_not_go_on_on_another(tmp_path):
    network = {"name": "resnet18", "width": 2, "depths": (1, 1, 1, 1)}
    recipe = kit.recipe(model=ModelConfig(**network))
    clat.train(recipe, tmp_path / "run", data=kit.data(), quiet=True)
    other, same = (clat.load_model(**network, num_classes=4) for _ in range(2))
    other.__class__ = type("Other", (type(other),), {})
    with pytest.raises(ClatError, match="a network that is built otherwise: give it the same"):
        clat.resume(tmp_path / "run", model=other, data=kit.data(), quiet=True)
    clat.resume(tmp_path / "run", model=same, data=kit.data(), quiet=True)

"""What comes after the training of a hardening, interrupted and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import clat
from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.evaluation.job import EvaluationJob
from clat.hardening import conclude, finish
from helpers import runs as kit

SETTINGS = {"eps": "24/255", "epochs": 1, "objective": "n-fgsm", "batch_size": 16, "heldout": 96, "quiet": True,
            "device": "cpu", "protocol": "fgsm", "max_clean_drop": 60, "augment": "none"}  # fmt: skip


def results(done):
    return done.before.robust_accuracy.value, done.after.robust_accuracy.value, done.promise


def harden(out):
    return clat.harden(kit.nearest_colour(), *kit.data(train=192, test=32), out, **SETTINGS)


def go_on(out):
    sets = kit.data(train=192, test=32)
    return clat.hardening.resume_hardening(out, kit.nearest_colour(), *sets, quiet=True)


def interrupt(*given, **more):
    raise KeyboardInterrupt


def refuse(*given, **more):
    raise AssertionError("this has been done before")


SEARCH = EvaluationJob._search


def search_nothing_again(job, group, precision, through, reached, state_file):
    """Search for the pictures of the page, which are attacked once more, and for no verdict."""
    if state_file.path is not None:
        assert through[reached.alive].all(), "a sample is searched again"
    SEARCH(job, group, precision, through, reached, state_file)


def costs(out):
    return [json.loads((out / "evaluations" / f"{one}.json").read_text())["cost"] for one in ("before", "after")]


@pytest.mark.parametrize("when", ["look_for_masking", "write_card", "make_gallery", "write_report"])
def test_what_is_measured_is_not_measured_again(tmp_path, monkeypatch, when):
    whole = harden(tmp_path / "whole")
    with monkeypatch.context() as broken:
        broken.setattr(conclude, when, interrupt)
        with pytest.raises(KeyboardInterrupt):
            harden(tmp_path / "part")
    paid = costs(tmp_path / "part")
    monkeypatch.setattr(finish, "walk_line", refuse)
    monkeypatch.setattr(EvaluationJob, "_search", search_nothing_again)
    done = go_on(tmp_path / "part")
    assert results(done) == results(whole)
    assert costs(tmp_path / "part") == paid
    folders = tmp_path / "whole", tmp_path / "part"
    files = [sorted(file.name for file in out.rglob("*") if "tensorboard" not in str(file)) for out in folders]
    assert files[0] == files[1]
    assert kit.same(*(load_file(out / "model.safetensors") for out in folders))


def test_of_one_that_has_ended_the_files_are_read(tmp_path, monkeypatch):
    whole = harden(tmp_path / "run")
    shown = whole._repr_html_()
    for name in ("walk_line", "evaluate_set"):
        monkeypatch.setattr(finish, name, refuse)
    done = go_on(tmp_path / "run")
    assert results(done) == results(whole)
    assert done.comparison == whole.comparison
    assert done._repr_html_().count("<table") == shown.count("<table")


def test_a_network_that_is_right_on_nothing_ends_all_the_same(tmp_path):
    train, test = kit.data(train=192, test=24)
    wrong = replace(test, labels=(test.labels + 1) % test.num_classes)
    done = clat.harden(kit.nearest_colour(), train, wrong, tmp_path / "run", **SETTINGS)
    assert done.after.robust_accuracy.value < 0.5
    assert "gradient masking" in (tmp_path / "run" / "README.md").read_text()
    assert (tmp_path / "run" / "report.html").exists()


def test_another_network_does_not_become_the_one_before(tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(conclude, "keep_promise", interrupt)
        with pytest.raises(KeyboardInterrupt):
            harden(tmp_path / "run")
    other = kit.nearest_colour()
    with torch.no_grad():
        next(other.parameters()).mul_(0.5)
    sets = kit.data(train=192, test=32)
    with pytest.raises(ClatError, match=r"began with other weights: .*stage-0\.safetensors holds"):
        clat.hardening.resume_hardening(tmp_path / "run", other, *sets, quiet=True)
    assert go_on(tmp_path / "run").before.robust_accuracy.n == 32


def test_batch_norm_that_came_in_frozen_is_not_counted_anew_for_a_promise(tmp_path, monkeypatch):
    plain = kit.nearest_colour()
    model = nn.Sequential(nn.BatchNorm2d(3), plain[0], nn.BatchNorm2d(3), *plain[1:])
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(finish, "most_robust_within", lambda points, _: points[5])
    with listening([].append):
        done = clat.harden(model, *kit.data(train=192, test=32), tmp_path / "run", **SETTINGS)
    assert done.promise["alpha"] == 0.5
    changed = {name for name, value in done.model.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith("0.")}
    assert {"2.running_mean", "2.running_var"} <= changed


def test_a_protocol_from_a_file_is_recorded(tmp_path, monkeypatch):
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\nattacks = [{ attack = "pgd", steps = 2 }]\n')
    with monkeypatch.context() as broken:
        broken.setattr(conclude, "measured", interrupt)
        with pytest.raises(KeyboardInterrupt):
            clat.harden(
                kit.nearest_colour(), *kit.data(train=192, test=32), tmp_path / "run",
                **{**SETTINGS, "protocol": str(file)},
            )  # fmt: skip
    file.unlink()
    assert go_on(tmp_path / "run").after.protocol.name == "mine"


def test_pictures_and_verdicts_are_numbered_as_in_the_split(tmp_path):
    """As clat evaluate numbers them, so that results of the two can be compared."""
    train, test = kit.data(train=192, test=60)
    by_class = test.subset(test.labels.argsort(stable=True))
    done = clat.harden(kit.nearest_colour(), train, by_class, tmp_path / "run", **SETTINGS, num_samples=20)
    told, ids = by_class.sampled(20)
    assert ids.tolist() != list(range(20))
    gallery = json.loads((tmp_path / "run" / "gallery.json").read_text())
    assert {picture["number"] for picture in gallery["pictures"]} <= set(ids.tolist())
    for picture in gallery["pictures"]:
        assert picture["label"] == by_class.class_names[by_class.labels[picture["number"]]]
    same = clat.evaluation.evaluate_set(
        done.model, told, ids=ids, protocol="fgsm", eps="24/255", seed=done.after.seed
    )
    assert clat.compare(same, done.after).differences["clean"].value == 0
    assert told.notes[-1] in done.after.notes

"""A table's networks trained beside one another: all of them ahead, CLAT's ratio before those that it is for."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

from clat.runtime.jobs import schedule
from clat.studies.paper import scales, store
from clat.studies.paper.beside import gather
from clat.studies.paper.catalogue import find_table
from clat.studies.paper.runs import RunSpec
from clat.studies.paper.store import Store
from clat.studies.paper.table import Asked, run_table
from helpers.paper import TINY
from helpers.places import InThisProcess

RATIOS = replace(TINY, ratios=(0.03, 0.3))
ASKED = Asked(
    networks=("resnet18",),
    datasets=("cifar10",),
    rows=("pgd-at", "pgd-at+clat, critical"),
    seeds=1,
    folders={"cifar10": "digits"},
)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module", autouse=True)
def _quickly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "PAUSE", 0.0)
        patch.setitem(scales.SCALES, "tiny", RATIOS)
        yield


def never(*args):
    raise AssertionError("all is trained ahead")


@pytest.fixture(scope="module")
def done(tmp_path_factory, _quickly):
    """A table of which this process trains and measures nothing by itself."""
    folder, place = tmp_path_factory.mktemp("tables"), InThisProcess()
    held = Store(folder, RATIOS, ASKED.folders)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "run_row", never)
        patch.setattr(Store, "test_images", never)
        found = run_table(find_table("T7"), ASKED, held, folder, QUIET, place)
    assert held.gathered is None
    return folder, place, found


@pytest.fixture
def trained(done, tmp_path):
    """The same networks, of which none has been measured."""
    copy = tmp_path / "copy"
    shutil.copytree(done[0], copy)
    shutil.rmtree(copy / "store" / "evaluations")
    return copy


def test_a_table_finds_all_its_networks_trained_and_measured(done, monkeypatch):
    folder, place, found = done
    assert found["failed"] == 0
    train = [words for words in place.started if words[0] == "train"]
    begun = [words[words.index("--out") + 1].rpartition("/")[2] for words in train]
    assert len({name.rpartition("-")[0] for name in begun if "+clat" in name}) == 2, "a network for each ratio"
    assert len(begun) == 3, "the chosen ratio's is the table's"
    taken = ["--reuse" in words for words in train]
    assert taken == [False, True, True], "what X trained before is taken over"
    measured = [words for words in place.started if words[0] == "study"]
    assert len(measured) == len(list((folder / "store" / "evaluations").rglob("*.json")))
    assert not list((folder / "store" / "evaluations").rglob("*.state*"))

    started = len(place.started)
    held = Store(folder, RATIOS, ASKED.folders)
    run_table(find_table("T7"), ASKED, held, folder, QUIET, place)
    assert len(place.started) == started, "nothing is trained or measured again"
    assert json.loads((folder / "T7" / "table.json").read_text())["entries"] == found["entries"]


def test_what_is_measured_beside_is_what_one_process_measures(done, trained):
    folder, _, found = done
    serial = run_table(find_table("T7"), ASKED, Store(trained, RATIOS, ASKED.folders), trained, QUIET)
    assert serial["entries"] == found["entries"]
    assert serial["rows"] == found["rows"]
    results = sorted((trained / "store" / "evaluations").rglob("*.json"))
    assert results
    for file in results:
        mine, theirs = (json.loads(one.read_text()) for one in (file, folder / file.relative_to(trained)))
        kept = mine.keys() - {"cost", "environment", "command"}
        assert {key: mine[key] for key in kept} == {key: theirs[key] for key in kept}


def test_a_store_without_its_weights_still_makes_its_tables_and_trains_nothing_again(done, tmp_path):
    folder, _, found = done
    light = shutil.ignore_patterns("*.safetensors", "logs", "tensorboard", "T7")
    shutil.copytree(folder, tmp_path / "light", ignore=light)
    place, held = InThisProcess(), Store(tmp_path / "light", RATIOS, ASKED.folders)
    again = run_table(find_table("T7"), ASKED, held, tmp_path / "light", QUIET, place)
    assert place.started == []
    assert again["entries"] == found["entries"]


def test_what_a_store_without_its_weights_lacks_is_named_with_the_file(done, tmp_path):
    folder = done[0]
    light = shutil.ignore_patterns("*.safetensors", "evaluations")
    shutil.copytree(folder, tmp_path / "light", ignore=light)
    held = Store(tmp_path / "light", RATIOS, ASKED.folders)
    again = run_table(find_table("T7"), ASKED, held, tmp_path / "light", QUIET)
    assert again["failed"] == len(again["entries"])
    assert all("last.safetensors" in entry["failure"] for entry in again["entries"])


def test_what_fails_twice_is_named_and_not_tried_for_ever(tmp_path, monkeypatch):
    place = InThisProcess(die=range(100))
    held = Store(tmp_path, replace(RATIOS, ratios=(0.1,)), ASKED.folders)
    found = run_table(find_table("T7"), ASKED, held, tmp_path, QUIET, place)
    assert len(place.started) == 4
    assert found["failed"] == len(found["entries"])
    assert all("died of SIGKILL" in entry["failure"] for entry in found["entries"])


@pytest.mark.parametrize("base", ["bai2024", "peng2023", "pgd-at"])
def test_a_store_finds_its_runs_wherever_it_lies(tmp_path, base):
    spec = RunSpec(base=base, network="resnet18", dataset="cifar10")
    here, there = (Store(tmp_path / name, RATIOS, ASKED.folders).run_of(spec) for name in ("here", "there"))
    assert here.key == there.key
    text = str(there.recipe)
    assert str(tmp_path / "here") not in text
    assert (str(tmp_path / "there") in text) == (base != "pgd-at")


def test_generated_images_are_those_of_the_data_set(tmp_path, monkeypatch):
    """Their labels would pass for those of the first ten of a hundred classes."""
    (tmp_path / "edm_1m.npz").touch()
    monkeypatch.setenv("CLAT_DATA_DIR", str(tmp_path))
    held = Store(tmp_path / "out", RATIOS)
    files = {
        dataset: held.run_of(RunSpec(base="peng2023", network="resnet18", dataset=dataset)).recipe.data.extra.file
        for dataset in ("cifar10", "cifar100")
    }
    assert files["cifar10"] == "edm_1m.npz"
    assert files["cifar100"].endswith("store/inputs/cifar100.npz")


def test_gathering_trains_nothing_and_names_what_a_run_starts_from(tmp_path):
    held = Store(tmp_path, RATIOS, ASKED.folders)
    spec = RunSpec(base="bai2024", network="resnet18", dataset="cifar10")
    found = gather(held, lambda: held.train(held.run_of(spec), QUIET))
    assert [run.spec.base for run in found.runs.values()] == ["clean", "pgd-at", "bai2024"]
    assert gather(held, lambda: None).runs == {}


class DiesMeasuring(InThisProcess):
    """The first measurement ends as a killed process does, whenever it is started."""

    first = ""

    def start(self, job):
        measures = job.words()[0] == "study"
        if measures and self.first in ("", job.name):
            self.first = job.name
            self.die = (len(self.started),)
        return super().start(job)


def test_a_measurement_that_fails_twice_is_named_in_its_cells_and_the_others_go_on(trained):
    place, held = DiesMeasuring(), Store(trained, RATIOS, ASKED.folders)
    found = run_table(find_table("T7"), ASKED, held, trained, QUIET, place)
    assert [words[0] for words in place.started].count("train") == 0
    assert 0 < found["failed"] < len(found["entries"])
    failures = {entry["failure"] for entry in found["entries"] if entry["failure"]}
    assert len(failures) == 1
    assert "died of SIGKILL" in failures.pop()

"""Selections by rankings other than CLAT's criticality, within a run."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
import torch

import clat
from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.criticality.ranking_report import RankingReport
from clat.criticality.rankings import RobustCriticalityRanking
from clat.criticality.selection import Selection
from clat.data import Loader
from clat.objectives import Standard
from clat.recipe.schema import DataConfig, ModelConfig
from clat.report.page import write_report
from clat.training.prepare import build_network
from clat.training.ranking import initial_weights
from helpers import runs as kit


def recipe(selection: Selection, **changes: Any) -> clat.Recipe:
    stage = kit.clat(name="fine-tune", epochs=1, objective=Standard(), selection=selection)
    return kit.recipe(stages=(kit.pgd_at(epochs=1), stage), **changes)


def run(out: Any, recipe: clat.Recipe) -> Any:
    return clat.train(recipe, out, model=kit.tiny(), data=kit.data(), quiet=True)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("least-critical", "mrc"),
        ("critical", "activation"),
        ("least-critical", "rewinding"),
        ("critical", "rewinding-drop"),
    ],
)
def test_a_stage_moves_what_its_ranking_says(tmp_path: Any, rule: Any, name: Any) -> None:
    attacked = {} if name.startswith("rewinding") else {"steps": 1}
    chosen = Selection(rule=rule, ranking=name, k=1, num_samples=8, **attacked)
    run(tmp_path / "run", recipe(chosen))
    (record,) = kit.records(tmp_path / "run", "selection")
    report = RankingReport.from_json(tmp_path / "run" / record["report"])
    assert (report.ranking, report.n) == (name, 8)
    assert record["layers"] == (report.top(1) if rule == "critical" else report.bottom(1))
    before, after = (kit.weights(tmp_path / "run", name) for name in ("stage-1", "last"))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {f"{record['layers'][0]}.{part}" for part in ("weight", "bias")}
    assert f"The ranking “{name}”" in write_report(tmp_path / "run").read_text()


def test_under_mrc_shortcuts_and_classifier_take_part_as_in_rift() -> None:
    net, x = clat.load_model("resnet18", width=2), torch.rand(1, 3, 8, 8)

    def names(**settings: Any) -> set[str]:
        return {layer.name for layer in Selection(rule="least-critical", **settings).candidates(net, x)}

    beside = {"layer2.0.shortcut.0", "layer3.0.shortcut.0", "layer4.0.shortcut.0", "linear"}
    assert names(ranking="mrc") - names() == beside
    assert names(ranking="mrc", shortcuts=False) - names() == {"linear"}
    assert names(ranking="mrc", classifier=False) - names() == beside - {"linear"}
    assert names(shortcuts=True, classifier=True) == names(ranking="mrc")


def test_the_attack_of_the_measurement_has_the_rules_step(tmp_path: Any) -> None:
    chosen = Selection(rule="least-critical", ranking="mrc", num_samples=8, steps=2, alpha="2/225")
    run(tmp_path / "run", recipe(chosen))
    (record,) = kit.records(tmp_path / "run", "selection")
    assert RankingReport.from_json(tmp_path / "run" / record["report"]).settings["alpha"] == 2 / 225
    with pytest.raises(ClatError, match=r"selection\.alpha"):
        Selection(alpha="2/0")


def test_the_test_split_decides_only_where_it_is_told_to_and_the_run_says_so(tmp_path: Any) -> None:
    chosen = Selection(rule="least-critical", ranking="mrc", num_samples=16, steps=1)
    data = DataConfig(decide_on="test-split", pad=1)
    result = run(tmp_path / "run", recipe(chosen, data=data))
    about = json.loads((tmp_path / "run" / "run.json").read_text())["data"]
    assert (about["train"], about["heldout"]) == (80, 16)
    (record,) = kit.records(tmp_path / "run", "selection")
    report = RankingReport.from_json(tmp_path / "run" / record["report"])
    start = kit.tiny()
    start.load_state_dict(kit.weights(tmp_path / "run", "stage-1"))
    (x, y), test = next(iter(Loader(kit.data()[1], 16).epoch())), Selection(ranking="mrc")
    again = clat.measure_robust_criticality(
        start, x, y, eps="0.05", steps=1, seed=report.seed, layers=test.candidates(start, x)
    )
    assert [row.value for row in again.rows] == pytest.approx([row.value for row in report.rows], abs=1e-4)
    (warning,) = result.summary["warnings"]
    assert "the test split decides" in warning
    assert "the test split decides" in write_report(tmp_path / "run").read_text()
    assert [line["kind"] for line in kit.records(tmp_path / "run", "warning")] == ["test-split"]
    result = json.loads((tmp_path / "run" / "evaluations" / "best.json").read_text())
    assert result["notes"][0].startswith("the test split decides in this run")


def test_the_measurement_is_on_held_out_images_and_of_the_runs_seed(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []
    measure = RobustCriticalityRanking.measure

    def spy(self: Any, model: Any, x: Any, y: Any, **settings: Any) -> Any:
        seen.append((self.name, x, settings["eps"], self.steps, settings["seed"], settings["initial"]))
        return measure(self, model, x, y, **settings)

    monkeypatch.setattr(RobustCriticalityRanking, "measure", spy)
    chosen = Selection(rule="least-critical", ranking="mrc", num_samples=8, steps=1)
    run(tmp_path / "run", recipe(chosen))
    ((name, x, eps, steps, seed, initial),) = seen
    assert (name, len(x), eps, steps, initial) == ("mrc", 8, Fraction("0.05"), 1, None)
    assert seed == derive_seed(0, "selection", 2)


def test_what_a_run_rewinds_to(tmp_path: Any, images: torch.Tensor) -> None:
    """The file that is named, else the weights given at the start, else the random ones of the seed."""
    rule, settings = Selection(ranking="rewinding-drop"), kit.recipe(model=ModelConfig(name="resnet18", width=4))
    drawn = build_network(settings, 7)
    random_state = torch.get_rng_state()
    found = initial_weights(rule, settings, tmp_path, drawn, images)
    assert kit.same(dict(found), drawn.state_dict())
    assert torch.equal(torch.get_rng_state(), random_state)
    clat.save_weights(kit.tiny(1), tmp_path / "weights" / "stage-0.safetensors")
    found = initial_weights(rule, settings, tmp_path, drawn, images)
    assert kit.same(dict(found), kit.tiny(1).state_dict())
    clat.save_weights(kit.tiny(2), tmp_path / "named.safetensors")
    named = Selection(ranking="rewinding", initial=str(tmp_path / "named.safetensors"))
    found = initial_weights(named, settings, tmp_path, drawn, images)
    assert kit.same(dict(found), kit.tiny(2).state_dict())


def test_the_same_run_twice(tmp_path: Any) -> None:
    """All but the seconds of the reports is alike."""
    chosen = Selection(rule="critical", ranking="rewinding", num_samples=8)
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        run(out, recipe(chosen))
    reports = [RankingReport.from_json(out / "criticality" / "epoch-0002.json") for out in (one, two)]
    assert reports[0] == reports[1]
    assert kit.same(kit.weights(one, "last"), kit.weights(two, "last"))


def test_bad_input_is_found_before_training(tmp_path: Any) -> None:
    first = kit.recipe(stages=(kit.clat(selection=Selection(ranking="rewinding")),))
    with pytest.raises(ClatError, match=r"the first: .* selection\.initial"):
        run(tmp_path / "run", first)
    missing = Selection(ranking="rewinding", initial=str(tmp_path / "gone.pt"))
    with pytest.raises(ClatError, match="gone"):
        run(tmp_path / "run", recipe(missing))
    clat.save_weights(kit.tiny(width=5), tmp_path / "wide.safetensors")
    wide = Selection(ranking="rewinding", initial=str(tmp_path / "wide.safetensors"))
    with pytest.raises(ClatError, match="of another shape"):
        run(tmp_path / "run", recipe(wide))
    assert not (tmp_path / "run").exists()


def test_the_least_critical_by_another_ranking_may_be_any_layer(tmp_path: Any) -> None:
    """Layer 1 is left aside only where its value is no ratio: k = 3 of 3 is fine for MRC."""
    run(
        tmp_path / "run",
        recipe(Selection(rule="least-critical", ranking="mrc", k=3, num_samples=4, steps=1)),
    )
    with pytest.raises(ClatError, match="there are 2 layers"):
        run(tmp_path / "other", recipe(Selection(rule="least-critical", k=3)))

"""Paired statistics against closed forms, and the comparison of result files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clat import cli
from clat.core.errors import ClatError
from clat.evaluation.compare import compare, compare_seeds
from clat.evaluation.statistics import PairedDifference, PairedSeeds, SeedDifference, SeedSummary

Z = 1.959963984540054


def test_mcnemar_by_hand() -> None:
    """Two-sided binomial at one half: 2 * P(at most 2 of 10) = 2 * (1 + 10 + 45) / 1024."""
    difference = PairedDifference(first_only=2, second_only=8, n=100)
    assert difference.p_value == pytest.approx(112 / 1024)
    assert difference.value == 0.06
    assert PairedDifference(8, 2, 100).p_value == pytest.approx(112 / 1024)
    assert PairedDifference(0, 7, 50).p_value == pytest.approx(2 / 128)
    assert PairedDifference(3, 3, 50).p_value == PairedDifference(0, 0, 50).p_value == 1.0


def test_the_interval_by_hand() -> None:
    """Bonett and Price: one more disagreement of either kind, among two more samples."""
    centre, spread = 9 / 102 - 3 / 102, 9 / 102 + 3 / 102
    half = Z * math.sqrt((spread - centre**2) / 102)
    assert PairedDifference(2, 8, 100).interval == pytest.approx((centre - half, centre + half))
    low, high = PairedDifference(0, 0, 100).interval
    assert low == -high == pytest.approx(-Z * math.sqrt(2) / 102)
    for first, second, n in ((0, 1, 1), (1, 0, 1), (0, 30, 30), (30, 0, 30)):
        difference = PairedDifference(first, second, n)
        low, high = difference.interval
        assert -1 <= low <= difference.value <= high <= 1


def test_pairs_are_counted_from_verdicts() -> None:
    first, second = torch.tensor([1, 1, 1, 0, 0, 1]).bool(), torch.tensor([1, 0, 0, 1, 0, 1]).bool()
    difference = PairedDifference.between(first, second)
    assert (difference.first_only, difference.second_only, difference.n) == (2, 1, 6)
    assert difference.value == pytest.approx(float(second.double().mean() - first.double().mean()))
    mirrored = PairedDifference.between(second, first).interval
    assert difference.interval == pytest.approx((-mirrored[1], -mirrored[0]))


@pytest.mark.parametrize(("first", "second"), [(0.1, 0.1), (0.02, 0.08), (0.0, 0.05), (0.3, 0.2)])
@pytest.mark.parametrize("n", [50, 400])
def test_coverage(first: float, second: float, n: int) -> None:
    """The 95 % interval holds the true difference in about 95 % of simulated comparisons, never far below."""
    shares = torch.tensor([first, second, 1 - first - second], dtype=torch.float64)
    draws = torch.multinomial(
        shares, 1500 * n, replacement=True, generator=torch.Generator().manual_seed(3)
    ).view(1500, n)  # fmt: skip
    counts = [((draws == 0).sum(1)).tolist(), ((draws == 1).sum(1)).tolist()]
    inside = [
        low <= second - first <= high
        for a, b in zip(*counts, strict=True)
        for low, high in [PairedDifference(a, b, n).interval]
    ]
    assert 0.935 <= sum(inside) / len(inside) <= 1.0


def test_seeds() -> None:
    summary = SeedSummary((0.5, 0.54, 0.49))
    assert summary.mean == pytest.approx(0.51)
    assert summary.deviation == pytest.approx(math.sqrt((0.01**2 + 0.03**2 + 0.02**2) / 2))
    assert summary.lowest == 0.49
    assert summary.to_dict()["lowest of 3"] == 0.49
    assert str(summary) == "51.0% ± 2.6%, lowest of 3: 49.0%"
    single = SeedSummary((0.5,))
    assert (single.mean, single.deviation, single.lowest) == (0.5, None, 0.5)
    assert str(single) == "50.0%, lowest of 1: 50.0%"


def test_seeds_against_seeds() -> None:
    """Welch by hand: standard error sqrt(s1^2 / n1 + s2^2 / n2); with equal spread and size 2 (n - 1) degrees."""
    first, second = SeedSummary((0.50, 0.52, 0.54)), SeedSummary((0.55, 0.57, 0.59))
    difference = SeedDifference(first, second)
    assert difference.value == pytest.approx(0.05)
    error, quantile = math.sqrt(2 * 0.02**2 / 3), 2.7764451052  # t at 0.975 with 4 degrees of freedom
    assert difference.interval == pytest.approx((0.05 - quantile * error, 0.05 + quantile * error))
    assert 0.03 < (difference.p_value or 1) < 0.05
    for pair in ((SeedSummary((0.5,)), second), (SeedSummary((0.5, 0.5)), SeedSummary((0.6, 0.6)))):
        assert (SeedDifference(*pair).interval, SeedDifference(*pair).p_value) == (None, None)


def test_seeds_whose_differences_are_equal_but_for_rounding_have_no_interval():
    difference = PairedSeeds((0.415 - 0.41, 0.205 - 0.2))
    assert difference.values[0] != difference.values[1]
    assert (difference.interval, difference.p_value) == (None, None)
    assert difference.value == pytest.approx(0.005)
    assert PairedSeeds((0.0, 0.001)).interval is not None


# Files


def result(path: Path, correct: str = "1111", robust: str = "1100", **changes: Any) -> Path:
    data = {
        "what": "evaluation",
        "protocol": {"name": "pgd-20", "hash": "abc", "norm": "linf"},
        "eps": {"text": "8/255", "value": 8 / 255},
        "data": {"name": "cifar10", "split": "test", "n": len(correct)},
        "images": "abcd",
        "correct": correct,
        "robust": robust,
    }
    path.write_text(json.dumps({**data, **changes}))
    return path


def test_two_files(tmp_path: Path) -> None:
    a = result(tmp_path / "a.json", "11101111", "11000011")
    b = result(
        tmp_path / "b.json", "11111110", "11100110", protocol={"name": "mine", "hash": "abc", "norm": "linf"}
    )
    comparison = compare(a, b)
    clean, robust = comparison.differences["clean"], comparison.differences["robust"]
    assert (clean.first_only, clean.second_only, clean.value) == (1, 1, 0)
    assert (robust.first_only, robust.second_only, robust.value) == (1, 2, 1 / 8)
    data = comparison.to_dict()
    assert [one["correct"] for one in data["robust"]["accuracies"]] == [4, 5]
    assert data["robust"]["difference"]["p_value"] == 1.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"protocol": {"name": "pgd-20", "hash": "abd", "norm": "linf"}}, "protocol is pgd-20 abc in the one and"),
        ({"protocol": {"name": "pgd-20", "hash": "abc", "norm": "l2"}}, "norm is linf in the one and l2"),
        ({"eps": {"text": "4/255", "value": 4 / 255}}, "eps is 8/255 in the one and 4/255 in the other"),
        ({"data": {"name": "cifar100", "split": "test", "n": 4}}, "data is cifar10 test in the one and cifar100"),
        ({"correct": "11111", "robust": "11000"}, "n is 4 in the one and 5 in the other"),
        ({"images": "abce"}, "different images, labels or numbers (abcd and abce)"),
        ({"correct": "11111"}, "damaged: 5 clean and 4 robust"),
        ({"correct": "112a"}, "no result of `clat evaluate`"),
        ({"images": 5}, "no result of `clat evaluate`"),
        ({"robust": None}, "no result of `clat evaluate`"),
        ({"protocol": "pgd-20"}, "no result of `clat evaluate`"),
    ],
)
def test_what_cannot_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    a, b = result(tmp_path / "a.json"), result(tmp_path / "b.json", **changes)
    with pytest.raises(ClatError) as caught:
        compare(a, b)
    assert says in str(caught.value)
    for words in (["compare", a, b], ["compare", "--seeds", a, b], ["compare", "--seeds", a, "--against", b]):
        assert cli.main([str(word) for word in words]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_files_of_before_there_were_digests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are compared by position, which is said; a digest among them still has to agree with the other ones."""
    old, new, other = (
        result(tmp_path / f"{name}.json", images=digest)
        for name, digest in (("old", None), ("new", "abcd"), ("other", "abce"))
    )
    assert compare(new, result(tmp_path / "same.json")).notes == ()
    (note,) = compare(old, new).notes
    assert note.startswith(f"{old} without a digest of the images: the 4 samples are taken to be the same")
    assert compare(new, old).to_dict()["notes"] == [note]
    assert compare_seeds([new, old]).to_dict()["notes"] == [note]
    assert cli.main(["compare", str(old), str(new)]) == 0
    assert "without a digest" in capsys.readouterr().out
    with pytest.raises(ClatError, match="different images"):
        compare_seeds([new, old], [other])


def test_two_checkpoints_of_one_run_are_not_two_seeds(tmp_path: Path) -> None:
    """Neither as files of the run's folder, nor as evaluations of its weights."""
    runs = []
    for name in ("a", "b"):
        run = tmp_path / name
        (run / "evaluations").mkdir(parents=True)
        (run / "run.json").write_text("{}")
        runs.append([result(run / "evaluations" / f"{label}.json") for label in ("best", "last")])
    (best, last), (_, other) = runs
    with pytest.raises(ClatError, match=r"two checkpoints of the run .*/a, not two seeds: give one each"):
        compare_seeds([best, last])
    weights = [str(tmp_path / "a" / "weights" / f"{label}.safetensors") for label in ("best", "last")]
    measured = [result(tmp_path / f"{i}.json", weights=one) for i, one in enumerate(weights)]
    with pytest.raises(ClatError, match="two checkpoints of the run"):
        compare_seeds([other], measured)
    assert len(compare_seeds([last, other]).labels[0]) == 2
    assert len(compare_seeds([last], [best]).labels) == 2, "what the two groups share is no spread of seeds"


def test_one_network_measured_twice_is_not_two_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, same, other, wider = (
        result(tmp_path / f"{name}.json", network={"weights": weights, "structure": structure})
        for name, weights, structure in (
            ("one", "aa", "s"), ("same", "aa", "s"), ("other", "bb", "s"), ("wider", "cc", "t"),
        )
    )  # fmt: skip
    with pytest.raises(ClatError, match=r"one.json and .*same.json are of one network \(weights aa\), not of two"):
        compare_seeds([one, other, same])
    assert compare_seeds([one, other], [same]).notes == ()
    (note,) = compare_seeds([one, other, wider]).notes
    assert note.startswith(f"{one} and {wider} are of networks with different structures")
    assert compare_seeds([one, other], [wider, result(tmp_path / "untold.json")]).notes == ()
    assert compare(one, same).notes == (
        "both are of one network: what differs is the attacks' random choices, by their seeds",
    )
    activated = result(tmp_path / "activated.json", network={"weights": "aa", "structure": "t"})
    normalised = result(tmp_path / "normalised.json", "0111", network={"weights": "aa", "structure": "s"})
    assert compare(one, activated).notes == compare(one, normalised).notes == ()
    assert compare(one, other).notes == compare(one, tmp_path / "untold.json").notes == ()


def test_runs_that_differ_in_more_than_the_seed_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not decide the weights may differ, and a recipe that cannot be read is passed over."""
    found = []
    for name, changes in (
        ("a", "seed = 0"), ("b", "seed = 1\n[engine]\ncheckpoint_seconds = 5"), ("c", "seed = 1\neps = \"4/255\""),
        ("damaged", "seed ="),
    ):  # fmt: skip
        (tmp_path / name / "evaluations").mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
        (tmp_path / name / "recipe.toml").write_text(f'extends = "demo"\nname = "{name}"\n{changes}\n')
        found.append(str(result(tmp_path / name / "evaluations" / "last.json")))
    a, b, c, damaged = found
    for files, told in (([a, b, damaged], False), ([a, c], True), ([a, "--against", c], False)):
        assert cli.main(["compare", "--seeds", *files]) == 0
        assert ("differ in more than the seed: eps\n" in capsys.readouterr().out) == told


def test_an_attack_whose_code_changed_is_another_one(tmp_path: Path) -> None:
    old, new, untold = (
        result(tmp_path / f"{name}.json", attack_sources=sources)
        for name, sources in (("old", {"mine:up": "aa"}), ("new", {"mine:up": "bb"}), ("untold", None))
    )
    with pytest.raises(ClatError, match="the code of attack 'mine:up' changed between them"):
        compare(old, new)
    assert compare(old, untold).notes == compare(untold, new).notes == ()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = result(tmp_path / "a.json"), result(tmp_path / "b.json", "1111", "1111")
    out = tmp_path / "difference.json"
    assert cli.main(["compare", str(a), str(b), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "+50.0" in shown
    assert json.loads(out.read_text())["robust"]["difference"]["value"] == 0.5
    for words, says in (
        ([a], "give two results"),
        ([a, a], "named twice"),
        ([a, tmp_path / "absent.json"], "cannot read"),
        ([a, __file__], "no result of `clat evaluate`"),
        ([a, b, "--out", out], "exists already"),
        ([a, b, "--against", a], "--against goes with --seeds"),
        ([a, "--seeds", b], "either"),
    ):
        assert cli.main(["compare", *map(str, words)]) == 2
        assert says in capsys.readouterr().err


def test_the_command_with_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robust = ("1000", "1100", "1110")
    files = [str(result(tmp_path / f"{i}.json", "1111", bits)) for i, bits in enumerate(robust)]
    out = tmp_path / "seeds.json"
    assert cli.main(["compare", "--seeds", *files[:2], "--against", files[2], "--out", str(out)]) == 0
    data = json.loads(out.read_text())
    assert data["groups"][0]["robust"]["lowest of 2"] == 0.25
    assert data["groups"][0]["robust"]["mean"] == 0.375
    assert data["differences"]["robust"]["value"] == 0.375
    capsys.readouterr()
    assert cli.main(["compare", "--seeds", *files]) == 0
    assert "50.0 %" in capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    assert compare_seeds(files).summaries["robust"][0].lowest == 0.25


def test_evaluations_in_memory(linear: Any, samples: Any) -> None:
    from clat import evaluate

    first, second = linear(seed=0), linear(seed=1)
    x: Tensor
    x, y = samples(first, 30)
    shifted = evaluate(first, x, y, protocol="fgsm", eps=0.02, ids=torch.arange(30) + 1)
    with pytest.raises(ClatError, match="first and second are of different images"):
        compare(evaluate(first, x, y, protocol="fgsm", eps=0.02), shifted)
    results = [evaluate(model, x, y, protocol="pgd-10", eps=0.02) for model in (first, second)]
    comparison = compare(*results)
    expected = results[1].clean_accuracy.value - results[0].clean_accuracy.value
    assert comparison.differences["clean"].value == pytest.approx(expected)
    assert comparison.differences["clean"].p_value < 1e-4
    assert comparison.labels == ("first", "second")
    known = [{"weights": "a.safetensors"}, {"weights": "b.safetensors", "label": "last"}]
    results = [
        evaluate(model, x, y, protocol="fgsm", eps=0.02, about=about)
        for model, about in zip((first, second), known, strict=True)
    ]
    assert compare(*results).labels == ("a.safetensors", "last")
    assert compare(results[0], replace(results[1], about=known[0])).labels == (
        "first, a.safetensors",
        "second, a.safetensors",
    )


def test_an_empty_group_of_seeds_is_refused(tmp_path):
    with pytest.raises(ClatError, match="the first group is empty"):
        compare_seeds([], against=[tmp_path / "b.json"])

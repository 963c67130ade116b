"""What the pages of results say of the paper's tables at narrow scale stands in their files and in the store's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import mean
from typing import Any

import pytest
from scipy import stats

import clat
from clat.evaluation.crossed import CrossedInterval, crossed_interval
from clat.studies.paper.cells import verdicts_of
from helpers.results import RESULTS, page_text, read, signed


def with_interval(found: Mapping[str, Any]) -> str:
    """A difference in points with its interval, as the pages have it."""
    return f"{signed(found['value'])} [{signed(found['low'])}, {signed(found['high'])}]"


def narrow_cell(table: str, row: str, what: str) -> dict[str, Any]:
    """A cell of a paper's table at narrow scale: clean accuracy, or that under an attack."""
    rows = read(f"paper/{table}/narrow/table")["entries"]
    measured = [("clean" if one["kind"] == "clean" else one["attack"], one) for one in rows if one["row"] == row]
    (found,) = [one for name, one in measured if name == what]
    return found


def narrow_effect(table: str, row: str, what: str) -> str:
    """An effect of a paper's table at narrow scale, with its interval over seeds and images."""
    found = narrow_cell(table, row, what)["effect"]
    assert found["seeds"] == 3
    return with_interval(found)


PGD_10, STRONG = "clat-pgd-10, eps 0.03", "clat-v2, eps 0.03"


def critical_less_pgd_at(strong: str = "`clat-v2`") -> str:
    row = "pgd-at+clat, critical"
    return (
        f"{narrow_effect('T20', row, 'clean')} clean, {narrow_effect('T20', row, PGD_10)} under PGD-10 and "
        f"{narrow_effect('T20', row, STRONG)} under {strong}"
    )


def critical_less_random() -> str:
    row = "pgd-at+clat, critical"
    return (
        f"{narrow_effect('T7', row, PGD_10)} under PGD-10 and {narrow_effect('T7', row, STRONG)} under `clat-v2`, "
        f"with equal clean accuracy ({narrow_effect('T7', row, 'clean')})"
    )


def random_less_pgd_at() -> str:
    row = "pgd-at+clat, random"
    cells = [narrow_cell("T7", row, what) for what in (PGD_10, STRONG)]
    assert [one["settled"] for one in cells] == ["same sign"] * 2
    weak, strong = (f"{one['paper_effect_points']:+.1f}" for one in cells)
    return (
        f"less PGD-AT {narrow_effect('T7', row, PGD_10)} under PGD-10 and {narrow_effect('T7', row, STRONG)} under "
        f"`clat-v2` (the paper {weak} and {strong})"
    )


def most_and_least_critical() -> str:
    most, least = (
        [
            100 * narrow_cell("T20", f"pgd-at+clat, {row}", what)["ours"]["value"]
            for what in ("clean", PGD_10, STRONG)
        ]
        for row in ("critical", "smallest")
    )
    return "{:.1f} % clean, {:.1f} % under PGD-10 and {:.1f} % under `clat-v2`".format(
        *least
    ) + " against {:.1f}, {:.1f} and {:.1f} %".format(*most)


def contrast(table: str, row: str, against: str) -> tuple[str, ...]:
    """A difference of two rows of a paper's table at narrow scale: clean, PGD-10, AutoAttack's kind."""
    found = [
        one["effect"]
        for one in read(f"paper/{table}/narrow/table")["contrasts"]
        if (one["row"], one["against"]) == (row, against)
    ]
    return tuple(map(with_interval, found))


def most_less_least_critical() -> str:
    most, least = "pgd-at+clat, critical", "pgd-at+clat, smallest"
    clean, weak, strong = contrast("T20", most, least)
    printed = [
        one["paper_effect_points"]
        for one in read("paper/T20/narrow/table")["contrasts"]
        if (one["row"], one["against"]) == (most, least)
    ]
    paper = "{:+.1f}, {:+.1f} and {:+.1f}".format(*printed)
    return f"most less least critical {clean}, {weak} and {strong}; the paper {paper}"


def clat_less_averaged() -> str:
    clean, weak, strong = contrast("T7", "pgd-at+clat, critical", "ema")
    return f"{clean} clean, {weak} under PGD-10 and {strong} under `clat-v2`"


def clat_runs(rule: str) -> list[list[dict[str, Any]]]:
    """The events of the CLAT stages of T7 and T20, a list a seed."""
    name = {"critical": "clat-r0.03", "random": "clat-random-r0.03", "least-critical": "clat-smallest-r0.03"}[rule]
    runs = RESULTS / "paper" / "narrow" / "store" / "runs"
    files = sorted(runs.glob(f"cifar10-resnet18-pgd-at+{name}-s*/metrics.jsonl"))
    assert len(files) == 3
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def share_of_loss(rule: str) -> float:
    """lambda * L_C over the cross-entropy, the mean over the epochs of CLAT's stage and seeds."""
    found = []
    for events in clat_runs(rule):
        epochs = [one for one in events if one["event"] == "epoch" and one["stage_name"] == "clat"]
        found += [
            one["objective_state"]["lambda"] * one["parts"]["feature_change"] / one["parts"]["cross_entropy"]
            for one in epochs
        ]
    return mean(found)


def shares_of_loss() -> str:
    critical, least, random = map(share_of_loss, ("critical", "least-critical", "random"))
    return (
        f"{critical:.3f} with critical layers, {least:.3f} with the least critical, {random:.3f} with random ones"
    )


def kept(events: list[dict[str, Any]]) -> tuple[int, int]:
    """(how many selections took the layers of the one before, how many there were after the first)."""
    pairs = list(pairwise(one for one in events if one["event"] == "selection"))
    return sum(one["layers"] == other["layers"] for one, other in pairs), len(pairs)


def reselected() -> str:
    """How often a selection of T7 and T20 took the layer of the one before."""
    told = []
    for rule, what in (
        ("critical", "selections of critical layers took the layer of the one before"),
        ("least-critical", "of least critical ones"),
        ("random", "of random ones"),
    ):
        same, all_of_them = map(sum, zip(*map(kept, clat_runs(rule)), strict=True))
        told.append(f"{same} of {all_of_them} {what}")
    return ", ".join(told)


def at_other_ratios() -> str:
    ratios = read("paper/T7/narrow/table")["ratios"]["resnet18, cifar10"]["robust"]
    runs = RESULTS / "paper" / "narrow" / "store" / "runs"
    files = [
        next(runs.glob(f"cifar10-resnet18-pgd-at+{name}-*/metrics.jsonl")) for name in ("clat-s0", "clat-r0.3-s0")
    ]
    events = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    same, all_of_them = map(sum, zip(*map(kept, events), strict=True))
    first, second, third = (f"{100 * ratios[one]:.1f}" for one in ("0.03", "0.1", "0.3"))
    return (
        f"the lowest of three ({first}, {second} and {third} % on 1,000 held-out images); at the two others, of "
        f"which one seed each was trained, {same} of {all_of_them} did"
    )


def dynamic_or_once() -> str:
    dynamic, once, averaged = (
        narrow_effect("T5", row, PGD_10) for row in ("pgd-at+clat, dynamic", "pgd-at+clat, fixed", "ema")
    )
    (less_once,) = contrast("T5", "pgd-at+clat, dynamic", "pgd-at+clat, fixed")
    (less_averaged,) = contrast("T5", "pgd-at+clat, dynamic", "ema")
    return (
        f"{dynamic} with layers selected anew, {once} with those selected once, {averaged} by averaging weights; "
        f"anew less once {less_once}, less averaging {less_averaged}"
    )


def reselected_in_t5() -> str:
    runs = RESULTS / "paper" / "narrow" / "store" / "runs"
    files = sorted(runs.glob("cifar10-resnet50-pgd-at+clat-r0.3-s*/metrics.jsonl"))
    assert len(files) == 3
    events = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    same, all_of_them = map(sum, zip(*map(kept, events), strict=True))
    return f"{same} of {all_of_them} selections took the three layers of the one before"


def printed_in_t5() -> str:
    dynamic, once = (
        narrow_cell("T5", f"pgd-at+clat, {layers}", PGD_10)["paper_effect_points"]
        for layers in ("dynamic", "fixed")
    )
    (anew,) = [
        one["paper_effect_points"]
        for one in read("paper/T5/narrow/table")["contrasts"]
        if one["against"] == "pgd-at+clat, fixed"
    ]
    return f"The paper has {dynamic:+.1f} and {once:+.1f}, and {anew:+.1f} for anew less once"


def ratios_of_t5() -> str:
    chosen = read("paper/T5/narrow/table")["ratios"]["resnet50, cifar10"]
    first, second, third = (f"{100 * value:.1f}" for value in chosen["robust"].values())
    return f"(ratio {chosen['ratio']}; {first}, {second} and {third} % on 1,000 held-out images)"


def anew_less_once() -> str:
    return f"{contrast('T5', 'pgd-at+clat, dynamic', 'pgd-at+clat, fixed')[0]} under PGD-10"


def densenet_selected_anew() -> str:
    table = read("paper/T5/narrow-densenet121/table")
    rows = {one["row"]: one for one in table["entries"]}
    anew, once, mean = (rows[row] for row in ("pgd-at+clat, dynamic", "pgd-at+clat, fixed", "ema"))
    less, of_mean = (
        next(one for one in table["contrasts"] if (one["row"], one["against"]) == (anew["row"], row))
        for row in (once["row"], "ema")
    )
    assert {one["effect"]["seeds"] for one in (anew, once, mean, less, of_mean)} == {3}
    assert {one["settled"] for one in (anew, once)} == {"not settled"}
    chosen = table["ratios"]["densenet121, cifar10"]
    assert chosen["ratio"] == max(map(float, chosen["robust"]))
    runs = RESULTS / "paper" / "narrow" / "store" / "runs"
    files = sorted(runs.glob("cifar10-densenet121-pgd-at+clat-r0.3-s*/metrics.jsonl"))
    assert len(files) == 3
    events = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    same, all_of_them = map(sum, zip(*map(kept, events), strict=True))
    assert same == 0
    robust = ", ".join(f"{100 * chosen['robust'][ratio]:.1f}" for ratio in ("0.03", "0.1"))
    return (
        f"anew less PGD-AT {with_interval(anew['effect'])}, once less PGD-AT {with_interval(once['effect'])}, anew "
        f"less once {with_interval(less['effect'])}, where the paper has "
        f"{anew['paper_effect_points']:+.1f}, {once['paper_effect_points']:+.1f} and "
        f"{less['paper_effect_points']:+.1f}; averaged weights less PGD-AT {with_interval(mean['effect'])}, anew "
        f"less averaged {with_interval(of_mean['effect'])}. None of {all_of_them} selections took the five layers "
        f"of the one before. lambda is the highest of three there too ({robust} and "
        f"{100 * chosen['robust']['0.3']:.1f} % on 1,000 held-out images)."
    )


def anew_less_once_of_densenet() -> str:
    contrasts = read("paper/T5/narrow-densenet121/table")["contrasts"]
    (less,) = (one for one in contrasts if one["against"] == "pgd-at+clat, fixed")
    assert less["effect"]["high"] < less["paper_effect_points"] / 100, "the paper's gain is excluded"
    return with_interval(less["effect"])


def averaging_of_densenet() -> str:
    rows = read("paper/T5/narrow-densenet121/table")["entries"]
    (mean,) = (one["effect"] for one in rows if one["row"] == "ema")
    assert mean["high"] < 0
    return with_interval(mean)


def selected_in_t13() -> str:
    lists = [
        ", ".join(map(str, one["layers"]))
        for one in read("paper/T13/narrow/table")["entries"]
        if one["network"] == "resnet50"
    ]
    return f"A narrow ResNet-50 takes {', then '.join(lists)}:"


def densenet_in_t13() -> str:
    entries = read("paper/T13/narrow-densenet121/table")["entries"]
    ours, theirs = ([one[key] for one in entries] for key in ("layers", "paper"))
    words = ("none", "one", "two", "three", "four", "five")
    stay, printed = (
        [words[len(set(before) & set(after))] for before, after in pairwise(lists)] for lists in (ours, theirs)
    )
    contrasts = read("paper/T5/narrow-densenet121/table")["contrasts"]
    (less,) = (one["effect"] for one in contrasts if one["against"] == "pgd-at+clat, fixed")
    listed = ", then ".join(", ".join(map(str, one)) for one in ours)
    return (
        f"A narrow DenseNet-121 takes {listed}: {stay[0]} of five layers stay at the second selection and "
        f"{stay[1]} at the third, {printed[0]} and {printed[1]} in the paper's lists. There others do take their "
        f"place, and [T5](#what-they-say) does not gain by it: anew less once {with_interval(less)}."
    )


def by_number_of_layers() -> str:
    rows = [f"k = {k}" for k in (1, 2, 3, 5)]
    weak = [narrow_effect("F3", row, PGD_10) for row in rows]
    clean = [signed(narrow_cell("F3", row, "clean")["effect"]["value"]) for row in rows]
    return f"{', '.join(weak[:-1])} and {weak[-1]} under PGD-10, {', '.join(clean[:-1])} and {clean[-1]} clean"


def one_layer_less_others() -> str:
    found = [contrast("F3", "k = 1", f"k = {k}")[1] for k in (2, 3, 5)]
    return f"one less 2, 3 and 5 layers: {', '.join(found[:2])} and {found[2]} under PGD-10"


def averaging_less_pgd_at() -> str:
    return f"{narrow_effect('T20', 'ema', STRONG)} under `clat-v2` and {narrow_effect('T20', 'ema', 'clean')} clean"


IMAGENETTE = ("resnet18", "wrn-34-10", "resnet50")


def on_imagenette(what: str) -> dict[str, dict[str, Any]]:
    """Network -> the cell of X + CLAT in T15."""
    rows = read("paper/T15/narrow/table")["entries"]
    tuned = [one for one in rows if one["row"] == "pgd-at+clat"]
    return {one["network"]: one for one in tuned if ("clean" if one["kind"] == "clean" else one["attack"]) == what}


def lower_on_imagenette() -> str:
    found = [on_imagenette(PGD_10)[network] for network in IMAGENETTE]
    weak = [with_interval(one["effect"]) for one in found]
    paper = [f"{one['paper_effect_points']:+.1f}" for one in found]
    clean, strong = (
        [signed(on_imagenette(what)[network]["effect"]["value"]) for network in IMAGENETTE]
        for what in ("clean", STRONG)
    )
    return (
        f"under PGD-10 ResNet-18 {weak[0]}, WRN-34-10 {weak[1]} and ResNet-50 {weak[2]}, where the paper has "
        f"{paper[0]}, {paper[1]} and {paper[2]}; clean {clean[0]}, {clean[1]} and {clean[2]}; under `clat-v2` "
        f"{strong[0]}, {strong[1]} and {strong[2]}."
    )


def over_networks() -> str:
    values = [on_imagenette(PGD_10)[network]["effect"]["value"] for network in IMAGENETTE]
    around = stats.ttest_1samp(values, 0).confidence_interval()
    return f"the mean under PGD-10 is {signed(mean(values))} [{signed(around.low)}, {signed(around.high)}]"


def ratios_on_imagenette() -> str:
    chosen = read("paper/T15/narrow/table")["ratios"]
    first, second, third = (chosen[f"{network}, imagenette"]["ratio"] for network in IMAGENETTE)
    return f"(ratios {first}, {second} and {third})"


def in_points(found: CrossedInterval) -> str:
    return with_interval(vars(found))


def under_autoattack(folder: str, row: str) -> dict[str, CrossedInterval]:
    """Clean and robust of a form less PGD-AT, over seeds and images, by the verdicts in a folder of the claim's."""

    def verdicts(name: str) -> list[clat.EvaluationRecord]:
        files = sorted((RESULTS / "claim" / "finals" / folder).glob(f"{name}@?-last.json"))
        assert len(files) == 3
        return [clat.EvaluationRecord.from_json(file) for file in files]

    return {
        kind: crossed_interval(verdicts_of(verdicts(row), kind) - verdicts_of(verdicts("pgd-at"), kind))
        for kind in ("clean", "robust")
    }


def plus_under_autoattack() -> str:
    plus, printed = (under_autoattack("autoattack", row)["robust"] for row in ("plus-output-ratio-0.3", "clat"))
    return f"that of `clat-plus` is {in_points(plus)}, of CLAT {in_points(printed)}"


def plus_gains() -> str:
    found = under_autoattack("autoattack", "plus-output-ratio-0.3")
    value, interval = in_points(found["robust"]).split(" ", 1)
    clean, around = in_points(found["clean"]).split(" ", 1)
    return f"({value} robust {interval}, {clean} clean {around}"


def strongest_under_autoattack() -> str:
    found = under_autoattack("cosine", "clat-both-all-ratio-1.0-from-75%")
    value, interval = in_points(found["robust"]).split(" ", 1)
    clean, around = in_points(found["clean"]).split(" ", 1)
    return f"{value.lstrip('+')} {interval} for {clean.lstrip('-')} {around}, over seeds and images"


SENTENCES: list[tuple[str, Callable[[], str]]] = [
    ("docs/results/paper/README.md", critical_less_pgd_at),
    ("docs/results/paper/README.md", critical_less_random),
    ("docs/results/paper/README.md", random_less_pgd_at),
    ("docs/results/paper/README.md", averaging_less_pgd_at),
    ("docs/results/paper/README.md", reselected),
    ("docs/results/paper/README.md", most_and_least_critical),
    ("docs/results/paper/README.md", most_less_least_critical),
    ("docs/results/paper/README.md", clat_less_averaged),
    ("docs/results/paper/README.md", shares_of_loss),
    ("docs/results/paper/README.md", at_other_ratios),
    ("docs/results/paper/README.md", one_layer_less_others),
    ("docs/results/paper/README.md", dynamic_or_once),
    ("docs/results/paper/README.md", reselected_in_t5),
    ("docs/results/paper/README.md", printed_in_t5),
    ("docs/results/paper/README.md", ratios_of_t5),
    ("docs/results/paper/README.md", selected_in_t13),
    ("docs/results/paper/README.md", densenet_in_t13),
    ("docs/results/paper/README.md", lower_on_imagenette),
    ("docs/results/paper/README.md", over_networks),
    ("docs/results/paper/README.md", ratios_on_imagenette),
    ("docs/results/README.md", lower_on_imagenette),
    ("docs/results/README.md", anew_less_once),
    ("docs/results/paper/README.md", by_number_of_layers),
    ("docs/results/paper/README.md", densenet_selected_anew),
    ("README.md", lambda: f"whose layers do change: {anew_less_once_of_densenet()}."),
    ("README.md", lambda: f"it loses ({averaging_of_densenet()} under PGD-10)"),
    ("docs/results/README.md", lambda: f"whose layers do change: {anew_less_once_of_densenet()}, where the paper"),
    ("docs/results/README.md", lambda: critical_less_pgd_at("`clat-v2`, the paper's AutoAttack")),
    ("docs/results/README.md", critical_less_random),
    ("docs/results/README.md", averaging_less_pgd_at),
    ("docs/results/README.md", most_and_least_critical),
    ("docs/results/README.md", clat_less_averaged),
    ("docs/results/README.md", shares_of_loss),
    ("docs/results/README.md", by_number_of_layers),
    ("docs/results/README.md", lambda: f"({narrow_effect('T5', 'pgd-at+clat, dynamic', PGD_10)})"),
    ("README.md", lambda: f"(Table 5: {narrow_effect('T5', 'pgd-at+clat, dynamic', PGD_10)} under PGD-10)"),
    ("README.md", lambda: f"({narrow_effect('T7', 'pgd-at+clat, critical', PGD_10)} under PGD-10)"),
    ("README.md", lambda: f"excluded: {contrast('T5', 'pgd-at+clat, dynamic', 'pgd-at+clat, fixed')[0]}."),
    ("docs/results/claim/overfitted.md", plus_under_autoattack),
    ("docs/results/claim/README.md", plus_gains),
    ("docs/results/claim/README.md", strongest_under_autoattack),
]


def test_what_the_front_page_calls_settled_is() -> None:
    for what in ("clean", PGD_10, STRONG):
        assert narrow_cell("T20", "ema", what)["effect"]["low"] > 0
    anew = [one for one in read("paper/T5/narrow/table")["contrasts"] if one["against"] == "pgd-at+clat, fixed"]
    assert anew[0]["effect"]["high"] < anew[0]["paper_effect_points"] / 100, "the paper's gain is excluded"
    entries = [one for one in read("paper/T7/narrow/table")["entries"] if one["row"] == "pgd-at+clat, critical"]
    assert {one["settled"] for one in entries} == {"not settled"}
    for what in ("clean", PGD_10, STRONG):
        below = [one["effect"]["value"] for one in on_imagenette(what).values()]
        assert len(below) == 3
        assert max(below) < 0


@pytest.mark.parametrize(("page", "sentence"), SENTENCES)
def test_a_sentence_says_what_its_files_do(page: str, sentence: Callable[[], str]) -> None:
    assert sentence() in page_text(page)

"""Which layers a rule picks, which parameters move, which statistics follow."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from clat.core.errors import ClatError
from clat.criticality.ranking_report import RankingReport, RankingRow
from clat.criticality.rankings import CriticalityRanking, RobustCriticalityRanking
from clat.criticality.report import CriticalityReport, CriticalityRow
from clat.criticality.selection import Selection, select, trainable_parameters, updating_batch_norms
from clat.network.cost import Cost
from clat.network.layers import enumerate_layers


@pytest.fixture
def model(tiny_resnet):
    return tiny_resnet()


@pytest.fixture
def layers(model, images):
    return enumerate_layers(model, images)[:6]


def report(layers, values):
    rows = [
        CriticalityRow(layer.index, layer.name, layer.kind, layer.num_params, layer.feature_shape, 1.0, value)
        for layer, value in zip(layers, values, strict=True)
    ]
    settings = {"eps": "8/255", "alpha": 0.01, "steps": 10, "norm": "linf", "n": 1, "normaliser": "numel"}
    return CriticalityReport(
        rows=rows, tap="output", metric="weakness", seed=0, clean_accuracy=1, adversarial_accuracy=0, **settings
    )


def numbers(rule, layers, values=None, seed=0):
    index = {layer.name: layer.index for layer in layers}
    return [index[name] for name in select(rule, layers, values and report(layers, values), seed)]


VALUES = [0.1, 3.0, 0.5, 2.0, 9.0, 1.0]


@pytest.mark.parametrize(("k", "expected"), [(1, [5]), (2, [2, 5]), (3, [2, 4, 5]), (6, [1, 2, 3, 4, 5, 6])])
def test_critical_takes_the_largest_in_forward_order(layers, k, expected):
    assert numbers(Selection(k=k), layers, VALUES) == expected


def test_critical_takes_layer_1_whose_index_is_no_ratio_after_all_others_and_an_undefined_one_last(layers):
    assert numbers(Selection(k=1), layers, [99.0, *VALUES[1:]]) == [5]
    assert numbers(Selection(k=5), layers, [99.0, *VALUES[1:]]) == [2, 3, 4, 5, 6]
    assert numbers(Selection(k=5), layers, [99.0, math.nan, *VALUES[2:]]) == [1, 3, 4, 5, 6]
    assert numbers(Selection(k=2), layers, [0.1, math.nan, 0.5, math.nan, 0.3, 0.2]) == [3, 5]


@pytest.mark.parametrize(("k", "expected"), [(1, [3]), (2, [3, 6]), (5, [2, 3, 4, 5, 6])])
def test_least_critical_takes_the_smallest_but_not_layer_1(layers, k, expected):
    assert numbers(Selection(rule="least-critical", k=k), layers, VALUES) == expected


def test_least_critical_leaves_an_undefined_index_out(layers):
    values = [0.1, 3.0, math.nan, 2.0, math.nan, 1.0]
    assert numbers(Selection(rule="least-critical", k=1), layers, values) == [6]
    with pytest.raises(ClatError, match="expected 1 to 3, the number of layers whose"):
        numbers(Selection(rule="least-critical", k=4), layers, values)


def test_rift_takes_the_least_critical_by_robust_criticality_and_may_take_layer_1(layers):
    rows = [
        RankingRow(layer.index, layer.name, layer.kind, layer.num_params, value)
        for layer, value in zip(layers, VALUES, strict=True)
    ]
    found = RankingReport("mrc", "rise of the robust loss", rows, 1, 0, {}, {}, Cost())
    for rule, k, expected in (("least-critical", 1, [1]), ("least-critical", 2, [1, 3]), ("critical", 2, [2, 5])):
        chosen = select(Selection(rule=rule, ranking="mrc", k=k), layers, found, 0)
        assert chosen == [layers[index - 1].name for index in expected]


def test_all_takes_every_candidate(layers):
    assert numbers(Selection(rule="all", k=1), layers) == [1, 2, 3, 4, 5, 6]


def test_random_takes_k_distinct_layers_decided_by_the_seed(layers):
    rule = Selection(rule="random", k=3)
    draws = [numbers(rule, layers, seed=seed) for seed in range(40)]
    assert draws == [numbers(rule, layers, seed=seed) for seed in range(40)]
    assert all(len(set(draw)) == 3 and draw == sorted(draw) for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 10
    assert {index for draw in draws for index in draw} == {1, 2, 3, 4, 5, 6}


def test_in_a_plain_sequential_every_rule_moves_what_it_chose():
    body = [part for _ in range(6) for part in (nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())]
    net = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    layers = enumerate_layers(net, torch.rand(1, 3, 4, 4))
    assert [layer.name for layer in layers] == ["0", "2", "4", "6", "8", "10"]
    ranked = report(layers, VALUES)

    assert select(Selection(rule="all"), layers, None, 0) == [layer.name for layer in layers]
    assert select(Selection(k=2), layers, ranked, 0) == ["2", "8"]
    assert select(Selection(rule="least-critical", k=1), layers, ranked, 0) == ["4"]
    for seed in range(5):
        assert len(select(Selection(rule="random", k=3), layers, None, seed)) == 3


@pytest.mark.parametrize("named", [("layer1.0.conv1", "conv1"), ("2", "1"), (2, 1), ("conv1", 2)])
def test_named_takes_names_and_numbers(layers, named):
    assert numbers(Selection(rule="named", layers=named), layers) == [1, 2]


def test_an_unknown_layer_gives_the_nearest(layers):
    with pytest.raises(ClatError, match=r"'layer1\.0\.conv3'; did you mean 'layer1\.0\.conv[12]'"):
        numbers(Selection(rule="named", layers=("layer1.0.conv3",)), layers)


@pytest.mark.parametrize(("rule", "k"), [("critical", 7), ("random", 7), ("least-critical", 6)])
def test_more_layers_than_there_are_is_refused(layers, rule, k):
    with pytest.raises(ClatError, match=str(k)):
        numbers(Selection(rule=rule, k=k), layers, VALUES)


def test_a_ranking_rule_needs_a_report(layers):
    with pytest.raises(ClatError, match="criticality report"):
        numbers(Selection(), layers)
    assert Selection().ranks
    assert not Selection(rule="random").ranks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "selection.k is 0"),
        ({"every": -1}, "selection.every"),
        ({"num_samples": 0}, "num_samples"),
        ({"steps": 0}, "steps"),
        ({"rule": "named"}, "selection.layers"),
        ({"rule": "critical", "layers": ("conv1",)}, "selection.layers"),
        ({"tap": "outputs"}, "did you mean 'output'"),
        ({"normaliser": "numle"}, "did you mean 'numel'"),
        ({"metric": "weaknes"}, "did you mean 'weakness'"),
        ({"ranking": "mcr"}, "did you mean 'mrc'"),
        ({"rule": "random", "ranking": "mrc"}, "the rule 'random' ranks nothing"),
        ({"ranking": "mrc", "initial": "start.pt"}, "only of those"),
        ({"alpha": "2/0"}, r"selection\.alpha is '2/0'"),
        ({"steps": 0}, r"selection\.steps is 0"),
        ({"ranking": "mrc", "tap": "norm"}, "selection.tap is no setting of the ranking 'mrc'"),
        ({"ranking": "rewinding", "steps": 3}, "selection.steps is no setting of the ranking 'rewinding'"),
        ({"ranking": RobustCriticalityRanking(radius=0.2), "steps": 3}, 'name = "mrc", steps = ...'),
        ({"group": "mpl"}, "did you mean 'mlp'"),
        (
            {"rule": "most-critical"},
            "unknown rule 'most-critical'; did you mean 'least-critical'. Valid: all, critical",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ClatError, match=message):
        Selection(**settings)


def test_a_ranking_is_given_by_itself_or_by_its_name_with_its_settings_beside_it():
    assert Selection().ranking == Selection(ranking="criticality").ranking == CriticalityRanking()
    assert Selection(tap="norm", steps=3) == Selection(ranking=CriticalityRanking(tap="norm", steps=3))
    assert Selection(ranking="mrc", alpha="2/225") == Selection(ranking=RobustCriticalityRanking(alpha="2/225"))
    assert Selection(ranking=RobustCriticalityRanking(), steps=2).ranking.steps == 2
    # what every recipe of before there were tables says, whatever it ranks by
    flat = {"steps": 10, "normaliser": "numel", "tap": "output", "metric": "weakness"}
    assert Selection(ranking="rewinding", **flat) == Selection(ranking="rewinding")
    again = dataclasses.replace(Selection(tap="norm"), k=2)
    assert (again.k, again.ranking.tap) == (2, "norm")


def test_least_critical_may_take_layer_1_where_its_index_is_a_ratio(layers):
    found = dataclasses.replace(report(layers, VALUES), predecessor="input")
    rule = Selection(rule="least-critical", k=6, ranking=CriticalityRanking(predecessor="input"))
    assert select(dataclasses.replace(rule, k=1), layers, found, 0) == [layers[0].name]
    assert select(rule, layers, found, 0) == [layer.name for layer in layers]
    assert (rule.ranking.rankable(6), CriticalityRanking().rankable(6)) == (6, 5)


def test_what_moves_is_the_weight_and_bias_of_the_layers(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False),
                          nn.Flatten(), nn.Linear(64, 5))  # fmt: skip
    first, second = enumerate_layers(model, images)
    assert set(trainable_parameters(model, [first])) == {"0.weight", "0.bias"}
    assert set(trainable_parameters(model, [first, second])) == {"0.weight", "0.bias", "3.weight"}
    assert set(trainable_parameters(model, [])) == set()
    assert set(trainable_parameters(model, None)) == {name for name, _ in model.named_parameters()}


def test_the_batch_norm_policies(model, layers):
    chosen = [layers[1], layers[4]]
    assert updating_batch_norms(model, chosen, "update") is None
    assert updating_batch_norms(model, chosen, "frozen") == set()
    assert updating_batch_norms(model, chosen, "update-selected") == {model.layer1[0].bn1, model.layer1[1].bn2}
    with pytest.raises(ClatError, match="did you mean 'frozen'"):
        updating_batch_norms(model, chosen, "froze")


def test_update_selected_of_a_layer_without_batch_norm_updates_nothing(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    layers = enumerate_layers(model, images)
    assert updating_batch_norms(model, layers, "update-selected") == set()


def test_a_block_as_a_layer_moves_with_its_batch_norms(tiny_resnet, images):
    model = tiny_resnet()
    blocks = enumerate_layers(model, images, include=("layer2", "layer3"))
    moving = trainable_parameters(model, blocks)
    assert set(moving) == {n for n, _ in model.named_parameters() if n.startswith(("layer2.", "layer3."))}
    expected = {m for n, m in model.named_modules() if n.startswith(("layer2.", "layer3.")) and "bn" in n}
    expected |= {model.layer2[0].shortcut[1], model.layer3[0].shortcut[1]}
    assert updating_batch_norms(model, blocks, "update-selected") == expected

"""CLAT's Eq. 9 against the same written out by hand, option by option."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clat.attacks.feature import run_feature_attack
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.criticality.selection import trainable_parameters
from clat.network import modes
from clat.objectives import Clat, ClatFast, ClatPlus, Step
from clat.objectives.clat import Calibration, ClatCallback

EPS, STEPS = "0.1", 3


def feature_example(net, x, layers, *, tap="output", relative=False, seed=7, alpha=None, steps=STEPS):
    with modes.attack_mode(net):
        attack = Attack.parse(eps=EPS, alpha=alpha, steps=steps)
        return run_feature_attack(net, x, layers, attack, tap=tap, relative=relative, seed=seed)


def change(net, x, x_adv, layers, *, tap="output", relative=False, detach=False):
    """Mean over samples of the sum over layers of ||F_i(x') - F_i(x)||, relative to ||F_i(x)|| if asked."""
    clean, moved = net.features(x), net.features(x_adv)
    total = 0
    for layer in layers:
        before, after = (found[f"{tap}{layer.index}"].flatten(1) for found in (clean, moved))
        before = before.detach() if detach else before
        norm = (after - before).pow(2).sum(1).sqrt()
        total = total + (norm / before.pow(2).sum(1).sqrt() if relative else norm)
    return total.mean()


def check(build, images, labels, layers, objective, expected):
    """The objective's value and every parameter's gradient equal those of `expected(net)`."""
    net, twin = build(), build()
    total, _ = objective.loss(net, images, labels, Step(layers=layers, seed=7, threat=ThreatModel.parse(EPS)))
    wanted = expected(twin)
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
    total.backward()
    wanted.backward()
    for name, mine in net.named_parameters():
        theirs = twin.get_parameter(name)
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("chosen", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("relative", [False, True])
def test_eq_9_in_value_and_gradient(build, images, labels, layers, chosen, detach, relative):
    picked = tuple(layers[i] for i in chosen)

    def expected(net):
        x_adv = feature_example(net, images, picked, relative=relative)
        terms = change(net, images, x_adv, picked, relative=relative, detach=detach)
        assert terms > 0.01
        return F.cross_entropy(net(images), labels) + 0.3 * terms

    objective = Clat(lambda_=0.3, steps=STEPS, relative=relative, detach_clean=detach)
    check(build, images, labels, picked, objective, expected)


def test_detaching_the_clean_feature_changes_the_gradient(build, images, labels, layers):
    """So the cases above can tell the two apart."""
    grads = []
    for detach in (False, True):
        net = build()
        objective = Clat(lambda_=0.3, steps=STEPS, detach_clean=detach)
        objective.loss(
            net, images, labels, Step(layers=layers, seed=7, threat=ThreatModel.parse(EPS))
        ).total.backward()
        grads.append(net.conv1.weight.grad)
    assert not torch.allclose(*grads, rtol=1e-2)


@pytest.mark.parametrize("tap", ["output", "norm", "activation"])
def test_features_are_read_at_the_tap(build, images, labels, layers, tap):
    def expected(net):
        x_adv = feature_example(net, images, layers, tap=tap)
        return F.cross_entropy(net(images), labels) + 0.3 * change(net, images, x_adv, layers, tap=tap)

    check(build, images, labels, layers, Clat(lambda_=0.3, steps=STEPS, tap=tap), expected)


@pytest.mark.parametrize("where", ["clean", "feature", "pgd", "both"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("moved", ["feature", "pgd"])
def test_the_inputs_of_the_two_terms(build, images, labels, layers, where, detach, weight, moved):
    def expected(net):
        sources = {"clean": images, "feature": feature_example(net, images, layers)}
        with modes.attack_mode(net):
            sources["pgd"] = run_pgd(net, images, labels, Attack.parse(eps=EPS, steps=STEPS), seed=8)
        terms = change(net, images, sources[moved], layers, detach=detach)
        read = ["clean", "pgd"] if where == "both" else [where]
        entropy = sum(F.cross_entropy(net(sources[one]), labels) for one in read) / len(read)
        return entropy + weight * terms

    objective = Clat(lambda_=weight, steps=STEPS, ce_input=where, feature_input=moved, detach_clean=detach)
    check(build, images, labels, layers, objective, expected)


@pytest.mark.parametrize("where", ["clean", "feature", "pgd", "both"])
@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("moved", ["feature", "pgd"])
def test_statistics_follow_the_input_of_the_cross_entropy_alone(
    build, images, labels, layers, where, weight, detach, moved
):
    net, twin = build().train(), build().train()
    objective = Clat(lambda_=weight, steps=STEPS, ce_input=where, feature_input=moved, detach_clean=detach)
    objective.loss(net, images, labels, Step(layers=layers, seed=7, threat=ThreatModel.parse(EPS)))
    with modes.attack_mode(twin):
        output = run_pgd(twin, images, labels, Attack.parse(eps=EPS, steps=STEPS), seed=8)
    source = {"clean": images, "feature": feature_example(twin, images, layers), "pgd": output}.get(where, images)
    twin(source)  # with both, the clean one's
    for mine, theirs in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({"lambda_": 0.0}, 1),  # the loss alone: no attack
        ({"lambda_": 0.0, "ce_input": "pgd"}, 1 + STEPS),
        ({"lambda_": 0.3}, 1 + STEPS + 2),  # clean features for the attack, its steps, two passes for the loss
        ({"lambda_": 0.3, "ce_input": "pgd"}, 1 + STEPS + STEPS + 3),
        ({"lambda_": 0.3, "ce_input": "pgd", "feature_input": "pgd"}, STEPS + 2),  # one attack for both terms
        ({"lambda_": 0.3, "feature_input": "pgd"}, STEPS + 2),
        ({"lambda_": 0.0, "ce_input": "both"}, STEPS + 2),
        ({"lambda_": 0.3, "ce_input": "both", "feature_input": "pgd"}, STEPS + 2),  # no more than "pgd"
        ({"lambda_": 0.3, "ce_input": "both"}, 1 + STEPS + STEPS + 3),
    ],
)
def test_how_often_the_network_runs(net, images, labels, layers, settings, runs):
    calls = []
    net.register_forward_pre_hook(lambda *_: calls.append(1))
    Clat(steps=STEPS, **settings).loss(
        net, images, labels, Step(layers=layers, seed=7, threat=ThreatModel.parse(EPS))
    )
    assert len(calls) == runs


def test_the_attack_and_the_feature_passes_stop_at_the_deepest_selected_layer(net, images, labels, layers):
    calls = []
    net.conv2.register_forward_pre_hook(lambda *_: calls.append(1))
    Clat(lambda_=0.3, steps=STEPS).loss(
        net, images, labels, Step(layers=layers[:1], seed=7, threat=ThreatModel.parse(EPS))
    )
    assert len(calls) == 1  # the pass that gives the cross-entropy


def test_only_the_selected_layers_get_a_gradient(net, images, labels, layers):
    net.requires_grad_(False)
    moving = trainable_parameters(net, layers[1:])
    for parameter in moving.values():
        parameter.requires_grad_(True)
    Clat(lambda_=0.3, steps=STEPS).loss(
        net, images, labels, Step(layers=layers[1:], seed=7, threat=ThreatModel.parse(EPS))
    ).total.backward()
    assert {name for name, p in net.named_parameters() if p.grad is not None} == {"conv2.weight", "conv2.bias"}
    assert all(p.grad.abs().max() > 0 for p in moving.values())


@pytest.mark.parametrize("ratio", [None, 0.25])
@pytest.mark.parametrize("relative", [False, True])
def test_the_ratio_holds_on_the_batch_it_was_calibrated_on(net, images, labels, layers, ratio, relative):
    objective = Clat(ratio=ratio, steps=STEPS, relative=relative)
    step = Step(layers=layers, seed=7, threat=ThreatModel.parse(EPS))
    before = [value.clone() for value in net.state_dict().values()]
    found = objective.calibration(net.train(), images, labels, step)
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))
    total, parts = objective.loss(
        net,
        images,
        labels,
        Step(
            layers=layers, seed=7, threat=ThreatModel.parse(EPS), callback=ClatCallback.calibrated(objective, found)
        ),
    )
    share = found.weight * parts["feature_change"] / parts["cross_entropy"]
    assert share.item() == pytest.approx(0.1 if ratio is None else ratio, rel=1e-5)
    assert total.item() == pytest.approx((1 + share.item()) * parts["cross_entropy"].item(), rel=1e-5)


def test_a_given_lambda_needs_no_calibration(net, images, labels, layers):
    step = Step(layers=layers, seed=7, threat=ThreatModel.parse(EPS))
    assert Clat(lambda_=0.3).calibration(net, images, labels, step) == Calibration(0.3)
    assert Clat(ratio=0.0).calibration(net, images, labels, step) == Calibration(0.0)


def test_what_makes_no_sense_is_refused(net, images, labels, layers):
    with pytest.raises(ClatError, match="lambda or ratio"):
        Clat(lambda_=0.1, ratio=0.1)
    with pytest.raises(ClatError, match="at least 0"):
        Clat(lambda_=-0.1)
    with pytest.raises(ClatError, match="at least 0"):
        Clat(ratio=float("nan"))
    with pytest.raises(ClatError, match="did you mean 'norm'"):
        Clat(tap="norms")
    with pytest.raises(ClatError, match="selection"):
        Clat(lambda_=0.1).loss(net, images, labels, Step())
    with pytest.raises(ClatError, match="lambda is not set"):
        Clat().loss(net, images, labels, Step(layers=layers))
    with torch.no_grad():
        net.conv1.weight.zero_()
    with pytest.raises(ClatError, match="moves no feature"):
        Clat().calibration(net, images, labels, Step(layers=layers[:1]))


@pytest.mark.parametrize(("settings", "alpha"), [({}, "0.125"), ({"alpha": "0.03"}, "0.03")])
def test_clat_fast_takes_one_feature_step_of_fast_at_length(build, images, labels, layers, settings, alpha):
    def expected(net):
        x_adv = feature_example(net, images, layers, alpha=alpha, steps=1)
        return F.cross_entropy(net(images), labels) + 0.3 * change(net, images, x_adv, layers)

    check(build, images, labels, layers, ClatFast(lambda_=0.3, **settings), expected)
    assert ClatFast.one_step
    assert not Clat.one_step


def test_clat_plus_is_clat_with_its_settings(build, images, labels, layers):
    settings = {"lambda_": 0.3, "steps": STEPS}
    spelled = Clat(ce_input="pgd", feature_input="pgd", relative=True, tap="norm", **settings)
    totals = [
        objective.loss(build(), images, labels, Step(layers=layers, seed=7, threat=ThreatModel.parse(EPS))).total
        for objective in (ClatPlus(**settings), spelled)
    ]
    assert torch.equal(*totals)

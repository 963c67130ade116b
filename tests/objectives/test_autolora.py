"""AutoLoRa against its formula written out here; which way each gradient takes; lambdas; the network it leaves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clat.core.errors import ClatError
from clat.network.layers import enumerate_layers
from clat.objectives import AutoLoRa, Step

FACTORS = {f"conv2.parametrizations.weight.0.{factor}" for factor in ("down", "up")}
HEAD = {"head.weight", "head.bias"}


@pytest.fixture
def build(build):
    """The network with a steeper head: a divergence that is not lost in rounding."""

    def make():
        net = build()
        with torch.no_grad():
            net.head.weight.mul_(30)
        return net

    return make


@pytest.fixture
def joined(build, context):
    """Settings -> (network, objective, callback, step), with factors as after some training."""

    def make(around=None, **settings):
        net = build()
        objective = AutoLoRa(**{"eps": 0.1, "steps": 3} | settings)
        callback = objective.on_stage_start(context(net, **(around or {})))
        callback.choose_parameters(dict(net.named_parameters()))
        with torch.no_grad():
            for layer in callback.branch.layers.values():
                layer.up.copy_(0.1 * torch.randn(layer.up.shape, generator=torch.Generator().manual_seed(0)))
        return net, objective, callback, Step(seed=9, callback=callback)

    return make


def through_branch(net, callback, twin, x):
    """The clean logits, from a plain network with the sum written into it."""
    layer = callback.branch.layers["conv2"]
    whole = (layer.up @ layer.down).view(6, 4, 3, 3) / 8 + net.conv2.parametrizations.weight.original.detach()
    return torch.func.functional_call(twin, {"conv2.weight": whole}, x)


def gradients(net, total):
    net.zero_grad()
    total.backward()
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


def test_the_value_is_the_formulas(build, joined, images, labels):
    net, objective, callback, step = joined()
    callback.scalars |= {"lambda1": 0.3, "lambda2": 4.2}
    (x_adv,) = objective.examples(net, images, labels, step)
    total, parts = objective.cost(net, images, labels, (x_adv,), step)
    twin = build()
    clean, moved = through_branch(net, callback, twin, images), twin(x_adv)
    p, q = F.softmax(clean, 1), F.softmax(moved, 1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    natural, adversarial = F.cross_entropy(clean, labels), F.cross_entropy(moved, labels)
    assert total.item() == pytest.approx((0.3 * natural + 0.7 * adversarial + 4.2 * divergence).item(), rel=1e-5)
    assert parts["natural"].item() == pytest.approx(natural.item(), rel=1e-5)
    assert parts["adversarial"].item() == pytest.approx(adversarial.item(), rel=1e-5)
    assert parts["divergence"].item() == pytest.approx(divergence.item(), rel=1e-4)
    assert not torch.allclose(clean, net(images))


def test_the_attack_is_pgd_on_the_cross_entropy_of_the_backbone(build, joined, images, labels):
    net, objective, _, step = joined()
    twin = build().requires_grad_(False)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    low, high = (images - 0.1).clamp_min(0), (images + 0.1).clamp_max(1)
    point = (images + 0.001 * noise).clamp(low, high)
    for _ in range(3):
        point = point.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(twin(point), labels, reduction="sum"), point)
        point = (point.detach() + 2.5 * 0.1 / 3 * gradient.sign()).clamp(low, high)
    assert torch.allclose(objective.examples(net, images, labels, step)[0], point, atol=1e-6)


def test_the_uniform_start_is_another(joined, images, labels):
    net, objective, _, step = joined()
    _, uniform, _, _ = joined(start="uniform")
    first, second = (each.examples(net, images, labels, step)[0] for each in (objective, uniform))
    assert not torch.equal(first, second)
    assert (second - images).abs().max() <= 0.1


@pytest.mark.parametrize(
    ("lambda1", "lambda2", "detach", "taught"),
    [
        (1.0, 0.0, False, FACTORS | HEAD),
        (
            0.0,
            0.0,
            False,
            {"conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias"} | HEAD,
        ),
    ],
)
def test_the_clean_pass_teaches_the_branch_and_the_adversarial_one_the_rest(
    joined, images, labels, lambda1, lambda2, detach, taught
):
    net, objective, callback, step = joined()
    callback.scalars |= {"lambda1": lambda1, "lambda2": lambda2}
    examples = objective.examples(net, images, labels, step)
    found = gradients(net, objective.cost(net, images, labels, examples, step).total)
    moved = {name for name, gradient in found.items() if gradient.abs().sum() > 0}
    backbone = {"conv2.parametrizations.weight.original", "conv2.bias"} if lambda1 == 0 else set()
    assert moved == taught | backbone


def test_the_classifier_learns_from_both_passes_and_the_divergence_flows_both_ways(joined, images, labels):
    net, objective, callback, step = joined()
    _, detached, _, _ = joined(detach_clean=True)
    callback.scalars |= {"lambda1": 0.0, "lambda2": 1.0}
    examples = objective.examples(net, images, labels, step)
    both = gradients(net, objective.cost(net, images, labels, examples, step).total)
    one = gradients(net, detached.cost(net, images, labels, examples, step).total)
    up = "conv2.parametrizations.weight.0.up"
    assert both[up].abs().sum() > 0
    assert one[up].abs().sum() == 0
    assert not torch.allclose(both["head.weight"], one["head.weight"])
    assert torch.allclose(both["conv1.weight"], one["conv1.weight"])  # the clean pass never teaches it


def test_a_step_leaves_the_flags_as_they_were_and_the_branch_off(joined, images, labels):
    net, objective, callback, step = joined()
    net.bn1.weight.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    objective.loss(net, images, labels, step)
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == flags
    assert not callback.branch.layers["conv2"].active
    with pytest.raises(RuntimeError, match="midway"), callback.clean_path():
        raise RuntimeError("midway")
    assert {name: parameter.requires_grad for name, parameter in net.named_parameters()} == flags
    assert not callback.branch.layers["conv2"].active


def test_the_attack_leaves_no_trace(joined, images, labels):
    net, objective, _, step = joined()
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    objective.examples(net, images, labels, step)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(module.training for module in net.modules())
    assert torch.equal(random_state, torch.get_rng_state())


def test_both_training_passes_update_the_one_set_of_statistics(joined, images, labels):
    net, objective, _, step = joined()
    net.train()
    examples = objective.examples(net, images, labels, step)
    before = net.bn1.num_batches_tracked.item()
    objective.cost(net, images, labels, examples, step)
    assert net.bn1.num_batches_tracked.item() == before + 2


def test_lambdas_follow_the_clean_accuracy_through_the_branch(build, joined, images, labels):
    net, _, callback, _ = joined(around={"epochs": 9})
    x = (images * 255).round() / 255
    with torch.no_grad():
        callback.branch.layers["conv2"].up.normal_(std=3.0, generator=torch.Generator().manual_seed(2))
        callback.after_epoch(None)
        logits, bare = through_branch(net, callback, build(), x), net.eval()(x)
    accuracy, other = ((z.argmax(1) == labels).double().mean().item() for z in (logits, bare))
    assert accuracy != other, "or the test could not tell"
    assert callback.scalars["accuracy"] == pytest.approx(accuracy)
    assert callback.scalars["lambda1"] == pytest.approx(1 - accuracy)
    assert callback.scalars["lambda2"] == pytest.approx(6 * accuracy)


def test_the_accuracy_can_be_that_of_fewer_batches(joined):
    passes = []
    net, _, callback, _ = joined(accuracy_batches=2)
    handle = net.register_forward_hook(lambda module, args, output: passes.append(len(args[0])))
    callback.after_epoch(None)
    assert passes == [2, 2]
    handle.remove()
    assert callback.scalars["accuracy"] in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_lambdas_are_known_before_the_first_step_and_measured_once(build, context):
    net, passes = build(), []
    callback = AutoLoRa().on_stage_start(context(net))
    net.register_forward_hook(lambda module, args, output: passes.append(1))
    for _ in range(2):  # a stage adopts again at each selection
        callback.choose_parameters(dict(net.named_parameters()))
    assert len(passes) == 3
    assert callback.scalars["lambda1"] == 1 - callback.scalars["accuracy"]


def test_the_rate_halves_and_the_best_weights_come_back(joined):
    net, _, callback, _ = joined(around={"epochs": 9}, checkpoints=(2,))
    for epoch, robust in enumerate((0.3, 0.5, 0.4)):
        with torch.no_grad():
            net.head.bias.fill_(epoch)
            callback.branch.factors[1].fill_(epoch)
            net.bn1.running_mean.fill_(epoch)
        assert callback.learning_rate(0.1) == 0.1
        callback.after_epoch({"heldout_robust": robust})
    assert callback.learning_rate(0.1) == 0.05
    for value in (net.head.bias, callback.branch.factors[1], net.bn1.running_mean):
        assert torch.equal(value, torch.full_like(value, 1.0))


def test_a_checkpoint_between_two_checks_counts_at_the_next(joined):
    _, _, callback, _ = joined(around={"epochs": 9}, checkpoints=(2,))
    for check in ({"heldout_robust": 0.3}, {"heldout_robust": 0.2}, None):
        callback.after_epoch(check)
    assert callback.learning_rate(0.1) == 0.1
    callback.after_epoch({"heldout_robust": 0.1})
    assert callback.learning_rate(0.1) == 0.05


def test_without_the_automatic_rate_the_schedule_decides(joined):
    _, _, callback, _ = joined(around={"epochs": 9}, checkpoints=(2,), automatic_rate=False)
    for robust in (0.3, 0.2, 0.1):
        callback.after_epoch({"heldout_robust": robust})
    assert callback.learning_rate(0.1) == 0.1
    assert callback.tensors() == {}


def test_after_the_last_epoch_nothing_is_taken_back(joined):
    """The held-out check that was recorded is that of the weights which are saved."""
    net, _, callback, _ = joined(around={"epochs": 3}, checkpoints=(2,))
    for epoch, robust in enumerate((0.3, 0.2, 0.1)):
        with torch.no_grad():
            net.head.bias.fill_(epoch)
        callback.after_epoch({"heldout_robust": robust})
    assert torch.equal(net.head.bias, torch.full_like(net.head.bias, 2.0))


def test_saved_and_restored_it_goes_on_alike(joined):
    settings = {"around": {"epochs": 9}, "checkpoints": (2,)}
    (net, _, callback, _), (other, _, restored, _) = joined(**settings), joined(**settings)
    for robust in (0.5, 0.4):
        callback.after_epoch({"heldout_robust": robust})
    other.load_state_dict(net.state_dict())
    restored.scalars = dict(callback.scalars)
    restored.restore({name: value.cpu() for name, value in callback.tensors().items()})
    for one in (callback, restored):
        with torch.no_grad():
            one.model.head.bias.fill_(7)
        one.after_epoch({"heldout_robust": 0.3})
    assert restored.scalars == callback.scalars
    assert callback.scalars["factor"] == 0.5
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())
    assert not torch.equal(net.head.bias, torch.full_like(net.head.bias, 7.0))


def test_the_network_it_leaves_has_no_extra_parameter(build, joined, images, labels):
    net, objective, callback, step = joined()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    objective.loss(net, images, labels, step).total.backward()
    optimizer.step()
    backbone = net.conv2.parametrizations.weight.original.detach().clone()
    with torch.no_grad():
        logits = net(images)
    written = callback.export_state(dict(net.state_dict()))
    assert callback.on_stage_end() == {}
    plain = build().state_dict()
    assert list(net.state_dict()) == list(plain)
    assert written.keys() == plain.keys()
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in build().parameters())
    assert torch.equal(net.conv2.weight, backbone)
    assert not torch.equal(backbone, build().conv2.weight)
    with torch.no_grad():
        assert torch.equal(net(images), logits)


def test_layers_are_numbered_as_before(build, joined, images):
    net, *_ = joined()
    told = [[(layer.index, layer.name) for layer in enumerate_layers(each, images)] for each in (net, build())]
    assert told[0] == told[1]


def test_class_probabilities_will_do_for_labels(joined, images, labels):
    net, objective, _, step = joined()
    one_hot = F.one_hot(labels, 5).float()
    examples = objective.examples(net, images, labels, step)
    hard, soft = (objective.cost(net, images, y, examples, step).total.item() for y in (labels, one_hot))
    assert soft == pytest.approx(hard, rel=1e-5)


def test_what_does_not_fit_is_refused(net, images, labels):
    with pytest.raises(ClatError, match="train it with a recipe"):
        AutoLoRa(steps=1).loss(net, images, labels, Step())
    for settings, says in (
        ({"rank": 0}, "rank is 0"),
        ({"branch_alpha": 0.0}, "branch_alpha is 0"),
        ({"kl_scale": -1.0}, "kl_scale is -1"),
        ({"accuracy_batches": 0}, "accuracy_batches is 0"),
        ({"checkpoints": (0, 4)}, r"checkpoints are \[0, 4\]"),
        ({"steps": 0}, "steps is 0"),
    ):
        with pytest.raises(ClatError, match=says):
            AutoLoRa(**settings)

"""The networks: sizes and names of public checkpoints, outputs on small images, what blocks compute."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from clat.models import load_model, model_names
from clat.models.densenet import DenseLayer, Transition
from clat.models.dm_wide_resnet import DMBlock, SameConv, SqueezeExcitation
from clat.models.parts import ACTIVATIONS
from clat.models.preact_resnet import PreActBlock
from clat.models.wide_resnet import WideBlock

NARROW = {name: 2 if name.startswith("densenet") else 4 for name in model_names()}
SHORT = {"dm-wrn-70-16": (2, 1, 1), "ra-wrn-70-16": (2, 1, 1), "wrn-70-16": (2, 1, 1)}


def on_meta(name: str, **options: object) -> nn.Module:
    """A full-size network without memory: names and shapes are real, values do not exist."""
    with torch.device("meta"):
        return load_model(name, **options)


def narrow(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return load_model(name, **({"width": NARROW[name], "depths": SHORT.get(name)} | options)).eval()


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def wide_resnet_size(depth: int, width: int, classes: int) -> int:
    """The parameter count of a WideResNet from its definition, by arithmetic alone."""
    count, total, inputs = (depth - 4) // 6, 3 * 16 * 9, 16
    for outputs in (width, 2 * width, 4 * width):
        first = 2 * inputs + 9 * inputs * outputs + 2 * outputs + 9 * outputs**2 + inputs * outputs
        total += first + (count - 1) * (4 * outputs + 18 * outputs**2)
        inputs = outputs
    return total + 2 * inputs + (inputs + 1) * classes


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("resnet18", 10, 11_173_962),
        ("resnet50", 10, 23_520_842),
        ("resnet50", 100, 23_705_252),  # the paper's 23.7 M
        ("imagenet-resnet18", 1000, 11_689_512),  # torchvision's counts
        ("imagenet-resnet50", 1000, 25_557_032),
        ("imagenet-densenet121", 1000, 7_978_856),
        ("preact-resnet18", 10, 11_171_146),
        ("densenet121", 10, 6_956_298),  # the paper's 6.96 M
        ("wrn-34-10", 10, 46_160_474),
        ("wrn-70-16", 10, 266_796_506),
        ("preact-resnet18-bn", 10, 11_171_146 + 2 * 512),
        ("preact-resnet18-raw", 10, 11_171_146),
        ("preact-resnet18-raw-bn", 10, 11_171_146 + 2 * 512),
        ("dm-wrn-28-10", 10, 36_479_194),  # the 36.5 M of WRN-28-10
        ("dm-wrn-70-16", 10, 266_796_506),
        ("ra-wrn-70-16", 10, 267_240_802),
        ("vgg19", 100, 39_327_652),  # the paper's 39.3 M
        ("vgg19-linear", 10, 20_040_522),
    ],
)
def test_parameter_counts(name: str, classes: int, count: int) -> None:
    assert parameters(on_meta(name, num_classes=classes)) == count


def test_counts_of_wide_resnets_follow_from_their_definition() -> None:
    assert wide_resnet_size(34, 160, 10) == 46_160_474
    assert wide_resnet_size(70, 256, 10) == 266_796_506
    assert wide_resnet_size(28, 160, 10) == 36_479_194


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "resnet50", "preact-resnet18", "preact-resnet18-raw", "wrn-34-10", "densenet121"),
        *("vgg19-linear", "dm-wrn-70-16", "ra-wrn-70-16"),
    ],
)
def test_names_and_shapes_are_those_of_public_checkpoints(name: str, shared_file) -> None:
    manifest = json.loads(shared_file(f"manifests/{name.removesuffix('-raw')}.json").read_text())
    ours = [(k, list(v.shape)) for k, v in on_meta(name).state_dict().items()]
    assert ours == list(manifest["state_dict"].items())


def test_names_and_shapes_of_vgg19_with_100_classes(shared_file) -> None:
    manifest = json.loads(shared_file("manifests/vgg19.json").read_text())
    ours = [(k, list(v.shape)) for k, v in on_meta("vgg19", num_classes=100).state_dict().items()]
    assert ours == list(manifest["state_dict"].items())


def test_the_manifest_with_sub_block1_is_ours_plus_unused_entries(shared_file) -> None:
    manifest = json.loads(shared_file("manifests/wrn-34-10-sub_block1.json").read_text())["state_dict"]
    model = on_meta("wrn-34-10")
    used = [(k, v) for k, v in manifest.items() if not k.startswith(model.unused_entries)]
    assert len(used) < len(manifest)
    assert used == [(k, list(v.shape)) for k, v in model.state_dict().items()]


@pytest.mark.parametrize(
    ("name", "layers", "weights"),
    [
        ("resnet18", [11], 589_824),
        ("resnet50", [3, 34, 41], 36_864 + 262_144 + 524_288),
        ("vgg19", [3, 5, 9, 13], 64 * 128 * 9 + 128 * 256 * 9 + 256 * 512 * 9 + 512 * 512 * 9),
        ("densenet121", [14, 39, 88], 256 * 128 + 512 * 256 + 1024 * 512),
    ],
)
def test_convolutions_in_order_hit_the_papers_anchors(name: str, layers: list[int], weights: int) -> None:
    convolutions = [
        m for n, m in on_meta(name).named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n.lower()
    ]
    assert sum(convolutions[layer - 1].weight.numel() for layer in layers) == weights


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (9, 14)])
def test_logits_at_any_size(name: str, size: tuple[int, int]) -> None:
    model = narrow(name, num_classes=7)
    with torch.no_grad():
        logits = model(torch.rand(2, 3, *size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", model_names())
def test_one_channel_trains_and_every_parameter_gets_a_gradient(name: str) -> None:
    model = narrow(name, in_channels=1).train()
    model(torch.rand(4, 1, 16, 16)).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", model_names())
def test_captured_features_are_not_changed_afterwards(name: str) -> None:
    model = narrow(name)
    captured: list[tuple[torch.Tensor, torch.Tensor]] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
            module.register_forward_hook(lambda _m, _i, out: captured.append((out, out.clone())))
    with torch.no_grad():
        model(torch.rand(1, 3, 8, 8))
    assert captured
    assert all(torch.equal(now, then) for now, then in captured)


@pytest.mark.parametrize("name", model_names())
def test_forward_order_is_registration_order(name: str) -> None:
    """Layers are numbered in forward order; in these networks the file's order says the same."""
    model, seen = narrow(name), []
    layers = {m: n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n.lower()}
    for layer in layers:
        layer.register_forward_hook(lambda m, _i, _o: seen.append(layers[m]))
    with torch.no_grad():
        model(torch.rand(1, 3, 8, 8))
    assert seen == list(layers.values())


def test_convolutions_start_kaiming_normal_in_fan_out_mode() -> None:
    torch.manual_seed(0)
    weight = load_model("resnet18", width=48).layer2[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 96)) ** 0.5, rel=0.02)


def randomised(block: nn.Module) -> nn.Module:
    """BatchNorms with statistics and scales of their own, so that order and omission show."""
    generator = torch.Generator().manual_seed(1)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    return block.eval()


@pytest.mark.parametrize(("block", "shortcut"), [(PreActBlock, "shortcut.0"), (WideBlock, "convShortcut")])
def test_pre_activation_projects_the_activated_input_but_adds_the_raw_one(block: type, shortcut: str) -> None:
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        plain = randomised(block(4, 4, 1))
        main = plain.conv2(F.relu(plain.bn2(plain.conv1(F.relu(plain.bn1(x))))))
        torch.testing.assert_close(plain(x), x + main)
        wider = randomised(block(4, 8, 2))
        active = F.relu(wider.bn1(x))
        main = wider.conv2(F.relu(wider.bn2(wider.conv1(active))))
        torch.testing.assert_close(wider(x), main + wider.get_submodule(shortcut)(active))


def test_a_dense_layer_puts_new_channels_first() -> None:
    x = torch.randn(2, 5, 4, 4)
    with torch.no_grad():
        out = randomised(DenseLayer(5, 3))(x)
    assert out.shape == (2, 8, 4, 4)
    assert torch.equal(out[:, 3:], x)


def test_a_transition_averages_the_pixels_that_exist() -> None:
    layer = randomised(Transition(2))
    x = torch.randn(1, 2, 3, 4)
    with torch.no_grad():
        full = layer.conv(F.relu(layer.bn(x)))
        out = layer(x)
    torch.testing.assert_close(out[0, 0, 0, 0], full[0, 0, :2, :2].mean())
    torch.testing.assert_close(out[0, 0, 1, 1], full[0, 0, 2, 2:].mean())


def test_a_raw_projection_reads_the_raw_input() -> None:
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        block = randomised(PreActBlock(4, 8, 2, raw_projection=True))
        main = block.conv2(F.relu(block.bn2(block.conv1(F.relu(block.bn1(x))))))
        torch.testing.assert_close(block(x), main + block.shortcut(x))


@pytest.mark.parametrize(("name", "raw"), [("preact-resnet18-bn", False), ("preact-resnet18-raw-bn", True)])
def test_a_final_norm_sits_between_the_last_block_and_the_pooling(name: str, raw: bool) -> None:
    model = randomised(narrow(name))
    assert model.layer2[0].raw_projection is raw
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        out = model.layer4(model.layer3(model.layer2(model.layer1(model.conv1(x)))))
        torch.testing.assert_close(model(x), model.linear(F.relu(model.bn(out)).mean(dim=(2, 3))))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_dm_block_with_its_activation_and_without_or_with_squeeze_and_excitation(activation: str) -> None:
    act = {"relu": lambda v: v.clamp(min=0)}.get(activation, lambda v: v / (1 + (-v).exp()))
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        plain = randomised(DMBlock(4, 4, 1, activation=ACTIVATIONS[activation]))
        main = plain.conv_1(act(plain.batchnorm_1(plain.conv_0(act(plain.batchnorm_0(x))))))
        torch.testing.assert_close(plain(x), x + main)
        wider = randomised(DMBlock(4, 8, 2, activation=ACTIVATIONS[activation], squeeze=0.25))
        active = act(wider.batchnorm_0(x))
        main = wider.conv_1(act(wider.batchnorm_1(wider.conv_0(active))))
        torch.testing.assert_close(wider(x), wider.se(main) + wider.shortcut(active))


def test_squeeze_and_excitation_scales_each_channel_by_a_gate_in_0_1() -> None:
    layer = SqueezeExcitation(3, 2)
    x = torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        hidden = F.relu(F.linear(x.mean(dim=(2, 3)), layer.fc1.weight[:, :, 0, 0], layer.fc1.bias))
        gate = torch.sigmoid(F.linear(hidden, layer.fc2.weight[:, :, 0, 0], layer.fc2.bias))
        torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


def test_same_padding_pads_the_far_border_of_even_sizes_and_both_of_odd_ones() -> None:
    conv = SameConv(1, 1)
    with torch.no_grad():
        conv.weight.fill_(1.0)
        even, odd = conv(torch.ones(1, 1, 4, 4)), conv(torch.ones(1, 1, 5, 5))
    assert even[0, 0].tolist() == [[9, 6], [6, 4]]  # the near border is whole, unlike with padding 1
    assert odd[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


def test_dm_networks_train_with_their_own_batch_norm_momentum() -> None:
    for name in ("dm-wrn-28-10", "ra-wrn-70-16"):
        norms = [m for m in narrow(name, depths=(1, 1, 1)).modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {0.01}


def test_depths_count_the_blocks() -> None:
    model = narrow("ra-wrn-70-16", depths=(1, 3, 2), width=9)
    assert [len(group.block) for group in model.layer] == [1, 3, 2]
    assert model.init_conv.out_channels == 4
    assert len(narrow("resnet50", depths=(1, 1, 2, 1)).layer3) == 2
    assert len(narrow("densenet121", depths=(1, 2, 1, 1)).dense2) == 2


@pytest.mark.parametrize(("name", "entries"), [("imagenet-resnet18", 122), ("imagenet-resnet50", 320)])
def test_imagenet_networks_have_torchvisions_names(name: str, entries: int) -> None:
    state = on_meta(name, num_classes=1000).state_dict()
    assert len(state) == entries
    assert list(state)[:2] == ["conv1.weight", "bn1.weight"]
    assert list(state)[-2:] == ["fc.weight", "fc.bias"]
    assert {k.split(".")[2] for k in state if k.startswith("layer2.0")} == (
        {"conv1", "bn1", "conv2", "bn2", "downsample"} | ({"conv3", "bn3"} if "50" in name else set())
    )
    assert not any(k.startswith("layer2.1.downsample") for k in state)
    expansion = 4 if "50" in name else 1
    assert state["layer3.0.downsample.0.weight"].shape == (256 * expansion, 128 * expansion, 1, 1)


@pytest.mark.parametrize("kind", ["resnet18", "resnet50"])
def test_an_imagenet_network_is_the_cifar_one_behind_another_stem(kind: str) -> None:
    ours, theirs = (randomised(narrow(prefix + kind)) for prefix in ("imagenet-", ""))
    names = {"downsample": "shortcut", "fc": "linear"}
    for name, value in ours.state_dict().items():
        if name != "conv1.weight":
            twin = ".".join(names.get(part, part) for part in name.split("."))
            theirs.state_dict()[twin].copy_(value)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        stem = F.relu(ours.bn1(F.conv2d(x, ours.conv1.weight, stride=2, padding=3)))
        assert stem.shape[2:] == (16, 16)
        pooled = F.max_pool2d(stem, 3, 2, 1)
        feature = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(pooled))))
        torch.testing.assert_close(ours(x), theirs.linear(feature.mean((2, 3))))


def test_images_are_enlarged_inside_and_those_of_the_size_are_not_touched() -> None:
    model, plain = (narrow("imagenet-resnet18", input_size=size) for size in (64, None))
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    large = F.interpolate(x, size=(64, 64), mode="bilinear", align_corners=False)
    torch.testing.assert_close(model(x), plain(large))
    assert torch.equal(model(large), plain(large))
    model(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert (x.grad != 0).float().mean() > 0.9

"""robustbench:ID: the architecture behind each entry, its normalisation, and files as they are published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.models import load_model, save_weights
from clat.models.normalize import statistics_of
from clat.models.robustbench import TABLES, Entry

ENTRIES = [(classes, name) for classes, table in TABLES.items() for name in table]
C10 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


def small(entry: Entry) -> dict:
    stages = len(entry.builder.keywords["depths"])
    return {"width": 4, "depths": (1,) * stages}


def trained(entry: Entry, classes: int) -> nn.Module:
    """A small network of the entry's architecture, with statistics and scales that tell variants apart."""
    torch.manual_seed(3)
    model = entry.builder(num_classes=classes, **small(entry))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                value.copy_(torch.rand(value.shape) + 0.1)
    return model.eval()


def by_hand(model: nn.Module, x: Tensor, statistics: tuple | None) -> Tensor:
    mean, std = statistics or ((0.0,) * 3, (1.0,) * 3)
    with torch.no_grad():
        return model((x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1))


def load(name: str, classes: int, entry: Entry, path: Path, **options) -> nn.Module:
    return load_model(f"robustbench:{name}", num_classes=classes, weights=path, **small(entry), **options).eval()


@pytest.mark.parametrize(("classes", "name"), ENTRIES)
@pytest.mark.parametrize("layout", ["bare", "module", "nested"])
def test_a_published_file_gives_the_logits_of_the_network_built_directly(classes, name, layout, tmp_path) -> None:
    entry, x = TABLES[classes][name], torch.rand(3, 3, 8, 8)
    direct = trained(entry, classes)
    state = direct.state_dict()
    if layout == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    if layout == "nested":
        state = {"state_dict": {f"module.model.{key}": value for key, value in state.items()}, "epoch": 3}
    torch.save(state, tmp_path / "net.pt")
    loaded = load(name, classes, entry, tmp_path / "net.pt")
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), by_hand(direct, x, entry.normalize))


@pytest.mark.parametrize(
    ("manifest", "names"),
    [
        ("resnet18", ["Addepalli2022Efficient_RN18"]),
        ("resnet50", ["Engstrom2019Robustness"]),
        ("preact-resnet18", ["Wong2020Fast"]),
        ("wrn-34-10", ["Wu2020Adversarial", "Chen2024Data_WRN_34_10", "Addepalli2022Efficient_WRN_34_10"]),
        (
            "dm-wrn-70-16",
            [
                "Wang2023Better_WRN-70-16",
                "Gowal2021Improving_70_16_ddpm_100m",
                "Rebuffi2021Fixing_70_16_cutmix_extra",
                "Rebuffi2021Fixing_70_16_cutmix_ddpm",
            ],
        ),
        ("ra-wrn-70-16", ["Peng2023Robust"]),
    ],
)
def test_full_size_names_and_shapes_are_the_published_ones(manifest: str, names: list[str], shared_file) -> None:
    published = json.loads(shared_file(f"manifests/{manifest}.json").read_text())
    for name in names:
        with torch.device("meta"):
            model = TABLES[10][name].builder()
        assert {k: list(v.shape) for k, v in model.state_dict().items()} == published["state_dict"]
        assert sum(p.numel() for p in model.parameters()) == published["parameters"]


@pytest.mark.parametrize(
    ("classes", "name", "depths", "width", "activation"),
    [
        (10, "Rice2020Overfitting", (5, 5, 5), 320, None),
        (100, "Wang2023Better_WRN-28-10", (4, 4, 4), 160, "silu"),
        (10, "Gowal2020Uncovering_34_20", (5, 5, 5), 320, "swish"),
        (10, "Rebuffi2021Fixing_106_16_cutmix_ddpm", (17, 17, 17), 256, "swish"),
        (10, "Gowal2021Improving_70_16_ddpm_100m", (11, 11, 11), 256, "swish"),
        (10, "Rebuffi2021Fixing_28_10_cutmix_ddpm", (4, 4, 4), 160, "swish"),
    ],
)
def test_sizes_and_activations(classes: int, name: str, depths: tuple, width: int, activation: str | None) -> None:
    keywords = TABLES[classes][name].builder.keywords
    assert (keywords["depths"], keywords.get("width", 160), keywords.get("activation")) == (
        depths,
        width,
        activation,
    )


@pytest.mark.parametrize(("mean", "std"), [("mu", "sigma"), ("mean", "std")])
def test_the_files_own_constants_count_before_the_tables_and_the_users_before_both(mean, std, tmp_path) -> None:
    entry = TABLES[10]["Wong2020Fast"]
    direct, x, own = trained(entry, 10), torch.rand(2, 3, 8, 8), ((0.5, 0.25, 0.5), (0.5, 0.5, 0.25))
    extra = {f"module.{mean}": torch.tensor(own[0]), f"module.{std}": torch.tensor(own[1]).view(1, 3, 1, 1)}
    state = {f"module.{key}": value for key, value in direct.state_dict().items()} | extra
    torch.save({"state_dict": state}, tmp_path / "net.pt")
    loaded = load("Wong2020Fast", 10, entry, tmp_path / "net.pt")
    assert statistics_of(loaded) == own
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), by_hand(direct, x, own))
    asked = load("Wong2020Fast", 10, entry, tmp_path / "net.pt", normalize="identity")
    with torch.no_grad():
        torch.testing.assert_close(asked(x), by_hand(direct, x, None))


def test_a_fine_tuned_network_is_saved_and_loaded_with_its_normalisation(tmp_path) -> None:
    entry, x = TABLES[10]["Wang2023Better_WRN-70-16"], torch.rand(2, 3, 8, 8)
    torch.save(trained(entry, 10).state_dict(), tmp_path / "net.pt")
    first = load("Wang2023Better_WRN-70-16", 10, entry, tmp_path / "net.pt")
    assert statistics_of(first) == C10
    again = load("Wang2023Better_WRN-70-16", 10, entry, save_weights(first, tmp_path / "tuned.safetensors"))
    with torch.no_grad():
        assert torch.equal(first(x), again(x))


def test_the_second_copy_of_the_first_group_is_dropped(tmp_path) -> None:
    entry = TABLES[10]["Zhang2019Theoretically"]
    state = trained(entry, 10).state_dict()
    copy = {f"sub_{key}": torch.zeros_like(value) for key, value in state.items() if key.startswith("block1.")}
    torch.save({"state_dict": state | copy}, tmp_path / "net.pt")
    loaded = load("Zhang2019Theoretically", 10, entry, tmp_path / "net.pt")
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("name", "classes", "says"),
    [
        ("Wang2023Better_WRN-70-15", 10, "did you mean 'Wang2023Better_WRN-70-16'"),
        ("Peng2023Robust", 100, "is a network for CIFAR-10, asked for 100 classes"),
        ("Gowal2020Uncovering", 10, "is a network for CIFAR-100, asked for 10 classes"),
        ("Nobody2020", 7, "unknown RobustBench id"),
        ("Wong2020Fast", 10, "needs weights: download"),
    ],
)
def test_what_is_refused(name: str, classes: int, says: str) -> None:
    with pytest.raises(ClatError, match=says) as caught:
        load_model(f"robustbench:{name}", num_classes=classes)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_network_or_with_half_a_normalisation(tmp_path) -> None:
    entry = TABLES[10]["Wong2020Fast"]
    state = trained(entry, 10).state_dict()
    other = trained(TABLES[100]["Rice2020Overfitting"], 10).state_dict()
    for content, says in (
        ({k: v for k, v in state.items() if k != "linear.bias"}, r"1 missing \(linear.bias\)"),
        (other, r"5 unexpected \(bn.bias"),
        ({**state, "mu": torch.zeros(3)}, "half a normalisation"),
    ):
        torch.save(content, tmp_path / "net.pt")
        with pytest.raises(ClatError, match=says) as caught:
            load("Wong2020Fast", 10, entry, tmp_path / "net.pt")
        assert "\n" not in str(caught.value)

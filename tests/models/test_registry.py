"""load_model: names, sizes, the user's own factories, and weights with their normalisation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.models import Normalized, load_model, model_names, save_weights
from clat.models.files import fit_state
from clat.models.normalize import STATISTICS, statistics_of

FACTORIES = """
from torch import nn

BROKEN = 3

def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))

def sized(num_classes, width=4, in_channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(4 * in_channels, width), nn.Linear(width, num_classes))

def keywords(**options):
    assert list(options) == ["num_classes"], options
    return sized(**options)

class Holder:
    make = staticmethod(plain)

def failing():
    raise RuntimeError("no luck")

def wrong():
    return "a string"
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module `my_nets` in the current directory, forgotten afterwards."""
    (tmp_path / "my_nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_nets", None)


def out_features(model: torch.nn.Module, channels: int = 3) -> int:
    return model(torch.rand(1, channels, 2, 2)).shape[1]


def test_the_names() -> None:
    assert {"resnet18", "resnet50", "wrn-34-10", "wrn-70-16", "densenet121", "vgg19"} <= set(model_names())


def test_width_scales_and_classes_count() -> None:
    model = load_model("wrn-34-10", width=6, num_classes=3)
    assert model.block3.layer[0].conv1.weight.shape == (24, 12, 3, 3)
    assert model.fc.out_features == 3
    assert load_model("vgg19", width=1).classifier[0].out_features == 64


def test_same_seed_same_weights() -> None:
    first, second = (torch.manual_seed(3) and load_model("preact-resnet18", width=2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "resnet81"}, "did you mean 'resnet18'"),
        ({"name": "resnet18", "width": 0}, "width=0"),
        ({"name": "resnet18", "num_classes": 1.5}, "num_classes=1.5"),
        ({"name": "resnet18", "depths": (1, 1)}, r"depths=\[1, 1\]: 'resnet18' has 4 stages"),
        ({"name": "resnet18", "depths": (1, 0, 1, 1)}, "depths=0"),
        ({"name": "resnet18", "depths": ()}, "give the number of blocks"),
        ({"name": "vgg19", "depths": (1,)}, "'vgg19' takes no depths"),
        ({"name": "resnet18", "activation": "silu"}, "'resnet18' takes no activation"),
        ({"name": "dm-wrn-28-10", "activation": "sillu"}, "unknown activation 'sillu'; did you mean 'silu'"),
        ({"name": "resnet18", "in_channels": True}, "in_channels=True"),
        ({"name": "resnet18", "input_size": 64}, "'resnet18' takes no input_size"),
        ({"name": "imagenet-resnet18", "input_size": 0}, "input_size=0"),
        ({"name": "resnet18", "classifier": "old"}, "unknown classifier 'old'"),
        ({"name": "resnet18", "classifier": "new"}, "name their file as the model's weights"),
        ({"name": "resnet18", "normalize": "nowhere"}, "unknown normalisation"),
        ({"name": "resnet18", "weights": "/nowhere/at/all.pt"}, "no such file"),
        ({"name": "no_such_package_here:make"}, "no module no_such_package_here in the current"),
        ({"name": ":make"}, "write package.module:name"),
    ],
)
def test_what_is_refused(options: dict, says: str) -> None:
    with pytest.raises(ClatError, match=says) as caught:
        load_model(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("factories")
def test_factories_from_the_current_directory() -> None:
    before = list(sys.path)
    assert out_features(load_model("my_nets:plain", num_classes=9)) == 5
    assert out_features(load_model("my_nets:sized", num_classes=9)) == 9
    assert out_features(load_model("my_nets:sized", in_channels=1, width=2), channels=1) == 10
    assert out_features(load_model("my_nets:keywords", num_classes=9)) == 9
    assert out_features(load_model("my_nets:Holder.make")) == 5
    assert sys.path == before


@pytest.mark.usefixtures("factories")
def test_a_factory_is_wrapped_when_normalised() -> None:
    model = load_model("my_nets:plain", normalize="cifar10")
    assert isinstance(model, Normalized)
    assert statistics_of(model) == STATISTICS["cifar10"]


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("my_nets:absent", "check the name after the colon"),
        ("my_nets:", "check the name after the colon"),
        ("my_nets:BROKEN", "cannot be called"),
        ("my_nets:failing", "RuntimeError: no luck"),
        ("my_nets:wrong", "must return an nn.Module"),
    ],
)
def test_what_a_factory_may_get_wrong(name: str, says: str) -> None:
    with pytest.raises(ClatError, match=says) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("factories")
def test_a_width_that_the_factory_does_not_take() -> None:
    with pytest.raises(ClatError, match="takes no width"):
        load_model("my_nets:plain", width=3)


def test_what_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").touch()
    for name, says in (
        ("resnet81", r"did you mean 'resnet18'\? .*; or timm:NAME, hf:FOLDER, .*package.module:factory"),
        ("net.pt", "that is a weight file: --weights net.pt"),
        (str(tmp_path / "run"), "is a run's folder: give .*/recipe.toml"),
    ):
        with pytest.raises(ClatError, match=says):
            load_model(name)


def test_weights_bring_their_normalisation_unless_another_is_asked_for(tmp_path: Path) -> None:
    trained = load_model("resnet18", width=2, normalize="cifar100").eval()
    path = save_weights(trained, tmp_path / "net.safetensors")
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_model("resnet18", width=2, weights=path).eval()(x), trained(x))
    for asked in ("cifar10", "identity"):
        said: list[str] = []
        with listening(said.append):
            model = load_model("resnet18", width=2, weights=path, normalize=asked)
        assert statistics_of(model) == STATISTICS[asked]
        assert ["trained with the normalisation" in line for line in said] == [True] * (asked == "cifar10")


@pytest.mark.usefixtures("factories")
def test_a_foreign_network_gets_its_recorded_normalisation_back(tmp_path: Path) -> None:
    trained = load_model("my_nets:plain", normalize=(0.3, 0.7))
    path = save_weights(trained, tmp_path / "net.safetensors")
    x = torch.rand(2, 3, 2, 2)
    assert torch.equal(load_model("my_nets:plain", weights=path)(x), trained(x))


@pytest.mark.parametrize("classes", [7, 10])
@pytest.mark.parametrize("prefix", ["", "module.model."])
def test_a_new_classifier_takes_all_of_a_file_but_the_last_layer(tmp_path: Path, classes: int, prefix: str) -> None:
    """Of other classes and of as many."""
    state = load_model("imagenet-resnet18", width=2, num_classes=10).state_dict()
    path = tmp_path / "net.pt"
    torch.save({prefix + name: value for name, value in state.items()}, path)
    options = {"width": 2, "num_classes": classes, "weights": path}
    torch.manual_seed(3)
    fresh = load_model("imagenet-resnet18", width=2, num_classes=classes).fc.weight
    torch.manual_seed(3)
    model = load_model("imagenet-resnet18", **options, classifier="new")
    assert torch.equal(model.fc.weight, fresh)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items() if not k.startswith("fc."))
    if classes == 10:
        assert torch.equal(load_model("imagenet-resnet18", **options).fc.weight, state["fc.weight"])
    else:
        with pytest.raises(ClatError, match="2 of another shape"):
            load_model("imagenet-resnet18", **options)


def test_a_network_without_a_linear_layer_has_no_classifier_to_renew() -> None:
    net = torch.nn.Conv2d(3, 4, 1)
    with pytest.raises(ClatError, match="no linear layer"):
        fit_state(net, net.state_dict(), "net.pt", new_classifier=True)

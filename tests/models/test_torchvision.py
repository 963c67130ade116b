"""`torchvision:`: names, weights, auxiliary heads; and what is said where a library is missing or broken."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.models import load_model
from clat.models.files import save_weights
from clat.models.normalize import STATISTICS, Normalized, statistics_of
from clat.models.torchvision_models import TRAINED_ARGUMENTS
from clat.training.trial import check_training_mode
from helpers.libraries import need


@pytest.fixture(scope="module")
def models() -> Any:
    return need("torchvision.models")


def build(name: str, args: Any = None, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return load_model(f"torchvision:{name}", args=args, **{"num_classes": 5} | settings).eval()


def refusal(name: str, args: Any = None, **settings: Any) -> str:
    with pytest.raises(ClatError) as caught:
        build(name, args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_the_network_with_imagenet_s_normalisation(models, images: Tensor) -> None:
    model = build("squeezenet1_1")
    torch.manual_seed(0)
    plain = models.squeezenet1_1(num_classes=5).eval()
    x = images.repeat(1, 1, 4, 4)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STATISTICS["imagenet"])
    assert statistics_of(model) == STATISTICS["imagenet"]
    assert torch.equal(model(x), plain((x - mean) / std))
    assert model.net.state_dict().keys() == plain.state_dict().keys()


@pytest.fixture
def trained(models, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What is 'downloaded' as the trained weights of any network: those of SqueezeNet, of 1000 classes."""
    torch.manual_seed(4)
    state = models.squeezenet1_1().state_dict()
    monkeypatch.setattr(models._api.WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: state)
    return state


@pytest.mark.parametrize("args", [{"pretrained": True}, {"weights": "IMAGENET1K_V1"}, {"weights": "DEFAULT"}])
def test_trained_weights_keep_their_classes(trained: dict[str, Tensor], args: Any) -> None:
    model = build("squeezenet1_1", args)
    assert all(torch.equal(value, trained[name]) for name, value in model.net.state_dict().items())


def test_auxiliary_heads_are_left_out_by_name(models) -> None:
    model, x = build("googlenet"), torch.rand(2, 3, 32, 32)
    assert model(x).shape == (2, 5)
    assert isinstance(model.train()(x), Tensor)
    said: list[str] = []
    with listening(said.append):
        check_training_mode(model, x[:1], 5)
    assert said == [
        "GoogLeNet in training mode returns more than logits: its outputs 'aux_logits2', 'aux_logits1' are left out"
    ]


def test_what_is_refused(models, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean 'resnet18'" in refusal("resnet81")
    assert "unexpected keyword argument 'nonsense'" in refusal("resnet18", {"nonsense": 1})
    assert "unknown weights of torchvision:resnet18 'IMAGENET1K_V2'" in refusal(
        "resnet18", {"weights": "IMAGENET1K_V2"}
    )
    assert "no trained weights that a new classifier" in refusal("resnet18", classifier="new")
    assert "leave normalize out" in refusal("resnet18", normalize="imagenet")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(models._api.WeightsEnum, "get_state_dict", unreachable)
    assert refusal("resnet18", {"pretrained": True}).endswith("no network")


# Libraries that are not there


@pytest.mark.parametrize(
    ("name", "module", "install"),
    [
        ("timm:resnet18", "timm", "pip install timm"),
        ("hf:owner/name", "transformers", "pip install transformers"),
        ("torchvision:resnet18", "torchvision", "see pytorch.org"),
    ],
)
def test_what_to_install(name: str, module: str, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [known for known in sys.modules if known.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ClatError, match="which is not installed") as caught:
        load_model(name)
    assert install in str(caught.value)


def test_a_library_that_does_not_import(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision for another torch does."""
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist\\nand more')\n")
    for loaded in [known for known in sys.modules if known.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClatError) as caught:
        load_model("timm:resnet18")
    assert "does not import here (operator torchvision::nms does not exist)" in str(caught.value)
    assert f"belongs to torch {torch.__version__}" in str(caught.value)


def test_a_library_that_lacks_another(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("import a_library_that_nobody_has.below\n")
    for loaded in [known for known in sys.modules if known.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ClatError, match="needs timm, which needs a_library_that_nobody_has, which is not installed"
    ):
        load_model("timm:resnet18")


def test_a_library_that_lacks_torchvision(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "timm.py").write_text("raise ModuleNotFoundError('gone', name='torchvision.ops')\n")
    for loaded in [known for known in sys.modules if known.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClatError, match=r"timm, which needs torchvision, .*the build that belongs to your torch"):
        load_model("timm:resnet18")


def test_importing_clat_loads_none_of_them() -> None:
    import subprocess

    code = "import sys, clat.models; print({'timm', 'transformers', 'torchvision'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_weights_of_a_trained_network_that_transforms_its_input_fit_one_that_does(
    models, name: str, tmp_path
) -> None:
    """As torchvision builds them with its own weights."""
    small = {"init_weights": False, "num_classes": 5}
    trained = models.get_model(name, weights=None, **TRAINED_ARGUMENTS[name], **small).eval()
    file = save_weights(Normalized(trained, 0.5, 0.5), tmp_path / "net.safetensors")
    again = build(name, {"pretrained": True, "init_weights": False}, weights=file)
    assert again.net.transform_input
    assert (name == "googlenet") == (again.net.aux_logits is False)

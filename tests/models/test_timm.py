"""`timm:`: names, arguments, the normalisation of `pretrained_cfg`, stored networks; and what to install for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.models import Normalized, load_model, load_weights, save_weights
from clat.models.normalize import STATISTICS, statistics_of
from clat.models.settings import NetworkConfig
from helpers.libraries import need

SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 2}
VIT = "timm:vit_tiny_patch16_224"
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module", autouse=True)
def timm() -> Any:
    return need("timm")


def build(name: str = VIT, args: Any = SMALL, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return load_model(name, args=args, **{"num_classes": 5} | settings).eval()


class ByHand(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - torch.full((1, 3, 1, 1), 0.5)) / torch.full((1, 3, 1, 1), 0.5))


def test_it_is_the_network_wrapped_by_hand(timm, images: Tensor, labels: Tensor) -> None:
    model = build()
    torch.manual_seed(0)
    by_hand = ByHand(timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL)).eval()
    assert statistics_of(model) == HALF
    assert torch.equal(model(images), by_hand(images))
    one, other = (clat.evaluate(net, images, labels, eps="4/255", protocol="pgd-10") for net in (model, by_hand))
    assert torch.equal(one.robust, other.robust)
    assert torch.equal(one.correct, other.correct)


def test_weights_of_a_network_without_a_normalisation_stay_without(
    timm, tmp_path: Path, images: Tensor, labels: Tensor
) -> None:
    """Trained on images in [0, 1], as clat gives them to a network that nobody wrapped."""
    torch.manual_seed(0)
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL).eval()
    path, said = save_weights(plain, tmp_path / "net.safetensors"), []
    with listening(said.append):
        again = build(weights=path)
    note = f"weights {path}: trained without a normalisation, so that of '{VIT}' by its library is left out"
    assert said == [note]
    assert statistics_of(again) is None
    assert torch.equal(again(images), plain(images))
    clat.save_pretrained(plain, tmp_path / "folder", network=NetworkConfig(name=VIT, args=SMALL), num_classes=5)
    with listening(said.append):
        assert torch.equal(clat.from_pretrained(tmp_path / "folder")(images), plain(images))
        del said[:]
        load_weights(Normalized(plain, 0.5, 0.5), path)
    assert "trained with no normalisation, but this VisionTransformer keeps its own" in said[0]


def test_saved_weights_fit_the_unwrapped_network(timm, tmp_path: Path, images: Tensor) -> None:
    model = build()
    path = save_weights(model, tmp_path / "net.safetensors")
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=5, **SMALL).eval()
    plain.load_state_dict(load_file(path))
    assert torch.equal(ByHand(plain)(images), model(images))
    torch.manual_seed(1)
    assert torch.equal(load_model(VIT, args=SMALL, num_classes=5, weights=path).eval()(images), model(images))


def test_convolutional_networks_and_other_channels(images: Tensor) -> None:
    model = build("timm:test_resnet", None)
    assert len(clat.enumerate_layers(model, images)) > 3
    assert model(images).shape == (6, 5)
    said: list[str] = []
    with listening(said.append):
        grey = build("timm:resnet10t", None, in_channels=1)
    assert grey(images[:, :1].repeat(1, 1, 4, 4)).shape == (6, 5)
    (mean,), (std,) = statistics_of(grey)
    imagenet = STATISTICS["imagenet"]
    assert mean == pytest.approx(sum(imagenet[0]) / 3)
    assert std == pytest.approx(sum(imagenet[1]) / 3)
    assert "average serves 1" in said[0]


def stored(timm: Any, folder: Path, **settings: Any) -> nn.Module:
    """A network of 7 classes in a folder, as timm stores it."""
    torch.manual_seed(3)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=7, **SMALL).eval()
    timm.models.save_for_hf(network, folder, model_args=SMALL, model_config={"num_classes": 7}, **settings)
    return network


def test_stored_networks_bring_weights_and_classes(timm, tmp_path: Path, images: Tensor) -> None:
    network = stored(timm, tmp_path / "net")
    name = f"timm:local-dir:{tmp_path / 'net'}"
    assert torch.equal(build(name, None)(images), ByHand(network)(images))
    renewed = build(name, None, classifier="new")
    assert renewed(images).shape == (6, 5)
    assert torch.equal(renewed.net.blocks[1].attn.qkv.weight, network.blocks[1].attn.qkv.weight)
    path = save_weights(renewed, tmp_path / "renewed.safetensors")
    torch.manual_seed(5)
    assert torch.equal(load_model(name, num_classes=5, weights=path).eval()(images), renewed(images))


def refusal(name: str, args: Any = None, **settings: Any) -> str:
    with pytest.raises(ClatError) as caught:
        build(name, args, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(timm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean 'resnet18" in refusal("timm:resnet81")
    assert "unexpected keyword argument 'nonsense'; check the arguments nonsense" in refusal(VIT, {"nonsense": 1})
    assert "takes no argument checkpoint_path" in refusal(VIT, {"checkpoint_path": "x.pt"})
    assert "no trained weights that a new classifier" in refusal(VIT, SMALL, classifier="new")
    assert "leave normalize out" in refusal(VIT, SMALL, normalize="cifar10")
    assert "takes no depths" in refusal(VIT, SMALL, depths=(1, 1))
    assert "no config.json" in refusal(f"timm:local-dir:{tmp_path}")
    assert "unknown source of a timm model 'gs'" in refusal("timm:gs:bucket")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", unreachable)
    assert "no network" in refusal("timm:test_vit", {"pretrained": True})


def test_a_hub_that_cannot_be_reached_is_told_once(timm, monkeypatch, caplog) -> None:
    """Its client says each attempt, in lines of its own."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    client = huggingface_hub.utils.logging.get_logger("huggingface_hub.utils._http")

    def unreachable(*_: object, **__: object) -> None:
        client.warning("Retrying in 1s [Retry 1/5].")
        raise LocalEntryNotFoundError("An error happened. Please check your connection.")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", unreachable)
    assert "its trained weights are not in the cache" in refusal("timm:test_vit", {"pretrained": True})
    assert caplog.messages == []
    client.warning("heard again")
    assert caplog.messages == ["heard again"]


def test_a_malicious_file_in_a_folder(timm, tmp_path: Path) -> None:
    import os

    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    network = stored(timm, tmp_path / "net", safe_serialization=False)
    torch.save({**network.state_dict(), "evil": Evil()}, tmp_path / "net" / "pytorch_model.bin")
    refusal(f"timm:local-dir:{tmp_path / 'net'}")
    assert not (tmp_path / "executed").exists()


def test_images_that_it_does_not_take(images: Tensor) -> None:
    from clat.training.prepare import check_model

    wide = torch.rand(1, 3, 16, 16)
    with pytest.raises(ClatError, match="it takes 8 x 8 pixels: give --image-size 8"):
        check_model(build(), wide, 5)
    with pytest.raises(ClatError, match="it takes 3 channels"):
        check_model(build(), images[:1, :1], 5)


def test_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refusal(VIT).endswith("needs timm, which is not installed: pip install timm")

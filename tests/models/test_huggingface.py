"""`hf:`: folders of transformers both ways, their normalisation, their outputs; nothing in a folder is executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.models import Normalized, load_model, save_pretrained, save_weights
from clat.models.normalize import same_statistics, statistics_of
from clat.models.output_names import in_other_order, output_names
from helpers.libraries import need

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
PROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": MEAN,
    "image_std": STD,
}


def vit(classes: int = 5, **settings: Any) -> nn.Module:
    transformers = need("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=classes, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.ViTForImageClassification(config).eval()


def resnet(classes: int = 5, **settings: Any) -> nn.Module:
    transformers = need("transformers")
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ResNetConfig(**sizes, num_labels=classes, **settings)
        return transformers.ResNetForImageClassification(config).eval()


@pytest.fixture
def folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """A ViT with its image processor."""
    vit().save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    capfd.readouterr()
    return tmp_path / "vit"


class ByHand(nn.Module):
    """How one would wrap such a model oneself."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.inside = net
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inside((x - self.mean) / self.std).logits


def test_a_folder_is_the_model_wrapped_by_hand(folder: Path, capfd, images: Tensor, labels: Tensor) -> None:
    model = load_model(f"hf:{folder}", num_classes=5).eval()
    assert capfd.readouterr() == ("", ""), "the library's progress bars and reports stay silent"
    by_hand = ByHand(vit()).eval()
    assert torch.equal(model(images), by_hand(images))
    assert statistics_of(model) == (MEAN, STD)
    for protocol in ("pgd-10", "fgsm"):
        one, other = (
            clat.evaluate(net, images, labels, eps="4/255", protocol=protocol) for net in (model, by_hand)
        )
        assert torch.equal(one.robust, other.robust)
        assert torch.equal(one.correct, other.correct)
    one, other = (clat.attacks.pgd(net, images, labels, eps="4/255", seed=0) for net in (model, by_hand))
    assert torch.equal(one, other)


@pytest.mark.parametrize("build", [vit, resnet])
def test_networks_keep_their_names_and_are_ranked(build, tmp_path: Path, images: Tensor, labels: Tensor) -> None:
    build().save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    model = load_model(f"hf:{tmp_path / 'net'}", num_classes=5)
    names = {layer.name.removeprefix("net.") for layer in clat.enumerate_layers(model, images)}
    assert names <= {name for name, _ in build().named_modules()}
    assert len(clat.measure_criticality(model, images, labels, eps="4/255", steps=2).top(2)) == 2


def test_saved_weights_fit_the_unwrapped_network(folder: Path, tmp_path: Path, images: Tensor) -> None:
    model = load_model(f"hf:{folder}", num_classes=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    path = save_weights(model, tmp_path / "tuned.safetensors")
    plain = vit()
    plain.load_state_dict(load_file(path))
    assert torch.equal(ByHand(plain)(images), model(images))
    again = load_model(f"hf:{folder}", num_classes=5, weights=path).eval()
    assert torch.equal(again(images), model(images))


def test_folders_work_both_ways(folder: Path, tmp_path: Path, capfd, images: Tensor) -> None:
    transformers = need("transformers")
    model = load_model(f"hf:{folder}", num_classes=5).eval()
    with torch.no_grad():
        model.net.classifier.weight.add_(1)
    assert clat.save_pretrained(model, tmp_path / "tuned") == tmp_path / "tuned"
    assert capfd.readouterr() == ("", "")
    assert {file.name for file in tmp_path.iterdir()} == {"vit", "tuned"}
    assert oct((tmp_path / "tuned").stat().st_mode)[-3:] == oct(folder.stat().st_mode)[-3:]
    plain = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "tuned").eval()
    assert torch.equal(ByHand(plain)(images), model(images))
    assert torch.equal(load_model(f"hf:{tmp_path / 'tuned'}", num_classes=5).eval()(images), model(images))
    capfd.readouterr()


@pytest.mark.parametrize(
    ("names", "data", "order"),
    [
        (("dog", "cat"), ("cat", "dog"), ["dog", "cat"]),
        (("Dog ", "Cat"), ("cat", "dog"), ["dog", "cat"]),
        (("cat", "dog"), ("cat", "dog"), None),
        (("LABEL_1", "LABEL_0"), ("cat", "dog"), None),
        (("dog", "cat"), ("cat", "dog", "owl"), None),
        (("dog", "cat"), ("cat", "owl"), None),
        (("1", "0"), ("0", "1"), None),
        (("cat", "cat"), ("cat", "dog"), None),
    ],
)
def test_outputs_that_have_the_names_of_the_data_in_another_order(
    names: tuple[str, ...], data: tuple[str, ...], order: list[str] | None
) -> None:
    network = resnet(2, id2label=dict(enumerate(names)))
    assert output_names(Normalized(network)) == names
    assert in_other_order(Normalized(network), data) == order
    assert in_other_order(nn.Linear(2, 2), data) is None


def test_names_of_outputs_follow_the_weights(tmp_path: Path, images: Tensor) -> None:
    """A new classifier, and weights of a file, are of classes that the folder's configuration does not know."""
    clat.save_pretrained(Normalized(resnet(2, id2label={0: "dog", 1: "cat"}), MEAN, STD), tmp_path / "net")
    name = f"hf:{tmp_path / 'net'}"
    model = load_model(name, num_classes=2)
    assert output_names(model) == ("dog", "cat")
    assert output_names(load_model(name, num_classes=2, classifier="new")) == ("LABEL_0", "LABEL_1")
    save_weights(model, tmp_path / "tuned.safetensors")
    tuned = load_model(name, num_classes=2, weights=tmp_path / "tuned.safetensors")
    assert output_names(tuned) == ("LABEL_0", "LABEL_1")
    clat.save_pretrained(tuned, tmp_path / "written", class_names=("cat", "dog"))
    assert output_names(tuned) == ("LABEL_0", "LABEL_1")
    written = clat.from_pretrained(tmp_path / "written")
    assert output_names(written) == ("cat", "dog")
    assert torch.equal(written(images), tuned.eval()(images))
    clat.save_pretrained(model, tmp_path / "numbers", class_names=("0", "1"))
    assert output_names(clat.from_pretrained(tmp_path / "numbers")) == ("dog", "cat")


def test_what_save_pretrained_refuses(folder: Path, tmp_path: Path) -> None:
    model = load_model(f"hf:{folder}", num_classes=5)
    with pytest.raises(ClatError, match="exists already"):
        save_pretrained(model, folder)
    with pytest.raises(ClatError, match="a Linear has no save_pretrained"):
        save_pretrained(Normalized(nn.Linear(2, 2)), tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(ClatError, match="cannot write"):
        save_pretrained(model, tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("processor", "function"),
    [
        ({"do_normalize": False}, lambda x: x),
        ({"do_rescale": False, "do_normalize": False}, lambda x: x * 255),
        ({"image_mean": MEAN, "image_std": STD, "rescale_factor": 1 / 127.5, "rescale_offset": True}, "offset"),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}, lambda x: (x - 0.5) / 0.5),
        ({"image_mean": 0.5, "image_std": 0.5}, lambda x: (x - 0.5) / 0.5),
    ],
)
def test_every_processor_is_one_normalisation(folder: Path, processor, function, images: Tensor) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if function == "offset":
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        function = lambda x: (x * 2 - 1 - mean) / std  # noqa: E731
    model = load_model(f"hf:{folder}", num_classes=5).eval()
    torch.testing.assert_close(model(images), vit()(function(images)).logits)


def test_a_processor_that_leaves_settings_out_has_those_of_its_class(folder: Path, images: Tensor) -> None:
    """As transformers writes one of MobileViT, which does not normalise and swaps red and blue."""
    processor = {"image_processor_type": "MobileViTImageProcessor", "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "do_flip_channel_order": False}))
    assert statistics_of(load_model(f"hf:{folder}", num_classes=5)) is None
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ClatError, match="swaps red and blue"):
        load_model(f"hf:{folder}", num_classes=5)


@pytest.mark.parametrize("normalises", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_the_processor_of_efficientnet_divides_by_its_std_once_more(
    folder: Path, normalises: bool, told: bool, images: Tensor
) -> None:
    """google/efficientnet-b0 to b7 have the square root of the usual std in their files."""
    transformers = need("transformers")
    processor: dict[str, Any] = {"image_processor_type": "EfficientNetImageProcessor", "do_resize": False}
    processor |= {"image_mean": MEAN, "image_std": STD, "do_normalize": normalises, "do_center_crop": False}
    processor |= {"include_top": True} if told else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    theirs = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = theirs((images * 255).round().to(torch.uint8), return_tensors="pt")["pixel_values"]
    model = load_model(f"hf:{folder}", num_classes=5).eval()
    torch.testing.assert_close(model.normalize((images * 255).round() / 255), pixels, rtol=1e-4, atol=1e-4)
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, "image_std": None}))
    assert "names no image_mean and std" in refusal(folder)


SMALL = {  # configurations by the class of transformers, each with a processor of its own ways
    "MobileNetV2": {"depth_multiplier": 0.35},
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    "ConvNext": {"hidden_sizes": [8] * 4, "depths": [1] * 4},
}


@pytest.mark.parametrize("name", SMALL)
def test_transformers_processor_does_to_images_what_the_saved_network_did(name: str, tmp_path: Path) -> None:
    transformers = need("transformers")
    config = getattr(transformers, f"{name}Config")(image_size=64, num_labels=3, **SMALL[name])
    network = getattr(transformers, f"{name}ForImageClassification")(config)
    model = Normalized(network, MEAN, STD).eval()
    save_pretrained(model, tmp_path / "saved")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "saved")
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    pixels = processor(x, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, model.normalize(x.float() / 255), rtol=1e-4, atol=1e-4)
    found = statistics_of(load_model(f"hf:{tmp_path / 'saved'}", num_classes=3))
    assert found is not None
    assert same_statistics(found, (MEAN, STD))


@pytest.mark.parametrize("kind", ["ViTImageProcessorFast", "ViTFeatureExtractor", "NoSuchProcessor", None])
def test_a_processor_whose_class_cannot_be_read_normalises(folder: Path, kind: str | None) -> None:
    processor = {"image_processor_type": kind, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert statistics_of(load_model(f"hf:{folder}", num_classes=5)) == (MEAN, STD)


def test_a_folder_that_timm_wrote_has_its_normalisation_in_its_configuration(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] = {"mean": list(MEAN), "std": list(STD)}
    (folder / "config.json").write_text(json.dumps(config))
    assert statistics_of(load_model(f"hf:{folder}", num_classes=5)) == (MEAN, STD)


def test_a_processor_within_a_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR}))
    assert statistics_of(load_model(f"hf:{folder}", num_classes=5)) == (MEAN, STD)


def test_without_a_processor_it_is_said(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    said: list[str] = []
    with listening(said.append):
        model = load_model(f"hf:{folder}", num_classes=5)
    assert "has no image processor" in said[0]
    assert statistics_of(model) is None
    assert isinstance(model(torch.rand(1, 3, 8, 8)), Tensor)


def test_classes_are_its_own_unless_the_classifier_is_new(folder: Path, images: Tensor) -> None:
    assert load_model(f"hf:{folder}", num_classes=3)(images).shape[1] == 5
    torch.manual_seed(1)
    renewed = load_model(f"hf:{folder}", num_classes=3, classifier="new")
    assert renewed(images).shape[1] == 3
    own = vit().state_dict()
    same = [
        torch.equal(value, own[name])
        for name, value in renewed.net.state_dict().items()
        if "classifier" not in name
    ]
    assert all(same)
    torch.manual_seed(1)
    again = load_model(f"hf:{folder}", num_classes=3, classifier="new")
    assert torch.equal(again.net.classifier.weight, renewed.net.classifier.weight)


def test_weights_of_other_classes_fit_the_data_s(folder: Path, tmp_path: Path, images: Tensor) -> None:
    trained = load_model(f"hf:{folder}", num_classes=3, classifier="new").eval()
    path = save_weights(trained, tmp_path / "three.safetensors")
    assert torch.equal(load_model(f"hf:{folder}", num_classes=3, weights=path).eval()(images), trained(images))


def test_half_precision_is_computed_in_float32(folder: Path) -> None:
    vit().half().save_pretrained(folder)
    assert {p.dtype for p in load_model(f"hf:{folder}", num_classes=5).parameters()} == {torch.float32}


def test_arguments_go_to_the_configuration(folder: Path) -> None:
    model = load_model(f"hf:{folder}", num_classes=5, args={"hidden_dropout_prob": 0.25})
    assert model.net.config.hidden_dropout_prob == 0.25


def refusal(name: object, **settings: Any) -> str:
    with pytest.raises(ClatError) as caught:
        load_model(f"hf:{name}", **{"num_classes": 5} | settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    assert "no folder here, nor in the cache" in refusal("nobody/nothing-at-all")
    assert "no such folder" in refusal("./absent/folder")
    assert "no such folder" in refusal("a/b/c")
    assert "is a file" in refusal(folder / "config.json")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refusal(tmp_path / "empty")
    assert "nonsense" in refusal(folder, args={"nonsense": 1})
    assert "missing or of another shape (vit.embeddings.position_embeddings)" in refusal(
        folder, args={"image_size": 16}
    )
    assert "takes no argument trust_remote_code" in refusal(folder, args={"trust_remote_code": True})
    assert "takes no argument weights_only" in refusal(folder, args={"weights_only": False})
    assert "takes no width" in refusal(folder, width=4)
    assert "leave normalize out" in refusal(folder, normalize="cifar10")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    refusal(tmp_path / "bert")
    (folder / "preprocessor_config.json").write_text("{")
    assert "preprocessor_config.json cannot be read" in refusal(folder)


def test_an_absent_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    need("transformers")
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def absent(*_: object, **__: object) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    assert "neither a folder here nor on the Hugging Face hub" in refusal("nobody/nothing")


def test_a_hub_name_is_its_folder_in_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, images: Tensor
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def fetch(name: str, **settings: Any) -> str:
        asked.append((name, settings["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    model = load_model("hf:owner/vit", num_classes=5).eval()
    assert torch.equal(model(images), ByHand(vit())(images))
    assert len(asked) == 1
    assert asked[0][0] == "owner/vit"
    assert not any(pattern.endswith((".py", ".bin")) for pattern in asked[0][1])


def test_a_network_that_lacks_its_classifier(tmp_path: Path) -> None:
    need("transformers")
    vit().vit.save_pretrained(tmp_path / "base")
    message = refusal(tmp_path / "base")
    assert "2 missing or of another shape (classifier.bias, classifier.weight)" in message
    assert 'model.classifier = "new"' in message


# Nothing in a folder is executed


class Evil:
    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.target,)


def as_bin(folder: Path) -> dict[str, Tensor]:
    """The folder with its weights as a PyTorch file, which the caller writes."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return state


def test_pytorch_files_are_read_too(folder: Path, images: Tensor) -> None:
    torch.save(as_bin(folder), folder / "pytorch_model.bin")
    assert torch.equal(load_model(f"hf:{folder}", num_classes=5).eval()(images), ByHand(vit())(images))


def test_a_malicious_pickle_in_a_folder(folder: Path, tmp_path: Path) -> None:
    torch.save(as_bin(folder) | {"evil": Evil(tmp_path / "executed")}, folder / "pytorch_model.bin")
    refusal(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "executed"), protocol=2))
    refusal(folder)
    assert not (tmp_path / "executed").exists()


def test_a_bomb_in_a_folder(folder: Path) -> None:
    import zipfile

    torch.save(as_bin(folder), folder / "plain.pt")
    with (
        zipfile.ZipFile(folder / "plain.pt") as plain,
        zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.namelist():
            packed.writestr(record, plain.read(record))
    assert "compressed records" in refusal(folder)


def test_code_that_comes_with_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'executed')!r})\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForImageClassification": "evil.Evil", "AutoConfig": "evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    message = refusal(folder)
    assert "never executed" in message
    assert "trust_remote_code" not in message
    assert not (tmp_path / "executed").exists()


def test_a_damaged_weight_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"garbage")
    refusal(folder)
    save_file({"w": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    assert "missing or of another shape" in refusal(folder)

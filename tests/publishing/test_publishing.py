"""What is handed on: folders both ways, cards, deltas, exported networks, RobustBench's entry, the hub."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import clat
from clat.core.errors import ClatError
from clat.core.notices import Notice
from clat.evaluation import EvaluationRecord
from clat.evaluation.batch_dependence import BATCHED, RANDOM_NOTE
from clat.evaluation.gallery import Gallery
from clat.evaluation.record import TEST_DECIDES
from clat.models import Normalized, load_model, load_weights, save_weights
from clat.models.output_names import output_names
from clat.models.settings import NetworkConfig
from clat.publishing import model_card, write_card_file
from clat.publishing.robustbench_entry import board_of
from clat.report.evaluation_page import render_evaluation
from helpers.libraries import need

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return load_model("resnet18", width=4, num_classes=5, normalize=(MEAN, STD)).eval()


@pytest.fixture
def record(network: nn.Module, images: Tensor, labels: Tensor) -> EvaluationRecord:
    about = {"data": {"name": "cifar10", "split": "test", "n": 6}}
    found = clat.evaluate(network, images, labels, protocol="pgd-10", eps="8/255", about=about)
    return EvaluationRecord.from_dict(json.loads(json.dumps(found.to_dict())))


def test_a_folder_gives_the_same_logits(network, record, images: Tensor, tmp_path: Path) -> None:
    config = NetworkConfig(name="resnet18", width=4, weights="elsewhere.pt", normalize="cifar10")
    names = ("cat", "dog", "a|b", "d", "e")
    folder = clat.save_pretrained(
        network, tmp_path / "net", network=config, class_names=names, results=[record], title="A *net*"
    )
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net"]
    again = clat.from_pretrained(folder)
    assert torch.equal(again(images), network(images))
    assert output_names(again) == names
    given = clat.from_pretrained(
        folder, model=load_model("resnet18", width=4, num_classes=5, normalize=(MEAN, STD))
    )
    assert output_names(given) == names
    for name in (str(folder), f"hf:{folder}"):
        says = f"is a folder that clat wrote: .* --model resnet18 --width 4 --weights {folder}/model.safetensors"
        with pytest.raises(ClatError, match=says):
            load_model(name, num_classes=5)
    assert not again.training
    said = json.loads((folder / "config.json").read_text())
    assert said["clat"]["network"] == {"name": "resnet18", "width": 4}
    assert said["id2label"]["1"] == "dog"
    card = (folder / "README.md").read_text()
    front = dict(line.split(": ", 1) for line in card.split("---\n")[1].splitlines())
    metrics = [one["metrics"][0] for one in json.loads(front["model-index"])[0]["results"]]
    assert [one["value"] for one in metrics] == [
        pytest.approx(record.clean_accuracy.value, abs=1e-6), pytest.approx(record.robust_accuracy.value, abs=1e-6),
    ]  # fmt: skip
    assert f"| cifar10/test, 6 images | pgd-10 | linf 8/255 | {record.clean_accuracy}" in card


def test_networks_that_others_build(network, images: Tensor, tmp_path: Path) -> None:
    own = Normalized(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 0.5, 0.5).eval()
    folder = clat.save_pretrained(own, tmp_path / "own")
    with pytest.raises(ClatError, match=r"is a Sequential, which code of its own builds: give the network"):
        clat.from_pretrained(folder)
    fresh = Normalized(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 0.5, 0.5)
    assert torch.equal(clat.from_pretrained(folder, model=fresh)(images), own(images))
    config = json.loads((folder / "config.json").read_text())
    config["clat"]["network"] = {"name": "os:system"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClatError, match="'os:system', which code of its own builds"):
        clat.from_pretrained(folder)
    config["clat"]["network"] = {"name": "resnet18", "widht": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClatError, match="damaged"):
        clat.from_pretrained(folder)


def test_the_outputs_are_the_network_s_own(images: Tensor, tmp_path: Path) -> None:
    """Neither class names nor a number are given: a reader would assume 10."""
    seven = load_model("resnet18", width=4, num_classes=7).eval()
    before = torch.random.get_rng_state()
    folder = clat.save_pretrained(seven, tmp_path / "net", network=NetworkConfig(name="resnet18", width=4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(clat.from_pretrained(folder)(images), seven(images))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"network": "resnet18"}, "of another shape"),
        ({"network": NetworkConfig(name="resnet50", width=4)}, "missing"),
        ({"network": NetworkConfig(name="resnet18", width=4), "num_classes": 6}, "of another shape (linear.bias"),
        ({"network": NetworkConfig(name="resnet18", width=4), "in_channels": 1}, "of another shape (conv1.weight"),
        ({"network": NetworkConfig(name="resnet19")}, "did you mean 'resnet18'"),
    ],
)
def test_a_name_of_another_network_is_refused(network, said: dict[str, Any], says: str, tmp_path: Path) -> None:
    """A folder that nobody could read."""
    with pytest.raises(ClatError, match=re.escape(says)) as raised:
        clat.save_pretrained(network, tmp_path / "net", **said)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "net").exists()


def test_a_name_under_which_the_weights_are_another_function_is_refused(tmp_path: Path) -> None:
    raw = load_model("preact-resnet18-raw", width=4, num_classes=5)
    for name, settings in (("preact-resnet18", {"width": 4}),):
        with pytest.raises(ClatError, match="they take the same weights, and other logits come out"):
            clat.save_pretrained(raw, tmp_path / "net", network=NetworkConfig(name=name, **settings))
    folder = clat.save_pretrained(raw, tmp_path / "net", network=NetworkConfig(name="preact-resnet18-raw", width=4))
    assert folder.is_dir()


def test_weights_that_are_not_finite_are_written(tmp_path: Path) -> None:
    raw = load_model("resnet18", width=4, num_classes=5)
    with torch.no_grad():
        raw.conv1.weight.fill_(float("nan"))
    with torch.inference_mode():
        assert clat.save_pretrained(raw, tmp_path / "net", network=NetworkConfig(name="resnet18", width=4)).is_dir()


def test_a_result_under_another_normalisation_is_refused(network, record: EvaluationRecord, tmp_path: Path) -> None:
    plain = load_model("resnet18", width=4, num_classes=5)
    plain.load_state_dict(network.state_dict())
    with pytest.raises(
        ClatError, match=r"under another normalisation \(\[\[0\.4, 0\.5, 0\.6\].* than this network's \(none\)"
    ):
        clat.save_pretrained(plain.eval(), tmp_path / "net", results=[record])


def test_a_card_says_no_split_that_is_not_known(network, images: Tensor, labels: Tensor, tmp_path: Path) -> None:
    found = clat.evaluate(network, images, labels, protocol="fgsm", eps="8/255")
    folder = clat.save_pretrained(
        network, tmp_path / "net", results=[EvaluationRecord.from_dict(json.loads(json.dumps(found.to_dict())))]
    )
    assert '"split"' not in (folder / "README.md").read_text()


def test_a_network_of_timm_as_a_folder(images: Tensor, tmp_path: Path) -> None:
    need("timm")
    model = load_model("timm:test_resnet", num_classes=5).eval()
    config = NetworkConfig(name="timm:test_resnet", args={"pretrained": True})
    folder = clat.save_pretrained(model, tmp_path / "net", network=config, num_classes=5)
    assert torch.equal(clat.from_pretrained(folder)(images), model(images))


def test_a_network_of_transformers_as_a_folder(images: Tensor, tmp_path: Path, capfd: Any) -> None:
    transformers = need("transformers")
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    net = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, num_labels=5)).eval()
    model = Normalized(net, MEAN, STD).eval()
    folder = clat.save_pretrained(model, tmp_path / "net")
    assert (folder / "README.md").is_file()
    torch.testing.assert_close(clat.from_pretrained(folder)(images), model(images))
    capfd.readouterr()


def test_a_card_is_never_overwritten_unasked(tmp_path: Path) -> None:
    write_card_file(tmp_path, "by hand")
    with pytest.raises(ClatError, match=r"README.md exists already, and a card is never overwritten unasked"):
        write_card_file(tmp_path, model_card("net"))
    assert (tmp_path / "README.md").read_text() == "by hand"
    write_card_file(tmp_path, model_card("net"), overwrite=True)
    assert "Nothing yet" in (tmp_path / "README.md").read_text()


def test_what_save_and_from_pretrained_refuse(network, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(ClatError, match="exists already"):
        clat.save_pretrained(network, tmp_path / "taken")
    (tmp_path / "noise.json").write_text('{"what": "criticality"}')
    with pytest.raises(ClatError, match="no result of `clat evaluate`"):
        clat.save_pretrained(network, tmp_path / "new", results=[tmp_path / "noise.json"])
    assert not (tmp_path / "new").exists()
    with pytest.raises(ClatError, match=r"there is no config.json in it"):
        clat.from_pretrained(tmp_path / "taken")
    import huggingface_hub

    def unwritable(*args: Any, **settings: Any) -> str:
        raise NotADirectoryError(20, "Not a directory", "/dev/null/hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unwritable)
    with pytest.raises(ClatError, match=r"cache cannot be written \(/dev/null/hub: Not a directory\): set HF_HOME"):
        clat.from_pretrained("owner/name")


def tuned(network: nn.Module) -> nn.Module:
    """The network with another layer 2."""
    other = load_model("resnet18", width=4, num_classes=5, normalize=(MEAN, STD)).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.layer2[0].conv1.weight.add_(0.1)
    return other


def test_a_delta_holds_what_moved_and_gives_the_same_bits(network, images: Tensor, tmp_path: Path) -> None:
    after = tuned(network)
    moved = clat.save_delta(network, after, tmp_path / "delta.safetensors")
    assert list(moved) == ["layer2.0.conv1.weight"]
    with safe_open(tmp_path / "delta.safetensors", framework="pt") as file:
        assert list(file.keys()) == ["layer2.0.conv1.weight"]
    whole = save_weights(after, tmp_path / "whole.safetensors")
    assert (tmp_path / "delta.safetensors").stat().st_size < whole.stat().st_size / 5
    clat.apply_delta(network, tmp_path / "delta.safetensors")
    assert torch.equal(network(images), after(images))
    with pytest.raises(ClatError, match="applied already"):
        clat.apply_delta(network, tmp_path / "delta.safetensors")


def test_a_delta_within_a_wrapper(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, two = (Normalized(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), 0.5, 0.5) for _ in range(2))
    two.net[1].weight.data.copy_(one.net[1].weight)
    assert list(clat.save_delta(one, two, tmp_path / "d.safetensors")) == ["1.bias"]
    clat.apply_delta(one, tmp_path / "d.safetensors")
    assert torch.equal(one(images), two(images))


def test_deltas_that_are_none(network, tmp_path: Path) -> None:
    delta = tmp_path / "delta.safetensors"
    with pytest.raises(ClatError, match="are the same"):
        clat.save_delta(network, network, delta)
    with pytest.raises(ClatError, match="differ in their structure"):
        clat.save_delta(load_model("resnet18", width=5, num_classes=5), network, delta)
    with pytest.raises(ClatError, match="normalise their images differently"):
        clat.save_delta(load_model("resnet18", width=4, num_classes=5), network, delta)
    clat.save_delta(network, tuned(network), delta)
    with pytest.raises(ClatError, match="a delta, what fine-tuning changed: "):
        load_weights(network, delta)
    written = delta.read_bytes()
    with pytest.raises(ClatError, match="exists already"):
        clat.save_delta(network, tuned(tuned(network)), delta)
    assert delta.read_bytes() == written
    other = load_model("resnet18", width=4, num_classes=5, normalize=(MEAN, STD))
    before = other.conv1.weight.clone()
    with pytest.raises(ClatError, match=r"for a base with the fingerprint \w+, this one has \w+: load the weights"):
        clat.apply_delta(other, delta)
    assert torch.equal(other.conv1.weight, before)
    plain = save_weights(network, tmp_path / "plain.safetensors")
    with pytest.raises(ClatError, match="is no delta of clat"):
        clat.apply_delta(network, plain)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_an_exported_network_agrees(network, images: Tensor, tmp_path: Path, suffix: str, capfd: Any) -> None:
    if suffix == ".onnx":
        for library in ("onnx", "onnxscript", "onnxruntime"):
            need(library)
    done = clat.export_network(network, tmp_path / f"net{suffix}", images)
    assert (done.n, done.path.name) == (6, f"net{suffix}")
    assert done.difference < 1e-5
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"net{suffix}"]
    if suffix == ".pt2":
        program = torch.export.load(done.path).module()
        torch.testing.assert_close(program(images[:4]), network(images[:4]))
    assert "torchvision" not in capfd.readouterr().err  # torch's log has a line for each of its operators


def test_networks_that_cannot_be_exported(network, images: Tensor, tmp_path: Path, monkeypatch: Any) -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :5] + torch.rand(5)

    class Deciding(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :5] if x.sum() > 0 else x.flatten(1)[:, 5:10]

    out = tmp_path / "net.pt2"
    with pytest.raises(ClatError, match="gives other logits"):
        clat.export_network(Drawing(), out, images)
    with pytest.raises(ClatError, match="cannot be exported"):
        clat.export_network(Deciding(), out, images)
    for x, path, says in (
        (images[:1], out, "two images or more"),
        (images * 3 - 1, out, "expected \\[0, 1\\]"),
        (images, tmp_path / "net.pb", r"ends in .onnx or .pt2"),
    ):
        with pytest.raises(ClatError, match=says):
            clat.export_network(network, path, x)
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ClatError, match=r"needs onnx(script)?, .* not installed: pip install onnx onnxruntime"):
        clat.export_network(network, tmp_path / "net.onnx", images)
    assert list(tmp_path.iterdir()) == []


def test_what_qualifies_a_number_is_shown_beside_it(record: EvaluationRecord) -> None:
    said = {"notes": ["a  note"], "warning": "signs of gradient masking"}
    found = EvaluationRecord.from_dict(record.data | said)
    assert found.notes == ["a note", "signs of gradient masking"]
    gallery = Gallery(networks=["network"], setting="", counts={}, pictures=[])
    for shown in (model_card("t", results=[found]), render_evaluation(found, gallery), found._repr_html_()):
        assert all(note in shown for note in found.notes)
    assert EvaluationRecord.from_dict({"notes": None}).notes == []


def test_robustbench_s_entry(record: EvaluationRecord) -> None:
    said = {"name": "A Paper", "authors": "A. Author", "architecture": "ResNet-18"}
    with pytest.raises(ClatError, match="lists the full AutoAttack alone"):
        clat.robustbench_entry(record, **said)
    full = clat.evaluation.PROTOCOLS["autoattack"]
    data = record.data | {"protocol": {**full.data(), "hash": full.hash, "norm": "linf"}}
    data["clean_accuracy"] = {"value": 0.8571, "n": 10_000}
    data["robust_accuracy"] = {"value": 0.52481, "n": 10_000}
    entry = clat.robustbench_entry(EvaluationRecord.from_dict(data), **said, venue="ICML 2026", link="https://x.y")
    assert entry == {
        "link": "https://x.y", "name": "A Paper", "authors": "A. Author", "additional_data": False,
        "number_forward_passes": 1, "dataset": "cifar10", "venue": "ICML 2026", "architecture": "ResNet-18",
        "eps": "8/255", "clean_acc": "85.71", "reported": "52.48", "autoattack_acc": "52.48", "unreliable": False,
    }  # fmt: skip
    assert board_of(EvaluationRecord.from_dict(data)) == "cifar10/Linf"
    for norm, eps in (("linf", "0.03"), ("l2", "8/255"), ("l1", "12")):
        odd = EvaluationRecord.from_dict(
            data | {"protocol": data["protocol"] | {"norm": norm}, "eps": {"text": eps, "value": 1.0}}
        )
        note = f"Evaluated at {norm} {eps}; RobustBench lists linf 8/255 and l2 0.5."
        assert clat.robustbench_entry(odd, **said)["footnote"] == note
        assert board_of(odd) is None
    decided = EvaluationRecord.from_dict(data | {"notes": ["cost aside", TEST_DECIDES]})
    entry = clat.robustbench_entry(decided, **said)
    assert entry["footnote"].startswith("Cost aside. The test split decides in this run")
    assert entry["unreliable"] is False
    for note in (RANDOM_NOTE, f"{BATCHED} (BatchNorm without stored statistics)"):
        entry = clat.robustbench_entry(EvaluationRecord.from_dict(data | {"notes": [note]}), **said)
        assert entry["unreliable"] is True
        assert note[1:] in entry["footnote"]
    data["clean_accuracy"]["n"] = 1000
    short = clat.robustbench_entry(EvaluationRecord.from_dict(data), **said, reported=53.0)
    assert short["reported"] == "53.00"
    assert short["footnote"] == "Evaluated on 1000 of RobustBench's 10000 images."
    with pytest.raises(ClatError, match="RobustBench has cifar10"):
        clat.robustbench_entry(EvaluationRecord.from_dict(data | {"data": {"name": "digits"}}), **said)
    for name, split in (("cifar10", "train"), ("cifar10", "validation"), ("imagenet", "train")):
        of_split = data | {"data": {"name": name, "split": split}}
        with pytest.raises(ClatError, match=f"is of '{name}/{split}': RobustBench lists results on 'test'"):
            clat.robustbench_entry(EvaluationRecord.from_dict(of_split), **said)
    for n, note in ((5000, "need not be the 5000"), (50_000, "50000 images, of which RobustBench takes 5000")):
        known = {"data": {"name": "imagenet", "split": "val"}, "clean_accuracy": {"value": 0.7, "n": n}}
        entry = clat.robustbench_entry(EvaluationRecord.from_dict(data | known), **said, footnote="Ours.")
        assert entry["footnote"].startswith("Ours. Evaluated on")
        assert note in entry["footnote"]


class Hub:
    """A hub with one repository."""

    def __init__(self, files: set[str] | None, fails: Exception | None = None) -> None:
        self.files, self.fails, self.sent = files, fails, []

    def __call__(self, **_: Any) -> Hub:
        return self

    def file_exists(self, repo: str, name: str) -> bool:
        if self.fails is not None:
            raise self.fails
        return name in (self.files or ())

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        self.sent.append((repo, private))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str, ignore_patterns: Any) -> None:
        self.sent.append((repo_id, ignore_patterns))


@pytest.fixture
def folder(network: nn.Module, tmp_path: Path) -> Path:
    return clat.save_pretrained(network, tmp_path / "net", network=NetworkConfig(name="resnet18", width=4))


def test_push(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    empty, full = Hub(None), Hub({"README.md"})
    monkeypatch.setattr(huggingface_hub, "HfApi", empty)
    assert clat.push(folder, "me/net", private=True) == "https://huggingface.co/me/net"
    assert empty.sent == [("me/net", True), ("me/net", None)]
    monkeypatch.setattr(huggingface_hub, "HfApi", full)
    with pytest.raises(ClatError, match="has a model card on the hub already"):
        clat.push(folder, "me/net")
    assert full.sent == []
    clat.push(folder, "me/net", card="keep")
    clat.push(folder, "me/net", card="replace")
    assert [ignored for _, ignored in full.sent] == [False, ["README.md"], False, None]


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (ConnectionError("no route\nto host"), r"cannot reach the Hugging Face hub for me/net \(no route\)"),
        (type("Refused", (Exception,), {"response": SimpleNamespace(status_code=401)})(), "run `hf auth login`"),
    ],
)
def test_a_hub_without_network_or_login(folder: Path, monkeypatch: Any, fails: Exception, says: str) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub(None, fails))
    with pytest.raises(ClatError, match=says) as caught:
        clat.push(folder, "me/net")
    assert "\n" not in str(caught.value)


def test_what_push_refuses(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ClatError, match="expected owner/name"):
        clat.push(folder, "net")
    with pytest.raises(ClatError, match="is no folder"):
        clat.push(tmp_path / "absent", "me/net")
    with pytest.raises(ClatError, match=r"no config.json in it: write it with clat export --out FOLDER"):
        clat.push(tmp_path, "me/net")


def test_a_delta_holds_the_sign_of_zero(tmp_path: Path) -> None:
    base = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Linear(2, 2))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.zero_()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned[0].weight.neg_()
        tuned[1].bias.fill_(1)
    clat.save_delta(base, tuned, tmp_path / "delta.safetensors")
    clat.apply_delta(base, tmp_path / "delta.safetensors")
    assert torch.equal(torch.signbit(base[0].weight), torch.signbit(tuned[0].weight))


def test_a_result_of_the_network_in_another_precision_is_not_refused(
    network: nn.Module, images: Tensor, labels: Tensor, tmp_path: Path
) -> None:
    wide = clat.evaluate(copy.deepcopy(network).double(), images, labels, protocol="fgsm", eps="8/255")
    with pytest.warns(Notice, match="is of a network with other names or types: whether its weights were these"):
        clat.save_pretrained(network, tmp_path / "one", results=[EvaluationRecord.from_dict(wide.to_dict())])
    other = copy.deepcopy(network)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    found = clat.evaluate(other, images, labels, protocol="fgsm", eps="8/255")
    with pytest.raises(ClatError, match="is a result of other weights than these"):
        clat.save_pretrained(network, tmp_path / "two", results=[EvaluationRecord.from_dict(found.to_dict())])

"""Weight files: round trips, foreign layouts, messages, and that nothing in a file is ever executed."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.models import Normalized, load_model, load_weights, read_state, save_weights
from clat.models.files import MEMBERS_KEY, NORMALIZE_KEY


class Evil:
    """Unpickling this creates a file, in any unpickler that runs code."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple:
        return (open, (self.target, "w"))


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def equal(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def refusal(call, *arguments: object) -> str:
    with pytest.raises(ClatError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip_with_metadata(tmp_path: Path) -> None:
    path = tmp_path / "made" / "here" / "net.safetensors"
    assert save_weights(small(1), path, {"epoch": "7", "müde": "schön"}) == path
    target = small(2)
    recorded = {NORMALIZE_KEY: "null", MEMBERS_KEY: "{}"}
    assert load_weights(target, path) == {"epoch": "7", "müde": "schön", **recorded}
    assert equal(target, small(1))
    assert [p.name for p in path.parent.iterdir()] == ["net.safetensors"]


def test_normalisation_is_recorded_and_the_wrapper_is_not(tmp_path: Path) -> None:
    path = save_weights(Normalized(small(1), 0.5, (0.1, 0.2, 0.3)), tmp_path / "net.safetensors")
    state, metadata = read_state(path)
    assert state.keys() == small().state_dict().keys()
    assert json.loads(metadata[NORMALIZE_KEY]) == {"mean": [0.5], "std": [0.1, 0.2, 0.3]}
    target = Normalized(small(2), 0.0, 1.0)
    said: list[str] = []
    with listening(said.append):
        load_weights(target, path)
        load_weights(Normalized(small(2), (0.5,) * 3, (0.1, 0.2, 0.3)), path)  # the same, said for each channel
    assert equal(target.net, small(1))
    assert len(said) == 1
    assert "trained with the normalisation ((0.5,), (0.1, 0.2, 0.3)), but this Sequential keeps its own" in said[0]
    assert "has none" in refusal(load_weights, small(), path)


@pytest.mark.parametrize(
    ("recorded", "asked", "says"),
    [
        (None, "cifar10", "trained with no normalisation; the normalisation ((0.4914,"),
        ("svhn", "cifar10", "trained with the normalisation ((0.4377,"),
        ("svhn", "identity", None),
        ("svhn", "svhn", None),
        (None, "identity", None),
        ("svhn", None, None),
    ],
)
def test_load_model_tells_where_a_file_was_trained_with_another_normalisation(
    tmp_path: Path, recorded: str | None, asked: str | None, says: str | None
) -> None:
    path = save_weights(load_model("resnet18", width=2, normalize=recorded), tmp_path / "net.safetensors")
    said: list[str] = []
    with listening(said.append):
        load_model("resnet18", width=2, normalize=asked, weights=path)
    assert [says in line for line in said] == ([] if says is None else [True])


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, lambda net: nn.DataParallel(AveragedModel(net))])
def test_within_a_wrapper_a_network_keeps_its_names_and_its_normalisation(wrap, tmp_path: Path) -> None:
    net = load_model("resnet18", width=4, normalize="cifar10").eval()
    x = torch.rand(2, 3, 32, 32)
    for number, model in enumerate((net, Normalized(load_model("resnet18", width=4), 0.5, 0.25).eval())):
        path = save_weights(wrap(model), tmp_path / f"{number}.safetensors")
        assert read_state(path)[0].keys() == net.state_dict().keys()
        assert torch.equal(load_model("resnet18", width=4, weights=path).eval()(x), model(x))
        again = wrap(copy.deepcopy(model))
        load_weights(again, path)
        assert torch.equal(again(x), model(x))


class Tempered(nn.Module):
    """Looks like a wrapper, and has a parameter of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.module, self.temperature = net, nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) * self.temperature


@pytest.mark.parametrize("wrap", [Tempered, checkpoint_wrapper])
def test_nothing_is_lost_of_what_looks_like_a_wrapper(wrap, tmp_path: Path) -> None:
    model = wrap(small(1))
    path = save_weights(model, tmp_path / "net.safetensors")
    assert len(read_state(path)[0]) == len(model.state_dict())
    again = wrap(small(2))
    load_weights(again, path)
    assert equal(again, model)


def test_tied_strided_and_half_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)).half()
    model[1].weight = model[0].weight
    model[2].weight.data = model[2].weight.data.t()
    path = save_weights(model, tmp_path / "net.safetensors")
    state = load_file(path)
    assert torch.equal(state["0.weight"], state["1.weight"])
    assert torch.equal(state["2.weight"], model[2].weight)
    assert state["0.weight"].dtype == torch.float16


def test_a_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_weights(small(1), tmp_path / "net.safetensors")

    def killed(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", killed)
    assert "disk full" in refusal(save_weights, small(2), path)
    target = small(3)
    load_weights(target, path)
    assert equal(target, small(1))
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.safetensors").mkdir()
    assert ".safetensors" in refusal(save_weights, small(), tmp_path / "net.pt")
    assert "metadata must be text" in refusal(save_weights, small(), tmp_path / "n.safetensors", {"epoch": 3})
    assert "cannot write" in refusal(save_weights, small(), tmp_path / "file" / "n.safetensors")
    assert "cannot write" in refusal(save_weights, small(), tmp_path / "folder.safetensors")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "folder.safetensors"}


LAYOUTS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}}},
    "model": lambda s: {"model": s, "best": 0.5},
    "net and prefix": lambda s: {"net": {f"module.{k}": v for k, v in s.items()}},
    "nested twice": lambda s: {"model": {"state_dict": s}},
    "raw before ema": lambda s: {"ema": {k: v * 0 for k, v in s.items()}, "model_state_dict": s},
    "ema alone": lambda s: {"ema": s},
    "prefixes repeated": lambda s: {f"module.module._orig_mod.{k}": v for k, v in s.items()},
    "model. prefix": lambda s: {f"module.model.{k}": v for k, v in s.items()},
    "no counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.filterwarnings("ignore:.*the file also holds 'ema'")
def test_foreign_layouts(layout: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(LAYOUTS[layout](dict(small(1).state_dict())), path, _use_new_zipfile_serialization=zipped)
    target = small(2)
    load_weights(target, path)
    assert equal(target, small(1))
    assert not any(value.requires_grad for value in read_state(path)[0].values())


def test_a_prefix_that_the_model_has_itself_stays(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = small(1)

    path = save_weights(Outer(), tmp_path / "net.safetensors")
    load_weights(Outer(), path)
    target = small(2)
    load_weights(target, path)
    assert equal(target, small(1))


def test_safetensors_under_another_name(tmp_path: Path) -> None:
    path = save_weights(small(1), tmp_path / "net.safetensors").rename(tmp_path / "net.model")
    assert read_state(path)[0].keys() == small().state_dict().keys()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_unused_sub_block1_is_dropped(prefix: str, tmp_path: Path) -> None:
    source, target = (load_model("wrn-34-10", width=2) for _ in range(2))
    state = dict(source.state_dict())
    state |= {f"sub_{name}": value for name, value in state.items() if name.startswith("block1.")}
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "trades.pt")
    load_weights(target, tmp_path / "trades.pt")
    assert equal(target, source)
    Normalized(load_model("wrn-34-10", width=2), 0.5, 0.5).net.load_state_dict(
        state
    )  # and by torch alone, strictly
    assert any(name.startswith("sub_block1") for name in state)


def test_what_does_not_fit_is_named_in_one_line_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    state = dict(small(1).state_dict())
    del state["3.bias"], state["1.running_mean"]
    state |= {f"extra{i}": torch.ones(1) for i in range(7)} | {"0.weight": torch.ones(4, 1, 3, 3)}
    torch.save(state, path)
    target = small(2)
    message = refusal(load_weights, target, path)
    assert "2 missing (1.running_mean, 3.bias)" in message
    assert "7 unexpected (extra0, extra1, extra2, extra3, extra4, ...)" in message
    assert "1 of another shape (0.weight: file (4, 1, 3, 3), model (4, 3, 3, 3))" in message
    assert "num_classes" in message
    assert equal(target, small(2))


@pytest.mark.parametrize("protocol", [None, 0, 2, 4])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_file_is_executed(protocol: int | None, suffix: str, tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / f"evil{suffix}"
    content = {"state_dict": {"weight": torch.ones(2), "evil": Evil(target)}}
    if protocol is None:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"evil": Evil(target)}, protocol=protocol))
    message = refusal(read_state, path)
    assert not target.exists()
    assert "weights_only" not in message  # torch's advice is to switch the protection off
    if suffix == ".pt" and protocol in (None, 2):  # other protocols are refused as damage
        assert "never executed" in message


def test_the_malicious_file_is_malicious(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "executed"))).close()
    assert (tmp_path / "executed").exists()


def truncated(path: Path) -> None:
    torch.save({"weight": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("empty.pt", lambda p: p.write_bytes(b""), "damaged"),
        ("page.pth", lambda p: p.write_text("<!DOCTYPE html>\n<html>404</html>"), "damaged"),
        ("text.pt", lambda p: p.write_text("hello\nworld"), "damaged"),
        ("cut.pt", truncated, "damaged"),
        ("noise.safetensors", lambda p: p.write_bytes(bytes(range(256))), "damaged"),
        ("folder", lambda p: p.mkdir(), "directory"),
        ("absent.pt", lambda _: None, "no such file"),
        ("whole.pt", lambda p: torch.save(nn.Linear(2, 2), p), "state_dict"),
        ("tensor.pt", lambda p: torch.save(torch.ones(2), p), "only a Tensor"),
        (
            "others.pt",
            lambda p: torch.save({"generator": {"w": torch.ones(2)}, "epoch": 1}, p),
            "generator, epoch",
        ),
    ],
)
def test_what_cannot_be_read(name: str, write, says: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    message = refusal(read_state, tmp_path / name)
    assert says in message
    assert str(tmp_path / name) in message


def test_a_damaged_record_of_the_normalisation(tmp_path: Path) -> None:
    path = save_weights(small(), tmp_path / "net.safetensors", {NORMALIZE_KEY: '{"mean": 1'})
    assert "damaged record" in refusal(load_weights, small(), path)


def test_real_foreign_files(shared_file) -> None:
    state, metadata = read_state(shared_file("weights/cifar10_resnet_resnet4b.pth"))
    assert metadata == {}
    assert "layer1.0.conv1.weight" in state
    assert 120_000 < sum(value.numel() for value in state.values()) < 130_000
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10)),
    )
    path = shared_file("weights/sdp_cifar_cnn_a_adv.model")
    load_weights(network, path)
    assert torch.equal(network[7].bias, read_state(path)[0]["7.bias"])

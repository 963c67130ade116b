"""Which of several state dicts in one file is taken, what is said of the others, and how names are fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from clat.core.errors import ClatError
from clat.core.notices import listening
from clat.models import Normalized, load_model, load_weights, read_state, save_weights
from clat.models.normalize import statistics_of

State = dict[str, Tensor]


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def state(seed: int) -> State:
    return dict(small(seed).state_dict())


def under(prefix: str, seed: int) -> State:
    return {prefix + name: value for name, value in state(seed).items()}


def loaded(content: Any, tmp_path: Path, key: str | None = None) -> tuple[int | None, list[str]]:
    """The seed of the network (1, 2, or None for neither) that `content`, as a file, gives, and the notices."""
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    target, said = small(9), []
    with listening(said.append):
        load_weights(target, path, key=key)
    seeds = (seed for seed in (1, 2) if all(torch.equal(v, target.state_dict()[k]) for k, v in state(seed).items()))
    return next(seeds, None), said


def refusal(content: Any, tmp_path: Path, key: str | None = None) -> str:
    with pytest.raises(ClatError) as caught:
        loaded(content, tmp_path, key)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PAIRS = [
    ("state_dict", "state_dict_ema"),
    ("model", "model_ema"),
    ("net", "ema"),
    ("state_dict", "swa_state_dict"),
    ("model_state_dict", "ema_state_dict"),
    ("state_dict", "averaged_model"),
    ("state_dict", "current_model_state"),
    ("model", "teacher"),
]


@pytest.mark.parametrize(("raw", "other"), PAIRS)
def test_two_in_one_file_are_named_and_either_can_be_had(raw: str, other: str, tmp_path: Path) -> None:
    content = {"epoch": 3, other: state(2), raw: state(1), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    seed, said = loaded(content, tmp_path)
    assert seed == 1
    assert len(said) == 1
    assert f"took '{raw}'" in said[0]
    assert f"also holds '{other}'" in said[0]
    assert "optimizer" not in said[0]
    assert loaded(content, tmp_path, other) == (2, [])
    assert loaded(content, tmp_path, raw) == (1, [])


@pytest.mark.parametrize(
    "name", ["ema_state_dict", "state_dict_ema", "swa_state_dict", "model_ema", "ema_model", "averaged_model"]
)
def test_an_average_alone_is_taken(name: str, tmp_path: Path) -> None:
    assert loaded({name: state(1), "epoch": 2}, tmp_path) == (1, [])


@pytest.mark.parametrize(
    ("raw", "averaged"), [("student", "teacher"), ("network_state", "ema_state"), ("classifier", "ema")]
)
def test_what_an_average_is_of_comes_first_by_any_name(raw: str, averaged: str, tmp_path: Path) -> None:
    other = {"criterion": {"center": torch.ones(3)}}
    seed, said = loaded({averaged: state(2), raw: state(1), **other}, tmp_path)
    assert seed == 1
    assert f"took '{raw}'; the file also holds '{averaged}'" in said[0]
    assert "name one with weights_key" in refusal({averaged: state(2), raw: state(1), "b": state(3)}, tmp_path)


MEAN, STD = torch.tensor([0.5, 0.25, 0.125]).view(1, 3, 1, 1), torch.tensor([0.25, 0.5, 0.5]).view(1, 3, 1, 1)


def norm(prefix: str, factor: float = 1.0, names: tuple[str, str] = ("mean", "std")) -> State:
    return {prefix + names[0]: MEAN * factor, prefix + names[1]: STD * factor}


ROBUSTNESS = {  # as that library saves it: the attacker holds the network and the normaliser a second time
    **norm("module.normalizer.", names=("new_mean", "new_std")),
    **under("module.model.", 1),
    **norm("module.attacker.normalize.", names=("new_mean", "new_std")),
    **under("module.attacker.model.", 2),
}


@pytest.mark.parametrize(
    ("content", "key", "seed"),
    [
        (norm("norm.") | under("model.", 1) | under("ema_model.", 2), None, 1),
        (norm("norm.") | under("model.", 1) | under("ema_model.", 2), "ema_model", 2),
        (norm("0.") | under("1.", 1), "1", 1),
        (norm("model.0.") | under("model.1.", 1) | norm("ema.0.", 0.5) | under("ema.1.", 2), None, 1),
        (norm("model.0.", 0.5) | under("model.1.", 1) | norm("ema.0.") | under("ema.1.", 2), "ema.1", 2),
        (norm("model.0.", 0.5) | under("model.1.", 1) | norm("ema.0.") | under("ema.1.", 2), "ema", 2),
        (norm("a.norm.") | norm("b.norm.") | under("net.", 1), None, 1),
        ({"model": ROBUSTNESS, "epoch": 3}, "model", 1),
        ({"model": ROBUSTNESS, "epoch": 3}, "attacker.model", 2),
        (ROBUSTNESS, "module.model", 1),
        (norm("data_preprocessor.", 255) | under("backbone.", 1), None, 1),
    ],
)
def test_a_normalisation_goes_with_what_it_stands_beside(
    content: Any, key: str | None, seed: int, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    target, said = Normalized(small(9), 0.0, 1.0), []
    with listening(said.append):
        load_weights(target, path, key=key)
    assert all(torch.equal(value, state(seed)[name]) for name, value in target.net.state_dict().items())
    assert "trained with the normalisation ((0.5, 0.25, 0.125), (0.25, 0.5, 0.5))" in said[0]


def test_the_normalisation_of_another_network_is_not_taken_by_key(tmp_path: Path) -> None:
    content = under("student.", 1) | norm("critic.0.") | under("critic.1.", 2)
    assert loaded(content, tmp_path, "student") == (1, [])
    path = tmp_path / "checkpoint.pth"
    target, said = Normalized(small(9), 0.5, 0.5), []
    with listening(said.append):
        load_weights(target, path, key="student")
    assert said == []


def test_an_average_alone_stays_alone_beside_what_is_no_network(tmp_path: Path) -> None:
    by_name = {"state": {"0.weight": {"exp_avg": torch.ones(2)}}}
    for other in ({"metrics": {"val": {"accuracy": torch.ones(1)}}}, {"optimizer": by_name}):
        assert loaded({"ema": state(1), **other}, tmp_path) == (1, [])
    head = {"3.weight": torch.ones(5, 16), "3.bias": torch.ones(5)}
    assert loaded({"ema": state(1), "projector": head}, tmp_path)[0] == 1


def test_a_key_that_names_of_the_network_begin_with_is_the_whole(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.fc = nn.Linear(2, 2), nn.Linear(2, 2)

    torch.save({"model": Own().state_dict()}, tmp_path / "own.pt")
    load_weights(Own(), tmp_path / "own.pt", key="model")


def test_of_nested_prefixes_the_key_s_own_is_taken(tmp_path: Path) -> None:
    content = under("student.", 1) | under("student.old.", 2)
    assert loaded(content, tmp_path, "student")[0] == 1
    assert loaded(content, tmp_path, "student.old") == (2, [])


def test_of_several_normalisations_none_is_guessed(tmp_path: Path) -> None:
    seed, said = loaded(norm("a.norm.") | norm("b.norm.", 0.5) | under("net.", 1), tmp_path)
    assert seed == 1
    assert "left out 4 others" in said[0]


@pytest.mark.parametrize("key", ["b", "module.b"])
def test_a_key_may_leave_out_what_wrappers_put_before_it(key: str, tmp_path: Path) -> None:
    content = under("module.a.", 1) | under("module.b.", 2)
    assert "fit under 'a', 'b' alike" in refusal(content, tmp_path)
    assert loaded(content, tmp_path, key) == (2, [])
    assert loaded({"state_dict": content}, tmp_path, key) == (2, [])


@pytest.mark.parametrize("prefix", ["1.", "model.1.", "net.module.1."])
def test_what_is_not_in_the_file_is_told(prefix: str, tmp_path: Path) -> None:
    seed, said = loaded({"state_dict": under(prefix, 1)}, tmp_path)
    assert seed == 1
    assert "what came before them, such as a normalisation, is not in the file" in said[0]


@pytest.mark.parametrize("place", [("ema", "shadow_params"), ("shadow_params",)])
def test_an_average_without_names_is_told_though_it_cannot_be_taken(place: tuple[str, ...], tmp_path: Path) -> None:
    """As torch_ema saves it: a list in the order of the network's parameters."""
    average: object = [weight.detach() for weight in small(2).parameters()]
    for key in reversed(place):
        average = {key: average, "decay": 0.99, "collected_params": []}
    seed, said = loaded({"model": state(1), **average, "losses": [torch.ones(3)]}, tmp_path)
    assert seed == 1
    assert len(said) == 1
    assert f"took 'model'; the file also holds '{'.'.join(place)}', " in said[0]
    assert "tensors without names" in said[0]


def test_an_average_beside_bare_weights(tmp_path: Path) -> None:
    seed, said = loaded(state(1) | {"ema": state(2)}, tmp_path)
    assert seed == 1
    assert "took the entries at its top; the file also holds 'ema'" in said[0]


def test_an_empty_or_foreign_entry_of_a_usual_name_does_not_hide_the_weights(tmp_path: Path) -> None:
    assert loaded({"model": {"name": "resnet", "width": 4}, "net": state(1)}, tmp_path) == (1, [])
    assert loaded({"state_dict": {}, "model": state(1)}, tmp_path) == (1, [])


def test_keys_within_keys(tmp_path: Path) -> None:
    content = {"run": {"a.b": {"generator": state(1), "ema": {"module": state(2)}}}}
    assert loaded(content, tmp_path, "run.a.b.generator") == (1, [])
    assert loaded(content, tmp_path, "run.a.b.ema") == (2, [])
    assert "name one with weights_key" in refusal(content, tmp_path)


def test_unusual_names_are_refused_unless_asked_for(tmp_path: Path) -> None:
    content = {"generator": state(1), "discriminator": {"w": torch.ones(2)}}
    assert "weights_key: discriminator, generator" in refusal(content, tmp_path)
    assert loaded(content, tmp_path, "generator") == (1, [])


def test_keys_that_are_not_there(tmp_path: Path) -> None:
    content = {"state_dict": state(1), "state_dict_ema": state(2), "epoch": 3}
    assert "did you mean 'state_dict_ema'" in refusal(content, tmp_path, "state_dict_emma")
    assert "Valid: state_dict, state_dict_ema" in refusal(content, tmp_path, "epoch")
    assert "leave it out" in refusal(state(1), tmp_path, "ema")


def test_a_file_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 3}
    content["model"] = content
    assert "no state dict" in refusal(content, tmp_path)


def test_keys_of_safetensors_are_prefixes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(under("model.", 1) | under("model_ema.module.", 2), tmp_path / "net.safetensors")
    target, said = small(9), []
    with listening(said.append):
        load_weights(target, tmp_path / "net.safetensors")
        assert torch.equal(target[0].weight, state(1)["0.weight"])
        load_weights(target, tmp_path / "net.safetensors", key="model_ema")
    assert torch.equal(target[0].weight, state(2)["0.weight"])
    assert len(said) == 1
    assert "took the names under 'model'" in said[0]
    assert "'model_ema'" in said[0]


def averaged() -> State:
    return dict(AveragedModel(small(1)).state_dict())


FLAT = {
    "torch's AveragedModel": averaged,
    "AveragedModel of a compiled network": lambda: {
        k.replace("module.", "module._orig_mod."): v for k, v in averaged().items()
    },
    "compiled blocks": lambda: {k.replace("0.", "0._orig_mod.", 1): v for k, v in state(1).items()},
    "checkpointed blocks": lambda: {
        k.replace("0.", "0._checkpoint_wrapped_module.", 1): v for k, v in state(1).items()
    },
    "DataParallel inside": lambda: {k.replace("1.", "1.module.", 1): v for k, v in state(1).items()},
    "FSDP, fabric, Opacus": lambda: under("_forward_module._fsdp_wrapped_module._module.", 1),
    "backbone.": lambda: under("backbone.", 1),
    "encoder.": lambda: under("encoder.", 1),
    "first of a Sequential": lambda: under("0.", 1),
    "deep inside": lambda: under("trainer.student.backbone.", 1),
}


@pytest.mark.parametrize("layout", FLAT)
def test_names_of_wrappers_come_off(layout: str, tmp_path: Path) -> None:
    assert loaded({"state_dict": FLAT[layout]()}, tmp_path) == (1, [])


@pytest.mark.parametrize("prefix", ["model.", "net.", "1.", "backbone.", "module.encoder."])
def test_what_lies_beside_the_network_is_left_out_by_name(prefix: str, tmp_path: Path) -> None:
    """As in a Lightning file, whose module holds the weights of its loss too."""
    extra = {"criterion.weight": torch.ones(2), "loss_fn.pos_weight": torch.ones(2)}
    seed, said = loaded({"state_dict": under(prefix, 1) | extra}, tmp_path)
    assert seed == 1
    assert len(said) == 1
    assert f"took the names under '{prefix.removeprefix('module.').rstrip('.')}'" in said[0]
    assert "left out 2 others (criterion.weight, loss_fn.pos_weight)" in said[0]


def test_raw_and_averaged_under_prefixes_of_one_state_dict(tmp_path: Path) -> None:
    content = {
        "state_dict": under("ema_model.module.", 2) | under("model.", 1) | {"ema_model.n_averaged": torch.tensor(4)}
    }
    seed, said = loaded(content, tmp_path)
    assert seed == 1
    assert "took the names under 'model'" in said[0]
    assert "'ema_model'" in said[0]
    assert loaded(content, tmp_path, "ema_model") == (2, [])


def test_two_networks_that_fit_alike_must_be_chosen_between(tmp_path: Path) -> None:
    content = under("left.", 1) | under("right.", 2)
    assert "fit under 'left', 'right'" in refusal(content, tmp_path)
    assert loaded(content, tmp_path, "right") == (2, [])


def test_bare_names_come_before_prefixed_ones(tmp_path: Path) -> None:
    seed, said = loaded(state(1) | under("ema.", 2), tmp_path)
    assert seed == 1
    assert "'ema'" in said[0]
    assert "left out" not in said[0]


def test_more_than_the_network_at_its_own_level_is_refused(tmp_path: Path) -> None:
    message = refusal(under("model.", 1) | {"model.extra": torch.ones(1)}, tmp_path)
    assert "1 unexpected (extra)" in message
    message = refusal({k: v for k, v in under("model.", 1).items() if k != "model.3.bias"}, tmp_path)
    assert "1 missing (3.bias)" in message


def test_an_own_module_called_module_keeps_its_names(tmp_path: Path) -> None:
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "plain": nn.Linear(2, 2)})
    torch.save({f"module.{k}": v for k, v in net.state_dict().items()}, tmp_path / "net.pt")
    again = nn.ModuleDict({"module": nn.Linear(2, 2), "plain": nn.Linear(2, 2)})
    load_weights(again, tmp_path / "net.pt")
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in again.state_dict().items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on importing its compiler
def test_files_fit_compiled_and_averaged_networks(tmp_path: Path) -> None:
    path = save_weights(small(1), tmp_path / "net.safetensors")
    for target in (torch.compile(small(9)), nn.DataParallel(small(9))):
        load_weights(target, path)
        assert torch.equal(next(target.parameters()), state(1)["0.weight"])


# A normalisation that a file's own wrapper did


def with_statistics(prefix: str = "0.") -> State:
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    return under("1.", 1) | {f"{prefix}mean": mean, f"{prefix}std": std}


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import sys

    (tmp_path / "nets_of_entries.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "nets_of_entries:make"
    sys.modules.pop("nets_of_entries", None)


def test_statistics_of_a_wrapper_are_used(tmp_path: Path, factory: str) -> None:
    torch.save(with_statistics(), tmp_path / "net.pt")
    said: list[str] = []
    with listening(said.append):
        model = load_model(factory, weights=tmp_path / "net.pt")
    mean, std = statistics_of(model)
    assert mean == pytest.approx((0.1, 0.2, 0.3))
    assert std == pytest.approx((0.5, 0.6, 0.7))
    assert any("normalisation of the file" in line for line in said)
    with listening(said.append):
        asked = load_model(factory, weights=tmp_path / "net.pt", normalize=(0.5, 0.5))
    assert statistics_of(asked) == ((0.5,), (0.5,))


def test_a_bare_network_does_not_take_weights_that_need_a_normalisation(tmp_path: Path) -> None:
    torch.save(with_statistics(), tmp_path / "net.pt")
    target = small(9)
    with pytest.raises(ClatError, match="normalisation"):
        load_weights(target, tmp_path / "net.pt")
    assert torch.equal(target[0].weight, state(9)["0.weight"])
    said: list[str] = []
    with listening(said.append):
        load_weights(Normalized(target, 0.5, 0.5), tmp_path / "net.pt")
    assert torch.equal(target[0].weight, state(1)["0.weight"])


def test_names_after_something_without_entries_are_said(tmp_path: Path) -> None:
    seed, said = loaded(under("1.", 1), tmp_path)
    assert seed == 1
    assert "came before" in said[0]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (torch.ones(4, 3, 3, 3).to_sparse(), "sparse"),
        (torch.empty(4, 3, 3, 3, device="meta"), "meta"),
        (torch.ones(4, 3, 3, 3, dtype=torch.complex64), "complex"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_entries_that_are_no_plain_numbers(value: Tensor, says: str, tmp_path: Path) -> None:
    message = refusal(state(1) | {"0.weight": value}, tmp_path)
    assert says in message
    assert "0.weight" in message


def test_read_state_takes_a_key(tmp_path: Path) -> None:
    torch.save({"model": state(1), "ema": state(2)}, tmp_path / "net.pt")
    found, metadata = read_state(tmp_path / "net.pt", "ema")
    assert metadata == {}
    assert torch.equal(found["0.weight"], state(2)["0.weight"])

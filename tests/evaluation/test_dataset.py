"""Evaluating image sets: in parts, by numbers, by several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.data import ImageSet, Loader
from clat.evaluation import AttackSpec, Evaluation, Protocol, dataset, evaluate, evaluate_set
from clat.evaluation.subset import read_ids

SHORT = Protocol(
    name="short",
    attacks=(
        AttackSpec(attack="apgd", loss="ce", steps=4),
        AttackSpec(attack="apgd", loss="dlr-targeted", steps=4, targets=1),
        AttackSpec(attack="square", steps=8),
    ),
)
IMAGE_BYTES = 4 * 3 * 4 * 4


@pytest.fixture
def model(linear) -> Any:
    return linear()


@pytest.fixture
def images(model: Any) -> ImageSet:
    """23 of them, most labelled as the model sees them."""
    pixels = torch.randint(100, 156, (23, 3, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        labels = model(pixels.float() / 255).argmax(1)
    labels[::6] = (labels[::6] + 1) % 5
    return ImageSet("greys", "test", tuple("abcde"), pixels, labels)


@pytest.fixture
def eps(model: Any, images: ImageSet) -> float:
    return model.distances(images.images.float() / 255, images.labels).clamp_min(0).median().item()


def same(one: Evaluation, other: Evaluation) -> bool:
    return torch.equal(one.correct, other.correct) and torch.equal(one.fooled_by, other.fooled_by)


def test_a_set_is_its_images(model: Any, images: ImageSet, eps: float) -> None:
    x, y = next(iter(Loader(images, 23).epoch()))
    expected = evaluate(model, x, y, protocol=SHORT, eps=eps)
    found = evaluate_set(model, images, protocol=SHORT, eps=eps, about={"model": "linear"})
    assert same(found, expected)
    assert 0 < found.robust.sum() < found.correct.sum() < 23
    assert found.to_dict()["data"] == {"name": "greys", "split": "test", "n": 23}
    assert found.to_dict()["model"] == "linear"


@pytest.mark.parametrize("part", [1, 5, 22, 23])
def test_parts_make_the_whole(part: int, model: Any, images: ImageSet, eps: float) -> None:
    whole = evaluate_set(model, images, protocol=SHORT, eps=eps, batch_size=4, keep_examples=True)
    seen: list[Tensor] = []
    parts = evaluate_set(
        model, images, protocol=SHORT, eps=eps, batch_size=4, keep_examples=True, part_bytes=part * IMAGE_BYTES,
        report=lambda *what: seen.append(torch.tensor(what[2])),
    )  # fmt: skip
    assert same(parts, whole)
    assert torch.equal(parts.x_adv, whole.x_adv)
    assert parts.images == whole.images
    assert max(seen) <= part
    assert parts.cost.forwards == whole.cost.forwards
    assert parts.notes == whole.notes


def test_a_note_is_said_once(model: Any, images: ImageSet, eps: float) -> None:
    many = Protocol(name="many", attacks=(AttackSpec(attack="fab", steps=1, targets=9),))
    result = evaluate_set(model, images, protocol=many, eps=eps, part_bytes=5 * IMAGE_BYTES)
    assert result.notes == ["fab-t: 4 targets instead of 9, as there are 5 classes"]


def test_a_list_of_numbers(model: Any, images: ImageSet, eps: float) -> None:
    """The verdict on an image does not depend on which others were chosen, nor on their order."""
    whole = evaluate_set(model, images, protocol=SHORT, eps=eps)
    ids = [19, 0, 7, 8, 4]
    some = evaluate_set(model, images, protocol=SHORT, eps=eps, ids=ids, part_bytes=2 * IMAGE_BYTES)
    assert torch.equal(some.correct, whole.correct[ids])
    assert torch.equal(some.fooled_by, whole.fooled_by[ids])
    assert torch.equal(some.samples, whole.samples[ids])
    assert some.to_dict()["data"]["n"] == 5


def test_each_part_resumes(model: Any, images: ImageSet, eps: float, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "protocol": SHORT, "eps": eps, "part_bytes": 8 * IMAGE_BYTES, "batch_size": 4, "state": tmp_path / "state",
    }  # fmt: skip
    whole = evaluate_set(model, images, **options | {"state": None})
    model.calls = 50
    with pytest.raises(KeyboardInterrupt):
        evaluate_set(model, images, **options)
    model.calls = None
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written[0] == "state.0-0"
    assert same(evaluate_set(model, images, **options), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.0-0", "state.0-1", "state.0-2"]


def test_convolutions_run_channels_last(tiny_resnet, images: ImageSet) -> None:
    layouts: list[bool] = []
    net: nn.Module = tiny_resnet()
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(
        lambda module, args: layouts.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    plain, last = (
        evaluate_set(net, images, protocol="fgsm", eps="8/255", channels_last=flag) for flag in (False, True)
    )
    assert layouts[0] is False
    assert layouts[-1] is True
    assert torch.equal(plain.correct, last.correct)


def test_a_model_that_does_not_run_channels_last(images: ImageSet) -> None:
    class Old(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.fc(self.conv(x).view(len(x), -1))
            return out

    model = Old()
    with pytest.raises(RuntimeError, match="view"):
        model.to(memory_format=torch.channels_last)(torch.rand(2, 3, 4, 4))  # type: ignore[call-overload]
    assert len(evaluate_set(Old(), images, protocol="fgsm", eps="8/255").robust) == 23


@pytest.mark.parametrize("given", [torch.contiguous_format, torch.channels_last])
def test_the_model_keeps_its_layout(given: torch.memory_format, tiny_resnet, images: ImageSet) -> None:
    """Its very tensors, also where the evaluation ends in an error."""
    net: nn.Module = tiny_resnet().to(memory_format=given)
    before = [(value, value.data_ptr(), value.stride()) for value in net.state_dict(keep_vars=True).values()]
    for flag in (True, False):
        evaluate_set(net, images, protocol="fgsm", eps="8/255", channels_last=flag)
        with pytest.raises(ClatError):
            evaluate_set(net, images, protocol="fgsm", eps=0, channels_last=flag)
    after = net.state_dict(keep_vars=True).values()
    for (value, place, stride), now in zip(before, after, strict=True):
        assert now is value
        assert (now.data_ptr(), now.stride()) == (place, stride)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": torch.tensor([3, 23])}, "ids hold 23, but 'greys/test' has 23 images, numbered from 0 to 22"),
        ({"ids": torch.tensor([-1, 3])}, "ids hold -1, but"),
        ({"ids": torch.tensor([1.0, 3.0])}, "ids hold 1.0: expected whole numbers"),
        ({"ids": [3, "4"]}, "ids hold '4': expected whole numbers"),
        ({"ids": [3, True]}, "ids hold True: expected whole numbers"),
        ({"ids": [3, 0, 3]}, "ids hold 3 twice"),
        ({"ids": []}, "ids name no image of 'greys/test'"),
        ({"eps": 8}, "did you mean 8/255"),
    ],
)
def test_refuses(options: dict[str, Any], message: str, model: Any, images: ImageSet) -> None:
    with pytest.raises(ClatError, match=message):
        evaluate_set(model, images, **{"protocol": "fgsm", "eps": 0.1, **options})


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("[3, 0, 7]", [3, 0, 7]),
        (" 3\n0\n\n7 ", [3, 0, 7]),
        ("3,0, 7", [3, 0, 7]),
        ("", []),
        ("\ufeff3\n0\n", [3, 0]),
        ("\ufeff[3, 0]", [3, 0]),
        ("3 -1 x", [3, "-1", "x"]),
        ("[3.0, true]", [3.0, True]),
    ],
)
def test_numbers_from_a_file(text: str, entries: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "ids"
    file.write_text(text, encoding="utf-8")
    assert read_ids(file) == entries


PROCESS = """
import importlib.util, os, sys
from datetime import timedelta
import torch, torch.distributed as dist
from clat.core.errors import ClatError
from clat.evaluation import evaluate_set

def load(name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(sys.argv[1], name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

torch.set_num_threads(1)
protocol = load("test_dataset").SHORT
model = load("conftest").Linear(5, (3, 4, 4))
images, eps = torch.load("images.pt", weights_only=False)
meeting = {"init_method": "file://" + os.path.abspath("meet"), "timeout": timedelta(seconds=60)}
dist.init_process_group("gloo", rank=int(sys.argv[2]), world_size=2, **meeting)
rank = dist.get_rank()
whole = evaluate_set(model, images, protocol=protocol, eps=eps, batch_size=4, part_bytes=5 * 192, state="state")
one = evaluate_set(model, images, protocol=protocol, eps=eps, ids=[9])
said = ""
try:
    broken = type(images)("b", "test", images.class_names, images.images, images.labels)
    if rank == 1:
        model.w.data[0] = float("nan")
    evaluate_set(model, broken, protocol=protocol, eps=eps)
except ClatError as error:
    said = str(error)
torch.save({"correct": whole.correct, "fooled_by": whole.fooled_by, "samples": whole.samples,
            "forwards": whole.cost.forwards, "processes": whole.environment["processes"],
            "one": one.fooled_by, "said": said}, f"rank-{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_equal_one(model: Any, images: ImageSet, eps: float, tmp_path: Path) -> None:
    """Also with fewer images than processes; and what one of them cannot do, all of them say, and none waits."""
    expected = evaluate_set(model, images, protocol=SHORT, eps=eps, batch_size=4, part_bytes=5 * IMAGE_BYTES)
    torch.save((images, eps), tmp_path / "images.pt")
    (tmp_path / "process.py").write_text(PROCESS)
    here = str(Path(__file__).parent)
    with ExitStack() as stack:
        processes = []
        for rank in (0, 1):
            log = stack.enter_context(open(tmp_path / f"log-{rank}", "w"))
            command = [sys.executable, "process.py", here, str(rank)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            processes.append(subprocess.Popen(command, cwd=tmp_path, stderr=log, env=environment))
            stack.callback(processes[-1].wait)
            stack.callback(processes[-1].kill)
        codes = [process.wait(timeout=120) for process in processes]
    assert codes == [0, 0], "".join((tmp_path / f"log-{rank}").read_text() for rank in (0, 1))
    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True)
        assert torch.equal(found["correct"], expected.correct)
        assert torch.equal(found["fooled_by"], expected.fooled_by)
        assert torch.equal(found["samples"], expected.samples)
        assert found["one"].tolist() == [expected.fooled_by[9].item()]
        assert found["forwards"] > 23
        assert found["processes"] == 2
        assert found["said"] == "the model returns NaN or infinite logits"
    assert {path.name for path in tmp_path.glob("state*")} == {
        "state.2p-0", "state.2p-1", "state.2p-2", "state.2p-3", "state.2p-4", "state.2p-5",
    }  # fmt: skip


def test_what_is_unusual_of_the_images_stands_beside_the_result(model: Any, images: ImageSet, eps: float) -> None:
    marked = replace(images, notes=("split 'val' stands in for 'test'",))
    result = evaluate_set(model, marked, protocol=SHORT, eps=eps, part_bytes=5 * IMAGE_BYTES)
    assert result.notes == ["split 'val' stands in for 'test'"]
    assert marked.take(3).notes == marked.notes


@pytest.mark.parametrize("channels_last", [False, True])
def test_more_outputs_than_classes_are_said(linear: Any, images: ImageSet, channels_last: bool) -> None:
    """A network trained on more classes may have them in another order."""
    options: dict[str, Any] = {"protocol": "fgsm", "eps": 0.1, "channels_last": channels_last}
    result = evaluate_set(linear(classes=7), images, **options)
    assert result.notes == ["the model has 7 outputs, the data 5 classes: they count as the first ones"]
    assert evaluate_set(linear(classes=5), images, **options).notes == []


@pytest.mark.parametrize("names", ["acd", "abcde", ("0", "1", "3")])
def test_more_outputs_than_named_classes_are_refused(names: Any, linear: Any, images: ImageSet) -> None:
    """A class is missing: each later output would be taken for another class, without an error of any kind."""
    named = ImageSet("pets", "test", tuple(names), images.images, images.labels % len(names))
    with pytest.raises(ClatError, match=rf"6 outputs, the data {len(names)} classes \({', '.join(names)}\): give"):
        evaluate(linear(classes=6), named, protocol="fgsm", eps=0.1)


def test_outputs_that_the_network_names_in_another_order_are_refused(linear: Any, images: ImageSet) -> None:
    network = linear(classes=5)
    named = ImageSet("pets", "test", tuple("abcde"), images.images, images.labels)
    network.class_names = ("b", "a", "c", "d", "e")
    with pytest.raises(ClatError, match="names its outputs b, a, c, d, e, in another order than 'pets/test'"):
        evaluate(network, named, protocol="fgsm", eps=0.1)
    for names in ("abcde", [f"LABEL_{k}" for k in range(5)]):
        network.class_names = tuple(names)
        assert evaluate(network, named, protocol="fgsm", eps=0.1).notes == []


def test_more_outputs_than_numbered_classes_are_said(linear: Any, images: ImageSet) -> None:
    numbered = ImageSet("pets", "test", tuple("01234"), images.images, images.labels)
    said = "the model has 6 outputs, the data {} classes: they count as the first ones"
    assert evaluate(linear(classes=6), numbered, protocol="fgsm", eps=0.1).notes == [said.format(5)]
    pair = images.images.float() / 255, images.labels
    notes = evaluate(linear(classes=6), pair, protocol="fgsm", eps=0.1).notes
    assert notes[-1] == said.format(int(images.labels.max()) + 1)


def test_parts_do_not_depend_on_the_batch_size(model: Any, images: ImageSet, eps: float, tmp_path: Path) -> None:
    """Whoever runs out of memory goes on with smaller batches."""
    assert dataset._images_at_a_time(images) % 250 == 0
    settings = {"protocol": SHORT, "eps": eps, "state": tmp_path / "state"}
    whole = evaluate_set(model, images, batch_size=8, **settings)
    again = evaluate_set(model, images, batch_size=5, **settings)
    assert same(whole, again)
    assert again.cost.backwards == 0

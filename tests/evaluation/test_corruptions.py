"""Common corruptions: what is measured, the summary in closed form, bad input; the package itself where it is
installed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clat
from clat import cli
from clat.core.errors import ClatError
from clat.data import ImageSet
from clat.evaluation.corruptions import corrupted, evaluate_corruptions, mean_corruption_error


class Brightness(nn.Module):
    """Two classes: dark and bright."""

    def forward(self, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1) - 0.5
        return torch.stack([-bright, bright], 1)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands for imagecorruptions: one that lightens by ten a severity, one that draws from NumPy, one that is told
    a seed, and one that is not common."""
    fake: Any = ModuleType("imagecorruptions")

    def noise(image: Any, severity: int) -> Any:
        return np.clip(np.array(image) + np.random.normal(size=image.shape, scale=severity), 0, 255)  # noqa: NPY002

    def told(image: Any, severity: int, seed: int | None = None) -> Any:
        return np.full_like(np.array(image), 0 if seed is None else seed % 256)

    fake.corruption_dict = {
        "lighter": lambda image, severity: np.clip(np.array(image).astype(int) + 10 * severity, 0, 255),
        "noise": noise, "told": told, "rare": noise,
    }  # fmt: skip
    fake.get_corruption_names = lambda subset="common": list(fake.corruption_dict)[: None if subset == "all" else 2]
    fake.corrupt = lambda image, severity, name, **more: np.uint8(
        fake.corruption_dict[name](np.repeat(image, 3, 2) if image.shape[2] == 1 else image, severity, **more)
    )
    monkeypatch.setitem(sys.modules, "imagecorruptions", fake)
    return fake


def dark_set(channels: int = 3) -> ImageSet:
    """Grey levels 80 to 119, all of the dark class."""
    images = torch.arange(80, 120).view(-1, 1, 1, 1).expand(-1, channels, 32, 32).to(torch.uint8)
    return ImageSet("greys", "test", ("dark", "bright"), images.contiguous(), torch.zeros(40, dtype=torch.int64))


def test_errors_in_closed_form(package: ModuleType) -> None:
    """128 is bright: 10 s lighter, the levels from 128 - 10 s on are wrong."""
    told = []
    found = evaluate_corruptions(
        Brightness(), dark_set(), names=["lighter"], report=lambda name, severity: told.append((name, severity))
    )
    wrong = {1: 2, 2: 12, 3: 22, 4: 32, 5: 40}
    assert {severity: 40 - one.correct for severity, one in found.accuracies["lighter"].items()} == wrong
    assert found.clean.value == 1
    assert found.errors == {"lighter": pytest.approx(sum(wrong.values()) / 200)}
    assert found.mean_error == found.errors["lighter"]
    assert told == [("lighter", severity) for severity in range(1, 6)]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["mean_error_less_clean"] == pytest.approx(data["mean_error"])
    assert data["corruptions"]["lighter"]["2"]["n"] == 40


def test_the_same_images_each_time_and_no_trace(package: ModuleType) -> None:
    pixels = dark_set().images
    assert isinstance(pixels, Tensor)
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]  # noqa: NPY002
    one, other = (corrupted(pixels, "noise", 3, seed=1) for _ in range(2))
    assert torch.equal(one, other)
    assert np.array_equal(np.random.get_state()[1], before)  # type: ignore[index]  # noqa: NPY002
    assert not torch.equal(one, corrupted(pixels, "noise", 3, seed=2))
    assert not torch.equal(one[0] - pixels[0], one[1] - pixels[1]), "each image has its own noise"
    assert torch.equal(corrupted(pixels, "told", 1, 0), corrupted(pixels, "told", 1, 0))
    assert corrupted(pixels, "told", 1, 0).unique().numel() > 1
    assert corrupted(dark_set(1).images, "noise", 1, 0).shape == (40, 1, 32, 32)  # type: ignore[arg-type]


def result(errors: dict[str, list[float]], clean: float = 0.1) -> dict[str, Any]:
    return {
        "what": "corruptions",
        "seed": 0,
        "clean_accuracy": {"value": 1 - clean},
        "corruptions": {
            name: {str(level): {"value": 1 - error} for level, error in enumerate(levels, 1)}
            for name, levels in errors.items()
        },
    }


def test_mean_corruption_error_in_closed_form() -> None:
    mine, base = result({"a": [0.2, 0.4], "b": [0.1, 0.3]}), result({"a": [0.3, 0.5], "b": [0.4, 0.6]}, clean=0.2)
    plain, relative = mean_corruption_error(mine, base)
    assert plain == pytest.approx((0.6 / 0.8 + 0.4 / 1.0) / 2)
    assert relative == pytest.approx((0.4 / 0.4 + 0.2 / 0.6) / 2)
    for clean in (0.4, 0.45):  # the baseline loses nothing to a
        assert mean_corruption_error(mine, result({"a": [0.3, 0.5], "b": [0.4, 0.6]}, clean=clean))[1] is None
    assert mean_corruption_error(base, base) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        ({"what": "evaluation"}, "it holds something else"),
        (result({"a": [0.3]}) | {"seed": 1}, "seed is 0 and 1"),
        (result({"b": [0.3]}), "different corruptions"),
        (result({"a": [0.3, 0.4]}), "different corruptions or severities"),
        (result({"a": [0.0]}, clean=0.0), "makes no error under a"),
        (result({"a": [0.3]}) | {"clean_accuracy": None}, "the baseline is damaged"),
        (result({"a": [0.3]}) | {"corruptions": {"a": {"1": {}}}}, "the baseline is damaged"),
    ],
)
def test_baselines_that_do_not_fit(baseline: dict[str, Any], says: str) -> None:
    with pytest.raises(ClatError, match=says):
        mean_corruption_error(result({"a": [0.3]}), baseline)


def test_unlike_images_are_refused_whoever_names_them(package: ModuleType) -> None:
    images = dark_set()
    less = images.subset(torch.arange(len(images) - 1))
    turned = replace(images, labels=1 - images.labels)
    known, fewer, other = (
        evaluate_corruptions(Brightness(), one, names=["lighter"], severities=[2]).to_dict()
        for one in (images, less, turned)
    )
    assert (known["n"], len(known["images"])) == (len(images), 16)
    for one, says in ((fewer, r"different images \(n"), (other, r"different images \(images")):
        with pytest.raises(ClatError, match=says):
            mean_corruption_error(known, one)
    assert mean_corruption_error(known, known | {"n": None, "images": None}) == mean_corruption_error(known, known)


def test_a_baseline_is_checked_before_anything_is_measured(package: ModuleType) -> None:
    images, asked = dark_set(), {"names": ["lighter"], "severities": [2]}
    base = evaluate_corruptions(Brightness(), images, names=["lighter"], severities=[2]).to_dict()
    assert evaluate_corruptions(Brightness(), images, against=base, **asked).to_dict()["mean_error"] > 0
    for wrong, says in (
        ({"seed": 1}, "seed is 0 and 1"),
        ({"data": {"name": "other"}}, "data is None and"),
        ({"images": "0"}, r"different images \(images"),
        ({"n": 3}, r"different images \(n"),
        ({"corruptions": {"lighter": {"1": {"value": 0.5}}}}, "different corruptions or severities"),
        ({"corruptions": {"lighter": {"2": {"value": 1.0}}}}, "makes no error under lighter"),
    ):
        with pytest.raises(ClatError, match=says):
            evaluate_corruptions(
                Brightness(), images, against=base | wrong, report=lambda *_: pytest.fail("measured"), **asked
            )


def test_bad_input(package: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    images = dark_set()
    small = ImageSet("small", "test", ("a",), torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2).long())
    for given, options, says in (
        (images, {"names": ["ligther"]}, "did you mean 'lighter'"),
        (images, {"severities": [0]}, "severity is 0"),
        (images, {"names": []}, "nothing to measure"),
        (small, {}, "the images are 8 x 8: corruptions need at least 32 x 32"),
    ):
        with pytest.raises(ClatError, match=says):
            evaluate_corruptions(Brightness(), given, **options)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ClatError, match=r"pip install imagecorruptions-imaug"):
        evaluate_corruptions(Brightness(), images)
    for given, options, says in (
        (images, {"names": ["gausian_noise"]}, "did you mean 'gaussian_noise'"),
        (images, {"severities": [6]}, "severity is 6"),
        (small, {}, "the images are 8 x 8"),
    ):
        with pytest.raises(ClatError, match=says):
            evaluate_corruptions(Brightness(), given, **options)  # type: ignore[arg-type]


def test_the_command(
    package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["corruptions", "--model", "resnet18", "--width", "2", "--image-size", "32", "--num-samples", "20"]
    torch.manual_seed(0)
    assert cli.main([*words, "--severities", "1,5", "--out", "one.json"]) == 0
    data = json.loads(Path("one.json").read_text())
    assert list(data["corruptions"]) == ["lighter", "noise"]
    assert list(data["corruptions"]["noise"]) == ["1", "5"]
    data["clean_accuracy"]["value"] = 1.0  # of an untrained network's, nothing is lost
    Path("base.json").write_text(json.dumps(data))
    assert cli.main([*words, "--severities", "1,5", "--against", "base.json"]) == 0
    assert "mCE " in capsys.readouterr().out
    for more, says in (
        (["--severities", "x"], "expected numbers such as 1,3,5"),
        (["--against", "absent.json"], "cannot read absent.json"),
        (["--names", "lihgter"], "did you mean 'lighter'"),
        (["--against", "base.json"], "different corruptions or severities"),
    ):
        assert cli.main([*words, *more]) == 2
        out, error = capsys.readouterr()
        assert "severity 1" not in out, "nothing is measured"
        assert says in error
        assert error.count("\n") == 1


def test_the_package_itself() -> None:
    package = pytest.importorskip("imagecorruptions", reason="an extra: clat[corruptions]")
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = package.get_corruption_names()
    assert len(names) == 15
    for name in names:
        one = corrupted(pixels, name, 5, seed=0)
        assert one.shape == pixels.shape
        assert one.dtype == torch.uint8
        assert not torch.equal(one, pixels)
        assert torch.equal(one, corrupted(pixels, name, 5, seed=0)), name


def test_images_of_floating_point_are_refused(package: ModuleType) -> None:
    images = clat.as_image_set((torch.rand(3, 3, 32, 32), torch.zeros(3, dtype=torch.int64)))
    with pytest.raises(ClatError, match="corruptions are made for 8 bits") as raised:
        evaluate_corruptions(Brightness(), images)
    assert "\n" not in str(raised.value)

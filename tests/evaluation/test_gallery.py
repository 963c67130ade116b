"""Pictures of an evaluation: which images, what is said of them, and that a page can show them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clat.core.errors import ClatError
from clat.data import ImageSet
from clat.data.pictures import LARGEST, data_uri
from clat.evaluation import Evaluation, evaluate_set
from clat.evaluation.gallery import ONE, TWO, Gallery, make_gallery, outcomes, take_in_turn
from clat.evaluation.pictures import amplified

Linear = Callable[..., Any]
EPS = "14/255"


def pixels(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_small_image_is_kept_exactly() -> None:
    image = torch.randint(256, (3, 9, 7), dtype=torch.uint8)
    assert np.array_equal(pixels(data_uri(image.float() / 255)), image.permute(1, 2, 0).numpy())
    grey = torch.randint(256, (1, 8, 8), dtype=torch.uint8)
    assert np.array_equal(pixels(data_uri(grey.float() / 255)), grey[0].numpy())
    assert pixels(data_uri(torch.rand(5, 4, 4))).shape == (4, 4)


def test_a_large_image_is_shrunk() -> None:
    found = data_uri(torch.rand(3, 2 * LARGEST, LARGEST))
    assert found.startswith("data:image/jpeg")
    assert pixels(found).shape == (LARGEST, LARGEST // 2, 3)


def test_a_change_is_amplified_to_the_whole_range() -> None:
    change = torch.tensor([[[0.0, 0.02], [-0.04, 0.01]]])
    image, factor = amplified(change)
    assert factor == pytest.approx(12.5)
    assert torch.allclose(image, torch.tensor([[[0.5, 0.75], [0.0, 0.625]]]))
    still, none = amplified(torch.zeros(1, 2, 2))
    assert none == 0
    assert (still == 0.5).all()


def flags(*rows: int) -> Tensor:
    found = torch.zeros(8, dtype=torch.bool)
    found[list(rows)] = True
    return found


def test_kinds_and_classes_take_turns() -> None:
    kinds = {"a": flags(0, 1, 2, 3), "b": flags(4, 5), "c": flags()}
    labels = torch.tensor([7, 7, 8, 7, 9, 9, 0, 0])
    assert take_in_turn(kinds, labels, 99).tolist() == [0, 4, 2, 5, 1, 3]
    assert take_in_turn(kinds, labels, 3).tolist() == [0, 4, 2]
    assert take_in_turn({"c": flags()}, labels, 3).tolist() == []


@pytest.fixture
def grey_set(linear: Linear) -> tuple[ImageSet, Any, Any]:
    """Images, a network that is right on most, and another one."""
    first, second = linear(seed=1), linear(seed=1)
    with torch.no_grad():
        second.w.add_(0.35 * linear(seed=2).w)
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(90, 160, (40, 3, 4, 4), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        labels = first(images.float() / 255).argmax(1)
    labels[::9] = (labels[::9] + 1) % 5
    return ImageSet("greys", "test", tuple("abcde"), images, labels), first, second


def measure(images: ImageSet, *networks: Any) -> list[Evaluation]:
    return [evaluate_set(network, images, protocol="pgd-10", eps=EPS) for network in networks]


def test_each_image_is_of_one_kind(grey_set: tuple[ImageSet, Any, Any]) -> None:
    images, *networks = grey_set
    before, after = measure(images, *networks)
    for kinds, names in ((outcomes([before]), ONE), (outcomes([before, after]), TWO)):
        assert list(kinds) == list(names)
        assert (torch.stack(list(kinds.values())).sum(0) == 1).all()
    two = outcomes([before, after])
    assert torch.equal(two["gained"], after.robust & ~before.robust)
    assert (two["lost"] & before.correct).sum() == two["lost"].sum() > 0


def test_what_a_picture_says(grey_set: tuple[ImageSet, Any, Any]) -> None:
    images, network, _ = grey_set
    (result,) = measure(images, network)
    found = make_gallery({"the network": network}, [result], images, 9)
    assert len(found.pictures) == 9
    assert {one.kind for one in found.pictures} == set(ONE)
    assert found.counts == {kind: int(who.sum()) for kind, who in outcomes([result]).items()}
    assert found.setting == "pgd-10, linf eps 14/255"
    for one in found.pictures:
        (view,) = one.views
        row = one.number
        image = images.images[row]
        assert np.array_equal(pixels(one.image), image.permute(1, 2, 0).numpy())
        with torch.no_grad():
            probabilities = network(image[None].float() / 255).softmax(1)[0]
        name, share = view.clean[0]
        assert (name, share) == (
            "abcde"[int(probabilities.argmax())],
            pytest.approx(float(probabilities.max()), abs=1e-4),
        )
        assert one.label == "abcde"[int(images.labels[row])]
        assert view.right == (name == one.label) == bool(result.correct[row])
        assert view.robust == bool(result.robust[row])
        assert (view.attack is not None) == (one.kind == "fooled")
        assert (view.attacked[0][0] == one.label) == view.robust
        if one.kind == "wrong":
            assert view.example is view.change is None
            continue
        assert view.attack in (None, "pgd-10")
        assert view.example is not None
        moved = np.abs(pixels(view.example).astype(int) - image.permute(1, 2, 0).numpy())
        assert 0 < moved.max() <= 15
        assert view.factor >= 0.5 / (14 / 255) * 0.999


def test_two_networks_stand_side_by_side(grey_set: tuple[ImageSet, Any, Any], tmp_path: Path) -> None:
    images, *networks = grey_set
    results = measure(images, *networks)
    names = dict(zip(("before", "after"), networks, strict=True))
    found = make_gallery(names, results, images, 12)
    assert found.networks == ["before", "after"]
    assert {"gained", "lost"} <= {one.kind for one in found.pictures}
    assert all(len(one.views) == 2 for one in found.pictures)
    found.to_json(tmp_path / "g.json")
    again = Gallery.from_dict(json.loads((tmp_path / "g.json").read_text()))
    assert again.to_dict() == json.loads(json.dumps(found.to_dict()))
    assert make_gallery(names, results, images, 12).to_dict() == found.to_dict()


def test_some_images_by_number(grey_set: tuple[ImageSet, Any, Any]) -> None:
    images, network, _ = grey_set
    ids = torch.tensor([30, 4, 18, 9])
    result = evaluate_set(network, images, protocol="fgsm", eps=EPS, ids=ids)
    found = make_gallery({"n": network}, [result], images, 99, ids=ids)
    assert sorted(one.number for one in found.pictures) == [4, 9, 18, 30]


def test_something_else_is_refused() -> None:
    for data in ({}, {"pictures": 3}, {"networks": [], "setting": "", "counts": {}, "pictures": [{"views": []}]}):
        with pytest.raises(ClatError, match="no gallery that this version can show"):
            Gallery.from_dict(data)


def test_a_network_with_more_outputs_than_classes(linear: Linear) -> None:
    network = linear(classes=7)
    images = torch.randint(90, 160, (12, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    set_ = ImageSet("greys", "test", ("a", "b"), images, torch.arange(12) % 2)
    result = evaluate_set(network, set_, protocol="fgsm", eps=EPS)
    found = make_gallery({"n": network}, [replace(result)], set_, 12)
    assert any(name.startswith("output ") for one in found.pictures for name, _ in one.views[0].clean)

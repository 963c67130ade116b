"""Pictures of an evaluation: images, their perturbations, and what the network says before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.files import SavedAsJson
from clat.data import ImageSet, Loader
from clat.data.pictures import data_uri
from clat.evaluation.evaluate import evaluate
from clat.evaluation.pictures import amplified
from clat.evaluation.predict import predict
from clat.evaluation.protocols import setting_text
from clat.evaluation.result import Evaluation
from clat.network.edge import unwrapped

ONE = {"fooled": "Fooled by the attack", "withstood": "Withstood", "wrong": "Wrong without an attack"}
TWO = {
    "gained": "Gained",
    "lost": "Lost",
    "fooled": "Robust neither before nor after",
    "withstood": "Withstood in both",
}
"""What becomes of an image with one network, and with two of which the second came out of the first."""
LIKELIEST = 3
"""Classes whose probabilities are kept."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one network says of an image and of the example that was made of it.

    `clean`, `attacked`: the likeliest classes with their probabilities; `attack`: which one fooled it, None: none
    did; `right`, `robust`: whether it is right as it is, and under attack; `change`, `example`: data URIs, None
    where no attack was needed; `factor`: how many times the change was amplified.
    """

    clean: list[tuple[str, float]]
    attacked: list[tuple[str, float]]
    attack: str | None
    right: bool
    robust: bool
    change: str | None
    example: str | None
    factor: float


@dataclass(frozen=True, kw_only=True)
class Picture:
    """`number`: of the image in its split; `label`: its class; `kind`: a key of ONE or TWO; `image`: a data URI;
    `views`: one a network."""

    number: int
    label: str
    kind: str
    image: str
    views: list[View]


@dataclass(frozen=True, kw_only=True)
class Gallery(SavedAsJson):
    """`networks`: what they are called; `counts`: of all images that were evaluated, how many are of each kind;
    `setting`: the attack in words."""

    networks: list[str]
    setting: str
    counts: dict[str, int]
    pictures: list[Picture]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {"what": "gallery", **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Gallery:
        """Return what `to_dict` made.

        Raises:
            ClatError: it is something else.
        """
        try:
            pictures = [
                Picture(**{**one, "views": [View(**view) for view in one["views"]]}) for one in data["pictures"]
            ]
            return cls(
                networks=list(data["networks"]),
                setting=str(data["setting"]),
                counts=dict(data["counts"]),
                pictures=pictures,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ClatError(f"no gallery that this version can show ({error})") from None


def kinds_of(gallery: Gallery) -> dict[str, str]:
    """Return the kinds of pictures of a gallery and what they are called.

    Args:
        gallery: of one network, or of two.

    Returns:
        Kind -> its name, in the order in which they are shown.
    """
    return ONE if len(gallery.networks) == 1 else TWO


def make_gallery(
    networks: Mapping[str, nn.Module],
    results: Sequence[Evaluation],
    images: ImageSet,
    count: int,
    *,
    ids: Tensor | None = None,
    batch_size: int = 250,
) -> Gallery:
    """Attack some of the evaluated images again and keep what is seen, all kinds of outcome in equal parts.

    Args:
        networks: name -> network, one or two; of two the second came out of the first.
        results: of each on all of `ids`, with the same protocol, eps and norm.
        images: the set.
        count: so many pictures at most.
        ids: the numbers of the evaluated images, (N,) int64; None: all of the set.
        batch_size: images in a forward pass.

    Returns:
        The pictures, one of each kind in turn.

    Raises:
        ClatError: as `clat.evaluate` does.
    """
    ids = torch.arange(len(images)) if ids is None else ids
    kinds = outcomes(results)
    chosen = take_in_turn(kinds, images.labels[ids], count)
    some = images.subset(ids[chosen])
    x, y = next(iter(Loader(some, max(len(some), 1), device="cpu").epoch()))
    again, views = [], []
    for network, result in zip(networks.values(), results, strict=True):
        found = evaluate(
            unwrapped(network), x, y, protocol=result.protocol, eps=result.eps, norm=result.norm, seed=result.seed,
            precision=result.precision, batch_size=batch_size, ids=ids[chosen], keep_examples=True,
        )  # fmt: skip
        again.append(found)
        views.append(_views(unwrapped(network), found, x, y, images.class_names, batch_size))
    names = ONE if len(results) == 1 else TWO
    shown = outcomes(again)  # rounding may decide otherwise in another batch
    pictures = [
        Picture(
            number=int(ids[row]),
            label=images.class_names[int(y[place])],
            kind=next(kind for kind in names if bool(shown[kind][place])),
            image=data_uri(x[place]),
            views=[of_network[place] for of_network in views],
        )
        for place, row in enumerate(chosen.tolist())
    ]
    first = results[0]
    return Gallery(
        networks=list(networks),
        setting=setting_text(first.protocol.data(), first.norm, first.eps),
        counts={kind: int(kinds[kind].sum()) for kind in names},
        pictures=pictures,
    )


def outcomes(results: Sequence[Evaluation]) -> dict[str, Tensor]:
    """Return which images are of each kind of ONE or TWO; each image is of one.

    Args:
        results: of one network, or of one and what came out of it, on the same images.

    Returns:
        Kind -> which images are of it, (N,) bool.
    """
    if len(results) == 1:
        (one,) = results
        return {"fooled": one.correct & ~one.robust, "withstood": one.robust, "wrong": ~one.correct}
    before, after = results
    gained = after.robust & ~before.robust
    lost = (before.correct & ~after.correct) | (before.robust & ~after.robust)
    withstood = before.robust & after.robust
    return {"gained": gained, "lost": lost, "fooled": ~(gained | lost | withstood), "withstood": withstood}


def take_in_turn(kinds: Mapping[str, Tensor], labels: Tensor, count: int) -> Tensor:
    """Return the places of some images: one of each kind in turn, and within a kind one of each class in turn.

    Args:
        kinds: kind -> which images are of it, (N,) bool.
        labels: the images' classes, (N,) int64.
        count: at most so many.

    Returns:
        Places among the N images, (M,) int64.
    """
    queues = []
    for mine in kinds.values():
        seen: dict[int, int] = {}
        ranked = []
        for row in mine.nonzero().squeeze(1).tolist():
            label = int(labels[row])
            seen[label] = seen.get(label, 0) + 1
            ranked.append((seen[label], row))
        queues.append([row for _, row in sorted(ranked)])
    turns = max((len(queue) for queue in queues), default=0)
    found = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
    return torch.tensor(found[:count], dtype=torch.int64)


def _views(
    network: nn.Module, result: Evaluation, x: Tensor, y: Tensor, names: Sequence[str], batch_size: int
) -> list[View]:
    assert result.x_adv is not None
    clean, attacked = (
        predict(network, images, y, batch_size=batch_size).softmax(1) for images in (x, result.x_adv)
    )
    labels = [spec.shown for spec in result.protocol.attacks]
    views = []
    for place in range(len(x)):
        right, fooled_by = bool(result.correct[place]), int(result.fooled_by[place])
        change, factor = amplified(result.x_adv[place] - x[place])
        views.append(
            View(
                clean=_likeliest(clean[place], names),
                attacked=_likeliest(attacked[place], names),
                attack=None if fooled_by < 0 else labels[fooled_by],
                right=right,
                robust=right and fooled_by < 0,
                change=data_uri(change) if right else None,
                example=data_uri(result.x_adv[place]) if right else None,
                factor=factor,
            )
        )
    return views


def _likeliest(probabilities: Tensor, names: Sequence[str]) -> list[tuple[str, float]]:
    values, classes = probabilities.topk(min(LIKELIEST, len(probabilities)))
    return [
        (names[number] if number < len(names) else f"output {number}", round(float(value), 4))
        for number, value in zip(classes.tolist(), values, strict=True)
    ]

"""Accuracy under common corruptions (Hendrycks and Dietterich 2019): noise, blur, weather, compression.

The images are corrupted by the package imagecorruptions, an extra, with ImageNet-C's parameters at its five
severities. On images of 32 pixels these are harsher than the files called CIFAR-10-C, which were made with others:
numbers from here compare with one another, and not with those.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clat.core.console import Table
from clat.core.environment import describe_environment
from clat.core.errors import ClatError, unknown
from clat.core.files import SavedAsJson
from clat.core.formatting import percent
from clat.core.notebook import ShownAsTable
from clat.core.parsing import parse_json
from clat.core.seeds import derive_seed
from clat.data import ImageSet
from clat.evaluation.predict import is_right
from clat.evaluation.statistics import Accuracy
from clat.network.fingerprint import device_of, digest, sample_digests

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32
"""Pixels of a side that the package asks for."""


NAMES = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur"),
    *("snow", "frost", "fog", "brightness", "spatter"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression", "saturate"),
)
"""The corruptions of the package, for where it is not installed."""


@dataclass(frozen=True, kw_only=True)
class CorruptionResult(ShownAsTable, SavedAsJson):
    """`accuracies`: corruption -> severity -> accuracy; `clean`: on the images as they are; `images`: a digest of
    these and their labels."""

    clean: Accuracy
    accuracies: dict[str, dict[int, Accuracy]]
    seed: int
    environment: dict[str, Any]
    about: dict[str, Any]
    images: str | None = None

    @property
    def errors(self) -> dict[str, float]:
        """For each corruption, the error on average over the severities."""
        return {name: fmean(1 - one.value for one in levels.values()) for name, levels in self.accuracies.items()}

    @property
    def mean_error(self) -> float:
        """The errors' mean: the mean corruption error, not normalised by another network's."""
        return fmean(self.errors.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a JSON file."""
        return {
            "what": "corruptions",
            **self.about,
            "seed": self.seed,
            "images": self.images,
            "n": self.clean.n,
            "clean_accuracy": self.clean.to_dict(),
            "corruptions": {
                name: {str(severity): one.to_dict() for severity, one in levels.items()}
                for name, levels in self.accuracies.items()
            },
            "errors": self.errors,
            "mean_error": self.mean_error,
            "mean_error_less_clean": self.mean_error - (1 - self.clean.value),
            "environment": self.environment,
        }

    def table(self) -> Table:
        """Return a row a corruption, and the means."""
        severities = sorted({severity for levels in self.accuracies.values() for severity in levels})
        table = Table(
            title=f"Errors under corruptions, n = {self.clean.n}",
            caption=f"clean accuracy {self.clean}\nmean error {percent(self.mean_error)}",
        )
        for name in ("corruption", *(f"severity {one}" for one in severities), "mean"):
            table.add_column(name, justify="left" if name == "corruption" else "right")
        for name, levels in self.accuracies.items():
            shares = [percent(1 - levels[severity].value) for severity in severities]
            table.add_row(name, *shares, percent(self.errors[name]))
        return table


def evaluate_corruptions(
    model: nn.Module,
    images: ImageSet,
    *,
    names: Sequence[str] | None = None,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    batch_size: int = 250,
    report: Callable[[str, int], None] | None = None,
    about: dict[str, Any] | None = None,
    against: Mapping[str, Any] | None = None,
) -> CorruptionResult:
    """Measure a network on corrupted images.

    Args:
        model: images (N, C, H, W) in [0, 1] -> logits; it is left without a trace.
        images: at least 32 pixels wide and high; they are held in memory.
        names: of corruptions; None: the fifteen common ones.
        severities: from 1 to 5.
        seed: decides noise and shapes, image by image.
        batch_size: images in a forward pass.
        report: told what is measured next, a corruption and its severity.
        about: what the result says of network and data.
        against: `CorruptionResult.to_dict()` of a baseline that the result is to be compared with; checked first.

    Returns:
        The accuracy for each corruption and severity, and on the images as they are.

    Raises:
        ClatError: the package is missing, the images are too small or not of 8 bits, a name or severity that does
            not exist, or a baseline of something else.
    """
    _check_asked(images, names, severities)
    package = _package()
    names = list(package.get_corruption_names() if names is None else names)
    pixels = images.load().images
    if not isinstance(pixels, Tensor):
        raise ClatError(
            f"the images of '{images.name}/{images.split}' are floating point, and corruptions are made for 8 "
            "bits: give them as (255 * x).round().to(torch.uint8)"
        )

    images_digest = digest(sample_digests(pixels, images.labels, torch.arange(len(pixels))))
    if against is not None:
        known = {"seed": seed, "images": images_digest, "n": len(pixels)}
        asked = {name: dict.fromkeys(map(str, severities)) for name in names}
        _check_baseline({**(about or {}), **known, "corruptions": asked}, against)

    def measured(shown: Tensor) -> Accuracy:
        right = is_right(model, shown.float() / 255, images.labels, batch_size=batch_size)
        return Accuracy(int(right.sum()), len(right))

    found: dict[str, dict[int, Accuracy]] = {}
    for name in names:
        found[name] = {}
        for severity in severities:
            if report is not None:
                report(name, severity)
            found[name][severity] = measured(corrupted(pixels, name, severity, seed))
    return CorruptionResult(
        clean=measured(pixels),
        accuracies=found,
        seed=seed,
        environment=describe_environment(device_of(model, torch.device("cpu"))),
        about=about or {},
        images=images_digest,
    )


def _check_asked(images: ImageSet, names: Sequence[str] | None, severities: Sequence[int]) -> None:
    """Raise ClatError for what cannot be measured, whether or not the package is there."""
    for severity in severities:
        if severity not in SEVERITIES:
            raise ClatError(f"severity is {severity}: expected whole numbers from 1 to 5")
    try:
        known = _package().get_corruption_names("all")
    except ClatError:
        known = NAMES
    for name in names or ():
        if name not in known:
            raise unknown("corruption", name, known)
    if (names is not None and not names) or not severities or len(images) == 0:
        raise ClatError("there is nothing to measure: name corruptions, severities and images")
    height, width = images.shape[1:]
    if min(height, width) < SMALLEST:
        raise ClatError(
            f"the images are {width} x {height}: corruptions need at least {SMALLEST} x {SMALLEST} "
            f"(--image-size {SMALLEST})"
        )


def corrupted(pixels: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Return corrupted images, the same each time; the global random state is left as it was.

    Args:
        pixels: (N, C, H, W) uint8 with 1 or 3 channels. Grey ones are corrupted as coloured ones, of which the
            first channel is kept.
        name: of the corruption.
        severity: from 1 to 5.
        seed: decides noise and shapes, with the image's place.

    Returns:
        (N, C, H, W) uint8.
    """
    package = _package()
    seeded = "seed" in inspect.signature(package.corruption_dict[name]).parameters
    parts = []
    for place, image in enumerate(pixels):
        drawn = derive_seed(seed, "corruption", name, severity, place) % 2**32
        more = {"seed": drawn} if seeded else {}
        with _numpy_seeded(drawn):
            changed = package.corrupt(image.permute(1, 2, 0).numpy(), severity, name, **more)
        parts.append(torch.from_numpy(np.array(changed)).permute(2, 0, 1)[: len(image)])
    return torch.stack(parts)


def mean_corruption_error(result: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[float, float | None]:
    """Return mCE and relative mCE of a network, in units of a baseline's errors (1: as bad as that).

    Hendrycks and Dietterich 2019: CE_c = sum_s E_sc / sum_s E'_sc, with E' the baseline's; mCE is its mean over the
    corruptions. The relative one takes both networks' clean error off each E.

    Args:
        result: `CorruptionResult.to_dict()` of the network.
        baseline: that of the baseline, on the same images.

    Returns:
        mCE and relative mCE, 1 where the network is as bad as the baseline.

    Raises:
        ClatError: the two do not hold the same, or the baseline makes no error.
    """
    _check_baseline(result, baseline)
    plain: list[float] = []
    relative: list[float] | None = []
    for name in result["corruptions"]:
        mine, theirs = (
            [1 - one["value"] for one in data["corruptions"][name].values()] for data in (result, baseline)
        )
        clean, other = (1 - data["clean_accuracy"]["value"] for data in (result, baseline))
        plain.append(sum(mine) / sum(theirs))
        loses = sum(theirs) - len(theirs) * other
        if loses <= 1e-9 * len(theirs):  # by which nothing can be divided
            relative = None
        if relative is not None:
            relative.append((sum(mine) - len(mine) * clean) / loses)
    return fmean(plain), None if relative is None else fmean(relative)


def _check_baseline(result: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
    """Raise ClatError where a baseline does not go with a result, of which all may be there but the accuracies."""
    if baseline.get("what") != "corruptions":
        raise ClatError("the baseline is no result of `clat corruptions`: it holds something else")
    for what in ("data", "seed"):
        if result.get(what) != baseline.get(what):
            raise ClatError(f"the two cannot be compared: {what} is {result.get(what)} and {baseline.get(what)}")
    for what in ("n", "images"):
        here, there = result.get(what), baseline.get(what)
        if None not in (here, there) and here != there:
            raise ClatError(
                f"the two are of different images ({what} {here} and {there}): measure both on the same"
            )
    try:
        float(baseline["clean_accuracy"]["value"])
        theirs = {
            name: {level: 1 - float(one["value"]) for level, one in levels.items()}
            for name, levels in baseline["corruptions"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ClatError("the baseline is damaged: it lacks accuracies, so measure it again") from None
    if {name: set(levels) for name, levels in result["corruptions"].items()} != {
        name: set(levels) for name, levels in theirs.items()
    }:
        raise ClatError("the two cannot be compared: they are of different corruptions or severities")
    for name, levels in theirs.items():
        if sum(levels.values()) == 0:
            raise ClatError(f"the baseline makes no error under {name}: take one that does")


def read_baseline(path: str | Path) -> dict[str, Any]:
    """Read what `clat corruptions --out` wrote.

    Args:
        path: the file.

    Returns:
        Its data.

    Raises:
        ClatError: the file cannot be read, or holds something else.
    """
    try:
        data = parse_json(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ClatError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ClatError(f"{path} is no result of `clat corruptions`: {error}") from None
    if not isinstance(data, dict) or data.get("what") != "corruptions":
        raise ClatError(f"{path} is no result of `clat corruptions`: it holds something else")
    return data


def _package() -> Any:
    try:
        import imagecorruptions
    except ImportError as error:
        raise ClatError(
            f"corruptions need a package that is not installed ({error}): pip install imagecorruptions-imaug"
        ) from None
    return imagecorruptions


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Inside, NumPy's global generator, which the package draws from, starts at `seed`."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002

"""Small data sets made on the fly, and caches that stay out of the home."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clat.data import ImageSet


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
        patch.setenv("CLAT_CACHE_DIR", str(tmp_path_factory.mktemp("clat")))
        yield


@pytest.fixture
def ramp() -> ImageSet:
    """26 images, 3x6x5, in which every pixel of every image differs from its neighbours in a known way."""
    image = torch.arange(90).reshape(1, 3, 6, 5)
    images = (image + torch.arange(26).reshape(-1, 1, 1, 1)).to(torch.uint8)
    return ImageSet("ramp", "train", tuple("abcdefghijklmnopqrstuvwxyz"), images, torch.arange(26))


def picture(seed: int, width: int = 12, height: int = 10) -> np.ndarray:
    """Random pixels, uint8, shape (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def pictures(n: int = 40, height: int = 32, width: int = 32, channels: int = 3) -> torch.Tensor:
    """Smooth images, noise, few levels, one level, dark ones: what the operations treat differently."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(n, channels, height, width, generator=generator)
    ramp = torch.linspace(0, 1, width) * torch.linspace(0.3, 1, height)[:, None]
    images = (256 * noise).floor()
    images[0::5] = (200 * ramp + 40 * noise[0::5]).floor()
    images[1::5] = 80 + (3 * noise[1::5]).floor()
    images[2::5] = (40 * ramp * noise[2::5, :1]).floor()
    for number, level in ((3, 0), (8, 255), (13, 77)):
        images[number : number + 1] = level
    return images.clamp(0, 255).to(torch.uint8)


def to_pil(image: torch.Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)


def from_pil(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


WriteParquet = Callable[..., Path]


@pytest.fixture
def parquet(tmp_path: Path) -> WriteParquet:
    """Writes ``<folder>/<split>-00000-of-00001.parquet`` in the Hugging Face layout; gives the folder."""

    def write(
        images: list[bytes | None],
        split: str = "train",
        folder: str = "set",
        shard: str = "00000-of-00001",
        **columns: tuple[list, object],
    ) -> Path:
        two = datasets.ClassLabel(names=["a", "b"])
        columns = columns or {"label": ([k % 2 for k in range(len(images))], two)}
        features = {"img": datasets.Image()} | {name: feature for name, (_, feature) in columns.items()}
        rows: dict[str, list] = {"img": [image and {"bytes": image, "path": None} for image in images]}
        rows |= {name: values for name, (values, _) in columns.items()}
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        made = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        made.to_parquet(target / f"{split}-{shard}.parquet")
        return target

    return write


def write_images(root: Path, *paths: str) -> dict[str, np.ndarray]:
    """A picture of its own, PNG whatever its ending says, at each path below `root`; gives the pixels by path."""
    pixels = {path: picture(seed, 5, 4) for seed, path in enumerate(paths)}
    for path, array in pixels.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(encoded(array))
    return pixels


def classes_found(image_set: ImageSet, pixels: dict[str, np.ndarray]) -> dict[str, str]:
    """The path of each image of the set and the class it was read with; no image may be there twice."""
    assert isinstance(image_set.images, torch.Tensor)
    paths = {array.transpose(2, 0, 1).tobytes(): path for path, array in pixels.items()}
    read = [paths[image.numpy().tobytes()] for image in image_set.images]
    assert len(set(read)) == len(read)
    return dict(zip(read, (image_set.class_names[label] for label in image_set.labels.tolist()), strict=True))

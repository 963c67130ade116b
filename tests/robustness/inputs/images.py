"""Folders of images: names, depths, formats and damages that readers of images meet, and tables of them."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image
from tests.robustness.inputs.values import MODEL, MODULE, NETWORK, Content, Input, Link, damaged

MODES = ("L", "RGB", "RGBA", "P", "1", "CMYK", "I", "F", "I;16", "LA", "YCbCr")
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "gif": "GIF", "tiff": "TIFF", "ppm": "PPM"}
SIZES = ((8, 8), (8, 8), (8, 8), (1, 1), (9, 7), (1, 60), (64, 64))
NAMES = (
    "cat", "dog", "0", "1", "10", "2", "train", "test", "val", "eval", "training", "bullet_train", "[a]", "a*", "?",
    "\u00e9", "a b", "a\nb", "-", "--out", ".hidden", "__MACOSX", "x" * 120, "[/x]", ":cat:", "\U0001f600", "csv",
    "1.png", "metadata.csv", "\udcff", "CON", "images", "cat,dog", "#", "%20", "'",
)  # fmt: skip


@cache
def encoded(mode: str, size: tuple[int, int], kind: str) -> bytes:
    """Return an image of noise; of a mode that the format cannot hold, one in colour."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    for one in (mode, "RGB", "L"):
        buffer = io.BytesIO()
        try:
            if one == "I;16":
                image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256)
            else:
                image = Image.fromarray(pixels).convert(one)
            image.save(buffer, FORMATS[kind])
            return buffer.getvalue()
        except (OSError, ValueError, KeyError):
            continue
    raise AssertionError(kind)


@st.composite
def picture(draw: st.DrawFn) -> bytes:
    """The bytes of an image, sound four times of five."""
    mode, size = draw(st.sampled_from(MODES)), draw(st.sampled_from(SIZES))
    whole = encoded(mode, size, draw(st.sampled_from(sorted(FORMATS))))
    return draw(damaged(whole)) if draw(st.integers(0, 4)) == 0 else whole


@st.composite
def _tree(draw: st.DrawFn) -> dict[str, Content]:
    files: dict[str, Content] = {}
    plain = draw(st.booleans())
    names = st.sampled_from(("cat", "dog") if plain else NAMES)
    if draw(st.integers(0, 3)):  # around a sound set
        for split in draw(st.sampled_from([("train", "test"), ("train", "val"), ("test",), ("",)])):
            for number, label in enumerate(("cat", "dog", draw(names))):
                files[f"images/{split}/{label}/{number}.png".replace("//", "/")] = encoded("RGB", (8, 8), "png")
    for number in range(draw(st.integers(0, 4))):
        parts = [draw(names) for _ in range(draw(st.integers(1, 3)))]
        suffix = draw(st.sampled_from(["png", "jpg", "PNG", "webp", "txt", "gif", "tiff", "", "png.bak"]))
        path = "/".join(["images", *parts, f"{number}.{suffix}" if suffix else str(number)])
        content = draw(st.sampled_from(["picture"] * 9 + ["folder", "link", "text"]))
        if content == "picture":
            files[path] = draw(picture())
        elif content == "folder":
            files[path] = None
        elif content == "link":
            targets = ["absent", ".", "..", f"{number}.png", "/dev/zero", "/dev/full", "/proc/self/fd"]
            files[path] = Link(draw(st.sampled_from(targets)))
        else:
            files[path] = draw(st.binary(max_size=40))
    if draw(st.integers(0, 3)) == 0:
        lines = draw(
            st.lists(
                st.sampled_from([b"file_name,label", b"cat/0.png,cat", b"x.png,1", b"", b"a,b,c", b'"']), max_size=5
            )
        )
        name = draw(
            st.sampled_from(["metadata.csv", "train/metadata.csv", "labels.csv", "metadata.jsonl", "test.txt"])
        )
        files[f"images/{name}"] = b"\n".join(lines)
    files["images"] = None
    return files


@st.composite
def _table(draw: st.DrawFn) -> dict[str, Content]:
    """A Parquet file whose columns may be anything."""
    count = draw(st.integers(0, 6))
    columns: dict[str, list[Any]] = {}
    if draw(st.integers(0, 3)):
        columns = {"image": [{"bytes": encoded("RGB", (8, 8), "png"), "path": None}] * count, "label": [0] * count}
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(["image", "img", "label", "labels", "target", "fine_label", "x", "", "a b"]))
        kind = draw(
            st.sampled_from(["picture", "struct", "int", "text", "float", "null", "negative", "list", "bool"])
        )
        values: dict[str, Any] = {
            "picture": lambda: [draw(picture()) for _ in range(count)],
            "struct": lambda: [{"bytes": draw(picture()), "path": None} for _ in range(count)],
            "int": lambda: [draw(st.sampled_from([0, 1, 2, 10, 10**12])) for _ in range(count)],
            "text": lambda: [draw(st.sampled_from(["cat", "dog", "", "[/x]", "a\nb"])) for _ in range(count)],
            "float": lambda: [draw(st.sampled_from([0.0, 1.0, 0.5, float("nan")])) for _ in range(count)],
            "null": lambda: [None] * count,
            "negative": lambda: [-1] * count,
            "list": lambda: [[1, 2]] * count,
            "bool": lambda: [True] * count,
        }
        columns[name] = values[kind]()
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    whole = buffer.getvalue()
    name = draw(
        st.sampled_from(
            ["test.parquet", "test.parquet", "train.parquet", "train-00000-of-00003.parquet", "x.parquet"]
        )
    )
    return {f"images/{name}": draw(damaged(whole)) if draw(st.integers(0, 3)) == 0 else whole}


@st.composite
def image_folders(draw: st.DrawFn) -> Input:
    """A folder that is inspected, or on which a network is evaluated."""
    files = draw(_tree() | _tree() | _table())
    measured = (
        "--model",
        MODEL,
        "--num-samples",
        "1",
        "--device",
        "cpu",
        "--protocol",
        "fgsm",
        "--eps",
        "0.1",
        "--data",
        "images",
        "--image-size",
        "8",
    )
    more = draw(
        st.sampled_from(
            [(), (), ("--classes", "cat,dog"), ("--split", "train"), ("--label-column", "x"), ("--channels", "1"),
             ("--classes", "images"), ("--classes", ""), ("--image-column", "image")]
        )
    )  # fmt: skip
    words = draw(st.sampled_from([("data", "check", "images"), ("evaluate", *measured, *more)]))
    return Input(words, {MODULE: NETWORK.replace("num_classes=10", "num_classes=2").encode(), **files})

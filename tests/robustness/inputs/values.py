"""Values that nobody expects, and what an input is made of."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

NETWORK = """
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10, width=4):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 2 * width, 3, stride=2), nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return self.head(x.mean((2, 3)))
"""
MODULE = "hostile_network.py"
MODEL = "hostile_network:Net"
SMALL = ("--num-samples", "4", "--device", "cpu")


@dataclass(frozen=True)
class Link:
    """A symbolic link to `target`."""

    target: str


Content = bytes | Link | None
"""Of a path: a file's bytes, a link, or None for a folder."""


@dataclass(frozen=True)
class Input:
    """A command and the files that it finds: `words` after `clat`, `files` below the working directory. `kept`:
    whether even a command that succeeds may change none of them."""

    words: tuple[str, ...]
    files: Mapping[str, Content]
    kept: bool = True


WORDS = (
    "", " ", "-", "--", "0", "1", "-1", "2", "8", "3.5", "nan", "inf", "-inf", "1e999", "1e-999",
    "99999999999999999999", "-9223372036854775809", "0x10", "1_000", "\u0663", "8/255", "8/0", "1/3", "-1/255",
    "0/1", "true", "None", "null", "[]", "[/x]", "[bold]", ":smile:", "{}", "a\nb", "a\tb", "\u00e9",
    "\u202eabc", "\U0001f600", "\udcff", "x" * 300, "*", "?", "[a]", "'", '"', "\\", "%s", "{0}", "digits",
    "train", "test", MODEL, "absent:Net", "absent/absent", ".", "absent", "file.txt", "folder", "/dev/null",
    "/dev/full", "/proc/self/mem", "l2", "linf", "float16", "cuda", "pgd-20", "autoattack", "fgsm", "resnet18",
    "demo", "1,2", "a=b", "=", "1h", "0s", "1e9h",
)  # fmt: skip


def hostile_words() -> st.SearchStrategy[str]:
    """Words for a command line: no NUL, which no operating system lets through."""
    odd = st.text(st.characters(exclude_characters="\0/.~", codec="utf-8"), max_size=8)
    return st.one_of([st.sampled_from(WORDS)] * 5 + [odd])


def hostile_values() -> st.SearchStrategy[Any]:
    """Values of every type that TOML or JSON has, without null."""
    numbers = st.sampled_from([-1, 0, 1, 2, 3, 10**6, 2**31, 2**63, -(2**63), 10**30]) | st.sampled_from(
        [float("nan"), float("inf"), -float("inf"), -0.0, 0.5, 1e-300, 1e308]
    )
    texts = st.sampled_from([*WORDS, "a\0b"])
    plain = numbers | texts | st.booleans()
    nested = st.sampled_from(
        [[], {}, [1], [[1]], ["a"], [{"name": "x"}], {"name": "x"}, {"a": {"b": {"c": 1}}}, [None][:0]]
    )
    return plain | nested | st.lists(plain, max_size=3)


def values_like(old: Any) -> st.SearchStrategy[Any]:
    """Values of the type that is there already, which get further than others."""
    if isinstance(old, bool):
        return st.booleans()
    if isinstance(old, int):
        return st.sampled_from([0, 1, 2, 3, 7, -1, 100, 1000, 10**5, 10**9, 2**31, 2**63, -(2**31)])
    if isinstance(old, float):
        return st.sampled_from(
            [0.0, 1.0, 0.5, -0.5, 1e-8, 1e-300, 1e4, 1e38, 1e308, 2.0, float("nan"), float("inf")]
        )
    if isinstance(old, str):
        return st.sampled_from([*WORDS, "a\0b"])
    return hostile_values()


def value_at(data: Any, path: tuple[Any, ...]) -> Any:
    """Return the value at a path of nested dicts and lists."""
    for key in path:
        data = data[key]
    return data


DATES = (datetime.date(2024, 2, 29), datetime.time(1, 2), datetime.datetime(2024, 1, 1, 1, 1))


def leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested dicts and lists, the containers' own included."""
    below: list[tuple[Any, ...]] = [path] if path else []
    if isinstance(data, dict):
        return below + [found for key, value in data.items() for found in leaves(value, (*path, key))]
    if isinstance(data, list):
        return below + [found for key, value in enumerate(data) for found in leaves(value, (*path, key))]
    return below


def changed(data: Any, path: tuple[Any, ...], value: Any = None, *, remove: bool = False) -> Any:
    """Return nested dicts and lists with one value set, or taken out."""
    key, *rest = path
    copy = dict(data) if isinstance(data, dict) else list(data)
    if rest:
        copy[key] = changed(copy[key], tuple(rest), value, remove=remove)
    elif remove:
        del copy[key]
    else:
        copy[key] = value
    return copy


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes cut off, changed, put in, or other ones altogether."""
    how = draw(st.sampled_from(["cut", "flip", "insert", "repeat", "other", "empty"]))
    place = draw(st.integers(0, max(0, len(whole) - 1)))
    more = draw(st.binary(min_size=1, max_size=16))
    match how:
        case "cut":
            return whole[:place]
        case "flip":
            return whole[:place] + more + whole[place + len(more) :]
        case "insert":
            return whole[:place] + more + whole[place:]
        case "repeat":
            return whole[:place] + whole
        case "other":
            return draw(st.binary(max_size=64))
        case _:
            return b""

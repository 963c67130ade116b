"""Command lines with words changed, put in, doubled or left out."""

from __future__ import annotations

import argparse
from functools import cache

from hypothesis import strategies as st
from tests.robustness.inputs.values import MODEL, MODULE, NETWORK, SMALL, Content, Input, hostile_words

from clat import cli
from clat.cli.parser import build_parser

_NET = ("--model", MODEL, *SMALL)
COMMANDS = (
    ("evaluate", *_NET, "--protocol", "fgsm", "--eps", "0.1"),
    ("evaluate", *_NET, "--protocol", "fgsm", "--eps", "0.1", "--out", "out.json", "--state", "state"),
    ("criticality", *_NET, "--steps", "1", "--eps", "0.1", "--out", "out.json"),
    ("check", *_NET, "--eps", "0.1"),
    ("curve", *_NET, "--protocol", "fgsm", "--eps", "0,0.1", "--plot", "curve.svg"),
    ("transfer", "--network", "a", MODEL, "--network", "b", MODEL, *SMALL, "--attack", "fgsm", "--eps", "0.1"),
    ("compare", "file.txt", "folder"),
    ("data", "check", "folder"),
    ("report", "folder", "--against", "folder"),
    ("recipes", "show", "demo"),
    ("study", "--list"),
    ("harden", *_NET, "--eps", "0.1", "--epochs", "1", "--plan"),
    ("train", "demo", "--out", "run", "--data.train_size", "40", "--data.heldout", "20"),
    ("bench", "--model", MODEL, "--image-size", "8", "--steps", "1", "--rounds", "1", "--batch-size", "4"),
    ("corruptions", *_NET, "--names", "gaussian_noise", "--severities", "1"),
    ("export", "--model", MODEL, "--out", "net"),
    ("export", "--model", MODEL, "--base", "file.txt", "--out", "delta.safetensors"),
    ("apply", "file.txt", "--model", MODEL, "--out", "tuned.safetensors"),
    ("paper", "--plan"),
    ("doctor",),
    ("completion", "bash"),
)  # fmt: skip

FILES: dict[str, Content] = {
    MODULE: NETWORK.encode(),
    "file.txt": b"1 2 3\n",
    "folder": None,
    "folder/note.txt": b"mine",
}


LEFT_OUT = ("--devices", "--compile", "--help", "--version")
"""Several processes, and a compiler, take more than a second; help is no input."""


@cache
def _known() -> dict[str, list[argparse.Action]]:
    """The options of each command that take a value or none."""
    parser = build_parser(cli.COMMANDS)
    commands = next(one for one in parser._actions if isinstance(one, argparse._SubParsersAction)).choices
    return {
        name: [one for one in command._actions if one.option_strings and one.option_strings[-1] not in LEFT_OUT]
        for name, command in commands.items()
    }


def _value_of(action: argparse.Action) -> st.SearchStrategy[str]:
    """Values of an option: mostly such as its type lets through."""
    if action.choices is not None:
        return st.sampled_from([*map(str, action.choices), "other"])
    if action.type is int:
        return st.sampled_from(
            ["0", "1", "2", "3", "7", "-1", "100000", "2147483648", "99999999999999999999", "1.5"]
        )
    if action.type is float:
        return st.sampled_from(["0", "1", "0.5", "-1", "nan", "inf", "1e-300", "1e300", "100"])
    return hostile_words()


@st.composite
def options(draw: st.DrawFn) -> Input:
    """One or two changes of a command line that works."""
    words = list(draw(st.sampled_from(COMMANDS)))
    known = _known()[words[0]]
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        place = draw(st.integers(0, len(words)))
        match draw(st.sampled_from(["option"] * 8 + ["value"] * 4 + ["drop", "double", "word"])):
            case "value" if 0 < place < len(words) and not words[place].startswith("--"):
                words[place] = draw(hostile_words())
            case "drop" if place < len(words):
                del words[place]
            case "double" if place < len(words):
                words.insert(place, words[place])
            case "word":
                words.insert(place, draw(hostile_words()))
            case _ if known:
                action = draw(st.sampled_from(known))
                words.append(draw(st.sampled_from(action.option_strings)))
                if action.nargs != 0:
                    words.append(draw(_value_of(action)))
    return Input(tuple(words), FILES)

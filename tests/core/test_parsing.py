"""JSON and TOML of somebody else's: whatever is wrong in it is a ValueError, for every reader of such files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clat.core.errors import ClatError
from clat.core.parsing import parse_json, parse_toml
from clat.criticality.report import CriticalityReport
from clat.data.classes import read_classes
from clat.evaluation.protocols import find_protocol
from clat.evaluation.record import EvaluationRecord
from clat.evaluation.subset import check_ids, read_ids
from clat.recipe.source import read_source
from clat.training.status import read_about

DEEP, LONG = "[" * 20_000 + "]" * 20_000, "1" * 5_000


def test_what_is_right_is_read() -> None:
    assert parse_json('{"a": [1]}') == parse_toml("a = [1]") == {"a": [1]}


@pytest.mark.parametrize("content", [DEEP, LONG, "[1", ""], ids=["deep", "long", "torn", "empty"])
def test_json_has_one_kind_of_error(content: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(content)


@pytest.mark.parametrize("value", [DEEP, LONG, "[1", ""], ids=["deep", "long", "torn", "empty"])
def test_toml_has_one_kind_of_error(value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_toml(f"a = {value}")


READERS: dict[str, Callable[[Path], Any]] = {
    "recipe.toml": read_source,
    "protocol.toml": find_protocol,
    "result.json": EvaluationRecord.from_json,
    "report.json": CriticalityReport.from_json,
    "classes.json": read_classes,
    "ids.json": read_ids,
}


@pytest.mark.parametrize("content", [DEEP, f"[{LONG}]"], ids=["deep", "long"])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_gives_one_line(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(f"a = {content}" if name.endswith(".toml") else content)
    with pytest.raises(ClatError):
        READERS[name](path)


def test_a_status_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(DEEP)
    assert read_about(tmp_path) == {}


@pytest.mark.parametrize("words", [["--name", DEEP], ["--name", LONG]], ids=["deep", "long"])
def test_an_override_that_is_no_toml_is_text(words: list[str]) -> None:
    assert read_source("demo", words)["name"] == words[1]


@pytest.mark.parametrize("number", ["²", "٣" * 12, LONG])
def test_an_override_of_a_stage_by_a_number_that_is_none(number: str) -> None:
    with pytest.raises(ClatError, match="unknown stage"):
        read_source("demo", [f"--stages.{number}.epochs", "1"])


@pytest.mark.parametrize("content", [LONG, f"[{10**30}]", str(10**30)])
def test_numbers_of_images_that_are_too_long(content: str, tmp_path: Path) -> None:
    (tmp_path / "ids").write_text(content)
    with pytest.raises(ClatError):
        check_ids(read_ids(tmp_path / "ids"), 10, "digits")

"""The files of results that sentences in the documentation rest on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def read(name: str) -> Any:
    """A JSON file below docs/results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def signed(value: float) -> str:
    """A difference in [-1, 1] in points, with its sign."""
    shown = f"{100 * value:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown


def page_text(page: str) -> str:
    """A page on one line, so that a sentence is found wherever its lines break."""
    return re.sub(r"\s+", " ", (ROOT / page).read_text())

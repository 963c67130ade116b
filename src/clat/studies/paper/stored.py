"""A network of the store, and what a table asks the store for before anything is trained or measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clat.recipe.schema import Recipe
from clat.studies.measurement import Measurement
from clat.studies.paper.runs import RunSpec

PENDING = "to be trained"
"""What is said of a network in the place of a failure while it is only noted down."""


@dataclass(frozen=True)
class StoredRun:
    """A network of the store: its key, what it is, and how it is trained."""

    key: str
    spec: RunSpec
    recipe: Recipe


@dataclass
class Gathered:
    """All that a table asks for that is not there.

    Attributes:
        measuring: a network is taken to be trained when it is asked for, so that the table goes on to its
            measurements.
        runs: key -> network to train, what it starts from before it.
        measurements: file -> (network, how it is measured).
    """

    measuring: bool = False
    runs: dict[str, StoredRun] = field(default_factory=dict)
    measurements: dict[Path, tuple[StoredRun, Measurement]] = field(default_factory=dict)

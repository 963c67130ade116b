"""Studies: the papers' tables as lists of recipes, run under one budget each, and their results in one table."""

from __future__ import annotations

from clat.core.errors import unknown
from clat.studies.row import Row, Scale, Study
from clat.studies.tables.alone import ALONE
from clat.studies.tables.baselines import BASELINES
from clat.studies.tables.claim import CLAIM
from clat.studies.tables.competitors import COMPETITORS
from clat.studies.tables.cosine import COSINE
from clat.studies.tables.precision import PRECISION

STUDIES = {study.name: study for study in (BASELINES, COMPETITORS, CLAIM, COSINE, ALONE, PRECISION)}


def find_study(name: str) -> Study:
    """The study called `name`. Raises ClatError with the nearest name."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]


__all__ = ["STUDIES", "Row", "Scale", "Study", "find_study"]

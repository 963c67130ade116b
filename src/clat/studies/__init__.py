"""Studies: the papers' tables as lists of recipes, run under one budget each, and their results in one table."""

from __future__ import annotations

from clat.errors import unknown
from clat.studies.alone import ALONE
from clat.studies.baselines import BASELINES
from clat.studies.claim import CLAIM
from clat.studies.competitors import COMPETITORS
from clat.studies.cosine import COSINE
from clat.studies.precision import PRECISION
from clat.studies.row import Row, Scale, Study

STUDIES = {study.name: study for study in (BASELINES, COMPETITORS, CLAIM, COSINE, ALONE, PRECISION)}


def find_study(name: str) -> Study:
    """The study called `name`. Raises ClatError with the nearest name."""
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return STUDIES[name]


__all__ = ["STUDIES", "Row", "Scale", "Study", "find_study"]

"""Sizes: what is written is read back exactly, however it is written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clat.core.errors import ClatError
from clat.core.threat_model import ThreatModel
from clat.core.units import parse_size, size_text

SIZES = st.fractions(0, 1, max_denominator=10_000)


@given(size=SIZES)
def test_the_text_of_a_size_reads_back_as_the_same_fraction(size):
    assert parse_size(size_text(size)) == size


@given(pixels=st.integers(0, 255))
def test_pixel_values_computed_in_floats_are_the_fraction_that_is_meant(pixels):
    assert parse_size(pixels / 255) == parse_size(f"{pixels}/255") == Fraction(pixels, 255)


@given(size=st.fractions(min_value=Fraction(10_001, 10_000), max_value=255))
def test_an_l_inf_size_above_one_is_refused_and_an_l2_size_is_not(size):
    with pytest.raises(ClatError):
        parse_size(size)
    assert parse_size(size, norm="l2") == size


@given(size=SIZES, norm=st.sampled_from(["linf", "l2"]))
def test_a_threat_model_is_what_its_words_say(size, norm):
    threat = ThreatModel.parse(size_text(size), norm)
    assert threat == ThreatModel(size, norm)
    assert ThreatModel.parse(threat.text, norm) == threat
    assert threat.radius == float(size)

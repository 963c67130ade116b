"""Global random states: read, compared, put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from clat.core.random_states import global_states, preserve_all_states


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), random.random, np.random.random])
def test_states_tell_a_draw_and_are_put_back(draw):
    before = global_states()
    assert global_states() == before
    with preserve_all_states():
        draw()
        assert global_states() != before
    assert global_states() == before

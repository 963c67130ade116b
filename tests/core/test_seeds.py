from __future__ import annotations

import numpy as np
import pytest
import torch

from clat.core.seeds import derive_seed, generator, permutation


def test_a_seed_never_changes() -> None:
    """Golden values: a change here would change every run that was ever recorded."""
    assert derive_seed(0, "augment", 1, 2) == 756203539681182666
    assert permutation(8, 0, "order", 0).tolist() == [5, 3, 1, 0, 2, 6, 4, 7]


def test_a_seed_depends_on_values_types_and_order() -> None:
    parts = [
        (),
        (0,),
        (0, 0),
        ("0",),
        (0.0,),
        (None,),
        (0, 1),
        (1, 0),
        (-1,),
        ("a", "bc"),
        ("ab", "c"),
        (2**70,),
    ]
    seeds = {derive_seed(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_numpy_scalars_count_as_plain_numbers() -> None:
    assert derive_seed(np.int64(3), np.float64(0.5), np.str_("x")) == derive_seed(3, 0.5, "x")


@pytest.mark.parametrize("part", [[1], torch.tensor(1), object(), b"x"])
def test_a_part_without_a_stable_text_is_refused(part: object) -> None:
    with pytest.raises(TypeError, match="a seed is made of"):
        derive_seed(part)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_a_permutation_covers_every_index_once(n: int) -> None:
    order = permutation(n, 7)
    assert order.dtype == torch.int64
    assert order.sort().values.tolist() == list(range(n))


def test_generators_are_independent_of_each_other_and_of_the_global_one() -> None:
    before = torch.get_rng_state()
    first, again, other = (torch.rand(4, generator=generator(0, k)) for k in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())

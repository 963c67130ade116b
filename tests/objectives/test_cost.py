"""What a step of each objective costs in passes, by sample: no attack computes anything twice.

Counting a forward pass as 1, a pass back to the input as 1 and one to the weights as 2, TRADES with 10 steps takes
1 (clean output) + 10 * (1 + 1) (attack) + 2 * (1 + 2) (loss on both outputs) = 27.
"""

from __future__ import annotations

import pytest

from clat.network.cost import metered
from clat.objectives import (
    GAT,
    NFGSM,
    FastAT,
    GradAlign,
    Mart,
    PgdAT,
    ScoreAT,
    ScoreTrades,
    Standard,
    Step,
    Trades,
)


@pytest.mark.parametrize(
    ("objective", "attack", "loss"),
    [
        (Standard(), (0, 0), (1, 1)),
        (PgdAT(), (10, 10), (1, 1)),
        (FastAT(), (1, 1), (1, 1)),
        (NFGSM(), (1, 1), (1, 1)),
        (GAT(), (1, 1), (2, 2)),  # and a clean pass in every second batch
        (Trades(), (11, 10), (2, 2)),
        (Mart(), (10, 10), (2, 2)),
        (ScoreAT(), (10, 10), (1, 1)),
        (ScoreTrades(), (11, 10), (2, 2)),
        (GradAlign(), (1, 1), (3, 5)),  # two gradients towards the input, and back through both
        (GradAlign(first_gradient="attack"), (1, 1), (2, 3)),
        (GradAlign(lambda_=0), (1, 1), (1, 1)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_passes_of_a_step(build, images, labels, objective, attack, loss):
    net, step, n = build().train(), Step(seed=1), len(images)
    with metered(net) as cost:
        examples = objective.examples(net, images, labels, step)
    assert (cost.forwards, cost.backwards) == (attack[0] * n, attack[1] * n)
    with metered(net) as cost:
        objective.cost(net, images, labels, examples, step).total.backward()
    assert (cost.forwards, cost.backwards) == (loss[0] * n, loss[1] * n)

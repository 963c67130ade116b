"""The papers' tables at a scale that takes seconds."""

from __future__ import annotations

from dataclasses import replace

from clat.studies.paper.scales import SMOKE

TINY = replace(
    SMOKE,
    name="tiny",
    batch_size=32,
    train_size=64,
    heldout=32,
    monitored=16,
    test_size=20,
    strong_size=4,
    narrow={"resnet18": (4, (1, 1, 1, 1)), "vgg19": (2, None), "densenet121": (4, (1, 1, 1, 1))},
)

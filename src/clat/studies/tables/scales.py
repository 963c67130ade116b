"""The budgets at which studies are run. All rows of a study share one: data, network, eps, epochs, batch size."""

from __future__ import annotations

from clat.studies.row import Scale

SMOKE = Scale(
    name="smoke",
    start=4,
    rest=2,
    settings={
        "eps": "8/255",
        "batch_size": 64,
        "model": {"name": "resnet18", "width": 16, "normalize": "cifar10"},
        "data": {"name": "cifar10", "train_size": 1500, "heldout": 500},
        "schedule": {"kind": "cosine", "lr": 0.1},
        "monitor": {"num_samples": 250, "every": 2},
        "evaluation": {"protocol": "pgd-20", "num_samples": 1000, "weights": "best-and-last"},
    },
    remark="1,500 images, six epochs, a ResNet-18 of width 16 and one seed show that every row trains and is "
    "measured; they are no evidence about the order of the methods.",
)

SHORT = Scale(
    name="short",
    start=20,
    rest=10,
    settings={
        "eps": "8/255",
        "batch_size": 128,
        "model": {"name": "resnet18", "normalize": "cifar10"},
        "data": {"name": "cifar10", "heldout": 1000},
        "schedule": {"kind": "cosine", "lr": 0.1},
        "monitor": {"num_samples": 1000},
        "evaluation": {"protocol": "pgd-20", "weights": "best-and-last"},
    },
    remark="The whole of CIFAR-10, a full ResNet-18 and 30 epochs: an equal, short budget, one seed. The papers "
    "train longer, and each method at settings of its own.",
)

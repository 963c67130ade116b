"""Find the network, activation and input normalisation of a RobustBench entry: `robustbench:ID`.

RobustBench (Croce et al. 2021, arXiv 2010.09670) lists l-inf networks for CIFAR-10 and CIFAR-100 under one id each;
an id that both have names two networks, told apart by the number of classes. Facts are those of RobustBench's model
zoo and result files. No weight file was at hand: names and shapes are tested against published ones, accuracies are
RobustBench's. Of Chen2024Data the zoo's entry was not at hand either; that it normalises nothing follows from its
authors' code, and the zoo says so of their earlier networks. A clean accuracy that is far off says that a fact here
is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from clat.core.errors import ClatError, unknown
from clat.models.dm_wide_resnet import dm_wrn_28_10, dm_wrn_70_16, ra_wrn_70_16
from clat.models.files import StateDict
from clat.models.names import STATISTICS_NAMES
from clat.models.normalize import STATISTICS, Statistics, for_unit_range, parse_normalize
from clat.models.preact_resnet import preact_resnet18_bn, preact_resnet18_raw
from clat.models.resnet import resnet18, resnet50
from clat.models.wide_resnet import wrn_34_10

PREFIX = "robustbench:"


@dataclass(frozen=True)
class Entry:
    """A row of RobustBench.

    Attributes:
        builder: Builds the network.
        normalize: The (mean, std) inside it, or None.
        clean: Its accuracy, in percent.
        robust: Its accuracy under AutoAttack, in percent; l-inf 8/255, for Zhang2019Theoretically 0.031.
    """

    builder: partial[Any]
    normalize: Statistics | None
    clean: float
    robust: float


_C10, _C100 = STATISTICS["cifar10"], STATISTICS["cifar100"]
_C10_LIBRARY: Statistics = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_C100_EXACT: Statistics = (
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)

_WRN_34_20 = partial(wrn_34_10, width=320)
_SWISH_28_10 = partial(dm_wrn_28_10, activation="swish")
_SWISH_34_20 = partial(dm_wrn_28_10, activation="swish", depths=(5, 5, 5), width=320)
_SWISH_70_16 = partial(dm_wrn_70_16, activation="swish")
_SWISH_106_16 = partial(dm_wrn_70_16, activation="swish", depths=(17, 17, 17))
_SILU_28_10 = partial(dm_wrn_28_10, activation="silu")
_SILU_70_16 = partial(dm_wrn_70_16, activation="silu")

CIFAR10: dict[str, Entry] = {
    "Addepalli2022Efficient_RN18": Entry(resnet18, None, 85.71, 52.48),
    "Addepalli2022Efficient_WRN_34_10": Entry(wrn_34_10, None, 88.71, 57.81),
    "Chen2024Data_WRN_34_10": Entry(wrn_34_10, None, 86.54, 57.30),
    "Engstrom2019Robustness": Entry(resnet50, _C10_LIBRARY, 87.03, 49.25),
    "Gowal2020Uncovering_34_20": Entry(_SWISH_34_20, _C10, 85.64, 56.82),
    "Gowal2020Uncovering_70_16": Entry(_SWISH_70_16, _C10, 85.29, 57.14),
    "Gowal2020Uncovering_70_16_extra": Entry(_SWISH_70_16, _C10, 91.10, 65.87),
    "Gowal2021Improving_28_10_ddpm_100m": Entry(_SWISH_28_10, _C10, 87.50, 63.38),
    "Gowal2021Improving_70_16_ddpm_100m": Entry(_SWISH_70_16, _C10, 88.74, 66.11),
    "Pang2022Robustness_WRN28_10": Entry(_SWISH_28_10, _C10, 88.61, 61.04),
    "Pang2022Robustness_WRN70_16": Entry(_SWISH_70_16, _C10, 89.01, 63.35),
    "Peng2023Robust": Entry(ra_wrn_70_16, _C10, 93.27, 71.07),
    "Rebuffi2021Fixing_106_16_cutmix_ddpm": Entry(_SWISH_106_16, _C10, 88.50, 64.64),
    "Rebuffi2021Fixing_28_10_cutmix_ddpm": Entry(_SWISH_28_10, _C10, 87.33, 60.75),
    "Rebuffi2021Fixing_70_16_cutmix_ddpm": Entry(_SWISH_70_16, _C10, 88.54, 64.25),
    "Rebuffi2021Fixing_70_16_cutmix_extra": Entry(_SWISH_70_16, _C10, 92.23, 66.58),
    "Rice2020Overfitting": Entry(_WRN_34_20, _C10, 85.34, 53.42),
    "Wang2023Better_WRN-28-10": Entry(_SILU_28_10, _C10, 92.44, 67.31),
    "Wang2023Better_WRN-70-16": Entry(_SILU_70_16, _C10, 93.25, 70.69),
    "Wong2020Fast": Entry(preact_resnet18_raw, _C10, 83.34, 43.21),
    "Wu2020Adversarial": Entry(wrn_34_10, None, 85.36, 56.17),
    "Zhang2019Theoretically": Entry(wrn_34_10, None, 84.92, 53.08),
}

CIFAR100: dict[str, Entry] = {
    "Addepalli2022Efficient_RN18": Entry(resnet18, None, 65.45, 27.67),
    "Addepalli2022Efficient_WRN_34_10": Entry(wrn_34_10, None, 68.75, 31.85),
    "Chen2024Data_WRN_34_10": Entry(wrn_34_10, None, 64.32, 31.13),
    "Gowal2020Uncovering": Entry(_SWISH_70_16, _C100, 60.86, 30.03),
    "Pang2022Robustness_WRN28_10": Entry(_SWISH_28_10, _C100, 63.66, 31.08),
    "Rebuffi2021Fixing_28_10_cutmix_ddpm": Entry(_SWISH_28_10, _C100, 62.41, 32.06),
    "Rebuffi2021Fixing_70_16_cutmix_ddpm": Entry(_SWISH_70_16, _C100, 63.56, 34.64),
    "Rice2020Overfitting": Entry(preact_resnet18_bn, _C100_EXACT, 53.83, 18.95),
    "Wang2023Better_WRN-28-10": Entry(_SILU_28_10, _C100, 72.58, 38.83),
    "Wang2023Better_WRN-70-16": Entry(_SILU_70_16, _C100, 75.22, 42.67),
    "Wu2020Adversarial": Entry(wrn_34_10, _C100_EXACT, 60.38, 28.86),
}

TABLES = {10: CIFAR10, 100: CIFAR100}
"""The entries by number of classes."""


def entry(name: str, num_classes: int) -> Entry:
    """Return the entry of `robustbench:ID`.

    Args:
        name: The whole name, with the prefix.
        num_classes: 10 for CIFAR-10, 100 for CIFAR-100.

    Returns:
        The row of that data set.

    Raises:
        ClatError: The id is unknown, or RobustBench has it for the other data set only.
    """
    identifier = name.removeprefix(PREFIX)
    others = [classes for classes, table in TABLES.items() if identifier in table]
    if num_classes in others:
        return TABLES[num_classes][identifier]
    if others:
        raise ClatError(
            f"model '{name}' is a network for CIFAR-{others[0]}, asked for {num_classes} classes; use its data"
        )
    raise unknown("RobustBench id", identifier, TABLES.get(num_classes, CIFAR10 | CIFAR100))


def split_statistics(state: Mapping[str, Tensor], source: object) -> tuple[StateDict, Statistics | None]:
    """Return a state dict without the normalisation constants that some files carry, and these.

    They are what the file was trained with, whatever the table says.

    Args:
        state: Tensors under the names of a file, perhaps with mu and sigma, or mean and std.
        source: The file, for messages.

    Returns:
        The other entries, and (mean, std), or None where the file has none.

    Raises:
        ClatError: It has half a pair.
    """
    rest: StateDict = {}
    found: dict[int, list[float]] = {}
    for key, value in state.items():
        place = STATISTICS_NAMES.get(key.rpartition(".")[2])
        if place is None:
            rest[key] = value
        else:
            found[place] = value.flatten().tolist()
    if len(found) == 1:
        raise ClatError(f"weights {source}: holds half a normalisation, mean or std without the other")
    return rest, parse_normalize(for_unit_range(found[0], found[1])) if found else None

"""Every table and figure that `clat paper` runs: what it shows, and by what kind of measurement."""

from __future__ import annotations

from collections.abc import Sequence

from clat.core.errors import unknown
from clat.studies.paper.paper_table import PaperTable

_CONTROLS = ("pgd-at", "ema")
_WIDE = ("wrn-34-10",)
_SWEPT = ("densenet121", "resnet50", "resnet18")
_ONE = ("cifar10",)
_DYNAMIC = "Select anew every few epochs, or once and for all"
_UNSTATED = "Stem and resolution of the images are not stated in the paper; here ImageNet's stem (VGG-19 has none)."

_RIFT = (
    *(("pgd-at+rift", network) for network in ("densenet121", "resnet50", "vgg19")),
    ("fast-at+rift", "preact-resnet18"),
    ("autolora+rift", "resnet18"),
    *((f"{x}+rift", "wrn-70-16") for x in ("peng2023", "bai2024")),
)
"""X + RiFT where the paper prints it for other X alone."""

TABLES: tuple[PaperTable, ...] = (
    PaperTable(
        id="T1",
        title="White-box PGD-10",
        shows="X + CLAT has higher clean and robust accuracy than X alone, for every X.",
        kind="accuracy",
        beside=(("lora", "resnet18"), ("lora+clat", "resnet18"), *_RIFT),
    ),
    PaperTable(
        id="T2",
        title="AutoAttack",
        shows="The gain stands under AutoAttack, too.",
        kind="accuracy",
        note="The paper's AutoAttack has FAB-T with 3 targets, as here (protocol clat-v2).",
    ),
    PaperTable(
        id="T3",
        title="Transferred AutoAttack examples",
        shows="Networks with CLAT withstand examples made on other networks better.",
        kind="transfer",
    ),
    PaperTable(
        id="T4",
        title="Transferred PGD-10 examples",
        shows="The same with PGD-10.",
        kind="transfer",
    ),
    PaperTable(
        id="T5",
        title=f"{_DYNAMIC}, PGD-10",
        shows="Layers selected once give less than PGD-AT, layers selected anew give more.",
        kind="accuracy",
        controls=("ema",),
    ),
    PaperTable(
        id="T6",
        title=f"{_DYNAMIC}, AutoAttack",
        shows="The same under AutoAttack.",
        kind="accuracy",
        controls=("ema",),
    ),
    PaperTable(
        id="T7",
        title="Critical or random layers, CIFAR-10",
        shows="Critical layers gain, as many random ones lose.",
        kind="accuracy",
        controls=_CONTROLS,
    ),
    PaperTable(
        id="T8",
        title="Most critical layers",
        shows="These five layers of each network are the most critical after PGD-AT.",
        kind="layers",
    ),
    PaperTable(
        id="T9",
        title="Trainable parameters",
        shows="CLAT moves about 4 % of the parameters.",
        kind="parameters",
        note="Ours: the weights of the layers that the paper lists in its Table 8, as many as it says it uses.",
    ),
    PaperTable(
        id="T10",
        title="Batch size of the selection",
        shows="Ten images give the ranking of a hundred, in about the same time.",
        kind="cost",
    ),
    PaperTable(
        id="T11",
        title="CLAT from clean networks",
        shows="CLAT alone makes a naturally trained network robust, if less so.",
        kind="accuracy",
    ),
    PaperTable(
        id="T12",
        title="Critical or random layers, CIFAR-100",
        shows="As T7.",
        kind="accuracy",
        controls=_CONTROLS,
    ),
    PaperTable(
        id="T13",
        title="Layers selected at epochs 70, 80, 90",
        shows="A layer that CLAT has moved becomes less critical, and others take its place.",
        kind="layers",
        share=0.7,
    ),
    PaperTable(
        id="T14",
        title=f"{_DYNAMIC}, CIFAR-100",
        shows="As T5, with clean accuracy.",
        kind="accuracy",
        controls=_CONTROLS,
    ),
    PaperTable(
        id="T15",
        title="Imagenette",
        shows="The gain on photographs, six networks.",
        kind="accuracy",
        note=_UNSTATED,
    ),
    PaperTable(
        id="T16", title="ImageNet", shows="The gain on ImageNet, three networks.", kind="accuracy", note=_UNSTATED
    ),
    PaperTable(
        id="T17",
        title="Other attacks, each alone",
        shows="The gain stands under FAB, stAdv, Pixle and PGD of other norms and lengths.",
        kind="accuracy",
        note="The paper states no budgets. Here: FAB of 10 steps and PGD-l2 at 128/255 (0.03 in l2 is next to "
        "nothing for images in [0, 1]); stAdv by its flow, 0.05, and Pixle by its patches, which know no eps.",
    ),
    PaperTable(
        id="T18",
        title="AWP and SWAAT",
        shows="The gain on top of weight perturbation and averaging.",
        kind="accuracy",
    ),
    PaperTable(
        id="T19",
        title="Augmentation and generated data",
        shows="The gain on top of IDBH and Wang 2023.",
        kind="accuracy",
    ),
    PaperTable(
        id="T20",
        title="Most against least critical layers",
        shows="The most critical layers gain more than the least critical ones.",
        kind="accuracy",
        controls=("ema",),
    ),
    PaperTable(
        id="D9",
        title="Seconds of an epoch",
        shows="An epoch of CLAT takes about as long as one of PGD-AT.",
        kind="cost",
        networks=("densenet121",),
        note="Hardware decides on seconds: compare the ratios to PGD-AT.",
    ),
    PaperTable(
        id="F2",
        title="When CLAT takes over",
        shows="Wherever in 100 epochs CLAT takes over, it ends with higher clean and robust accuracy.",
        kind="curves",
        networks=_WIDE,
        datasets=_ONE,
    ),
    PaperTable(
        id="F3",
        title="Robust accuracy by number of layers",
        shows="There is a best number of layers, about 5 % of them.",
        kind="sweep",
        networks=_SWEPT,
        datasets=_ONE,
    ),
    PaperTable(
        id="F4",
        title="Strength of the attack",
        shows="The gain at eps 0.03 stands at every eps.",
        kind="strength",
        networks=("resnet18",),
        datasets=_ONE,
        note="The paper does not say which network; here ResNet-18.",
    ),
    PaperTable(
        id="F5",
        title="CLAT from epoch 70, from scratch, and PGD-AT",
        shows="CLAT from scratch learns, but slower.",
        note="The paper's learning rate falls to 0, at epoch 150; here runs end after two thirds of the cosine, "
        "as in its tables.",
        kind="curves",
        share=0.7,
        networks=_WIDE,
        datasets=_ONE,
    ),
    PaperTable(
        id="F6",
        title="A learning rate that falls to a tenth at epoch 70",
        shows="The gain is not one of the learning rate.",
        kind="curves",
        share=0.7,
        networks=_WIDE,
        datasets=_ONE,
    ),
    PaperTable(
        id="F7",
        title="Clean accuracy by number of layers",
        shows="Clean accuracy is best at about the same number of layers.",
        kind="sweep",
        networks=_SWEPT,
        datasets=_ONE,
    ),
    PaperTable(id="v1-T6", title="Trainable parameters (v1)", shows="As T9.", kind="parameters"),
    PaperTable(
        id="v1-T8", title="APGD-CE (v1)", shows="The gain under APGD-CE, which v2 leaves out.", kind="accuracy"
    ),
    PaperTable(
        id="v1-T10",
        title="Critical or random layers, CIFAR-100 (v1)",
        shows="As T12, which prints other numbers.",
        kind="accuracy",
        controls=_CONTROLS,
    ),
    PaperTable(
        id="cure-T1",
        title="CURE against adversarial training",
        shows="CURE has the best balance of clean and robust accuracy.",
        kind="accuracy",
        control="pgd-at",
    ),
    PaperTable(
        id="cure-T2", title="CURE on CIFAR-100 and SVHN", shows="As cure-T1.", kind="accuracy", control="pgd-at"
    ),
    PaperTable(
        id="cure-T3",
        title="CURE and robust overfitting",
        shows="CURE does not lose robust accuracy from its best epoch to its last.",
        kind="accuracy",
        control="pgd-at",
    ),
    PaperTable(
        id="cure-T4",
        title="CURE without a natural start of its own",
        shows="CURE_Eff, within one budget, is not far behind.",
        kind="accuracy",
        beside=(("cure", "resnet18"),),
        control="pgd-at",
    ),
    PaperTable(
        id="cure-T6", title="CURE with ResNet-50", shows="As cure-T1, not tuned.", kind="accuracy", control="pgd-at"
    ),
    PaperTable(
        id="cure-T7",
        title="Parts of CURE",
        shows="Conservation and revision each help, together most.",
        kind="accuracy",
        control="cure-none",
    ),
)
"""In the order of the list: CLAT's second version, its figures, its first version, CURE."""

_BY_NAME = {table.id.lower(): table for table in TABLES}


def find_table(name: str) -> PaperTable:
    """Return a table or a figure by its name.

    Args:
        name: such as "T7", "F3", "v1-T10", "cure-T1"; case does not matter, nor the dot of "D.9".

    Returns:
        The entry of TABLES.

    Raises:
        ClatError: If there is none; the message has the nearest name.
    """
    key = name.lower().replace(".", "")
    if key not in _BY_NAME:
        raise unknown("table", name, (table.id for table in TABLES), where=" of the papers")
    return _BY_NAME[key]


def restricted(kind: str, asked: Sequence[str], all_of_them: Sequence[str], table: PaperTable) -> tuple[str, ...]:
    """Return what of a table's networks, data sets or rows was asked for.

    Args:
        kind: what they are, for the error.
        asked: names; none: all.
        all_of_them: what the table has.
        table: the table.

    Returns:
        Names, in the table's order.

    Raises:
        ClatError: If the table lacks one of them.
    """
    for name in asked:
        if name not in all_of_them:
            raise unknown(kind, name, all_of_them, where=f" of {table.id}")
    return tuple(name for name in all_of_them if not asked or name in asked)

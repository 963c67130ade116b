"""The lines of a table: the numbers that the paper prints for them, and the networks behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clat.studies.paper.catalogue import restricted
from clat.studies.paper.methods import CURE_EPS, EPS, METHODS, taken_apart
from clat.studies.paper.paper_table import PaperTable
from clat.studies.paper.printed import Printed, printed_in
from clat.studies.paper.runs import Layers, RunSpec
from clat.studies.paper.scales import PaperScale

LAYERS: dict[str, Layers] = {
    "": "critical",
    "critical": "critical",
    "dynamic": "critical",
    "random": "random",
    "smallest": "smallest",
    "fixed": "fixed",
}
"""What a table calls the layers that move -> what a run calls them."""


@dataclass(frozen=True, kw_only=True)
class TableLine:
    """What a table tells apart: a method on a network and a data set."""

    dataset: str
    network: str
    method: str
    layers: str = ""
    source: str = ""
    variant: str = ""

    @property
    def name(self) -> str:
        """Return the method with what else tells it apart, as `--rows` takes it."""
        parts = [self.method, self.layers, f"from {self.source}" if self.source else "", self.variant]
        return ", ".join(part for part in parts if part)

    def spec(self, table: PaperTable, seed: int, ratio: float) -> RunSpec:
        """Return the network that this line is about.

        Args:
            table: the line's table.
            seed: its seed.
            ratio: CLAT's lambda, as a ratio of losses.

        Returns:
            What to train.
        """
        base, follower = taken_apart(self.method)
        cure = table.paper == "cure"
        return RunSpec(
            base=METHODS[base].same_as or base,
            follower=follower,
            network=self.network,
            dataset=self.dataset,
            seed=seed,
            layers=LAYERS[self.layers],
            share=table.share,
            ratio=ratio if follower.startswith("clat") else 0.1,
            cure=cure,
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How an accuracy is measured. Clean accuracy comes with every protocol."""

    protocol: str
    eps: str
    norm: str = "linf"
    weights: str = "last"
    samples: int | None = None

    @property
    def file(self) -> str:
        """Return a name for its result's file."""
        size = "all" if self.samples is None else str(self.samples)
        return f"{self.weights}-{self.protocol}-{self.norm}-{self.eps.replace('/', 'over')}-{size}"


def table_lines(
    table: PaperTable, networks: Sequence[str] = (), datasets: Sequence[str] = (), rows: Sequence[str] = ()
) -> dict[TableLine, list[Printed]]:
    """Return a table's lines, each with the numbers printed for it.

    Args:
        table: the table; of one with `controls`, those stand before the printed rows, without numbers.
        networks: only these; none: all.
        datasets: only these; none: all.
        rows: only these methods or lines; none: all.

    Returns:
        TableLine -> printed numbers, in the printed order.

    Raises:
        ClatError: If the table lacks a network, a data set or a row that was asked for.
    """
    found: dict[TableLine, list[Printed]] = {}
    printed = printed_in(table.paper, table.number)
    nets = restricted("network", networks, table.all_networks(), table)
    sets = restricted("data set", datasets, table.all_datasets(), table)
    places = dict.fromkeys((one.dataset or sets[0], one.network) for one in printed if one.source == "")
    for dataset, network in places:
        for method in table.controls:
            found[TableLine(dataset=dataset, network=network, method=method)] = []
        for method, of in table.beside:
            if of == network:
                found[TableLine(dataset=dataset, network=network, method=method)] = []
    for one in printed:
        line = TableLine(
            dataset=one.dataset or sets[0],
            network=one.network,
            method=one.method,
            layers=one.layers,
            source=one.source,
            variant=one.variant,
        )
        found.setdefault(line, []).append(one)
    methods = [*table.controls, *(one.method for one in printed), *(method for method, _ in table.beside)]
    bases = list(dict.fromkeys(method.partition("+")[0] for method in methods))

    def _place(line: TableLine) -> tuple[int, int, bool]:
        """Return where a line stands: by data set and network, then by X, X itself before what builds on it."""
        base, plus, _ = line.method.partition("+")
        where = list(places).index((line.dataset, line.network)) if places else 0
        return where, bases.index(base), bool(plus)

    ordered = sorted(found, key=_place)
    wanted = [line for line in ordered if line.network in nets and line.dataset in sets]
    wanted = [line for line in wanted if not line.source or line.source in nets]
    names = list(dict.fromkeys(name for line in wanted for name in (line.method, line.name)))
    chosen = restricted("row", rows, names, table)
    return {line: found[line] for line in wanted if not rows or line.method in chosen or line.name in chosen}


def reference(line: TableLine, lines: Mapping[TableLine, Sequence[Printed]], table: PaperTable) -> TableLine | None:
    """Return the line that another is compared with.

    That is X for "X + CLAT" where the table prints X, else random or fixed layers for the critical ones; X that is
    run beside the printed rows for the others; a method's best weights for its last ones; CURE for its shorter
    form; the table's `control` where the line's name says nothing.

    Args:
        line: the line.
        lines: all lines of the table, with what is printed for them.
        table: the table.

    Returns:
        The line that its effect is taken against; None if there is none.
    """
    place = (line.dataset, line.network, line.source)
    beside = [one for one in lines if (one.dataset, one.network, one.source) == place and one != line]
    base, plus, _ = line.method.rpartition("+")
    wanted = base if plus else {"ema": "pgd-at", "cure-eff": "cure"}.get(line.method, table.control)
    if line.variant == "checkpoint=last":
        return next((one for one in beside if (one.method, one.variant) == (line.method, "checkpoint=best")), None)
    x = next((one for one in beside if one.method == wanted and one.variant == line.variant), None)
    opposite = {"critical": "random", "dynamic": "fixed"}.get(line.layers)
    other = next((one for one in beside if one.method == line.method and one.layers == opposite), None)
    return other if other is not None and not (x is not None and lines[x]) else x


def measure(table: PaperTable, line: TableLine, attack: str, scale: PaperScale) -> Measure:
    """Return how the number of an attack is measured.

    Args:
        table: the number's table, whose paper has its own forms of the attacks.
        line: its line.
        attack: as printed.csv calls it; "none" for clean accuracy.
        scale: on how many images.

    Returns:
        Protocol, eps and norm as the paper has them, as far as it says.
    """
    cure = table.paper == "cure"
    names = CURE_PROTOCOLS if cure else CLAT_PROTOCOLS
    attack = attack if attack != "none" else main_attack(table)
    protocol = names[attack]
    eps, norm = (CURE_EPS, "linf") if cure else ("128/255", "l2") if attack == "pgd-l2" else (EPS, "linf")
    weights = "best" if line.variant == "checkpoint=best" else "last"
    return Measure(protocol=protocol, eps=eps, norm=norm, weights=weights, samples=scale.size(protocol))


def main_attack(table: PaperTable) -> str:
    """Return the attack of a table that clean accuracy is read beside: one on many images.

    Args:
        table: the table.

    Returns:
        The attack, as printed.csv calls it.
    """
    attacks = [one.attack for one in printed_in(table.paper, table.number) if one.attack != "none"]
    weak = [attack for attack in attacks if attack.startswith("pgd")]
    return (weak or attacks or ["pgd-10"])[0]


CLAT_PROTOCOLS = {
    "pgd-10": "clat-pgd-10",
    "pgd-50": "clat-pgd-50",
    "pgd-100": "clat-pgd-100",
    "pgd-l2": "pgd-10",
    "autoattack": "clat-v2",
    "apgd-ce": "clat-v1",
    "fab": "fab",
    "stadv": "stadv",
    "pixle": "pixle",
}
CURE_PROTOCOLS = {
    "pgd-20": "pgd-20",
    "pgd-100": "pgd-100",
    "cw": "cw-pgd-20",
    "autoattack": "autoattack",
}

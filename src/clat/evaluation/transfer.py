"""Transfer of adversarial examples between networks (CLAT v2, Tables 3 and 4): attackers down, victims across.

The accuracy is taken over all images, as in the paper, not only over those that every network gets right on clean
images; each victim's clean accuracy stands above its column, to be read against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat.attacks.search import at_a_time, run_search
from clat.core.console import Table
from clat.core.environment import describe_environment
from clat.core.errors import ClatError
from clat.core.files import SavedAsJson
from clat.core.formatting import interval, percent
from clat.core.notebook import ShownAsTable
from clat.core.threat_model import EVALUATION_NORMS, ThreatModel
from clat.core.units import Size
from clat.evaluation.evaluate import evaluate
from clat.evaluation.job import Report
from clat.evaluation.planned_search import plan_searches
from clat.evaluation.predict import is_right, predict
from clat.evaluation.protocols import Protocol, find_protocol, setting_text
from clat.evaluation.statistics import Accuracy
from clat.network import modes
from clat.network.cost import Cost, metered
from clat.network.edge import accept, unwrapped
from clat.network.fingerprint import device_of


@dataclass(frozen=True)
class TransferMatrix(ShownAsTable, SavedAsJson):
    """The accuracy of each network on examples made on each network.

    Attackers and victims are the same networks, so the diagonal is white box.

    Attributes:
        names: of the networks.
        protocol: how the examples were made.
        threat: the ball that the attacks search.
        seed: of the attacks.
        clean: which victim is right on which image, (V, N) bool.
        right: the same on the examples made on each attacker, (A, V, N) bool.
        cost: of making the examples.
        environment: versions and machine.
        about: what the caller adds to the JSON (models, data).
    """

    names: tuple[str, ...]
    protocol: Protocol
    threat: ThreatModel
    seed: int
    clean: Tensor
    right: Tensor
    cost: Cost
    environment: dict[str, Any]
    about: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What makes a network's accuracies here less than its own, such as outputs that depend on the batch."""

    def accuracy(self, attacker: str | None, victim: str) -> Accuracy:
        """Return the accuracy of one network on the examples made on one.

        Args:
            attacker: the name of the network that they were made on; None: the clean images.
            victim: the name of the network that they are shown to.

        Returns:
            The share of all images, with its interval.
        """
        column = self.names.index(victim)
        flags = self.clean[column] if attacker is None else self.right[self.names.index(attacker), column]
        return Accuracy(int(flags.sum()), len(flags))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            Settings, the clean accuracies, and a row for each attacker with a column for each victim.
        """

        def row(attacker: str | None) -> dict[str, Any]:
            return {victim: self.accuracy(attacker, victim).to_dict() for victim in self.names}

        return {
            "what": "transfer",
            **self.about,
            "protocol": {**self.protocol.data(), "hash": self.protocol.hash, "norm": self.threat.norm},
            "eps": self.threat.eps_data(),
            "seed": self.seed,
            "n": self.clean.shape[1],
            "networks": list(self.names),
            "notes": list(self.notes),
            "clean": row(None),
            "attackers": {attacker: row(attacker) for attacker in self.names},
            "cost": asdict(self.cost),
            "environment": self.environment,
        }

    def table(self) -> Table:
        """Return a rich table with a row for each attacker and a column for each victim.

        Returns:
            Accuracies with their 95 % Wilson intervals, those on clean images above.
        """
        setting = setting_text(self.protocol.data(), self.threat.norm, self.threat.text)
        table = Table(
            title=f"Accuracy on examples made on another network: {setting}, n = {self.clean.shape[1]}",
            caption="rows: attacker, columns: victim; diagonal: white box; below each its 95 % Wilson interval",
        )
        table.add_column("attacker")
        for name in self.names:
            table.add_column(name, justify="right")
        table.add_row(
            "none (clean)", *(_cell(self.accuracy(None, victim)) for victim in self.names), end_section=True
        )
        for attacker in self.names:
            table.add_row(attacker, *(_cell(self.accuracy(attacker, victim)) for victim in self.names))
        return table


def _cell(accuracy: Accuracy) -> str:
    return f"{percent(accuracy.value)}\n{interval(*accuracy.interval)}"


def transfer(
    networks: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    eps: Size,
    protocol: str | Path | Protocol = "pgd-10",
    norm: str = "linf",
    batch_size: int = 250,
    seed: int = 0,
    report: Report | None = None,
    attacking: Callable[[str], None] | None = None,
    about: dict[str, Any] | None = None,
) -> TransferMatrix:
    """Attack every network and show the examples to all of them.

    Args:
        networks: name -> image classifier that takes images in [0, 1] and returns logits, at least two; they are
            left as they are.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,) int64.
        eps: the radius, a number or a fraction such as "8/255".
        protocol: how the examples are made, as for `clat.evaluate`.
        norm: "linf", "l2", or of protocols of APGD alone "l1".
        batch_size: samples attacked at a time.
        seed: of the attacks.
        report: told how far each attack is, the attacker's name before the attack's.
        attacking: told the name of the attacker at work.
        about: what is added to the JSON.

    Returns:
        The accuracy of each network on each one's examples.

    Raises:
        ClatError: as `clat.evaluate` does, and for a single network.
    """
    protocol = find_protocol(protocol)
    if len(networks) < 2:
        raise ClatError("transfer needs at least two networks: an attacker and a victim")
    threat = ThreatModel.parse(eps, norm, norms=EVALUATION_NORMS)
    networks = {name: unwrapped(model) for name, model in networks.items()}
    for model in networks.values():
        _, x = accept(model, x, y)  # what all of them can be given
    rows, notes, cost = [], [], Cost()
    for attacker, model in networks.items():
        if attacking is not None:
            attacking(attacker)
        with metered(model) as one:
            watch = None if report is None else _of(attacker, report)
            x_adv, said = make_examples(
                model, x, y, protocol=protocol, threat=threat, batch_size=batch_size, seed=seed, report=watch
            )
        cost += one
        notes += [f"{attacker}: {note}" for note in said]
        rows.append([is_right(victim, x_adv, y, batch_size=batch_size) for victim in networks.values()])
    return TransferMatrix(
        names=tuple(networks),
        protocol=protocol,
        threat=threat,
        seed=seed,
        clean=torch.stack([is_right(model, x, y, batch_size=batch_size) for model in networks.values()]),
        right=torch.stack([torch.stack(row) for row in rows]),
        cost=cost,
        environment=describe_environment(device_of(model, x.device)),
        about=about or {},
        notes=tuple(notes),
    )


def _of(attacker: str, report: Report) -> Report:
    """Return what tells `report` how far the attacks on one network are."""
    return lambda attack, through, total, bound: report(f"{attacker} {attack}", through, total, bound)


def make_examples(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    protocol: Protocol,
    threat: ThreatModel,
    batch_size: int,
    seed: int,
    report: Report | None = None,
) -> tuple[Tensor, list[str]]:
    """Return the adversarial examples of an evaluation, and its notes.

    The network is right on none that it is not robust on, so that its own accuracy on them is its robust accuracy.
    PGD attacks the images too that the network gets wrong already, which matters to other networks; the attacks
    that leave a sample once it is misclassified, as AutoAttack's do, have nothing to do there.

    Args:
        model: the network to attack, without wrappers; it is left as it is.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,) int64.
        protocol: the attacks.
        threat: the ball that the attacks search.
        batch_size: samples attacked at a time.
        seed: of the attacks.
        report: told how far each attack is.

    Returns:
        The examples, (N, C, H, W) in [0, 1], where `x` is; and what there is to say of the network and the attacks.

    Raises:
        ClatError: as `clat.evaluate` does.
    """
    result = evaluate(
        model,
        x,
        y,
        protocol=protocol,
        eps=threat.eps,
        norm=threat.norm,
        batch_size=batch_size,
        seed=seed,
        keep_examples=True,
        report=report,
    )
    assert result.x_adv is not None
    rows = (~result.correct).nonzero().squeeze(1)
    if protocol.attacks[0].attack != "pgd" or not len(rows):
        return result.x_adv, result.notes
    device = device_of(model, x.device)
    todo, _ = plan_searches(protocol, threat, classes=_classes(model, x, y), seed=seed, leave=False)
    with modes.attack_mode(model), torch.autocast(device.type, enabled=False):
        size = at_a_time(batch_size, x.shape[1:], device)
        found = run_search(todo[0].build(model), x[rows], y[rows], rows, batch_size=size, device=device)
    still_wrong = ~is_right(model, found, y[rows], batch_size=batch_size)
    kept = rows[still_wrong]
    result.x_adv[kept] = found[still_wrong.to(found.device)]
    return result.x_adv, result.notes


def _classes(model: nn.Module, x: Tensor, y: Tensor) -> int:
    return predict(model, x[:1], y[:1]).shape[1]

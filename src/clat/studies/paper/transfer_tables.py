"""Tables 3 and 4: examples made on one network, shown to the others, all trained by one method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.data import Loader
from clat.evaluation import find_protocol
from clat.evaluation.transfer import transfer
from clat.studies.paper.accuracy import Request, attack_name, line_runs, printed_effect, ratios, told
from clat.studies.paper.cells import Cell, effect_of
from clat.studies.paper.lines import Measure, TableLine, measure, reference
from clat.studies.paper.store import StoredRun

Matrix = dict[tuple[str, str], str]
"""(attacker, victim) -> who of the images is right, a string of 0 and 1."""


def transfer_cells(request: Request) -> tuple[list[Cell], dict[str, object]]:
    """Train a table's networks, and show each the examples of the others that were trained alike.

    Args:
        request: what is run.

    Returns:
        The cells in the table's order, and the ratios and how they were chosen.

    Raises:
        KeyboardInterrupt: If a run was asked to stop.
    """
    chosen = ratios(request)
    done: dict[TableLine, Cell] = {}
    trained: dict[tuple[str, str, str, int], StoredRun | str] = {}
    for line in request.lines:
        for network in (line.network, line.source):
            one = replace(line, network=network, source="")
            runs = line_runs(request, one, chosen)
            for number, seed in enumerate(request.seeds):
                key = (line.dataset, line.method, network, seed)
                if key not in trained:
                    run = runs if isinstance(runs, str) else runs[number]
                    failure = run if isinstance(run, str) else request.store.train(run, request.console)
                    trained[key] = failure or run
    for line in request.lines:
        done[line] = _cell(request, line, trained)
    cells = []
    for line, cell in done.items():
        other = reference(line, request.lines, request.table)
        if other is not None:
            theirs = done[other]
            printed = printed_effect(cell.printed, theirs.printed)
            effect = effect_of(cell, theirs)
            cell = replace(cell, against=other.name, effect=effect, printed_effect=printed)
        cells.append(cell)
    return cells, {"ratios": told(chosen)}


def _cell(request: Request, line: TableLine, trained: dict[tuple[str, str, str, int], StoredRun | str]) -> Cell:
    printed = request.lines[line][0]
    how = measure(request.table, line, printed.attack, request.store.scale)
    rows: list[NDArray[np.float64]] = []
    seeds: list[int] = []
    wrong: list[str] = []
    for seed in request.seeds:
        beside = {
            network: run
            for (dataset, method, network, of), run in trained.items()
            if (dataset, method, of) == (line.dataset, line.method, seed)
        }
        pair = [beside[name] for name in (line.source, line.network)]
        wrong += [one for one in pair if isinstance(one, str)]
        if any(isinstance(one, str) for one in pair):
            continue
        try:
            runs = {network: run for network, run in beside.items() if isinstance(run, StoredRun)}
            matrix = transferred(request, runs, how, seed)
        except ClatError as error:
            wrong.append(str(error))
            continue
        rows.append(np.array([float(bit) for bit in matrix[line.source, line.network]]))
        seeds.append(seed)
    return Cell(
        dataset=line.dataset,
        network=line.network,
        row=line.name,
        attack=attack_name(how, printed.attack),
        kind="robust",
        verdicts=np.stack(rows) if rows else None,
        images=tuple("first images" for _ in seeds),
        seeds=tuple(seeds),
        printed=printed,
        failure="; ".join(dict.fromkeys(wrong)) or None,
    )


def transfer_of(runs: Mapping[str, StoredRun], how: Measure, seed: int) -> dict[str, Any]:
    """Return what decides who is right on whose examples, by which the store knows it.

    Args:
        runs: network -> run, all of one method, data set and seed.
        how: the protocol by which examples are made, their radius, and of how many images.
        seed: of the attacks.

    Returns:
        Plain data.
    """
    return {
        "networks": {name: run.key for name, run in sorted(runs.items())},
        **{"protocol": how.protocol, "protocol_hash": find_protocol(how.protocol).hash},
        **{"eps": how.eps, "samples": how.samples, "seed": seed},
    }


def transferred(request: Request, runs: Mapping[str, StoredRun], how: Measure, seed: int) -> Matrix:
    """Return who is right on whose examples, measured now unless it is in the store.

    Args:
        request: has the store.
        runs: network -> run, all of one method, data set and seed.
        how: the protocol by which examples are made, their radius, and of how many images: a sample of the test
            split, or all.
        seed: of the attacks.

    Returns:
        (attacker, victim) -> a string of 0 and 1, an image each.
    """

    def measured() -> dict[str, Any]:
        first = next(iter(runs.values()))
        images = request.store.test_images(first)
        images = images if how.samples is None else images.sample(how.samples)
        x, y = next(iter(Loader(images, len(images), device="cpu").epoch()))
        found = transfer(
            {name: request.store.network(run) for name, run in runs.items()},
            x,
            y,
            eps=how.eps,
            protocol=how.protocol,
            seed=derive_seed(seed, "evaluation"),
        )
        right = {
            f"{attacker} {victim}": "".join("01"[int(bit)] for bit in found.right[row, column].tolist())
            for row, attacker in enumerate(found.names)
            for column, victim in enumerate(found.names)
        }
        return {**found.to_dict(), "right": right}

    held = request.store.kept("transfers", transfer_of(runs, how, seed), measured, runs.values())
    return {_pair(key): bits for key, bits in held["right"].items()}


def _pair(key: str) -> tuple[str, str]:
    attacker, victim = key.split(" ")
    return attacker, victim

"""Clean and robust accuracy of a network under a protocol, sample by sample."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat import modes
from clat.attacks.ascent import check_found
from clat.attacks.ball import NORMS
from clat.attacks.pgd import check_logits
from clat.attacks.search import run_searches, worthwhile
from clat.data.checks import check_images, check_labels
from clat.environment import describe_environment
from clat.errors import ClatError, unknown
from clat.evaluation.cost import Cost, metered
from clat.evaluation.identity import device_of, digest, fingerprint, sample_digests
from clat.evaluation.passes import Pass, passes
from clat.evaluation.progress import Extent, Keeper, Standing
from clat.evaluation.protocols import Protocol, find_protocol
from clat.evaluation.statistics import Accuracy, nrr
from clat.files import write_json
from clat.folding import unfolded
from clat.precision import exact_float32, is_exact
from clat.units import Size, parse_size, size_text

PRECISIONS = ("float32", "bfloat16")
"""Of the search, but for FAB's, which is float32 always. float32 may be TensorFloat32 on a GPU, as torch's flags
have it. The verdict on every example is a fresh forward pass in exact float32 either way."""

Report = Callable[[str, int, int, float], None]
"""(attack, samples it is through with, samples it had, upper bound of the robust accuracy) -> None."""


@dataclass(frozen=True)
class Evaluation:
    """`correct`, `robust`: bool per sample, (N,), on the CPU; a robust sample is correct on its clean image too.
    `fooled_by`: the position of the attack that fooled each sample, -1 where none did. `samples`: a digest of each
    sample's image, label and number, (N,) int64. `x_adv`: the examples, if they were asked for. `notes`: what
    differs from the protocol's letter. `about`: what the caller adds to the JSON (model, weights, data)."""

    protocol: Protocol
    eps: str
    norm: str
    seed: int
    precision: str
    correct: Tensor
    fooled_by: Tensor
    samples: Tensor
    cost: Cost
    environment: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    x_adv: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def robust(self) -> Tensor:
        return Standing(self.correct, self.fooled_by, self.fooled_by).alive

    @property
    def clean_accuracy(self) -> Accuracy:
        return Accuracy(int(self.correct.sum()), len(self.correct))

    @property
    def robust_accuracy(self) -> Accuracy:
        return Accuracy(int(self.robust.sum()), len(self.correct))

    @property
    def images(self) -> str:
        """A digest of what was evaluated, by which results of other images, labels or numbers are told apart."""
        return digest(self.samples)

    @property
    def per_attack(self) -> dict[str, Accuracy]:
        """For each attack, the accuracy left after it and those before it."""
        standing = Standing(self.correct, self.fooled_by, self.fooled_by)
        found: dict[str, Accuracy] = {}
        for position, spec in enumerate(self.protocol.attacks):
            label = f"{spec.label} ({position + 1})" if spec.label in found else spec.label
            found[label] = Accuracy(int(standing.robust_after(position).sum()), len(self.correct))
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": "evaluation",
            **self.about,
            "protocol": {**self.protocol.data(), "hash": self.protocol.hash, "norm": self.norm},
            "eps": {"text": self.eps, "value": float(parse_size(self.eps, norm=self.norm))},
            "seed": self.seed,
            "precision": self.precision,
            "clean_accuracy": self.clean_accuracy.to_dict(),
            "robust_accuracy": self.robust_accuracy.to_dict(),
            "nrr": nrr(self.clean_accuracy.value, self.robust_accuracy.value),
            "per_attack": [
                {"name": name, "robust_accuracy": accuracy.to_dict()} for name, accuracy in self.per_attack.items()
            ],
            "notes": self.notes,
            "images": self.images,
            "correct": _bits(self.correct),
            "robust": _bits(self.robust),
            "cost": asdict(self.cost),
            "environment": self.environment,
        }

    def to_json(self, path: str | Path) -> None:
        """Write everything, the per-sample verdicts as strings of 0 and 1; an existing file is replaced."""
        write_json(path, self.to_dict())


def _bits(flags: Tensor) -> str:
    return "".join("1" if flag else "0" for flag in flags.tolist())


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    protocol: str | Path | Protocol = "pgd-20",
    eps: Size,
    norm: str = "linf",
    batch_size: int = 250,
    seed: int = 0,
    precision: str = "float32",
    ids: Tensor | None = None,
    state: str | Path | None = None,
    keep_examples: bool = False,
    report: Report | None = None,
    about: dict[str, Any] | None = None,
    extent: Extent | None = None,
) -> Evaluation:
    """Evaluate `model` on `x` (N, C, H, W) in [0, 1] with labels `y` (N,) under a protocol.

    `protocol`: a built-in name (`clat.evaluation.protocols.PROTOCOLS`), a TOML file or a Protocol; `eps`: float or
    fraction; `batch_size`: samples attacked at a time; `seed`: of all random choices, which belong to a sample's
    number in `ids` (None: 0, 1, ...) and not to its batch; `precision`: of the search, float32 or bfloat16
    (FAB's is float32 always); `state`: a file from which an interrupted evaluation goes on; `keep_examples`: return
    x_adv too, which a state does not hold; `report`: told of the progress; `extent`: go through a part of the
    protocol only, which is for `clat.evaluation.sampled`. x may live on the CPU with the model on a GPU. The model
    runs in evaluation mode and is left without a trace. Raises ClatError for an unknown protocol, inputs outside
    [0, 1], wrong labels, a model whose output is not finite logits, or a state of something else.
    """
    protocol = find_protocol(protocol)
    check_images(x)
    check_labels(y, None, len(x))
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    radius = parse_size(eps, norm=norm)
    if len(x) == 0:
        raise ClatError("the data set is empty: there is nothing to evaluate")
    if radius == 0:
        raise ClatError("eps is 0: an evaluation needs a perturbation; clean accuracy comes with every protocol")
    if batch_size < 1:
        raise ClatError(f"batch_size is {batch_size}: expected at least 1")
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if keep_examples and state is not None:
        raise ClatError("a state file holds verdicts, not examples: leave out state or keep_examples")
    ids = torch.arange(len(x)) if ids is None else ids.cpu().long()
    if ids.shape != (len(x),):
        raise ClatError(f"ids have shape {tuple(ids.shape)}, expected ({len(x)},): one number an image")
    samples = sample_digests(x, y, ids)
    examples = x.clone() if keep_examples else None
    device = device_of(model, x.device)
    with metered(model) as cost, modes.for_attack(model), torch.autocast(device.type, enabled=False):
        upto = None if extent is None else extent.attacks
        job = _Job(model, x, y, ids, batch_size, device, precision, examples, report, upto)
        first = job.first_logits()
        room = worthwhile(batch_size, device)
        todo, notes = passes(
            protocol, eps=float(radius), norm=norm, classes=first.shape[1], seed=seed, room=room,
            leave=not keep_examples,
        )  # fmt: skip
        keeper = Keeper(None, {})
        if state is not None:
            key = {
                "protocol": protocol.hash,
                "eps": size_text(radius),
                "norm": norm,
                "seed": str(seed),
                "precision": precision,
                "model": fingerprint(model),
                "images": digest(samples),
            }
            keeper = Keeper(Path(state), key)
        standing = keeper.load()
        if standing is not None:
            notes.append("went on from a state file: the cost is of the last session alone")
        elif extent is not None:
            standing = extent.standing(sum(one.attack < extent.known for one in todo))
        if standing is None:
            standing = Standing.fresh(job.correct(first))
            keeper.save(standing, now=True)  # a file that cannot be written is better known now than in an hour
        try:
            for _, group in itertools.groupby(enumerate(todo), key=lambda numbered: numbered[1].group):
                job.run(list(group), standing, keeper)
        finally:
            keeper.save(standing, now=True)
    return Evaluation(
        protocol=protocol,
        eps=size_text(radius),
        norm=norm,
        seed=seed,
        precision=precision,
        correct=standing.correct,
        fooled_by=standing.fooled_by,
        samples=samples,
        cost=cost,
        environment=describe_environment(device.type),
        notes=notes,
        x_adv=examples,
        about=about or {},
    )


@dataclass
class _Job:
    """What the passes of one evaluation share."""

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    batch_size: int
    device: torch.device
    precision: str
    examples: Tensor | None
    report: Report | None
    upto: Tensor | None
    """So many attacks are for each sample, (N,) int64; None: all."""

    def first_logits(self) -> Tensor:
        """Of the first batch of clean images. That a model returns no probabilities is checked on them."""
        logits = self._logits(*next(self._batches()))
        if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-3).all()):
            raise ClatError("the model returns probabilities: let it return logits (their logarithm will do)")
        return logits

    def correct(self, first: Tensor) -> Tensor:
        """Which samples are right on their clean image, (N,) bool, on the CPU; `first`: as `first_logits`."""
        rest = (self._logits(x, y) for x, y in itertools.islice(self._batches(), 1, None))
        return torch.cat([logits.argmax(1).cpu() for logits in (first, *rest)]) == self.y.cpu()

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True):
            yield x.to(self.device), y.to(self.device)

    def run(self, group: list[tuple[int, Pass]], standing: Standing, keeper: Keeper) -> None:
        """Passes of one group, numbered, over the samples that are still robust and have not been through them.

        They share batches, but where examples are asked for: which pass fools a sample first is then not left to
        the batch. A search in lower precision leaves a sample once that precision takes it for fooled; if it is
        not, exact float32 searches again.
        """
        exact = group[0][1].exact or (self.precision == "float32" and is_exact(self.device))
        for together in [group] if self.examples is None else [[one] for one in group]:
            through = standing.passed[:, None] > torch.tensor([number for number, _ in together])
            if not exact:
                self._search(together, self.precision, through, standing, keeper)
            with exact_float32():
                self._search(together, "exact", through, standing, keeper)

    def _search(
        self, group: list[tuple[int, Pass]], precision: str, through: Tensor, standing: Standing, keeper: Keeper
    ) -> None:
        """`through`: which samples have been through which passes, (N, passes) bool; brought up to date."""
        model = _InPrecision(self.model, self.device, precision)
        first, one = group[0]
        attacked = standing.alive if self.upto is None else standing.alive & (self.upto > one.attack)
        rows = attacked.nonzero().squeeze(1)
        wanted = ~through[rows].T
        total, to_come = int(wanted.sum()), wanted.clone()

        def judge(numbers: Tensor, finished: Tensor, adv: Tensor, claims: bool = False) -> Tensor:
            """Give the verdicts on what the searches found; where they only claim, none that a sample is robust."""
            here = rows[finished]
            check_found(adv)
            right = self._right(adv, self.y[here].to(self.device)).cpu()
            standing.fooled_by[here[~right]] = one.attack
            judged = ~right if claims else ~right | self._as_searched(model, adv, here, right)
            through[here[judged], numbers[judged]] = True
            # A state holds how many passes a sample has been through in order.
            standing.passed[here] = first + through[here].long().cumprod(1).sum(1)
            if self.examples is not None:
                # Of a sample that nothing fools, the first attack's example stays: the last one's says less.
                shown = ~right if first else torch.ones_like(right)
                self.examples[here[shown]] = adv[shown.to(adv.device)].to(self.examples.device)
            keeper.save(standing)
            settled = ~standing.alive[rows]
            if not claims:
                to_come[numbers, finished] = False
            to_come[:, settled] = False
            if self.report is not None and judged.any():
                bound = float(standing.alive.double().mean())
                self.report(one.label, total - int(to_come.sum()), total, bound)
            return settled

        if total:
            run_searches(
                [search.build(model) for _, search in group], self.x[rows], self.y[rows], self.ids[rows],
                wanted=wanted, batch_size=self.batch_size, device=self.device, finished=judge,
                claimed=partial(judge, claims=True),
            )  # fmt: skip

    def _as_searched(self, model: _InPrecision, adv: Tensor, rows: Tensor, right: Tensor) -> Tensor:
        """Which of the samples that withstood their examples did so in the search's precision too."""
        agreed = right.clone()
        if model.precision != "exact" and right.any():
            with torch.no_grad():
                found = model(adv[right.to(adv.device)]).argmax(1).cpu()
            agreed[right] = found == self.y[rows[right]].cpu()
        return agreed

    def _right(self, x: Tensor, y: Tensor) -> Tensor:
        return self._logits(x, y).argmax(1) == y

    def _logits(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad(), exact_float32(), unfolded():
            logits = self.model(x)
        check_logits(logits, y)
        if not torch.isfinite(logits).all():
            raise ClatError("the model returns NaN or infinite logits")
        return logits


class _InPrecision(nn.Module):
    """The model as a search sees it: float32 logits, computed in the search's precision."""

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.model, self.device, self.precision = model, device, precision

    def forward(self, x: Tensor) -> Tensor:
        low = self.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if low else nullcontext():
            logits: Tensor = self.model(x)
        return logits.float()

"""The work of one evaluation: clean verdicts, then the searches, each on the samples that are still robust."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from clat.attacks.ascent import check_found
from clat.attacks.search import run_searches
from clat.core.errors import ClatError
from clat.evaluation.in_precision import InPrecision
from clat.evaluation.planned_search import PlannedSearch
from clat.evaluation.state import EvaluationState, StateFile
from clat.network.folding import unfolded
from clat.network.logits import are_probabilities, check_logits
from clat.network.precision import exact_float32, is_exact

Report = Callable[[str, int, int, float], None]
"""(attack, samples it is through with, samples it had, upper bound of the robust accuracy) -> None."""


@dataclass
class EvaluationJob:
    """The data and settings that the passes of one evaluation share.

    Attributes:
        model: the network, in evaluation mode.
        x: images in [0, 1], (N, C, H, W).
        y: their labels, (N,) int64.
        ids: their numbers, (N,) int64, to which random choices belong.
        batch_size: samples attacked at a time.
        device: where the model is.
        precision: of the searches, "float32" or "bfloat16".
        examples: filled with the adversarial examples, (N, C, H, W); None: they are not kept.
        report: told of the progress; None: nobody is.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    batch_size: int
    device: torch.device
    precision: str
    examples: Tensor | None
    report: Report | None
    upto: Tensor | None = None
    """So many attacks are for each sample, (N,) int64; None: all."""

    def first_logits(self) -> Tensor:
        """Return the logits of the first batch of clean images.

        Returns:
            Logits, (at most batch_size, classes), exact float32.

        Raises:
            ClatError: they are probabilities, are not finite, or do not fit the labels.
        """
        logits = self._logits(*next(self._batches()))
        if are_probabilities(logits):
            raise ClatError("the model returns probabilities: let it return logits (their logarithm will do)")
        return logits

    def predicted(self, first: Tensor) -> Tensor:
        """Return the classes that the clean images are taken for.

        Args:
            first: what `first_logits` returned.

        Returns:
            One class a sample, (N,) int64, on the CPU.
        """
        rest = (self._logits(x, y) for x, y in itertools.islice(self._batches(), 1, None))
        return torch.cat([logits.argmax(1).cpu() for logits in (first, *rest)])

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True):
            yield x.to(self.device), y.to(self.device)

    def run(self, group: list[tuple[int, PlannedSearch]], reached: EvaluationState, state_file: StateFile) -> None:
        """Run the passes of one group on the samples that are still robust and have not been through them.

        They share batches, but where examples are asked for: which pass fools a sample first is then not left to
        the batch. A search in lower precision leaves a sample once that precision takes it for fooled; if it is
        not, exact float32 searches again.

        Args:
            group: the passes with their numbers in the order of all.
            reached: how far the samples are; brought up to date.
            state_file: saves it now and then.

        Raises:
            ClatError: the network returns no finite logits, or a search's gradient is not finite.
        """
        exact = group[0][1].exact or (self.precision == "float32" and is_exact(self.device))
        for together in [group] if self.examples is None else [[one] for one in group]:
            through = reached.passed[:, None] > torch.tensor([number for number, _ in together])
            if not exact:
                self._search(together, self.precision, through, reached, state_file)
            with exact_float32():
                self._search(together, "exact", through, reached, state_file)

    def _search(
        self,
        group: list[tuple[int, PlannedSearch]],
        precision: str,
        through: Tensor,
        reached: EvaluationState,
        state_file: StateFile,
    ) -> None:
        """Run a group in one precision.

        `through`: which samples have been through which passes, (N, passes) bool; brought up to date.
        """
        model = InPrecision(self.model, self.device, precision)
        first, one = group[0]
        attacked = reached.alive if self.upto is None else reached.alive & (self.upto > one.attack)
        rows = attacked.nonzero().squeeze(1)
        wanted = ~through[rows].T
        total, to_come = int(wanted.sum()), wanted.clone()

        def judge(numbers: Tensor, finished: Tensor, adv: Tensor, claims: bool = False) -> Tensor:
            """Give the verdicts on what the searches found; where they only claim, none that a sample is robust."""
            here = rows[finished]
            check_found(adv)
            predicted = self._logits(adv, self.y[here].to(self.device)).argmax(1).cpu()
            right = predicted == self.y[here].cpu()
            reached.fooled_by[here[~right]] = one.attack
            reached.predicted[here[~right]] = predicted[~right]
            judged = ~right if claims else ~right | self._as_searched(model, adv, here, right)
            through[here[judged], numbers[judged]] = True
            # A state holds how many passes a sample has been through in order.
            reached.passed[here] = first + through[here].long().cumprod(1).sum(1)
            if self.examples is not None:
                # Of a sample that nothing fools, the first attack's example stays: the last one's says less.
                shown = ~right if first else torch.ones_like(right)
                self.examples[here[shown]] = adv[shown.to(adv.device)].to(self.examples.device)
            state_file.save(reached)
            settled = ~reached.alive[rows]
            if not claims:
                to_come[numbers, finished] = False
            to_come[:, settled] = False
            if self.report is not None and judged.any():
                bound = float(reached.alive.double().mean())
                self.report(one.label, total - int(to_come.sum()), total, bound)
            return settled

        if total:
            run_searches(
                [search.build(model) for _, search in group], self.x[rows], self.y[rows], self.ids[rows],
                wanted=wanted, batch_size=self.batch_size, device=self.device, finished=judge,
                claimed=partial(judge, claims=True),
            )  # fmt: skip

    def _as_searched(self, model: InPrecision, adv: Tensor, rows: Tensor, right: Tensor) -> Tensor:
        """Return which of the samples that withstood their examples did so in the search's precision too."""
        agreed = right.clone()
        if model.precision != "exact" and right.any():
            with torch.no_grad():
                found = model(adv[right.to(adv.device)]).argmax(1).cpu()
            agreed[right] = found == self.y[rows[right]].cpu()
        return agreed

    def _logits(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad(), exact_float32(), unfolded():
            logits = self.model(x)
        check_logits(logits, y)
        if not torch.isfinite(logits).all():
            raise ClatError("the model returns NaN or infinite logits")
        return logits

"""CLAT's fine-tuning objective (paper v1 Eq. 8 and 9, v2 Eq. 5 and 6).

    min over the selected layers S of   CE(F(x), y) + lambda * L_C
    L_C = mean over x of max over delta of  sum over i in S of ||F_i(x + delta) - F_i(x)||_2

The defaults are the paper's where it speaks. It leaves open lambda, the BatchNorm mode, where a feature is read
and whether F_i(x) passes a gradient; each is a setting here. Known trap: the plain L_C has no scale of its own,
so it can be lowered by shrinking the layer's response instead of making it robust; `relative=True` cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clat.attacks.draws import batch_parts, part_of_batch
from clat.attacks.feature import feature_change, run_feature_attack
from clat.attacks.pgd import run_pgd
from clat.core.errors import ClatError, unknown
from clat.network import modes
from clat.network.features import TAPS, read_features
from clat.network.frozen_norm import frozen_norms_lean
from clat.network.layers import Layer
from clat.network.random_states import preserve_random_states, random_states, rewinder, seed_network
from clat.objectives.base import Examples, InnerAttack, Loss, Step, check_weight, cross_entropy
from clat.objectives.clat_examples import ClatExamples
from clat.runtime.callback import StageCallback, StageContext


@dataclass(frozen=True)
class Calibration:
    """Facts that CLAT finds out about a stage before its first step."""

    weight: float
    """Lambda."""
    shares_clean_pass: bool = False
    """The features of x are the same bits in training as under attack, so that one pass serves both."""


class ClatCallback(StageCallback):
    """Stage callback that holds CLAT's calibration through a stage."""

    def __init__(self, objective: Clat, context: StageContext | None = None) -> None:
        super().__init__()
        self.objective, self.context = objective, context

    @classmethod
    def calibrated(cls, objective: Clat, calibration: Calibration) -> ClatCallback:
        """Return a callback that holds a calibration, for steps outside of a run.

        Args:
            objective: the settings that the calibration belongs to.
            calibration: what the steps shall use.

        Returns:
            The callback, for `Step(callback=...)`.
        """
        callback = cls(objective)
        callback.calibration = calibration
        return callback

    @property
    def calibration(self) -> Calibration | None:
        """Return the calibration of the stage, once there is one."""
        if "lambda" not in self.scalars:
            return None
        return Calibration(self.scalars["lambda"], bool(self.scalars.get("shares_clean_pass", 0.0)))

    @calibration.setter
    def calibration(self, found: Calibration) -> None:
        shares = {"shares_clean_pass": 1.0} if found.shares_clean_pass else {}
        self.scalars = {"lambda": found.weight, **shares}

    def on_selection(self, layers: tuple[Layer, ...], *, seed: int, first: bool) -> None:
        here = self.context
        assert here is not None  # only a run selects
        x, y = (part[: here.batch_size] for part in here.heldout)
        step = Step(layers, seed=seed, threat=here.threat, callback=self, once=here.once)
        seed_network(here.model, seed)  # for dropout, as in a training step
        found = None
        if here.engine.computes_for_all:
            with here.engine.autocast(), frozen_norms_lean(here.model):
                images = here.engine.images(x)
                before = None if first else self.calibration
                found = self.objective.calibration(
                    here.model, images, y, step, micro_batch=here.micro_batch, before=before
                )
        self.calibration = here.engine.from_first(found)


def _batch_statistics(model: nn.Module) -> bool:
    return any(norm.training for norm in modes.batch_norms(model))


@dataclass(frozen=True, kw_only=True)
class Clat(InnerAttack):
    """Cross-entropy plus lambda times the feature change of the selected layers."""

    needs_selection = True
    keeps_robustness = True
    shards = True

    name: Literal["clat"] = "clat"
    lambda_: Annotated[float | None, Field(alias="lambda")] = None
    """The weight of L_C, given directly (`lambda` in a recipe)."""
    ratio: float | None = None
    """Or: the value of lambda * L_C / CE at the start of the stage, from which lambda follows. L_C is a sum of
    norms whose size depends on the layer, so a ratio carries over between networks where a lambda does not.
    Default, if neither is given: 0.1."""
    calibrate: Literal["stage", "selection"] = "stage"
    """With `ratio`: set lambda once at the start of the stage, or again whenever layers are re-selected."""
    ce_input: Literal["clean", "feature", "pgd", "both"] = "clean"
    """What the cross-entropy is taken on: x (the paper), the feature attack's example, an example of PGD on the
    output, or the mean over x and the latter, which costs nothing more where L_C is taken there, too."""
    feature_input: Literal["feature", "pgd"] = "feature"
    """Where L_C is taken: at the feature attack's example, which maximises it (the paper), or at the example of PGD
    on the output, so that with `ce_input="pgd"` one attack serves both terms."""
    tap: Literal["output", "norm", "activation"] = "output"
    """Where F_i is read: see `clat.network.features.TAPS`."""
    relative: bool = False
    """Divide each layer's change by ||F_i(x)||_2, in the attack and in the loss."""
    detach_clean: bool = False
    """Treat F_i(x) as a constant in L_C, so that only F_i(x + delta) is pulled towards it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lambda_ is not None and self.ratio is not None:
            raise ClatError("CLAT takes lambda or ratio, not both")
        for what, value in (("lambda", self.lambda_), ("ratio", self.ratio)):
            if value is not None:
                check_weight("CLAT", what, value)
        if self.tap not in TAPS:
            raise unknown("feature tap", self.tap, TAPS)

    def on_stage_start(self, context: StageContext) -> StageCallback:
        return ClatCallback(self, context)

    def calibration(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        step: Step,
        *,
        micro_batch: int | None = None,
        before: Calibration | None = None,
    ) -> Calibration:
        """Return lambda and whether the clean pass can be shared.

        Args:
            model: the network in the modes of training.
            x: held-out images, (N, C, H, W) in [0, 1].
            y: their labels, (N,) int64.
            step: its layers are the selected ones.
            micro_batch: images that may be in the network at a time; None: all.
            before: what held for the layers before these, whose lambda is kept unless `calibrate` is "selection";
                None: these are the stage's first.

        Returns:
            The calibration, its lambda as given or from `ratio` and the two terms on this batch.

        Raises:
            ClatError: the feature attack moves nothing, so that no ratio gives a lambda.
        """
        parts = batch_parts(len(x), micro_batch)
        whole = step.once and len(parts) == 1
        shares = whole and self.ce_input == "clean" and self._modes_agree(model, x, step)
        if before is not None and self.calibrate != "selection":
            return Calibration(before.weight, shares)
        return Calibration(self._calibrated_weight(model, x, y, step, parts), shares)

    def _modes_agree(self, model: nn.Module, x: Tensor, step: Step) -> bool:
        """Return whether the clean features are the same bits in training as under attack.

        They are without dropout and without BatchNorm that uses the batch. Where anything is drawn on the way they
        may be so by chance, in this pass and not in the next.
        """
        with modes.preserve_statistics(model), preserve_random_states(model), torch.no_grad():
            before = random_states(model)
            trained = read_features(model, x, step.layers, tap=self.tap, stop=True, flat=False).values
            drawn = random_states(model) != before
        if drawn:
            return False
        with modes.attack_mode(model, self.attack_bn), torch.no_grad():
            attacked = read_features(model, x, step.layers, tap=self.tap, stop=True, flat=False).values
        return all(torch.equal(one, other) for one, other in zip(trained, attacked, strict=True))

    def _calibrated_weight(
        self, model: nn.Module, x: Tensor, y: Tensor, step: Step, parts: Sequence[slice]
    ) -> float:
        if self.lambda_ is not None:
            return float(self.lambda_)
        ratio = 0.1 if self.ratio is None else self.ratio
        if ratio == 0:
            return 0.0
        entropy = change = 0.0
        for rows in parts:
            images, labels, share = x[rows], y[rows], len(x[rows]) / len(x)
            with modes.preserve_statistics(model), torch.no_grad(), part_of_batch(rows.start, len(x)):
                attacked = self._attacked(model, images, labels, step, weight=1.0)
                terms = self._terms(model, images, labels, attacked, step, weight=1.0)
            entropy += share * terms["cross_entropy"].item()
            change += share * terms["feature_change"].item()
        if not change > 0:
            raise ClatError("the feature attack moves no feature of the selected layers: lambda is undefined")
        return ratio * entropy / change

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> ClatExamples:
        """Return the two attacked inputs and, where they can be shared, the clean logits and features.

        These have their graph: the loss goes on from the very pass that the attack measures its distances from.
        """
        weight, found = self._weight(step), _calibration(step)
        shares = found is not None and found.shares_clean_pass and step.once and weight > 0
        if not shares or _batch_statistics(model):
            return self._attacked(model, x, y, step, weight=weight)
        clean = read_features(model, x, step.layers, tap=self.tap, flat=False)
        attacked = self._attacked(model, x, y, step, weight=weight, clean=clean.values)
        return attacked._replace(clean_logits=clean.logits, clean_features=tuple(clean.values))

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        assert isinstance(examples, ClatExamples)
        weight = self._weight(step)
        terms = self._terms(model, x, y, examples, step, weight=weight)
        total = terms["cross_entropy"]
        if weight > 0:
            total = total + weight * terms["feature_change"]
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def _weight(self, step: Step) -> float:
        found = _calibration(step)
        weight = self.lambda_ if found is None else found.weight
        if weight is None:
            raise ClatError("CLAT's lambda is not set: give lambda, or a step with the callback of a stage")
        return weight

    def _attacked(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        step: Step,
        *,
        weight: float,
        clean: Sequence[Tensor] | None = None,
    ) -> ClatExamples:
        if not step.layers:
            raise ClatError("CLAT needs selected layers: give the stage a selection")
        x_feature = x_output = x
        attack = self.attack(step)
        with modes.attack_mode(model, self.attack_bn):
            if (weight > 0 and self.feature_input == "feature") or self.ce_input == "feature":
                x_feature = run_feature_attack(
                    model,
                    x,
                    step.layers,
                    attack,
                    tap=self.tap,
                    relative=self.relative,
                    seed=step.seed,
                    clean=None if clean is None else [feature.detach() for feature in clean],
                )
            if self.ce_input in ("pgd", "both") or (weight > 0 and self.feature_input == "pgd"):
                x_output = run_pgd(model, x, y, attack, seed=step.seed + 1)
        return ClatExamples(x_feature, x_output)

    def _terms(
        self, model: nn.Module, x: Tensor, y: Tensor, examples: ClatExamples, step: Step, *, weight: float
    ) -> dict[str, Tensor]:
        """Return CE and, unless its weight is zero, L_C.

        Of the passes that L_C needs, those whose input the cross-entropy reads also give the logits; the others
        stop at the deepest selected layer. The BatchNorm statistics follow the cross-entropy's input only, the
        first of two. The two passes whose features are compared make the same draws, as of dropout.
        """
        inputs = {"clean": x, "feature": examples.feature, "pgd": examples.output}
        read = ("clean", "pgd") if self.ce_input == "both" else (self.ce_input,)
        logits: dict[str, Tensor] = {}

        def statistics(source: str) -> AbstractContextManager[None]:
            return nullcontext() if source == read[0] else modes.preserve_statistics(model)

        def features(source: str, *, constant: bool = False) -> Sequence[Tensor]:
            whole = source in read
            with statistics(source), torch.set_grad_enabled(torch.is_grad_enabled() and not constant):
                found = read_features(model, inputs[source], step.layers, tap=self.tap, stop=not whole, flat=False)
            if found.logits is not None:
                logits[source] = found.logits
            return found.values

        parts: dict[str, Tensor] = {}
        if weight > 0:
            go_on = None
            constant = self.detach_clean and "clean" not in read
            clean: Sequence[Tensor]
            if examples.clean_logits is not None:
                logits["clean"], clean = examples.clean_logits, examples.clean_features
            else:
                rewind = rewinder(model)
                clean = features("clean", constant=constant)
                go_on = rewinder(model) if "clean" in read else None
                rewind()  # with other draws dropout alone would move the features
                if constant:  # before 2.11 torch would hand out again the weights that were cast without a gradient
                    torch.clear_autocast_cache()
            if self.detach_clean:
                clean = [feature.detach() for feature in clean]
            moved = features(self.feature_input)
            if go_on is not None:  # the pass on x was the longer one, and drew more
                go_on()
            change = feature_change(moved, clean, relative=self.relative)
            parts["feature_change"] = change.mean()
        for source in read:
            if source not in logits:
                with statistics(source):
                    logits[source] = model(inputs[source])
        entropies = [cross_entropy(logits[source], y, self.label_smoothing) for source in read]
        return {"cross_entropy": torch.stack(entropies).mean(), **parts}


def _calibration(step: Step) -> Calibration | None:
    """Return the calibration of the step's stage; None outside of one."""
    return step.callback.calibration if isinstance(step.callback, ClatCallback) else None

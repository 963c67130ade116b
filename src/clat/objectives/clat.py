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

from clat.attacks.feature import feature_change, run_feature_attack
from clat.attacks.fgsm import one_step_alpha
from clat.attacks.pgd import run_pgd
from clat.attacks.settings import Attack
from clat.core.errors import ClatError, unknown
from clat.network import modes
from clat.network.features import TAPS, read_features
from clat.objectives.base import Examples, InnerAttack, Loss, Step, check_weight, cross_entropy

_SHARES = "shares_clean_pass"


def _batch_statistics(model: nn.Module) -> bool:
    return any(norm.training for norm in modes.batch_norms(model))


@dataclass(frozen=True, kw_only=True)
class Clat(InnerAttack):
    """Cross-entropy plus lambda times the feature change of the selected layers."""

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

    def begin(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> dict[str, float]:
        """Lambda for the stage: as given, or from `ratio` and the two terms on this held-out batch. And, if the
        loss is evaluated once, whether the clean pass can be shared."""
        shares = step.once and self.ce_input == "clean" and self._modes_agree(model, x, step)
        return {"lambda": self._begin_weight(model, x, y, step)} | ({_SHARES: 1.0} if shares else {})

    def _modes_agree(self, model: nn.Module, x: Tensor, step: Step) -> bool:
        """Whether the clean features are the same bits in training as under attack: no dropout, no BatchNorm that
        uses the batch."""
        with modes.preserve_statistics(model), modes.preserve_random_states(model), torch.no_grad():
            trained = read_features(model, x, step.layers, tap=self.tap, stop=True, flat=False).values
        with modes.attack_mode(model, self.attack_bn), torch.no_grad():
            attacked = read_features(model, x, step.layers, tap=self.tap, stop=True, flat=False).values
        return all(torch.equal(one, other) for one, other in zip(trained, attacked, strict=True))

    def _begin_weight(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> float:
        if self.lambda_ is not None:
            return float(self.lambda_)
        ratio = 0.1 if self.ratio is None else self.ratio
        if ratio == 0:
            return 0.0
        with modes.preserve_statistics(model), torch.no_grad():
            parts = self._terms(model, x, y, self._attacked(model, x, y, step, weight=1.0), step, weight=1.0)
        change = parts["feature_change"].item()
        if not change > 0:
            raise ClatError("the feature attack moves no feature of the selected layers: lambda is undefined")
        return ratio * parts["cross_entropy"].item() / change

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        """The two attacked inputs; and the clean logits and features, with their graph, where the loss can go on
        from the very pass that the attack measures its distances from."""
        weight = self._weight(step)
        if not (weight > 0 and step.once and _SHARES in step.state) or _batch_statistics(model):
            return self._attacked(model, x, y, step, weight=weight)
        clean = read_features(model, x, step.layers, tap=self.tap, flat=False)
        assert clean.logits is not None
        return *self._attacked(model, x, y, step, weight=weight, clean=clean.values), clean.logits, *clean.values

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        weight = self._weight(step)
        terms = self._terms(model, x, y, examples, step, weight=weight)
        total = terms["cross_entropy"]
        if weight > 0:
            total = total + weight * terms["feature_change"]
        return Loss(total, {name: value.detach() for name, value in terms.items()})

    def _weight(self, step: Step) -> float:
        weight = step.state.get("lambda", self.lambda_)
        if weight is None:
            raise ClatError("CLAT's lambda is not set: give lambda, or call begin() once for the stage")
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
    ) -> Examples:
        """(the feature attack's example, PGD's on the output), each x itself where no term reads it."""
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
        return x_feature, x_output

    def _terms(
        self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step, *, weight: float
    ) -> dict[str, Tensor]:
        """CE and, unless its weight is zero, L_C. Of the passes that L_C needs, those whose input the cross-entropy
        reads also give the logits; the others stop at the deepest selected layer. The BatchNorm statistics follow
        the cross-entropy's input only, the first of two."""
        x_feature, x_output, *shared = examples
        inputs = {"clean": x, "feature": x_feature, "pgd": x_output}
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
            clean: Sequence[Tensor]
            if shared:
                logits["clean"], *clean = shared
            else:
                clean = features("clean", constant=self.detach_clean and "clean" not in read)
            if self.detach_clean:
                clean = [feature.detach() for feature in clean]
            change = feature_change(features(self.feature_input), clean, relative=self.relative)
            parts["feature_change"] = change.mean()
        for source in read:
            if source not in logits:
                with statistics(source):
                    logits[source] = model(inputs[source])
        entropies = [cross_entropy(logits[source], y) for source in read]
        return {"cross_entropy": torch.stack(entropies).mean(), **parts}


@dataclass(frozen=True, kw_only=True)
class ClatFast(Clat):
    """CLAT (Fast): the inner maximisation is one step of 1.25 * eps from a uniform start, as in Fast-AT."""

    one_step = True

    name: Literal["clat-fast"] = "clat-fast"  # type: ignore[assignment]
    steps: int = 1

    def attack(self, step: Step, *, random_start: bool = True) -> Attack:
        return one_step_alpha(super().attack(step, random_start=random_start), given=self.alpha is not None)


@dataclass(frozen=True, kw_only=True)
class ClatPlus(Clat):
    """What CLAT became where the printed form lost to its baseline (docs/results/claim): both terms at one example
    of PGD on the output, and L_C relative, behind the normalisation, where shrinking a layer does not lower it. Not
    the paper's; select by `normaliser = "relative"`, `tap = "norm"`, which are as free of scale."""

    name: Literal["clat-plus"] = "clat-plus"  # type: ignore[assignment]
    ce_input: Literal["clean", "feature", "pgd", "both"] = "pgd"
    feature_input: Literal["feature", "pgd"] = "pgd"
    tap: Literal["output", "norm", "activation"] = "norm"
    relative: bool = True

"""TWINS (Liu, Xu, Ji, Chan, CVPR 2023, arXiv 2303.11135): two networks that share all but their normalisation.

The frozen one normalises by the mean and variance that each BatchNorm had before the stage, in training too, and so
keeps what the robust pre-training knew; the adaptive one is the ordinary network. Each has a scale and shift of its
own. The first half of a batch goes through the frozen network, the second through the adaptive one:

    AT      lambda * CE(F_frozen(x'), y) + CE(F(x'), y)
    TRADES  lambda * CE(F_frozen(x), y) + CE(F(x), y) + beta / N * (lambda * KL_frozen + KL)

N is the whole batch and each KL(p(x) || p(x')) a sum over its half. x' comes from PGD on the adaptive network in
evaluation mode, whose cross-entropy is also TRADES' inner attack here, and the adaptive network alone is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clat.core.errors import ClatError
from clat.network.swap import names_of
from clat.objectives.base import Examples, Loss, Step, check_weight, cross_entropy, kl_divergence
from clat.objectives.pgd_at import PgdAT
from clat.runtime.callback import StageCallback, StageContext, StateDict


@dataclass(frozen=True, kw_only=True)
class Twins(PgdAT):
    """Training with TWINS in its two forms.

    Start it from a robust network, whose statistics are those that it keeps.
    """

    reparametrises = True
    splits = False  # which network an image goes through is decided in the whole batch

    name: Literal["twins"] = "twins"  # type: ignore[assignment]
    form: Literal["at", "trades"] = "at"
    """The loss of both networks."""
    lambda_: Annotated[float, Field(alias="lambda")] = 1.0
    """The weight of the frozen network (`lambda` in a recipe). Released: 1 for CIFAR, 0.4 for Caltech-256."""
    beta: float = 6.0
    """The weight of the divergence in the TRADES form."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, value in (("lambda", self.lambda_), ("beta", self.beta)):
            check_weight("TWINS", what, value)

    def requires(self, model: nn.Module, x: Tensor) -> None:
        norms = [(name, part) for name, part in model.named_modules() if isinstance(part, _BatchNorm)]
        if not norms:
            raise ClatError("twins needs a network with BatchNorm, whose statistics it keeps")
        for name, bn in norms:
            if bn.running_mean is None:
                raise ClatError(f"twins: the BatchNorm '{name}' stores no statistics to keep")

    def on_stage_start(self, context: StageContext) -> StageCallback:
        self.requires(context.model, context.heldout[0][:1])
        if context.loader.batch_size < 2 * context.engine.world:  # which may be less than the recipe's
            raise ClatError(
                "twins splits each process's batch in half: give batch_size, and images to train on, at least 2 a "
                "process"
            )
        return TwinsCallback(context.model)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        callback, half = step.callback, len(x) // 2
        if not isinstance(callback, TwinsCallback):
            raise ClatError("twins keeps a second set of BatchNorms through its stage: train it with a recipe")

        def both(images: Tensor) -> tuple[Tensor, Tensor]:
            with callback.frozen():
                frozen = model(images[:half])
            return frozen, model(images[half:])

        def mixed(frozen: Tensor, adaptive: Tensor) -> Tensor:
            return self.lambda_ * frozen + adaptive

        moved = both(x_adv)
        judged = moved if self.form == "at" else both(x)
        halves = zip(judged, (y[:half], y[half:]), strict=True)
        losses = [cross_entropy(z, labels, self.label_smoothing) for z, labels in halves]
        parts = {"frozen": losses[0], "adaptive": losses[1]}
        total = mixed(*losses)
        if self.form == "trades":
            gaps = [kl_divergence(z_adv, z) / len(x) for z_adv, z in zip(moved, judged, strict=True)]
            parts["divergence"] = mixed(*gaps)
            total = total + self.beta * parts["divergence"]
        return Loss(total, {name: value.detach() for name, value in parts.items()})


class FrozenTwin(nn.Module):
    """Copy of the statistics that a BatchNorm had, for good, with a scale and shift of its own.

    Scale and shift begin as those of the BatchNorm.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, bn: _BatchNorm) -> None:
        super().__init__()
        self.in_use = False
        for name in ("weight", "bias"):
            own = getattr(bn, name)
            self.register_parameter(name, None if own is None else nn.Parameter(own.detach().clone()))
        assert bn.running_mean is not None
        assert bn.running_var is not None
        self.register_buffer("running_mean", bn.running_mean.clone())
        self.register_buffer("running_var", bn.running_var.clone())

    @contextmanager
    def lent_to(self, bn: nn.Module) -> Iterator[None]:
        """Have a BatchNorm compute with these statistics, scale and shift, in evaluation mode, inside.

        Args:
            bn: the one that this is a twin of, whose kind may do more than normalise.
        """
        training, parameters, buffers = bn.training, dict(bn._parameters), dict(bn._buffers)
        of_scaled_norm = ("scale", "shift")  # which it settles ahead of compiled blocks
        settled: dict[str, Any] = {name: vars(bn).pop(name) for name in of_scaled_norm if name in vars(bn)}
        try:
            bn.training = False
            bn._parameters.update(self._parameters)
            bn._buffers.update(self._buffers)
            yield
        finally:
            bn.training = training
            bn._parameters.update(parameters)
            bn._buffers.update(buffers)
            vars(bn).update(settled)


def _with_twin(kind: Any) -> Any:
    """Return a kind of BatchNorm that computes with its child `frozen` instead, while that is in use."""

    class WithTwin(kind):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with self.frozen.lent_to(self) if self.frozen.in_use else nullcontext():
                return super().forward(*args, **kwargs)

    WithTwin.__name__ = WithTwin.__qualname__ = f"{kind.__name__}WithTwin"
    return WithTwin


class TwinsCallback(StageCallback):
    """Stage callback that gives each BatchNorm a frozen twin, and leaves it what it was for everybody else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._norms = {name: part for name, part in model.named_modules() if isinstance(part, _BatchNorm)}
        self._twins = {name: FrozenTwin(bn) for name, bn in self._norms.items()}
        for name, bn in self._norms.items():
            bn.frozen = self._twins[name]
            bn.__class__ = _with_twin(type(bn))

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Make the forward passes inside those of the frozen network."""
        try:
            for twin in self._twins.values():
                twin.in_use = True
            yield
        finally:
            for twin in self._twins.values():
                twin.in_use = False

    def export_state(self, state: StateDict) -> StateDict:
        twins = {f"{name}.frozen" for bn in self._norms.values() for name in names_of(self._model, bn)}
        return {key: value for key, value in state.items() if key.rpartition(".")[0] not in twins}

    def on_stage_end(self) -> dict[str, Any]:
        for bn in self._norms.values():
            del bn.frozen
            bn.__class__ = type(bn).__mro__[1]  # the kind that `_with_twin` derived from
        return {}

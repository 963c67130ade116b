"""CURE, Conserve-Update-Revise (Gowda, Zonooz and Arani, ICLR 2024).

    L = CE(x) + KL(p(x) || p(x')) + gamma * [KL(p_rev(x) || p(x)) + KL(p_rev(x') || p(x'))]        (Eq. 5 and 8)

At each step the p % of every convolution's weights with the smallest robust gradient prominence stay what they are
(Eq. 6, `clat.objectives.cure.conservation`), the others move, and the revision network follows them (Eq. 7,
`clat.objectives.cure.revision`). It starts from a naturally trained network and is evaluated without its revision
copy.

What a step costs beside the inner attack: 4 forward passes of the batch, those of the revision copy included, and 4
backward passes, that is, two of the pair (x, x').

Where the released code differs from the paper, the paper is the default. The code's "rgp_old" and "rgp" masks are
`masking = "gradient"`, `prominence = "total"`, `masked = "all-but-linear"`. Its "rgp_soft" orders weights by the
*signed* sum of two gradients, which makes the most negative ones the least prominent; that is left out, and so is
its decay of r, which halves it at every iteration after epoch 100 (`rate_end` is a decay that ends elsewhere).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.core.seeds import derive_seed
from clat.objectives.base import Examples, Loss, Step, check_weight, cross_entropy, kl_divergence
from clat.objectives.cure.conservation import Conservation
from clat.objectives.cure.prominence import MASKED_GROUPS, MaskedGroup, maskable
from clat.objectives.cure.revision import Pace, Revision
from clat.objectives.divergence import DivergenceAttack
from clat.runtime.callback import StageCallback, StageContext, StateDict


@dataclass(frozen=True, kw_only=True)
class Cure(DivergenceAttack):
    """Training with CURE; the defaults are the paper's for ResNet-18 on CIFAR-10 (Table 9).

    The gradient of KL(p(x) || p(x')) flows into both outputs, as in TRADES, which that term is from; none flows
    into the revision network.
    """

    splits = False  # what is conserved follows from gradients of the whole batch

    name: Literal["cure"] = "cure"
    percent: float = 30.0
    """p: how much of each masked tensor is conserved at a step, in percent. 0: nothing; 100: these tensors stand
    still, and only what is not masked (BatchNorm, the classifier) moves."""
    rgp_alpha: float = 0.1
    """alpha of Eq. 6: the share of the natural gradient in the prominence. (`alpha` is the attack's step.)"""
    gamma: float = 1.0
    """The weight of the consistency with the revision network; 0: no revision network."""
    beta: float = 1.0
    """The weight of KL(p(x) || p(x')). The paper has none, the code's "rgp_soft" 5."""
    decay: float = 0.999
    """d of Eq. 7."""
    rate: float = 0.2
    """r: the probability that the revision network follows a step."""
    rate_end: float | None = None
    """r falls (or rises) linearly to this over the stage; None: it is constant. The paper says that r is decayed
    gradually, and not how; its code does not by default."""
    ramp: bool = False
    """d = min(1 - 1 / (t + 1), `decay`) at the t-th step, as in the code: a copy that soon forgets its start."""
    masking: Literal["weight", "gradient"] = "weight"
    """`weight`: a conserved weight and its momentum are bit by bit what they were before the step. `gradient`: as
    in the code, only its gradient is zeroed, and momentum and weight decay go on moving it."""
    masked: MaskedGroup | tuple[str, ...] = "convolutions"
    """Which tensors are masked: a group (`clat.objectives.cure.prominence.MASKED_GROUPS`), or patterns of parameter
    names."""
    prominence: Literal["separate", "total"] = "separate"
    """`separate`: Eq. 6. `total`: |gradient of the whole loss|, the code's, which saves one of the two backward
    passes."""
    revision_bn: Literal["batch", "stored"] = "batch"
    """BatchNorm of the revision network, on which the paper is silent. `batch`: where the network normalises by the
    batch, so does the copy, as in the code. `stored`: by statistics that follow the network's as the weights do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {"percent": 100.0, "rgp_alpha": 1.0, "decay": 1.0, "rate": 1.0, "rate_end": 1.0}
        for what, most in limits.items():
            value = getattr(self, what)
            if value is not None and not 0 <= value <= most:
                raise ClatError(f"{what} is {value}: CURE expects a value from 0 to {most:g}")
        for what in ("gamma", "beta"):
            check_weight("CURE", what, getattr(self, what))
        if isinstance(self.masked, str) and self.masked not in MASKED_GROUPS:
            raise unknown("group of masked weights", self.masked, MASKED_GROUPS)

    @property
    def owns_weights(self) -> bool:
        return self.percent > 0

    def requires(self, model: nn.Module, x: Tensor) -> None:
        if self.percent > 0:
            maskable(model, dict(model.named_parameters()), self.masked)

    def movable(self, model: nn.Module, x: Tensor) -> Set[str] | None:
        return None if self.percent == 0 else set(maskable(model, dict(model.named_parameters()), self.masked))

    def on_stage_start(self, context: StageContext) -> StageCallback:
        conservation = revision = None
        if self.percent > 0:
            conservation = Conservation(
                context,
                percent=self.percent,
                alpha=self.rgp_alpha if self.prominence == "separate" else None,
                choice=self.masked,
                hold=self.masking == "weight",
            )
        if self.gamma > 0:
            pace = Pace(
                decay=self.decay,
                rate=self.rate,
                rate_end=self.rate_end,
                ramp=self.ramp,
                steps=context.epochs * context.steps_per_epoch,
                seed=derive_seed(context.seed, "cure"),
            )
            revision = Revision(context.model, pace, self.revision_bn)
        return CureState(conservation, revision)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        state = step.callback
        if not isinstance(state, CureState):
            raise ClatError(
                "CURE carries state from step to step: give Step the callback that `on_stage_start` returns"
            )
        taught = None if state.revision is None else [state.revision.logits(z) for z in (x, x_adv)]
        logits, moved = model(x), model(x_adv)
        natural = cross_entropy(logits, y, self.label_smoothing)
        divergence = kl_divergence(moved, logits) / len(x)
        total, parts = natural + self.beta * divergence, {"cross_entropy": natural, "divergence": divergence}
        if taught is not None:
            consistency = kl_divergence(logits, taught[0]) + kl_divergence(moved, taught[1])
            parts["consistency"] = consistency / len(x)
            total = total + self.gamma * parts["consistency"]
        if state.conservation is not None:
            state.conservation.losses = natural, cross_entropy(moved, y, self.label_smoothing)
        return Loss(total, {name: value.detach() for name, value in parts.items()})


class CureState(StageCallback):
    """State that CURE carries through a stage. `conservation`, `revision`: None where percent or gamma is 0."""

    def __init__(self, conservation: Conservation | None, revision: Revision | None) -> None:
        super().__init__()
        self.conservation, self.revision = conservation, revision
        self.scalars = {"steps": 0, "revisions": 0}

    def tensors(self) -> StateDict:
        return {} if self.revision is None else self.revision.tensors

    def per_process_state(self) -> StateDict:
        return {} if self.revision is None else self.revision.statistics

    def restore(self, tensors: StateDict) -> None:
        if self.revision is not None:
            self.revision.restore(tensors)

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        # The copy begins here and not when joining: treatments that join later may draw weights anew.
        if self.revision is not None:
            self.revision.start()
        if self.conservation is not None:
            self.conservation.choose_parameters(parameters)
        return parameters

    def before_backward(self) -> None:
        if self.conservation is not None:
            self.conservation.weigh()

    def after_backward(self) -> None:
        if self.conservation is not None:
            self.conservation.mask()

    @contextmanager
    def around_optimizer_step(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        if self.conservation is None:
            yield
        else:
            with self.conservation.around_optimizer_step(optimizer):
                yield

    def after_step(self) -> None:
        if self.revision is not None and self.revision.follow(int(self.scalars["steps"])):
            self.scalars["revisions"] += 1
        self.scalars["steps"] += 1

"""AutoLoRa (Xu, Zhang, Kankanhalli, ICLR 2024, arXiv 2310.01818): robust fine-tuning that parts the two objectives.

    lambda1 * CE(z, y) + (1 - lambda1) * CE(z', y) + lambda2 * mean KL(p || p')

z = F_LoRa(x) are the clean image's logits through a low-rank branch, z' = F(x') those of the adversarial example
through the backbone alone. The clean pass teaches the branch and the classifier only, the adversarial pass all but
the branch; the KL's gradient takes both ways. The branch is dropped at the end.

Nothing is left to choose. With SA the clean accuracy on the training images through the branch, lambda1 = 1 - SA
and lambda2 = 6 * SA, refreshed before each epoch (the released code for CIFAR-sized images: four or five times an
epoch); the learning rate sees to itself (`clat.objectives.autolora.rate`).

CLAT's paper compares with this method and cites another of nearly the same name: AutoLoRA by R. Zhang et al. (2024,
arXiv 2403.09113) learns the rank of each layer of a language model on a validation set and knows no attack.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from clat.attacks.ascent import generator_for
from clat.attacks.ball import Ball
from clat.attacks.pgd import run_pgd
from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.network import modes
from clat.network.low_rank import Branch, adaptable_layers, classifier_of
from clat.objectives.autolora.rate import Rate, after_epoch, published_checkpoints
from clat.objectives.base import Examples, InnerAttack, Loss, Step, cross_entropy, kl_divergence
from clat.runtime.callback import StageCallback, StageContext, StateDict


@dataclass(frozen=True, kw_only=True)
class AutoLoRa(InnerAttack):
    """Training with AutoLoRa: a branch beside every convolution and linear layer but the first and the classifier.

    The defaults are those of the released code for CIFAR-sized images. Give the stage a constant schedule, which
    sets the first learning rate, and a held-out check after every epoch: the rate knows of no others.
    """

    reparametrises = True
    apart = ("reinitialise",)  # the branch is there before a treatment comes
    owns_weights = True
    name: Literal["autolora"] = "autolora"
    rank: int = 8
    """Rank of the branch."""
    branch_alpha: float = 1.0
    """The branch adds branch_alpha / rank * B A."""
    kl_scale: float = 6.0
    """lambda2 / SA."""
    detach_clean: bool = False
    """Treat p in the KL as a constant; the released code does not."""
    start: Literal["gaussian", "uniform"] = "gaussian"
    """Where the attack begins: x + 0.001 * N(0, 1), or a uniform point of the ball as in the released code for
    larger images."""
    accuracy_batches: int | None = None
    """Training batches on which SA is measured, augmented as in training; None: all of them, as published."""
    automatic_rate: bool = True
    """Whether the learning rate halves by itself; without it the schedule alone decides."""
    checkpoints: tuple[int, ...] = ()
    """Epochs of the stage after which the rate is looked at, counted from 0 and at least 1; none: the published
    ones (16, 24, 28, 36, 40, 42, 44, 46, 48 of 50) stretched to the stage's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what, value, least in (
            ("rank", self.rank, 1),
            ("accuracy_batches", 1 if self.accuracy_batches is None else self.accuracy_batches, 1),
            ("kl_scale", self.kl_scale, 0),
        ):
            if not value >= least:
                raise ClatError(f"autolora: {what} is {value}, expected at least {least}")
        if not self.branch_alpha > 0:
            raise ClatError(f"autolora: branch_alpha is {self.branch_alpha}, expected a number above 0")
        if any(mark < 1 for mark in self.checkpoints):
            raise ClatError(f"autolora: checkpoints are {list(self.checkpoints)}, expected epochs from 1 on")

    @property
    def goes_back(self) -> bool:
        return self.automatic_rate

    def requires(self, model: nn.Module, x: Tensor) -> None:
        adaptable_layers(model, x)

    def on_stage_start(self, context: StageContext) -> StageCallback:
        return AutoLoRaCallback(self, context)

    def examples(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Examples:
        attack, start = self.attack(step), None
        if self.start == "gaussian":
            ball = Ball.around(x, attack.threat)
            start = ball.nearby_point(generator_for(x.device, step.seed))
        with modes.attack_mode(model, self.attack_bn):
            return (run_pgd(model, x, y, attack, seed=step.seed, start=start),)

    def cost(self, model: nn.Module, x: Tensor, y: Tensor, examples: Examples, step: Step) -> Loss:
        (x_adv,) = examples
        callback = step.callback
        if not isinstance(callback, AutoLoRaCallback):
            raise ClatError("autolora keeps a low-rank branch through its stage: train it with a recipe")
        lambda1, lambda2 = callback.scalars["lambda1"], callback.scalars["lambda2"]
        with callback.clean_path():
            clean = model(x)
        moved = model(x_adv)
        natural, adversarial = (cross_entropy(logits, y, self.label_smoothing) for logits in (clean, moved))
        divergence = kl_divergence(moved, clean.detach() if self.detach_clean else clean) / len(x)
        total = lambda1 * natural + (1 - lambda1) * adversarial + lambda2 * divergence
        terms = {"natural": natural, "adversarial": adversarial, "divergence": divergence}
        return Loss(total, {name: value.detach() for name, value in terms.items()})


class AutoLoRaCallback(StageCallback):
    """Stage callback that holds the branch, which is switched off but for `clean_path`, and the best weights.

    The lambdas and the rate are in `scalars`.
    """

    def __init__(self, settings: AutoLoRa, context: StageContext) -> None:
        super().__init__()
        self.settings, self.around, self.model = settings, context, context.model
        x = context.heldout[0][:1]
        head = classifier_of(self.model, x)
        self.branch = Branch(
            self.model,
            adaptable_layers(self.model, x),
            rank=settings.rank,
            scale=settings.branch_alpha / settings.rank,
            start="normal",
            seed=derive_seed(context.seed, "autolora"),
        )
        self.branch.switch(False)
        taught = [*self.branch.factors, *([] if head is None else self.model.get_submodule(head).parameters())]
        self._taught = {id(parameter) for parameter in taught}
        self._checkpoints = settings.checkpoints or published_checkpoints(context.epochs)
        self._best: StateDict = {}
        self.scalars = {"epoch": 0.0}

    @contextmanager
    def clean_path(self) -> Iterator[None]:
        """Send the forward passes inside through the branch, and teach only the branch and the classifier."""
        learning = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        held = [parameter for parameter in learning if id(parameter) not in self._taught]
        try:
            for parameter in held:
                parameter.requires_grad_(False)
            with self.branch.switched(True):
                yield
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def tensors(self) -> StateDict:
        return self._best

    def restore(self, tensors: StateDict) -> None:
        device = next(self.model.parameters()).device
        self._best = {name: value.to(device) for name, value in tensors.items()}

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        if "lambda1" not in self.scalars:
            self._weigh()
        return self.branch.plain_names(parameters)  # so that momentum goes on from stage to stage

    def learning_rate(self, rate: float) -> float:
        return rate * self.scalars.get("factor", 1.0)

    def export_state(self, state: StateDict) -> StateDict:
        return self.branch.export_state(state, merge=False)

    def after_epoch(self, check: dict[str, Any] | None) -> None:
        done = int(self.scalars["epoch"])
        self.scalars["epoch"] += 1
        if done + 1 == self.around.epochs:
            return
        if self.settings.automatic_rate and check is not None:
            due = any(self.scalars.get("checked", -1) < mark <= done for mark in self._checkpoints)
            self.scalars["checked"] = done
            self._steer(check["heldout_robust"], checkpoint=due)
        self._weigh()

    def on_stage_end(self) -> dict[str, Any]:
        self.branch.remove(merge=False)
        return {}

    def _steer(self, accuracy: float, *, checkpoint: bool) -> None:
        """Keep the best weights; at a checkpoint, perhaps halve the rate and go back to them."""
        before = Rate(**{key: self.scalars[key] for key in Rate._fields if key in self.scalars})
        after = after_epoch(before, accuracy, checkpoint=checkpoint)
        self.scalars |= after._asdict()
        if accuracy > before.best:
            self._best = {name: value.clone() for name, value in self.model.state_dict().items()}
        if after.factor < before.factor:
            self.model.load_state_dict(self._best)

    def _weigh(self) -> None:
        """Set lambda1 and lambda2 from the clean accuracy through the branch."""
        around = self.around
        counts = torch.zeros(2, dtype=torch.int64, device=around.engine.device)
        batches = around.loader.epoch(int(self.scalars["epoch"]))
        with modes.attack_mode(self.model), self.branch.switched(True), torch.no_grad(), around.engine.autocast():
            for x, y in islice(batches, self.settings.accuracy_batches):
                labels = y.argmax(1) if y.dim() == 2 else y
                right = (self.model(around.engine.images(x)).argmax(1) == labels).sum()
                counts += torch.stack([right, torch.tensor(len(x), device=right.device)])
        right, seen = around.engine.total(counts).tolist()
        accuracy = right / seen
        self.scalars |= {
            "accuracy": accuracy,
            "lambda1": 1 - accuracy,
            "lambda2": self.settings.kl_scale * accuracy,
        }

"""CLAT in a training loop of the user's own: what moves, in which modes, and the loss of a batch.

The loss, the attack and lambda are those of `clat.objectives.Clat`, the freezing that of `clat.training.stage`: a
step here moves the weights to the same bits as one of a recipe's stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clat.attacks.draws import part_of_batch
from clat.core.checks import check_images, check_labels, check_probabilities
from clat.core.errors import ClatError
from clat.core.notices import notice
from clat.core.seeds import derive_seed
from clat.core.threat_model import ThreatModel
from clat.core.units import Size
from clat.criticality.selection import updating_batch_norms
from clat.network import modes
from clat.network.edge import unwrapped
from clat.network.frozen_norm import frozen_norms_lean
from clat.network.guard import guarded, input_channels
from clat.network.layers import Layer, enumerate_layers
from clat.network.logits import check_output
from clat.network.outputs import logits_only
from clat.network.random_states import preserve_random_states, seed_network
from clat.objectives import Clat as ClatObjective
from clat.objectives import Step
from clat.objectives.clat import Calibration, ClatCallback
from clat.training.trainable import freeze_and_choose


class ClatFineTuning:
    """CLAT for a loop of your own; `clat.Clat` is its public name.

    Inside of the context the chosen layers alone have gradients, BatchNorm follows `batch_norm`, and lambda is set;
    afterwards all flags of the network are as they were.

        with clat.Clat(model, layers, (x, y), eps="8/255") as tuning:
            optimizer = torch.optim.SGD(tuning.parameters(), lr=0.01)
            for x, y in batches:
                optimizer.zero_grad()
                tuning.loss(x, y).backward()
                optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        heldout: tuple[Tensor, Tensor],
        *,
        eps: Size = "8/255",
        norm: str = "linf",
        objective: ClatObjective | None = None,
        batch_norm: Literal["frozen", "update", "update-selected"] = "frozen",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Check what is asked for; nothing in the network changes before the context is entered.

        Args:
            model: the network itself, without DistributedDataParallel around it: images in [0, 1] to logits.
            layers: names of the layers that move, from `clat.select_layers`; or of blocks.
            heldout: images (N, C, H, W) in [0, 1] and labels (N,) on the network's device, by which lambda is set.
            eps: radius of the training attack, in image units.
            norm: "linf" or "l2", of the same.
            objective: the loss, one of CLAT's kind; None: `clat.objectives.Clat` with `settings`.
            batch_norm: what BatchNorm does with its statistics, see `clat.network.modes.BN_POLICIES`.
            seed: of all attacks.
            settings: fields of `clat.objectives.Clat`, such as `ratio`, `steps` or `relative`.

        Raises:
            ClatError: no such layer, images outside [0, 1], or settings that make no sense.
        """
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise ClatError("give the network inside: model.module; and call average_gradients() after backward()")
        if objective is not None and settings:
            raise ClatError(f"give {', '.join(sorted(settings))} to the objective, which is given already")
        if objective is not None and not isinstance(objective, ClatObjective):
            raise ClatError(f"the objective is a {type(objective).__name__}, expected one of CLAT's kind")
        self.model, self.heldout, self.seed, self.batch_norm = unwrapped(model), heldout, seed, batch_norm
        self.objective = _objective(settings) if objective is None else objective
        self.threat = ThreatModel.parse(eps, norm)
        self.objective.check(self.threat)
        x, y = heldout
        check_images(x, input_channels(self.model))
        check_labels(y, None, len(x))
        self.layers = self._found(layers)
        updating_batch_norms(self.model, self.layers, batch_norm)  # is there such a policy?
        self.parts: dict[str, Tensor] = {}
        """The terms of the last loss, detached."""
        self._callback = ClatCallback(self.objective)
        self._stack: ExitStack | None = None
        self._moving: dict[str, nn.Parameter] = {}
        self._batches = 0

    def __enter__(self) -> Self:
        """Freeze the rest of the network, set the modes of training, and find lambda."""
        if self._stack is not None:
            raise ClatError("this clat.Clat is in use already: make another")
        with ExitStack() as stack:
            stack.enter_context(modes.restore_flags(self.model))
            self._freeze()
            self._calibrate()
            self._stack = stack.pop_all()
        if _processes() > 1:
            notice("gradients are this process's own: call average_gradients() before each step of the optimizer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give every flag of the network back."""
        if self._stack is not None:
            self._stack.close()
            self._stack = None

    @property
    def weight(self) -> float:
        """Return lambda, which is known inside of the context."""
        found = self._callback.calibration
        if found is None:
            raise ClatError("lambda is not known yet: enter the context first, with clat.Clat(...) as tuning")
        return found.weight

    def parameters(self) -> list[nn.Parameter]:
        """Return what moves, for an optimizer.

        Returns:
            The parameters, in the network's order.
        """
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return what moves, by its names in the network.

        Returns:
            Name -> parameter.
        """
        self._inside()
        return dict(self._moving)

    def select(self, layers: Sequence[str]) -> list[nn.Parameter]:
        """Have other layers move from here on, and return their parameters, for a new optimizer.

        Lambda stays, unless the objective calibrates at each selection.

        Args:
            layers: names, as for `clat.Clat`.

        Returns:
            What moves from here on.
        """
        self._inside()
        self.layers = self._found(layers)
        self._freeze()
        self._calibrate(self._callback.calibration)
        return self.parameters()

    def loss(self, x: Tensor, y: Tensor, *, seed: int | None = None) -> Tensor:
        """Attack a batch and return CLAT's loss on it, with its graph; its terms are in `parts`.

        The modes of training are set anew each time, as some training loops set their own.

        Args:
            x: images, (N, C, H, W), float in [0, 1], on the network's device.
            y: labels (N,), int64; or class probabilities (N, K), float, each row with a sum of 1.
            seed: of the attack; None: from the seed of all, the number of the batch and the process.

        Returns:
            A scalar to go back through.

        Raises:
            ClatError: images outside [0, 1], wrong labels, or a loss that is not finite.
        """
        self._inside()
        check_images(x, input_channels(self.model))
        soft = isinstance(y, Tensor) and y.is_floating_point() and y.ndim != 1
        if soft:
            check_probabilities(y, len(x))
        else:
            check_labels(y, None, len(x))
        if seed is None:
            seed = derive_seed(self.seed, "attack", 0, self._batches, dist.get_rank() if _processes() > 1 else 0)
        step = replace(self._step(), seed=seed, number=self._batches)
        self._batches += 1
        self._set_modes()
        model = self.model
        labels = None if soft else y
        same_classes = _classes_of(model, y) if soft else nullcontext()
        with (
            logits_only(model),
            guarded(model, labels),
            same_classes,
            frozen_norms_lean(model),
            part_of_batch(0, len(x)),
        ):
            found = self.objective.loss(model, x, y, step)
        if not torch.isfinite(found.total):
            raise ClatError("the loss is not finite: lower the learning rate")
        self.parts = found.parts
        return found.total

    def average_gradients(self) -> None:
        """Average the gradients over the processes of torch.distributed, after `backward()`; alone, do nothing."""
        if _processes() == 1:
            return
        moving = list(self._moving.values())
        flat = (
            torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in moving])
            / _processes()
        )
        dist.all_reduce(flat)
        for parameter, part in zip(moving, flat.split([p.numel() for p in moving]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def _found(self, names: Sequence[str]) -> tuple[Layer, ...]:
        if isinstance(names, str) or not names:
            raise ClatError("layers is a list of names, from clat.select_layers: give at least one")
        image = self.heldout[0][:1]
        return tuple(enumerate_layers(self.model, image, include=list(names), shortcuts=True, classifier=True))

    def _step(self) -> Step:
        return Step(self.layers, threat=self.threat, callback=self._callback, once=True)

    def _set_modes(self) -> dict[str, nn.Parameter]:
        moving = freeze_and_choose(self.model, self.layers, self.batch_norm)
        for parameter in moving.values():
            parameter.requires_grad_(True)
        return moving

    def _freeze(self) -> None:
        for parameter in self._moving.values():
            parameter.grad = None  # of layers that may move no longer
        self._moving = self._set_modes()

    def _calibrate(self, before: Calibration | None = None) -> None:
        x, y = self.heldout
        seed = derive_seed(self.seed, "begin", 0)
        model = self.model
        with preserve_random_states(model), logits_only(model), guarded(model, y), frozen_norms_lean(model):
            seed_network(model, seed)  # for dropout, as in a training step
            step = replace(self._step(), seed=seed)
            self._callback.calibration = self.objective.calibration(model, x, y, step, before=before)

    def _inside(self) -> None:
        if self._stack is None:
            raise ClatError("outside of its context nothing is frozen: with clat.Clat(...) as tuning, then use it")


Clat = ClatFineTuning
"""CLAT for a loop of your own."""


def _objective(settings: dict[str, Any]) -> ClatObjective:
    try:
        return ClatObjective(**settings)
    except TypeError as error:
        raise ClatError(f"clat.Clat: {error}: see the fields of clat.objectives.Clat") from None


@contextmanager
def _classes_of(model: nn.Module, y: Tensor) -> Iterator[None]:
    """Refuse a model with other classes than the probabilities `y`, (N, K), when it is called inside."""

    def check(module: nn.Module, args: Any, logits: Any) -> None:
        check_output(logits, len(args[0]))
        if logits.shape[1] != y.shape[1]:
            raise ClatError(f"labels are of {y.shape[1]} classes, the model has {logits.shape[1]}: give as many")

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

"""Clean and robust accuracy of a network under a protocol, sample by sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clat import modes
from clat.attacks.ascent import check_found, generator_for
from clat.attacks.ball import Ball
from clat.attacks.pgd import check_logits, run_pgd
from clat.data.checks import check_images, check_labels
from clat.environment import describe_environment
from clat.errors import ClatError
from clat.evaluation.cost import Cost, metered
from clat.evaluation.protocols import Protocol, find_protocol
from clat.evaluation.statistics import Accuracy
from clat.files import write_json
from clat.seeds import derive_seed
from clat.units import Size, parse_size, size_text


@dataclass(frozen=True)
class Evaluation:
    """`correct`, `robust`: bool per sample, (N,), on the CPU; a robust sample is correct on its clean image
    too. `per_attack`: for each attack, the robust accuracy after it and those before it. `about`: what the
    caller adds to the JSON (model, weights, data)."""

    protocol: Protocol
    eps: str
    norm: str
    seed: int
    correct: Tensor
    robust: Tensor
    per_attack: dict[str, Accuracy]
    cost: Cost
    environment: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def clean_accuracy(self) -> Accuracy:
        return Accuracy(int(self.correct.sum()), len(self.correct))

    @property
    def robust_accuracy(self) -> Accuracy:
        return Accuracy(int(self.robust.sum()), len(self.robust))

    def to_dict(self) -> dict[str, Any]:
        return {
            "what": "evaluation",
            **self.about,
            "protocol": {**asdict(self.protocol), "hash": self.protocol.hash, "norm": self.norm},
            "eps": {"text": self.eps, "value": float(parse_size(self.eps, norm=self.norm))},
            "seed": self.seed,
            "precision": self.protocol.precision,
            "clean_accuracy": self.clean_accuracy.to_dict(),
            "robust_accuracy": self.robust_accuracy.to_dict(),
            "per_attack": [
                {"name": name, "robust_accuracy": accuracy.to_dict()} for name, accuracy in self.per_attack.items()
            ],
            "cost": asdict(self.cost),
            "environment": self.environment,
        }

    def to_json(self, path: str | Path) -> None:
        """Write everything but the per-sample verdicts; an existing file is replaced in one step."""
        write_json(path, self.to_dict())


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    protocol: str | Protocol = "pgd-20",
    eps: Size,
    norm: str = "linf",
    batch_size: int = 250,
    seed: int = 0,
    about: dict[str, Any] | None = None,
) -> Evaluation:
    """Evaluate `model` on `x` (N, C, H, W) in [0, 1] with labels `y` (N,) under a protocol.

    `protocol`: a name from `clat.evaluation.protocols.PROTOCOLS` or a Protocol; `eps`: float or fraction;
    `seed`: of the random starts. The model runs in evaluation mode and float32 and is left without a trace.
    Raises ClatError for an unknown protocol, inputs outside [0, 1], wrong labels or non-finite logits.
    """
    check_images(x)
    check_labels(y, None, len(x))
    if batch_size < 1:
        raise ClatError(f"batch_size is {batch_size}: expected at least 1")
    batches = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return evaluate_batches(model, batches, protocol=protocol, eps=eps, norm=norm, seed=seed, about=about)


def evaluate_batches(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    protocol: str | Protocol,
    eps: Size,
    norm: str = "linf",
    seed: int = 0,
    about: dict[str, Any] | None = None,
) -> Evaluation:
    """`evaluate` over batches of (x, y) on the model's device, for data sets that do not fit into memory.

    A sample's random start depends on its place in the batches, not on which other samples are still correct.
    """
    protocol = find_protocol(protocol)
    radius = parse_size(eps, norm=norm)
    if radius == 0:
        raise ClatError("eps is 0: an evaluation needs a perturbation; clean accuracy comes with every protocol")
    attacks = [spec.settings(radius, norm) for spec in protocol.attacks]
    correct: list[Tensor] = []
    after: list[list[Tensor]] = [[] for _ in protocol.attacks]
    device_type = "cpu"
    with metered(model) as cost, modes.for_attack(model):
        for number, (x, y) in enumerate(batches):
            check_images(x)
            check_labels(y, None, len(x))
            if len(x) == 0:
                continue
            device_type = x.device.type
            with torch.autocast(device_type, enabled=False):
                robust = _verdict(model, x, y)
                correct.append(robust.cpu())
                for position, attack in enumerate(attacks):
                    if robust.any():
                        alive = robust.nonzero().squeeze(1)
                        start = x
                        if attack.random_start:
                            generator = generator_for(x.device, derive_seed(seed, position, number))
                            start = Ball(x, attack.eps_value, norm).random_point(generator)
                        x_adv = run_pgd(model, x[alive], y[alive], attack, seed=None, start=start[alive])
                        check_found(x_adv)
                        robust = robust.index_put((alive,), _verdict(model, x_adv, y[alive]))
                    after[position].append(robust.cpu())
    if not correct:
        raise ClatError("the data set is empty: there is nothing to evaluate")
    steps = [torch.cat(part) for part in after]
    return Evaluation(
        protocol=protocol,
        eps=size_text(radius),
        norm=norm,
        seed=seed,
        correct=torch.cat(correct),
        robust=steps[-1],
        per_attack=_per_attack(protocol, steps),
        cost=cost,
        environment=describe_environment(device_type),
        about=about or {},
    )


def _per_attack(protocol: Protocol, steps: Sequence[Tensor]) -> dict[str, Accuracy]:
    found: dict[str, Accuracy] = {}
    for number, (spec, robust) in enumerate(zip(protocol.attacks, steps, strict=True), start=1):
        name = f"{spec.attack}-{spec.steps}"
        found[f"{name} ({number})" if name in found else name] = Accuracy(int(robust.sum()), len(robust))
    return found


def _verdict(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which samples are classified correctly, (N,) bool, by a forward pass of its own."""
    with torch.no_grad():
        logits = model(x)
    check_logits(logits, y)
    if not torch.isfinite(logits).all():
        raise ClatError("the model returns NaN or infinite logits")
    return logits.argmax(1) == y

"""LoRA for convolutions and linear layers: low-rank factors learn while the weights they are added to stay."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from clat.core.errors import ClatError
from clat.core.seeds import derive_seed
from clat.network.low_rank import Branch, adaptable_layers, classifier_of
from clat.network.modes import NORMALISATIONS
from clat.runtime.callback import StageCallback, StageContext, StateDict
from clat.treatments.base import Treatment


@dataclass(frozen=True, kw_only=True)
class LoRA(Treatment):
    """ConvLoRA (Aleem et al. 2024, arXiv 2402.04964) under whatever objective the stage has: W + alpha/r * B A.

    See `clat.network.low_rank`. Only the factors, the biases of their layers and what is named below move; at the
    end of the stage the factors are added to the weights. The defaults are the published code's; CLAT's paper cites
    it for its "PGD-AT + LoRA" rows and states none of these.

    BatchNorm statistics follow the stage's `batch_norm` ("update" is the published AdaBN).
    """

    name: Literal["lora"] = "lora"
    before: ClassVar[tuple[str, ...]] = ("ema", "swa")
    reparametrises: ClassVar[bool] = True
    rank: int = 2
    """r, of a linear layer or a 1 x 1 convolution; a k x k one has inner dimension r k."""
    alpha: float | None = None
    """The update is scaled by alpha / rank; None: alpha = rank, a scale of 1 as published."""
    include: tuple[str, ...] = ()
    """Patterns of layer names that get factors ("layer3.*"); none: all convolutions and linear layers."""
    exclude: tuple[str, ...] = ()
    """Patterns of layer names that get none."""
    stem: bool = False
    """Whether the first layer gets factors."""
    classifier: Literal["frozen", "low-rank", "full"] = "frozen"
    """What moves in the last layer: nothing, factors like the others', or the layer itself."""
    affine: bool = True
    """Whether scale and shift of the normalisation layers move."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ClatError(f"lora: rank is {self.rank}, expected at least 1")
        if self.alpha is not None and not self.alpha > 0:
            raise ClatError(f"lora: alpha is {self.alpha}, expected a number above 0")

    def layers(self, model: nn.Module, x: Tensor) -> list[str]:
        """Return the names of the layers that get factors.

        Args:
            model: the network without factors.
            x: an image, (1, C, H, W) in [0, 1].

        Returns:
            Names, in forward order.

        Raises:
            ClatError: if `classifier` is "full" and the last layer does not give the logits, if no layer is left,
                or if the weight of one is computed.
        """
        if self.classifier == "full" and classifier_of(model, x) is None:
            raise ClatError("lora: classifier is 'full', but the last layer does not give the logits")
        low_rank = self.classifier == "low-rank"
        return adaptable_layers(
            model, x, include=self.include, exclude=self.exclude, stem=self.stem, classifier=low_rank
        )

    def requires(self, model: nn.Module, x: Tensor) -> None:
        self.layers(model, x)

    def movable(self, model: nn.Module, x: Tensor) -> Set[str]:
        moving = [model.get_submodule(name) for name in self.layers(model, x)]
        if self.affine:
            moving += normalisations(model)
        head = classifier_of(model, x) if self.classifier == "full" else None
        if head is not None:
            moving.append(model.get_submodule(head))
        wanted = {id(parameter) for part in moving for parameter in part.parameters()}
        return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}

    def on_stage_start(self, context: StageContext) -> StageCallback:
        return LoRACallback(self, context)


def normalisations(model: nn.Module) -> list[nn.Module]:
    """Return the normalisation layers, whose scale and shift `affine` lets move.

    Args:
        model: any network.

    Returns:
        The modules, each once.
    """
    return [part for part in model.modules() if isinstance(part, NORMALISATIONS)]


class LoRACallback(StageCallback):
    """Stage callback that holds the low-rank factors, parameters of the network that are saved with it."""

    def __init__(self, settings: LoRA, context: StageContext) -> None:
        super().__init__()
        model, x = context.model, context.heldout[0][:1]
        names = settings.layers(model, x)
        whole = [model.get_submodule(name) for name in [classifier_of(model, x)] if name is not None]
        self.branch = Branch(
            model,
            names,
            rank=settings.rank,
            scale=(settings.rank if settings.alpha is None else settings.alpha) / settings.rank,
            start="kaiming",
            seed=derive_seed(context.seed, "lora"),
        )
        biases = (getattr(model.get_submodule(name), "bias", None) for name in names)
        moving = [*self.branch.factors, *(bias for bias in biases if bias is not None)]
        if settings.affine:
            moving += [parameter for part in normalisations(model) for parameter in part.parameters()]
        if settings.classifier == "full":
            moving += [parameter for part in whole for parameter in part.parameters()]
        self._moving = {id(parameter) for parameter in moving}

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        moving = {name: parameter for name, parameter in parameters.items() if id(parameter) in self._moving}
        if not moving:
            raise ClatError("lora: no selected layer has low-rank factors; exclude the others from the selection")
        return moving

    def export_state(self, state: StateDict) -> StateDict:
        return self.branch.export_state(state, merge=True)

    def on_stage_end(self) -> dict[str, object]:
        self.branch.remove(merge=True)
        return {}

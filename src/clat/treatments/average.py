"""What the averages of the weights have in common: the average, and which BatchNorm modules count statistics."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clat.network import modes
from clat.runtime.callback import StageCallback, StageContext


class AverageCallback(StageCallback):
    """Stage callback that holds an average of the network's parameters, by name."""

    def __init__(self, context: StageContext) -> None:
        super().__init__()
        self.context, self.model = context, context.model
        self.average: dict[str, Tensor] = {}
        self.updating: list[_BatchNorm] = []
        """The BatchNorm modules whose statistics follow the training, which an average may need counted anew."""

    def tensors(self) -> dict[str, Tensor]:
        return self.average

    def choose_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        self.updating = [bn for bn in modes.batch_norms(self.model) if bn.training]
        return parameters

"""Count the normalisation and activation calls of a forward pass, by modules and by functional code alike."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode

# Functions through which nn modules and functional code alike apply a normalisation or a nonlinearity.
NORMALISATIONS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"})
# fmt: off
ACTIVATIONS = frozenset({
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish",
    "softplus", "hardswish", "hardtanh", "hardsigmoid", "prelu", "rrelu", "sigmoid", "sigmoid_", "tanh", "tanh_",
    "glu", "logsigmoid", "threshold",
})
# fmt: on


class CallCounter(TorchFunctionMode):
    """A counter of the normalisation and activation calls of a forward pass, entered around it.

    It sees modules (nn.ReLU) and functional code (F.relu) alike. Each call is shown to `seen(kind, number,
    argument, result)`: "norm" or "activation", which of its kind it is, counted from 0, its first argument, and its
    result.
    """

    def __init__(self, seen: Any) -> None:
        super().__init__()
        self.counts = {"norm": 0, "activation": 0}
        self.seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        kind = "norm" if name in NORMALISATIONS else "activation" if name in ACTIVATIONS else None
        if kind is not None:
            self.seen(kind, self.counts[kind], args[0] if args else (kwargs or {}).get("input"), result)
            self.counts[kind] += 1
        return result

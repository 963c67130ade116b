"""Mix the probabilities of two classifiers: adaptive smoothing (Bai et al. 2024, arXiv 2301.12554).

    h(x) = log( (1 - alpha) softmax(s_std * h_std(x)) + alpha softmax(s_rob * h_rob(x)) )

h_std is accurate, h_rob robust; alpha is a number, or what a mixing network reads from features of both. Everything
is differentiable, so attacks go through the mixture as a whole. The paper keeps both members as they are; here
either may be trained further, by its layers' names ("robust.*"): what moves, in which mode, is the stage's matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clat.core.errors import ClatError, unknown
from clat.models.parts import conv1x1, global_mean, init_convolutions, stage
from clat.models.preact_resnet import PreActBlock
from clat.models.settings import GateConfig
from clat.network import modes
from clat.network.outputs import first_tensor

CLAMP = 0.6
"""In training, the gate's outputs are clamped to this many standard deviations around the batch's mean."""


class Mixture(nn.Module):
    """Two classifiers as one, whose log-probabilities serve as logits.

    Input (N, C, H, W) in [0, 1]; output (N, K).

    Args:
        standard: The accurate member, images to logits (N, K).
        robust: The robust member, likewise.
        alpha: The weight of the robust member, in [0, 1]; or None, with a gate.
        gate: The settings of a mixing network that sets alpha per image; or None, with an alpha.
        scales: Factors of the members' logits, standard and robust.
        standard_size: The standard member gets images resized to so many pixels a side, bilinearly; None leaves
            them.
        in_channels: Channels of the images.

    Raises:
        ClatError: Both alpha and gate are given or neither is, or a module that the gate reads gives no map.
    """

    def __init__(
        self,
        standard: nn.Module,
        robust: nn.Module,
        *,
        alpha: float | None = None,
        gate: GateConfig | None = None,
        scales: tuple[float, float] = (1.0, 1.0),
        standard_size: int | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if (alpha is None) == (gate is None):
            raise ClatError("a mixture takes a fixed alpha or a gate that sets it per image, one of them")
        self.standard, self.robust = standard, robust
        self.alpha, self.scales, self.standard_size = alpha, scales, standard_size
        self.names: tuple[Sequence[str], Sequence[str]] = ((), ())
        self.alpha_range = (0.0, 1.0)
        self.gate: Gate | None = None
        if gate is not None:
            self.names, self.alpha_range = (gate.standard, gate.robust), gate.alpha_range
            with torch.no_grad(), modes.attack_mode(self):
                device = next((p.device for p in robust.parameters()), torch.device("cpu"))
                _, features = self._members(torch.zeros(1, in_channels, 32, 32, device=device))
            self.gate = Gate([feature.shape[1] for feature in features], gate)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x)[0]

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the log-probabilities, and the gate's logits where alpha is not fixed.

        Args:
            x: Images, (N, C, H, W) in [0, 1].

        Returns:
            The log-probabilities, (N, K), and the logits of alpha, (N,), or None; float32.
        """
        members, features = self._members(x)
        logit: Tensor | None = None
        weights: tuple[Tensor | float, Tensor | float]
        if self.gate is None:
            assert self.alpha is not None
            weights = log_weights_of(self.alpha)
        else:
            logit = self.gate(features)
            limits = (0.0, 1.0) if self.gate.learning else self.alpha_range
            weights = log_weights(logit.unsqueeze(1), *limits)
        standard, robust = (
            F.log_softmax(scale * logits.float(), dim=1) for scale, logits in zip(self.scales, members, strict=True)
        )
        return torch.logaddexp(weights[0] + standard, weights[1] + robust), logit

    def _members(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the logits of both members, and the features that the gate reads: early ones, then late ones."""
        size = self.standard_size
        resized = x if size is None else F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        with captured(self.standard, self.names[0]) as seen_standard:
            standard = self.standard(resized)
        with captured(self.robust, self.names[1]) as seen_robust:
            robust = self.robust(x)
        pairs = zip(self.names[0], self.names[1], strict=True)
        return [standard, robust], [seen for s, r in pairs for seen in (seen_standard[s], seen_robust[r])]


def log_weights(logit: Tensor, low: float = 0.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return log(1 - alpha) and log(alpha) for alpha = low + (high - low) * sigmoid(logit).

    They are exact in float32 where sigmoid itself would round to 0 or 1.

    Args:
        logit: The logits of alpha, of any shape.
        low: The lower end of alpha's range, in [0, high).
        high: The upper end, in (low, 1].

    Returns:
        Both logarithms, shaped like `logit`, in float32.
    """
    width = math.log(high - low)

    def log_of(offset: float, log_sigmoid: Tensor) -> Tensor:
        return width + log_sigmoid if offset == 0 else torch.log(offset + (high - low) * log_sigmoid.exp())

    logit = logit.float()
    return log_of(1 - high, F.logsigmoid(-logit)), log_of(low, F.logsigmoid(logit))


def log_weights_of(alpha: float) -> tuple[float, float]:
    """Return log(1 - alpha) and log(alpha) of a number.

    Args:
        alpha: In [0, 1].

    Returns:
        Both logarithms, -inf for that of 0.
    """
    return (math.log1p(-alpha) if alpha < 1 else -math.inf, math.log(alpha) if alpha > 0 else -math.inf)


class Gate(nn.Module):
    """The mixing network, which reads features of both members and returns the logits (N,) of alpha.

    The early features, concatenated, go through stages of two pre-activation blocks each of which halves the map;
    the late ones join after the first stage by a 1x1 convolution. Then mean over positions, a linear layer without
    bias, BatchNorm without affine parameters, scale and bias. Maps of different sizes are brought to one by average
    pooling.

    Args:
        channels: Channels of the features, (N, C, H, W) each: two early ones, then two late ones or none.
        settings: Channels of the stages, scale and bias.
    """

    def __init__(self, channels: Sequence[int], settings: GateConfig) -> None:
        super().__init__()
        self.settings = settings
        first, *deeper = settings.hidden
        self.stages = nn.ModuleList([stage(PreActBlock, sum(channels[:2]), first, 2, stride=2)])
        self.join = conv1x1(sum(channels[2:]), first) if len(channels) > 2 else None
        for inputs, outputs in zip(settings.hidden, deeper, strict=False):
            self.stages.append(stage(PreActBlock, inputs, outputs, 2, stride=2))
        self.linear = nn.Linear(settings.hidden[-1], 1, bias=False)
        self.norm = nn.BatchNorm1d(1, affine=False, momentum=0.01)
        init_convolutions(self)

    @property
    def learning(self) -> bool:
        """Return whether outputs are normalised by the batch: then clamp, bias and range are those of training."""
        return self.norm.training

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        out = self.stages[0](joined(features[:2]))
        if self.join is not None:
            out = out + self.join(joined(features[2:], like=out))
        for deeper in self.stages[1:]:
            out = deeper(out)
        raw = self.linear(global_mean(out)).float()
        if self.learning:
            mean, spread = raw.detach().mean(), raw.detach().std()
            raw = raw.clamp(mean - CLAMP * spread, mean + CLAMP * spread)
        bias = self.settings.train_bias if self.learning else self.settings.bias
        logit: Tensor = self.settings.scale * self.norm(raw).squeeze(1) + bias
        return logit


def joined(features: Sequence[Tensor], like: Tensor | None = None) -> Tensor:
    """Return feature maps concatenated by channels, pooled to one size.

    Args:
        features: Maps, (N, C_i, H_i, W_i).
        like: A map of the wanted size; None takes the size of the smallest.

    Returns:
        One map, (N, sum of C_i, H, W).
    """
    height, width = min(tuple(f.shape[-2:]) for f in (features if like is None else [like]))
    same = (height, width)
    fitting = [f if tuple(f.shape[-2:]) == same else F.adaptive_avg_pool2d(f, same) for f in features]
    return torch.cat(fitting, dim=1)


@contextmanager
def captured(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Capture what modules of a network put out in a forward pass inside.

    Args:
        model: The network.
        names: The modules, as in `named_modules`.

    Yields:
        A dict that fills with their outputs, (N, C, H, W), by name; a module that runs twice counts at its first
        call.

    Raises:
        ClatError: A module does not exist, did not run, or gave something else than a map.
    """
    modules = dict(model.named_modules())
    seen: dict[str, Tensor] = {}
    handles = []
    try:
        for name in names:
            if name not in modules:
                raise unknown("module for the gate", name, modules)

            def keep(module: nn.Module, args: object, output: object, name: str = name) -> None:
                tensor = first_tensor(output)
                if tensor is not None:
                    seen.setdefault(name, tensor)

            handles.append(modules[name].register_forward_hook(keep))
        yield seen
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        if name not in seen or seen[name].dim() != 4:
            raise ClatError(f"module '{name}' gives the gate no map (N, C, H, W): name a convolutional stage")

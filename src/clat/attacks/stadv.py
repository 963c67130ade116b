"""stAdv (Xiao et al. 2018): moves pixels instead of changing their values.

The paper minimises a margin plus tau times the roughness of the flow with L-BFGS, without a bound on the flow. CLAT
reports stAdv but states no budget. What is bounded here, and how, follows the form in which later work made it a
threat model (Laidlaw et al. 2021): at most 0.05 of half the image's side in either direction, tau 0.05, Adam with
steps of 0.01. The number of steps is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clat.attacks import losses
from clat.attacks.ascent import NO_GRADIENT, check_found, check_path
from clat.attacks.noise import uniform
from clat.attacks.search import SearchState, run_search
from clat.core.errors import ClatError
from clat.network import modes
from clat.network.edge import Network, accept_network
from clat.network.folding import readers_known

BETAS = (0.9, 0.999)
"""Adam's decay rates (Kingma and Ba 2015)."""


def stadv(
    model: Network,
    x: Tensor,
    y: Tensor,
    *,
    bound: float = 0.05,
    steps: int = 100,
    step_size: float = 0.01,
    tau: float = 0.05,
    seed: int = 0,
) -> Tensor:
    """Return adversarial examples that move pixels, by a bounded flow.

    A sample is left as soon as it is misclassified. The model is left without a trace.

    Args:
        model: a classifier that takes images in [0, 1] and returns logits (N, K); used in evaluation mode.
        x: images, (N, C, H, W) floating point in [0, 1].
        y: labels, (N,) int64.
        bound: how far a pixel may move along either axis, from 0 to 2 in units of half the image's side (0.05 is
            0.775 pixels of 32).
        steps: forward and backward passes a sample, at least 1.
        step_size: how far one Adam step moves a pixel, in the unit of `bound`.
        tau: the weight of the flow's roughness, see `roughness`.
        seed: seed of the first flow.

    Returns:
        x_adv, of the shape of `x`, in [0, 1]; samples that no step fooled come back at their largest margin.

    Raises:
        ClatError: for images outside [0, 1], settings that make no sense, or a gradient that is not finite.
    """
    model, x = accept_network(model, x, y)
    if steps < 1:
        raise ClatError(f"steps is {steps}: expected at least 1")
    if not 0 <= bound <= 2:
        raise ClatError(f"bound is {bound}: expected 0 to 2, in units of half the image's side")
    for name, value in (("step_size", step_size), ("tau", tau)):
        if not 0 <= value < float("inf"):
            raise ClatError(f"{name} is {value}: expected a value of at least 0")
    search = StadvSearch(model, bound, steps=steps, step_size=step_size, tau=tau, seed=seed)
    with modes.attack_mode(model, labels=y):
        found = run_search(search, x, y)
    check_found(found)
    return found


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Return the image in which each pixel has the value of x at its place plus the flow.

    Bilinear between the four pixels around that place. Beyond the border the image goes on with its outermost
    pixels. A zero flow gives x exactly, which `grid_sample` does not.

    Args:
        x: images, (N, C, H, W) in [0, 1].
        flow: (N, 2, H, W), down and across, in units of half the image's side (the distance between the outermost
            pixels' centres, as `grid_sample` counts with align_corners=True).

    Returns:
        The moved images, of the shape of `x`, in [0, 1].
    """
    height, width = x.shape[2:]
    above, down = _between(flow[:, 0], height, axis=1)
    before, across = _between(flow[:, 1], width, axis=2)
    below, after = (above + 1).clamp_max(height - 1), (before + 1).clamp_max(width - 1)

    def read(rows: Tensor, columns: Tensor) -> Tensor:
        places = (rows * width + columns).flatten(1)[:, None].expand(-1, x.shape[1], -1)
        return x.flatten(2).gather(2, places).view(x.shape)

    upper = torch.lerp(read(above, before), read(above, after), across)
    lower = torch.lerp(read(below, before), read(below, after), across)
    return torch.lerp(upper, lower, down).clamp(0, 1)


def _between(flow: Tensor, size: int, axis: int) -> tuple[Tensor, Tensor]:
    """Return where a pixel is read along one axis.

    That is the last pixel not after the place that is read, (N, H, W), and how far towards the next one it lies,
    (N, 1, H, W) in [0, 1).
    """
    shape = [1, 1, 1]
    shape[axis] = size
    own = torch.arange(size, device=flow.device).view(shape)
    place = (own + flow * ((size - 1) / 2)).clamp(0, size - 1)
    whole = place.detach().floor()
    return whole.long(), (place - whole)[:, None]


def roughness(flow: Tensor) -> Tensor:
    """Return the paper's flow loss of each sample.

    The length of the difference between the flows of a pixel and each of its four neighbours, summed over all
    pixels, so that each pair counts twice.

    Args:
        flow: (N, 2, H, W).

    Returns:
        The sum, (N,), in the unit of `flow`.
    """
    pairs = (flow[:, :, 1:] - flow[:, :, :-1], flow[:, :, :, 1:] - flow[:, :, :, :-1])
    # The root's slope is infinite at zero, where a constant flow is.
    down, across = (2 * (pair.square().sum(1) + 1e-10).sqrt().sum((1, 2)) for pair in pairs)
    return down + across


def confined(flow: Tensor, bound: float) -> Tensor:
    """Return the nearest flow within `bound` that reads nothing from beyond the border.

    A pixel could not come back from there: all values are equal, so it has no slope.

    Args:
        flow: (N, 2, H, W), in units of half the image's side.
        bound: how far a pixel may move along either axis, in the same unit.

    Returns:
        The flow, of the same shape.
    """
    height, width = flow.shape[2:]
    rows, columns = (_room(size, flow.device).to(flow.dtype).clamp_max(bound) for size in (height, width))
    up, down = (room[:, None].expand(height, width) for room in rows)
    left, right = (room.expand(height, width) for room in columns)
    return torch.clamp(flow, -torch.stack([up, left]), torch.stack([down, right]))


def _room(size: int, device: torch.device) -> Tensor:
    """Return how far `size` pixels may move back and forth within the image, (2, size) in flow units."""
    own = torch.arange(size, device=device)
    room = torch.stack([own, own.flip(0)]) / max((size - 1) / 2, 0.5)
    return torch.nextafter(room, torch.zeros_like(room))  # or rounding would put some just outside


@dataclass
class StadvSearch:
    """Search of stAdv, sample by sample: projected Adam on the flow.

    The model is in attack mode; the settings are those of `stadv`.
    """

    model: nn.Module
    bound: float = 0.05
    steps: int = 100
    step_size: float = 0.01
    tau: float = 0.05
    seed: int = 0

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the state at a random flow."""
        count, _, height, width = x.shape
        # Not zero: there the slopes to either side of a pixel differ, and bilinear sampling knows one of them only.
        noise = uniform(self.seed, ids, 0, 2 * height * width).view(count, 2, height, width).to(x.dtype)
        flow = confined((2 * noise - 1) * self.bound, self.bound)
        zeros = torch.zeros_like(flow)
        return {
            "x": x,
            "y": y,
            "adv": x,
            "value": torch.full_like(x[:, 0, 0, 0], -torch.inf),
            "flow": flow,
            "mean": zeros,
            "square": zeros,
            "t": torch.zeros_like(y),
            "done": torch.zeros_like(y, dtype=torch.bool),
        }

    def step(self, state: SearchState) -> None:
        """Look at the image that the flow gives, and move the flow by one step of Adam."""
        adv, value, wrong, gradient = self._evaluate(state)
        better = ((value > state["value"]) | wrong) & ~state["done"]
        state["adv"] = torch.where(better[:, None, None, None], adv, state["adv"])
        state["value"] = torch.where(better, value, state["value"])
        # NaN is the mark by which a broken gradient is seen in the end; a flow of NaN could not be warped by.
        sound = value.isfinite() & gradient.isfinite().flatten(1).all(1)
        broken = (~sound & ~state["done"])[:, None, None, None]
        state["adv"] = state["adv"].masked_fill(broken, torch.nan)
        gradient = torch.where(sound[:, None, None, None], gradient, 0)
        state["t"] = state["t"] + 1
        state["done"] = state["done"] | wrong | ~sound | (state["t"] >= self.steps)
        state["flow"] = confined(state["flow"] + self._adam(state, gradient), self.bound)

    def _evaluate(self, state: SearchState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the image at the present flow, its margin, whether it is misclassified, and the flow's slope."""
        flow = state["flow"].detach().requires_grad_(True)
        with torch.enable_grad():
            adv = warp(state["x"], flow)
            logits = self.model(adv)
            value = losses.margin(logits, state["y"])
            check_path(value)
            readers_known(value)
            reached: list[bool] = []
            adv.register_hook(lambda slope: reached.append(slope is not None))
            (gradient,) = torch.autograd.grad((value - self.tau * roughness(flow)).sum(), flow)
        if not any(reached):  # the roughness alone has a slope
            raise ClatError(NO_GRADIENT)
        return adv.detach(), value.detach(), logits.detach().argmax(1) != state["y"], gradient

    def _adam(self, state: SearchState, gradient: Tensor) -> Tensor:
        """Return the step of Adam after `t` gradients."""
        state["mean"] = torch.lerp(state["mean"], gradient, 1 - BETAS[0])
        state["square"] = torch.lerp(state["square"], gradient.square(), 1 - BETAS[1])
        seen = [1 - beta ** state["t"].to(gradient.dtype)[:, None, None, None] for beta in BETAS]
        return self.step_size * (state["mean"] / seen[0]) / ((state["square"] / seen[1]).sqrt() + 1e-8)

"""An attack of the user's own in a protocol: a function `(model, x, y, *, eps, ...) -> x_adv` as a search.

Of the keywords `eps`, `norm`, `seed` and `ids` it is given those that it has. A verdict must not depend on which
images share a batch: a function that draws by `seed` alone is called image by image; one that takes `ids` is called
on batches, and draws for each image by its number.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from clat.attacks.ball import Ball
from clat.attacks.search import SearchState
from clat.core.errors import ClatError, unknown
from clat.core.plugins import PluginKind
from clat.core.seeds import derive_seed
from clat.evaluation.in_precision import network_itself

OWN_ATTACKS = PluginKind("attack", "clat.attacks")
TOLD = ("eps", "norm", "seed", "ids")
"""What the evaluation tells a function that has such keywords."""
ROUNDING = 1e-4
"""How far outside of the ball an example may be, before it is put onto its surface."""


def find_own_attack(name: str) -> Callable[..., Tensor] | None:
    """Return the function that an attack's name means.

    Args:
        name: as a protocol has it, "module:function" or that of an installed plugin.

    Returns:
        A function `(model, x, y, *, eps, ...) -> x_adv`; None where the name is no plugin's.

    Raises:
        ClatError: it cannot be imported, or is no such function.
    """
    found: Any = OWN_ATTACKS.find(name)
    if found is None:
        return None
    if not callable(found) or isinstance(found, type):
        raise ClatError(f"attack '{name}' is a {type(found).__name__}, expected a function (model, x, y, *, eps)")
    first = [one for one in inspect.signature(found).parameters.values() if one.kind is not one.KEYWORD_ONLY]
    if len(first) < 3 and not any(one.kind is one.VAR_POSITIONAL for one in first):
        raise ClatError(f"attack '{name}' takes {len(first)} arguments by place, expected (model, x, y, *, eps)")
    return found


def source_digest(name: str) -> str | None:
    """Return sixteen hex digits that change with the code of the module that defines an attack of a user's own.

    Args:
        name: as a protocol has it.

    Returns:
        The digits, the start of a SHA-256; None where there is no file that can be read, as in a notebook.
    """
    function: Any = find_own_attack(name)
    while isinstance(function, functools.partial):
        function = function.func
    module = sys.modules.get(getattr(inspect.unwrap(function), "__module__", ""))
    file = getattr(module, "__file__", None)
    try:
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def check_own_settings(name: str, function: Callable[..., Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attack's settings as its annotations have them.

    Args:
        name: the attack, for messages.
        function: the attack itself, whose keywords, but for those of TOLD, are its settings.
        settings: keyword -> value, as the protocol has them.

    Returns:
        The same, each value of the type that is annotated.

    Raises:
        ClatError: the function has no such keyword, one that it needs is missing, or a value is of another type.
    """
    own = {
        key: one for key, one in inspect.signature(function, eval_str=True).parameters.items() if key not in TOLD
    }
    keywords = {key: one for key, one in own.items() if one.kind is one.KEYWORD_ONLY}
    checked = {}
    for key, value in settings.items():
        if key not in keywords:
            raise unknown("setting", key, keywords, where=f" of the attack '{name}'")
        hint = keywords[key].annotation
        try:
            config = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
            checked[key] = (
                value
                if hint is inspect.Parameter.empty
                else TypeAdapter(hint, config=config).validate_python(value)
            )
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"].lower()
            raise ClatError(f"{key} of the attack '{name}': {said} (got {value!r})") from None
    missing = [key for key, one in keywords.items() if one.default is one.empty and key not in checked]
    if missing:
        raise ClatError(f"the attack '{name}' needs the setting '{missing[0]}'")
    return checked


@dataclass
class OwnAttackSearch:
    """A function as a search whose single step is all of it.

    Attributes:
        model: the network, in evaluation mode.
        name: the attack, for messages.
        function: the attack itself.
        settings: its keywords, checked.
        eps: the radius, in image units.
        norm: "linf" or "l2".
        seed: of the pass.
    """

    model: nn.Module
    name: str
    function: Callable[..., Tensor]
    settings: Mapping[str, Any]
    eps: float
    norm: str
    seed: int

    def start(self, x: Tensor, y: Tensor, ids: Tensor) -> SearchState:
        """Return the images as they are.

        Args:
            x: images in [0, 1], (N, C, H, W).
            y: their labels, (N,) int64.
            ids: their numbers, (N,) int64, to which random choices belong.

        Returns:
            The state of a search, no sample of it done.
        """
        return {"x": x, "y": y, "ids": ids, "adv": x.clone(), "done": torch.zeros_like(ids, dtype=torch.bool)}

    def step(self, state: SearchState) -> None:
        """Attack every sample of the state.

        Args:
            state: what `start` returned, or some of its rows; the examples are put into it.

        Raises:
            ClatError: what comes back are no images, or images outside of the ball.
        """
        parameters = inspect.signature(self.function).parameters
        alone = "seed" in parameters and "ids" not in parameters
        rows = torch.arange(len(state["x"])).split(1 if alone else max(len(state["x"]), 1))
        found = torch.cat([self._attacked(state, part) for part in rows])
        ball = Ball(state["x"], self.eps, self.norm)
        inside = ball.project(found)
        if not torch.isfinite(found).all() or float((inside - found).abs().amax()) > ROUNDING:
            raise ClatError(
                f"attack '{self.name}' returns images outside of the ball of {self.norm} radius {self.eps:g}, or "
                "of [0, 1]: project them before it returns"
            )
        state["adv"], state["done"] = inside, torch.ones_like(state["done"])

    def _attacked(self, state: SearchState, rows: Tensor) -> Tensor:
        """Return what the function makes of some of the rows."""
        x, y, ids = (state[key][rows.to(state[key].device)] for key in ("x", "y", "ids"))
        parameters = inspect.signature(self.function).parameters
        seed = derive_seed(self.seed, int(ids[0])) if "ids" not in parameters else self.seed
        told = {"eps": self.eps, "norm": self.norm, "seed": seed, "ids": ids}
        with torch.enable_grad(), network_itself(self.model) as network:
            found = self.function(
                network, x, y, **{key: told[key] for key in TOLD if key in parameters}, **self.settings
            )
        if not isinstance(found, Tensor) or found.shape != x.shape:
            shown = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise ClatError(f"attack '{self.name}' returns {shown}, expected images of shape {tuple(x.shape)}")
        return found.detach().to(x.dtype)

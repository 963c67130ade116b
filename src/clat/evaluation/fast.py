"""The plan "fast": cr on all images, and the signs of gradient masking on some, without which cr is not trusted.

Where gradients are masked cr leaves too many images robust, by up to 22 points on published networks. `clat.check`
looks for what such networks have in common; its cost does not grow with the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clat.core.files import SavedAsJson
from clat.data import ImageSet, Loader
from clat.data.sample import sample_ids
from clat.evaluation.evaluate import Evaluation
from clat.evaluation.masking.check import check
from clat.evaluation.masking.report import CheckReport

NAME = "fast"
SIGN_IMAGES = 200
"""Images, at most, on which the signs are looked for: enough for a difference of a few points."""


@dataclass(frozen=True)
class FastEvaluation(SavedAsJson):
    """The verdicts of cr, and the signs that say if they may be believed.

    Attributes:
        evaluation: cr's result on all images.
        signs: what `clat.check` found on some of them.
    """

    evaluation: Evaluation
    signs: CheckReport

    @property
    def warning(self) -> str | None:
        """Return one line if there is any sign, for whoever reads the accuracy."""
        found = [row.name for row in self.signs.rows if row.verdict == "suspicious"]
        if not found:
            return None
        return f"signs of gradient masking ({', '.join(found)}): cr's accuracy is likely too high, run autoattack"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON.

        Returns:
            That of the evaluation, with the plan's name, the warning and the signs.
        """
        return {**self.evaluation.to_dict(), "plan": NAME, "warning": self.warning, "signs": self.signs.to_dict()}


def with_signs(
    model: nn.Module, images: ImageSet, result: Evaluation, ids: torch.Tensor, *, batch_size: int = 250
) -> FastEvaluation:
    """Return cr's result with the signs of gradient masking.

    Args:
        model: the network that was evaluated; it is left as it is.
        images: the set that it was evaluated on.
        result: what `evaluate_set` returned for the protocol cr.
        ids: the numbers of the evaluated images, (N,) int64; at most 200 of them are looked at.
        batch_size: images in a forward pass.

    Returns:
        The result and the signs.

    Raises:
        ClatError: where the network is right on none of these images.
    """
    some = images.subset(ids[sample_ids(images.labels[ids], min(SIGN_IMAGES, len(ids)))])
    x, y = next(iter(Loader(some, len(some), device="cpu").epoch()))
    signs = check(
        model, x, y, eps=result.eps, norm=result.norm, seed=result.seed, batch_size=batch_size, about=result.about
    )
    return FastEvaluation(result, signs)

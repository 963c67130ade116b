"""Signs that a network's gradients mislead attacks (gradient masking), for `clat check`."""

from clat.evaluation.masking.check import check
from clat.evaluation.masking.report import CheckReport

__all__ = ["CheckReport", "check"]

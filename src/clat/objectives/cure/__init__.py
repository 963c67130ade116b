"""CURE (Gowda et al., ICLR 2024): its objective, gradient prominence, conservation and revision."""

from clat.objectives.cure.objective import Cure

__all__ = ["Cure"]

"""AutoLoRa (Xu et al., ICLR 2024): its objective and its learning-rate schedule."""

from clat.objectives.autolora.objective import AutoLoRa

__all__ = ["AutoLoRa"]

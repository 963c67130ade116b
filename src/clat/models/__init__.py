"""The papers' networks with the parameter names of public checkpoints, normalisation, and weight files."""

from clat.models.build import build_model
from clat.models.files import load_weights, read_state, save_weights
from clat.models.huggingface import save_pretrained as save_pretrained
from clat.models.mixture import Mixture
from clat.models.normalize import Normalize, Normalized
from clat.models.registry import load_model, model_names

__all__ = [
    "Mixture",
    "Normalize",
    "Normalized",
    "build_model",
    "load_model",
    "load_weights",
    "model_names",
    "read_state",
    "save_weights",
]

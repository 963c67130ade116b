"""Generators of hostile inputs, one file a kind; `KINDS` lists them, with how many of a thousand are of each."""

from tests.robustness.inputs.images import image_folders
from tests.robustness.inputs.networks import networks
from tests.robustness.inputs.options import options
from tests.robustness.inputs.records import records
from tests.robustness.inputs.settings import protocols, recipes
from tests.robustness.inputs.weights import weight_files

KINDS = {
    "options": (options, 220),
    "recipes": (recipes, 180),
    "protocols": (protocols, 100),
    "images": (image_folders, 160),
    "weights": (weight_files, 150),
    "networks": (networks, 120),
    "records": (records, 70),
}
"""Name -> (strategy, share of a thousand)."""

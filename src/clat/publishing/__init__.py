"""What is handed on: folders for the hub with a model card, deltas, exported networks, RobustBench's entry."""

from clat.publishing.card import model_card, write_card_file
from clat.publishing.delta import apply_delta, save_delta
from clat.publishing.exported import ExportedNetwork, export_network
from clat.publishing.folder import from_pretrained, save_pretrained
from clat.publishing.hub import push
from clat.publishing.robustbench_entry import robustbench_entry

__all__ = [
    "ExportedNetwork",
    "apply_delta",
    "export_network",
    "from_pretrained",
    "model_card",
    "push",
    "robustbench_entry",
    "save_delta",
    "save_pretrained",
    "write_card_file",
]

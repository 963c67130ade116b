"""clat: Criticality-Leveraged Adversarial Training.

report = clat.measure_criticality(model, x, y, eps="8/255")     # which layers are robustness-critical
result = clat.train("cifar10-resnet18", "runs/first")           # PGD-AT, then CLAT, which fine-tunes just those
clat.evaluate(model, x, y, protocol="pgd-20", eps="8/255")      # what it brought
clat.check(model, x, y, eps="8/255")                            # whether to believe it

Names are loaded when they are first used (PEP 562), so that `import clat` costs nothing and loads no torch.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from clat.core.version import __version__ as __version__
from clat.moved import MovedModules

if TYPE_CHECKING:
    from clat import attacks as attacks
    from clat import objectives as objectives
    from clat.core.errors import ClatError as ClatError
    from clat.criticality.activation import measure_activation_ranking as measure_activation_ranking
    from clat.criticality.choice import select_layers as select_layers
    from clat.criticality.comparison import RankingComparison as RankingComparison
    from clat.criticality.comparison import compare_rankings as compare_rankings
    from clat.criticality.index import measure_criticality as measure_criticality
    from clat.criticality.ranking_report import RankingReport as RankingReport
    from clat.criticality.report import CriticalityReport as CriticalityReport
    from clat.criticality.rewinding import measure_rewinding_criticality as measure_rewinding_criticality
    from clat.criticality.rewinding import measure_rewinding_drop as measure_rewinding_drop
    from clat.criticality.robust_criticality import measure_robust_criticality as measure_robust_criticality
    from clat.criticality.selection import Selection as Selection
    from clat.criticality.selection import select as select
    from clat.data import ImageSet as ImageSet
    from clat.data import as_image_set as as_image_set
    from clat.data import load_split as load_split
    from clat.evaluation import Accuracy as Accuracy
    from clat.evaluation import Evaluation as Evaluation
    from clat.evaluation import EvaluationRecord as EvaluationRecord
    from clat.evaluation import evaluate as evaluate
    from clat.evaluation.compare import compare as compare
    from clat.evaluation.compare import compare_seeds as compare_seeds
    from clat.evaluation.curve import eps_curve as eps_curve
    from clat.evaluation.masking.check import check as check
    from clat.evaluation.masking.report import CheckReport as CheckReport
    from clat.evaluation.transfer import transfer as transfer
    from clat.hardening import harden as harden
    from clat.models import Normalized as Normalized
    from clat.models import load_model as load_model
    from clat.models import load_weights as load_weights
    from clat.models import save_weights as save_weights
    from clat.network.features import read_features as read_features
    from clat.network.layers import Layer as Layer
    from clat.network.layers import enumerate_layers as enumerate_layers
    from clat.publishing import apply_delta as apply_delta
    from clat.publishing import export_network as export_network
    from clat.publishing import from_pretrained as from_pretrained
    from clat.publishing import push as push
    from clat.publishing import robustbench_entry as robustbench_entry
    from clat.publishing import save_delta as save_delta
    from clat.publishing import save_pretrained as save_pretrained
    from clat.recipe import Recipe as Recipe
    from clat.recipe import read_recipe as read_recipe
    from clat.training.plain_loop import Clat as Clat
    from clat.training.run import Result as Result
    from clat.training.run import resume as resume
    from clat.training.run import train as train

_HOMES = {
    "Accuracy": "evaluation",
    "CheckReport": "evaluation.masking",
    "Clat": "training.plain_loop",
    "ClatError": "core.errors",
    "CriticalityReport": "criticality",
    "Evaluation": "evaluation",
    "EvaluationRecord": "evaluation",
    "ImageSet": "data",
    "Layer": "network.layers",
    "Normalized": "models",
    "RankingComparison": "criticality",
    "RankingReport": "criticality",
    "Recipe": "recipe",
    "Result": "training.run",
    "Selection": "criticality",
    "apply_delta": "publishing",
    "as_image_set": "data",
    "attacks": "",
    "check": "evaluation.masking",
    "compare": "evaluation.compare",
    "compare_rankings": "criticality",
    "compare_seeds": "evaluation.compare",
    "enumerate_layers": "network.layers",
    "eps_curve": "evaluation.curve",
    "evaluate": "evaluation",
    "export_network": "publishing",
    "from_pretrained": "publishing",
    "harden": "hardening",
    "load_model": "models",
    "load_split": "data",
    "load_weights": "models",
    "measure_activation_ranking": "criticality",
    "measure_criticality": "criticality",
    "measure_rewinding_criticality": "criticality",
    "measure_rewinding_drop": "criticality",
    "measure_robust_criticality": "criticality",
    "objectives": "",
    "push": "publishing",
    "read_features": "network.features",
    "read_recipe": "recipe",
    "resume": "training.run",
    "robustbench_entry": "publishing",
    "save_delta": "publishing",
    "save_pretrained": "publishing",
    "save_weights": "models",
    "select": "criticality",
    "select_layers": "criticality.choice",
    "train": "training.run",
    "transfer": "evaluation.transfer",
}
"""Public name -> the module below `clat` that holds it; "": a module of that name."""

__all__ = sorted(_HOMES)

sys.meta_path.insert(0, MovedModules())


def __getattr__(name: str) -> Any:
    """Load a public name, or a folder such as `clat.training`, when it is first asked for."""
    if name in _HOMES:
        home = _HOMES[name]
        value = (
            getattr(importlib.import_module(f"clat.{home}"), name)
            if home
            else importlib.import_module(f"clat.{name}")
        )
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"clat.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"clat.{name}":
                raise
    raise AttributeError(f"module 'clat' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *_HOMES})

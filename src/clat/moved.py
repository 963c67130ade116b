"""Give the module at its new place for an old path: `import clat.config` is `clat.recipe.schema`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "companion": "runtime.callback",
    "compiled": "network.compiled",
    "config": "recipe.schema",
    "criticality_report": "criticality.report",
    "data.checks": "core.checks",
    "environment": "core.environment",
    "errors": "core.errors",
    "evaluation.check": "evaluation.masking.check",
    "evaluation.check_report": "evaluation.masking.report",
    "evaluation.check_signs": "evaluation.masking.signs",
    "evaluation.check_subject": "evaluation.masking.attacked_network",
    "evaluation.cost": "network.cost",
    "evaluation.identity": "network.fingerprint",
    "evaluation.passes": "evaluation.planned_search",
    "evaluation.progress": "evaluation.state",
    "features": "network.features",
    "files": "core.files",
    "folding": "network.folding",
    "frozen_norm": "network.frozen_norm",
    "layers": "network.layers",
    "modes": "network.modes",
    "objectives.autolora_rate": "objectives.autolora.rate",
    "precision": "network.precision",
    "rankings": "criticality",
    "rankings.activation": "criticality.activation",
    "rankings.comparison": "criticality.comparison",
    "rankings.measure": "criticality.rankings",
    "rankings.probing": "criticality.probing",
    "rankings.report": "criticality.ranking_report",
    "rankings.rewinding": "criticality.rewinding",
    "rankings.robust_criticality": "criticality.robust_criticality",
    "report.formatting": "core.formatting",
    "report.study": "studies.page",
    "report.study_plots": "studies.plots",
    "seeds": "core.seeds",
    "selection": "criticality.selection",
    "studies.alone": "studies.tables.alone",
    "studies.baselines": "studies.tables.baselines",
    "studies.claim": "studies.tables.claim",
    "studies.competitors": "studies.tables.competitors",
    "studies.cosine": "studies.tables.cosine",
    "studies.groups": "studies.tables.groups",
    "studies.precision": "studies.tables.precision",
    "studies.scales": "studies.tables.scales",
    "training.engine": "runtime.engine",
    "training.schedules": "recipe.schedules",
    "units": "core.units",
    "weights": "treatments",
    "weights.awp": "treatments.awp",
    "weights.base": "treatments.base",
    "weights.conservation": "objectives.cure.conservation",
    "weights.ema": "treatments.ema",
    "weights.exchange": "network.exchange",
    "weights.interpolation": "treatments.interpolation",
    "weights.lora": "treatments.lora",
    "weights.low_rank": "network.low_rank",
    "weights.prominence": "objectives.cure.prominence",
    "weights.reinitialise": "treatments.reinitialise",
    "weights.revision": "objectives.cure.revision",
    "weights.statistics": "treatments.statistics",
    "weights.swa": "treatments.swa",
}
"""Old name -> new name, both below `clat`."""


class MovedModules(MetaPathFinder, Loader):
    """The finder of modules at their old names.

    It comes first on `sys.meta_path`: below a package that has moved, the ordinary finder would load a second copy.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for an old name below `clat`, None for any other.

        Args:
            fullname: the module's dotted name, such as "clat.config".
            path: ignored; the search path of the package above.
            target: ignored; the module that is loaded anew.

        Returns:
            A spec with this object as its loader, or None.
        """
        old = fullname.removeprefix("clat.")  # unchanged: a module of somebody else's, which may be named alike
        return ModuleSpec(fullname, self) if old in MOVED and old != fullname else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the very module that stands at the new place.

        Args:
            spec: a spec that `find_spec` returned.

        Returns:
            The module, which is imported if it was not yet.
        """
        return importlib.import_module(f"clat.{MOVED[spec.name.removeprefix('clat.')]}")

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module at the new place has run already.

        Args:
            module: the module at the new place.
        """

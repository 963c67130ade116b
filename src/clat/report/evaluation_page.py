"""One evaluation as one HTML file that opens anywhere: its pictures, and its result class by class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clat.core.files import write_text
from clat.core.formatting import SPACE, count, duration, interval, percent
from clat.evaluation.gallery import Gallery, kinds_of
from clat.evaluation.result import EvaluationRecord
from clat.report.classes import class_section
from clat.report.page import environment, style_sheet


def write_evaluation_page(result: EvaluationRecord, gallery: Gallery, out: Path) -> Path:
    """Write the page of an evaluation, and return its path.

    Args:
        result: of `clat.evaluate`, as its file tells it.
        gallery: pictures of it.
        out: the file; an existing one is replaced.

    Returns:
        The path, `out`.
    """
    write_text(out, render_evaluation(result, gallery))
    return out


def render_evaluation(result: EvaluationRecord, gallery: Gallery) -> str:
    """Return the page as text. Arguments as for `write_evaluation_page`.

    Args:
        result: of `clat.evaluate`, as its file tells it.
        gallery: pictures of it.

    Returns:
        The page.
    """
    data = " / ".join(part for name in ("name", "split") if (part := result.text("data", name)))
    facts = {
        "Data": data,
        "Images": count(result.setting["n"]),
        "Protocol": result.protocol,
        "Norm": result.text("protocol", "norm") if result.bounded_by_eps else None,
        "eps": result.eps,
    }
    return (
        environment()
        .get_template("evaluation.html")
        .render(
            title=result.text("model") or "An image classifier",
            style=style_sheet("style", "pictures"),
            outcome=accuracy_sentence(result),
            facts=[(name, value) for name, value in facts.items() if value],
            notes=result.notes,
            found=gallery,
            kinds=kinds_of(gallery),
            per_attack=result.per_attack,
            by_class=class_section([("the network", result)]),
            made=_made(result),
        )
    )


def accuracy_sentence(result: EvaluationRecord) -> str:
    """Return what an evaluation found, in one sentence.

    Args:
        result: as its file tells it.

    Returns:
        The sentence, with both intervals.
    """
    robust, clean = result.robust_accuracy, result.clean_accuracy
    if robust is None or clean is None:
        return "This result holds no accuracies."
    radius = f" at {result.ball}" if result.ball else ""
    return (
        f"Under {result.protocol}{radius} the network stays right on "
        f"{percent(robust.value)} of {count(robust.n)} images (95{SPACE}% interval "
        f"{interval(robust.low, robust.high)}); as they are it is right on {percent(clean.value)} "
        f"({interval(clean.low, clean.high)})."
    )


def _made(result: EvaluationRecord) -> list[tuple[str, str]]:
    cost: Any = result.data.get("cost") or {}
    known = {
        "weights": result.text("weights"),
        "protocol hash": result.protocol_hash,
        "seed": result.text("seed"),
        "precision of the search": result.text("precision"),
        "digest of the images": result.images,
        "forwards, backwards": f"{count(cost.get('forwards'))}, {count(cost.get('backwards'))}",
        "time": duration(cost.get("seconds")),
        **{name: str(value) for name, value in (result.data.get("environment") or {}).items()},
    }
    return [(name, value) for name, value in known.items() if value]

"""A model card in the Hugging Face format. Every number in it comes from a result of `clat evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError
from clat.core.files import write_text
from clat.core.formatting import counted
from clat.core.version import __version__
from clat.evaluation.result import EvaluationRecord, RecordedAccuracy

CARD = "README.md"


def model_card(
    title: str,
    *,
    network: Mapping[str, Any] | None = None,
    class_names: Sequence[str] = (),
    results: Iterable[EvaluationRecord] = (),
    parameters: int | None = None,
) -> str:
    """Return a model card's text.

    Args:
        title: the network, in words.
        network: what `clat.load_model` calls it, with its settings.
        class_names: in the order of the network's outputs.
        results: of this very network.
        parameters: how many numbers it holds.

    Returns:
        Markdown below a YAML header, as the hub reads it.
    """
    listed = list(results)
    header: dict[str, Any] = {
        "library_name": "clat",
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "image-classification", "pytorch", "clat"],
    }
    metrics = [entry for record in listed for entry in _index_entries(record)]
    if metrics:
        header["model-index"] = [{"name": title, "results": metrics}]
    # YAML holds JSON; a value of one line each keeps what a user wrote from being read as YAML.
    front = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in header.items()]
    lines = ["---", *front, "---", "", f"# {' '.join(title.split())}", ""]
    about = [] if parameters is None else [f"{parameters:,} parameters"]
    about += [f"{len(class_names)} classes: {_shown(class_names)}"] if class_names else []
    lines += [f"An image classifier: {'; '.join(about)}." if about else "An image classifier.", ""]
    lines += ["Images go in as (N, C, H, W) with values from 0 to 1; normalisation is inside. Logits come out.", ""]
    lines += ["```python", "import clat", "", 'model = clat.from_pretrained("PATH OR OWNER/NAME")', "```", ""]
    if network:
        lines += ["| network | |", "| --- | --- |"]
        lines += [f"| {key} | {_cell(value)} |" for key, value in network.items()]
        lines.append("")
    lines += ["## Measured", "", *_results(listed), ""]
    lines += [
        "## Limits",
        "",
        "- Robust accuracy holds for the perturbations, the images and the attacks of the table, and is an upper "
        "bound wherever the protocol is shorter than AutoAttack.",
        f"- Written by clat {__version__} from results as they were measured.",
        "",
    ]
    return "\n".join(lines)


def write_card_file(folder: str | Path, text: str, *, overwrite: bool = False) -> Path:
    """Write a model card into a folder, as README.md.

    Args:
        folder: one that exists.
        text: of `model_card`, or any other.
        overwrite: replace a card that is there.

    Returns:
        The card's path.

    Raises:
        ClatError: there is a card, which somebody may have written by hand; or the folder cannot be written.
    """
    path = Path(folder) / CARD
    if path.exists() and not overwrite:
        raise ClatError(
            f"{path} exists already, and a card is never overwritten unasked: give overwrite=True "
            "(--replace-card), or move it away"
        )
    write_text(path, text)
    return path


def _results(records: Sequence[EvaluationRecord]) -> list[str]:
    if not records:
        return ["Nothing yet: no result was given when this card was written."]
    lines = ["| images | protocol | eps | clean accuracy | robust accuracy |", "| --- | --- | --- | --- | --- |"]
    notes = []
    for record in records:
        clean, robust = record.clean_accuracy, record.robust_accuracy
        n = clean.n if clean is not None else None
        where = "/".join(filter(None, (record.text("data", "name"), record.text("data", "split")))) or "not named"
        images = where + (f", {counted(f'{n:,}', 'image')}" if n else "")
        norm = record.text("protocol", "norm") or ""
        radius = f"{norm} {record.eps or '?'}".strip() if record.bounded_by_eps else "-"
        cells = (images, record.protocol, radius, clean or "-", robust or "-")
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
        notes += [f"- {note}" for note in record.notes]
    return [*lines, "", "In brackets: 95 % intervals.", *(["", *dict.fromkeys(notes)] if notes else [])]


def _index_entries(record: EvaluationRecord) -> list[dict[str, Any]]:
    """Return the hub's machine-readable form of a result."""
    name = record.text("data", "name") or "unknown"
    radius = f", {record.text('protocol', 'norm') or ''} {record.eps or ''}" if record.bounded_by_eps else ""
    kinds: list[tuple[str, RecordedAccuracy | None]] = [
        ("Clean accuracy", record.clean_accuracy),
        (f"Robust accuracy ({record.protocol}{radius})", record.robust_accuracy),
    ]
    split = record.text("data", "split")
    return [
        {
            "task": {"type": "image-classification"},
            "dataset": {"name": name, "type": name, **({"split": split} if split else {})},
            "metrics": [{"type": "accuracy", "name": kind, "value": round(accuracy.value, 6)}],
        }
        for kind, accuracy in kinds
        if accuracy is not None
    ]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _shown(names: Sequence[str], most: int = 20) -> str:
    return ", ".join([*names[:most], *(["..."] if len(names) > most else [])])

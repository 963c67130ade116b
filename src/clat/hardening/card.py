"""The model card of a hardened network, in the Hugging Face format; every sentence is made from the run's own
numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clat.core.files import write_text
from clat.core.formatting import counted, percent, points
from clat.evaluation.compare import Comparison
from clat.evaluation.protocols import Protocol, ball_text, unbounded_attacks
from clat.evaluation.statistics import PairedDifference
from clat.hardening.plan import Plan
from clat.hardening.settings import HardenConfig
from clat.hardening.testing import FinalTest


def write_card(
    out: Path,
    comparison: Comparison,
    plan: Plan,
    config: HardenConfig,
    masking: str,
    test: FinalTest,
    promise: dict[str, Any] | None,
    environment: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> None:
    """Write README.md into the folder of a hardening.

    Args:
        out: the folder.
        comparison: before and after on test images.
        plan: what was trained.
        config: what was asked for.
        masking: what was found of gradient masking, in a sentence.
        test: the images of the comparison, and the protocol.
        promise: the choice between start and end, if clean accuracy was promised.
        environment: versions and machine of the measurement, as results have them.
        notes: what qualifies the numbers.
    """
    write_text(out / "README.md", card(comparison, plan, config, masking, test, promise, environment, notes))


def card(
    comparison: Comparison,
    plan: Plan,
    config: HardenConfig,
    masking: str,
    test: FinalTest,
    promise: dict[str, Any] | None,
    environment: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> str:
    """Return the model card's text.

    Args:
        comparison: before and after on test images.
        plan: what was trained.
        config: what was asked for.
        masking: what was found of gradient masking, in a sentence.
        test: the images of the comparison, and the protocol.
        promise: the choice between start and end, if clean accuracy was promised.
        environment: versions and machine of the measurement, as results have them.
        notes: what qualifies the numbers.

    Returns:
        Markdown with the front matter of a Hugging Face model card.
    """
    robust, clean = comparison.differences["robust"], comparison.differences["clean"]
    images = test.images
    setting = ball_text(test.protocol.data(), config.norm, config.threat.text)
    ball = f", {setting}" if setting else ""
    epochs = counted(plan.epochs, "epoch")
    count = counted(f"{len(test.ids):,}", "image")
    rows = "\n".join(
        f"| {kind} | {percent(one.value)} | {percent(two.value)} | {points(comparison.differences[kind].value)} |"
        for kind, (one, two) in comparison.accuracies.items()
    )
    reasons = "\n".join(f"- {reason}" for reason in plan.reasons)
    lines = [
        "---",
        "library_name: clat",
        "pipeline_tag: image-classification",
        "tags: [adversarial-training, robustness, pytorch]",
        "---",
        "",
        "# A hardened image classifier",
        "",
        paired_sentence(robust, clean, config, test.protocol),
        "",
        "| accuracy | before | after | difference |",
        "| --- | --- | --- | --- |",
        rows,
        "",
        f"Measured on {count} of `{images.name}/{images.split}` under `{test.protocol.title}`{ball}, seed "
        f"{config.seed}, on {environment['device']}; pairs of "
        "verdicts on the same images, p by McNemar's exact test. Files: `result.json`, `evaluations/`.",
        *(f"- {note}" for note in notes),
        "",
        masking,
        "",
        "## How it was made",
        "",
        f"`clat harden`, {epochs} of {plan.objective}. What was decided and why:",
        "",
        reasons,
        "",
        *_promised(promise),
        "## Limits",
        "",
        f"- Robustness is measured against {threat_in_words(test.protocol, config)} alone. `{test.protocol.title}` "
        "gives an upper bound on it"
        + ("." if test.protocol.name == "autoattack" else "; AutoAttack: `clat evaluate --protocol autoattack`."),
        "- Images must lie in [0, 1]; normalisation is inside the network.",
        f"- Repeat: `clat train recipe.toml` with the same start and images (clat {environment['clat']}, torch "
        f"{environment['torch']}).",
        "",
    ]
    return "\n".join(lines)


def threat_in_words(protocol: Protocol, config: HardenConfig) -> str:
    """Return what a network was attacked with: not everything is bounded by eps.

    Args:
        protocol: its attacks.
        config: the ball.

    Returns:
        Such as "perturbations of linf size 8/255".
    """
    ball = [f"perturbations of {config.norm} size {config.threat.text}"] if protocol.bounded_by_eps else []
    return " and ".join([*ball, *dict.fromkeys(unbounded_attacks(protocol.data()))])


def paired_sentence(
    robust: PairedDifference, clean: PairedDifference, config: HardenConfig, protocol: Protocol
) -> str:
    """Return the result in one sentence, as the paired test on the same images settles it.

    Args:
        robust: the difference in robust accuracy, after minus before.
        clean: the difference in clean accuracy.
        config: names the threat model.
        protocol: its attacks.

    Returns:
        Both differences with intervals and p; one with p of 0.05 or more is said not to be told from no change.
    """

    def said(name: str, difference: PairedDifference) -> str:
        low, high = difference.interval
        spread = f"95 % interval {points(low)} to {points(high)}, p = {difference.p_value:.2g}"
        settled = "" if difference.p_value < 0.05 else ", which is not told from no change"
        return f"{name} accuracy changed by {points(difference.value)} ({spread}){settled}"

    return f"Under {threat_in_words(protocol, config)}, {said('robust', robust)}; {said('clean', clean)}."


def _promised(promise: dict[str, Any] | None) -> list[str]:
    if promise is None:
        return []
    wanted = f"{promise['max_clean_drop']:g} points of clean accuracy at most were to be lost"
    sure = f"with a confidence of {promise['confidence']:.0%} on {promise['heldout_n']} held-out images"
    if not promise["kept"]:
        return [
            f"{wanted}; no point of the line between start and end holds that {sure}. **The promise is not kept**: "
            "this is the network at the end of the training.",
            "",
        ]
    return [
        f"{wanted}: of the points on the line between start (0) and end (1), the one at {promise['alpha']:g} "
        f"holds that {sure}, with the most robust accuracy.",
        "",
    ]

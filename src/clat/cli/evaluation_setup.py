"""First and last part of every evaluation on the command line: check, start processes, say what was found."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clat.cli.console import console, say
from clat.cli.inputs import about_model, build_model, data_in_words, pick_device, read_images, without_weights
from clat.cli.outputs import Outputs
from clat.core.errors import ClatError
from clat.core.files import claim_output
from clat.core.notices import recorded
from clat.core.units import parse_size
from clat.data import ImageSet
from clat.evaluation import Accuracy, Evaluation, EvaluationRecord, Protocol
from clat.evaluation.live import evaluation_progress
from clat.evaluation.protocols import setting_text
from clat.evaluation.subset import check_count, check_ids, read_ids
from clat.models import robustbench
from clat.network.cost import Cost
from clat.runtime.engine import Engine, EngineConfig
from clat.runtime.peers import ending_together

T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """Everything an evaluation needs, checked.

    Attributes:
        model: the network, on this process's device.
        images: the split.
        ids: numbers of the images to evaluate, ascending.
        engine: device and processes, launched.
        settings: keyword arguments of `evaluate_set`.
        outputs: where the result goes.
        said: notes on the network, to be kept in the result.
    """

    model: nn.Module
    images: ImageSet
    ids: Tensor
    engine: Engine
    settings: dict[str, Any]
    outputs: Outputs
    said: tuple[str, ...]
    gallery: tuple[Path, int] | None = None
    """The page with pictures, and how many."""

    def run(self, measure: Callable[[dict[str, Any]], T]) -> T | None:
        """Measure, with the bar of progress on screen.

        Args:
            measure: takes the settings, `report` among them, and returns a result.

        Returns:
            The result; None in all processes but the first, which speaks for all.

        Raises:
            ClatError: If `measure` raises it; in the first process only.
        """
        try:
            together = ending_together(self.engine.rank, self.engine.world, "the same command")
            with together, evaluation_progress(console()) as report:
                found = measure({**self.settings, "report": report if self.engine.rank == 0 else None})
        except ClatError:
            if self.engine.rank == 0:
                raise
            return None
        return found if self.engine.rank == 0 else None

    def write(self, found: Any) -> None:
        """Write the result where `--out` says, with what was said of the network.

        Args:
            found: what `run` returned in the first process.
        """
        data = found.to_dict()
        self.outputs.write({**data, "notes": [*self.said, *data["notes"]]})

    def draw_gallery(self, result: Evaluation, data: dict[str, Any]) -> None:
        """Draw the page with pictures, where there is to be one.

        Args:
            result: what was measured.
            data: what its file holds.
        """
        if self.gallery is None:
            return
        from clat.evaluation.gallery import make_gallery
        from clat.report.evaluation_page import write_evaluation_page

        page, count = self.gallery
        batch = self.settings["batch_size"]
        found = make_gallery({"network": self.model}, [result], self.images, count, ids=self.ids, batch_size=batch)
        notes = [*self.said, *result.notes]
        say(f"wrote {write_evaluation_page(EvaluationRecord.from_dict({**data, 'notes': notes}), found, page)}")


def prepare_evaluation(options: Namespace, protocol: Protocol) -> Prepared:
    """Check everything that can be wrong before other processes are started, and start them.

    Args:
        options: those of `clat evaluate`.
        protocol: says how many images are customary.

    Returns:
        What the evaluation needs.

    Raises:
        ClatError: If an option is out of range, or the network and the images do not go together.
    """
    outputs = Outputs(options.out)
    gallery = _gallery(options)
    parse_size(options.eps, norm=options.norm)
    device = pick_device(options.device)
    if options.devices < 1:
        raise ClatError(f"--devices is {options.devices}: expected at least 1")
    if device.type == "cuda" and options.devices > torch.cuda.device_count():
        raise ClatError(f"--devices is {options.devices}, but there are {torch.cuda.device_count()} GPUs")
    images = read_images(options)
    images, ids = _chosen(options, images, protocol)
    with recorded() as said:
        model = build_model(options, images, torch.device("cpu"))  # until each process has its device
    engine = Engine(EngineConfig(device=device.type, devices=options.devices))
    engine.launch()
    model = model.to(engine.device)
    engine.share(model)
    settings = {name: getattr(options, name) for name in ("eps", "norm", "batch_size", "seed", "precision")}
    settings["about"] = about_model(options)
    return Prepared(model, images, ids, engine, settings, outputs, tuple(said), gallery)


def _gallery(options: Namespace) -> tuple[Path, int] | None:
    """Return where the page with pictures goes, and how many; None where nobody asked for any."""
    if options.gallery is None:
        return None
    if options.gallery < 1:
        raise ClatError(f"--gallery is {options.gallery}: expected at least 1 picture")
    beside = options.out not in (None, "-")
    if beside and Path(options.out).suffix.lower() == ".html":
        raise ClatError(f"--out {options.out}: the result is JSON and the page of --gallery is named after it")
    return claim_output(Path(options.out).with_suffix(".html") if beside else "gallery.html"), options.gallery


def say_result(result: Evaluation, options: Namespace, images: ImageSet) -> None:
    """Print an evaluation: its notes, the accuracy after each attack, clean and robust accuracy, and the cost.

    Args:
        result: the evaluation.
        options: those of `clat evaluate`.
        images: the split it was measured on.
    """
    for note in result.notes:
        say(f"note: {note}")
    for name, accuracy in result.per_attack.items():
        say(f"after {name:10} {accuracy}")
    say_clean(result.clean_accuracy, options, images)
    setting = setting_text(result.protocol.data(), result.norm, result.eps)
    say(f"robust accuracy  {result.robust_accuracy}   {setting}")
    say(f"cost  {cost_text(result.cost)}; protocol hash {result.protocol.hash}")


def say_clean(clean: Accuracy, options: Namespace, images: ImageSet) -> None:
    """Print the data, the clean accuracy and, for a network of RobustBench, what is listed there.

    Args:
        clean: the accuracy.
        options: those of `clat evaluate`.
        images: the split it was measured on.
    """
    say(data_in_words(images, clean.n))
    say(f"clean accuracy   {clean}")
    if is_guessing(clean, images.num_classes) and without_weights(options) is None:
        say(
            f"caution: that is no more than guessing among {images.num_classes} classes gives: are these the "
            "network's weights, its normalisation (--normalize) and its order of classes (--classes)?",
            style="yellow",
        )
    if options.model.startswith(robustbench.PREFIX):
        listed = robustbench.entry(options.model, images.num_classes)
        say(f"RobustBench lists {listed.clean} % clean and {listed.robust} % under AutoAttack")


def is_guessing(clean: Accuracy, classes: int) -> bool:
    """Return whether a network is right about as often as by guessing, on enough images to tell.

    Args:
        clean: its accuracy.
        classes: their number, at least 1.

    Returns:
        True where the interval holds chance, or lies below it, and nothing far above it.
    """
    chance = 1 / classes
    low, high = clean.interval
    return classes > 1 and low <= chance and high <= min(2 * chance, chance + 0.15)


def cost_text(cost: Cost) -> str:
    """Return passes and seconds in one line.

    Args:
        cost: samples forward and backward, and seconds.

    Returns:
        The line, without a full stop.
    """
    return f"{cost.forwards:,} forwards, {cost.backwards:,} backwards, {cost.seconds:.1f} s"


def _chosen(options: Namespace, images: ImageSet, protocol: Protocol) -> tuple[ImageSet, Tensor]:
    """Return the set and which of its images: --ids, else a sample of --num-samples or of the usual number."""
    if options.ids is not None:
        if options.num_samples is not None:
            raise ClatError("--ids and --num-samples both choose images: give one of them")
        return images, check_ids(read_ids(options.ids), len(images), f"'{images.name}/{images.split}'")
    check_count(options.num_samples, images)
    return images.sampled(options.num_samples or protocol.num_samples)

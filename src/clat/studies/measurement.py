"""One network of a run under one protocol: the piece of work of which judgements, finals and the papers' tables are
made, in this process or as a job beside others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from clat.core.errors import ClatError
from clat.core.parsing import parse_json
from clat.core.seeds import derive_seed
from clat.data import ImageSet, hold_out
from clat.evaluation import EvaluationRecord, evaluate_set, find_protocol
from clat.evaluation.job import Report
from clat.models import load_weights
from clat.recipe.schema import Recipe
from clat.recipe.toml import read_recipe
from clat.runtime.jobs.job import Job
from clat.studies.cost import evaluation_cost
from clat.training.final import discard_state
from clat.training.prepare import build_network, read_split

DIGEST = "weights_sha256"
"""What a result calls the SHA-256 of the weight file that it is of."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured, and where the result goes: plain text and numbers, so that another machine can do it.

    Attributes:
        run: the folder of a finished run.
        file: the result's, JSON; until it is there, how far it is lies beside it.
        protocol: a protocol's name.
        eps: radius, as text.
        norm: of the radius.
        weights: name of the weights, such as "last".
        split: "test", or "heldout" for those of the training images that the run has not seen.
        num_samples: images, a sample of the split; None: all.
        precision: of the searches.
        channels_last: memory layout while it goes on.
        about: what the JSON says besides.
    """

    run: str
    file: str
    protocol: str
    eps: str
    norm: str
    weights: str
    split: str = "test"
    num_samples: int | None = None
    precision: str = "float32"
    channels_last: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)

    def words(self) -> list[str]:
        """Return the words after `clat` that measure it in a process of its own."""
        return ["study", "--measure", json.dumps(asdict(self))]

    @property
    def weights_file(self) -> Path:
        """Return the file of the weights that are measured."""
        return Path(self.run) / "weights" / f"{self.weights}.safetensors"

    def result(self) -> EvaluationRecord:
        """Return the result, which is there.

        Returns:
            What the file holds.

        Raises:
            ClatError: If it cannot be read, or is of other weights or another threat model than the run has now (a
                run that was trained anew keeps its name), or of other attacks than the protocol has now.
        """
        found = EvaluationRecord.from_json(self.file)
        held, now = found.text(DIGEST), file_digest(self.weights_file)
        asked = find_protocol(self.protocol)
        code = asked.attack_sources()
        changed = [
            f"{name} {before}"
            for name, before, after in (
                ("weights of SHA-256", held and held[:12], now and now[:12]),
                ("eps", found.eps, self.eps),
                ("norm", found.text("protocol", "norm"), self.norm),
                (f"protocol {asked.name} of hash", found.protocol_hash, asked.hash),
                *(
                    (f"code of {name} of digest", then, code.get(name))
                    for name, then in found.attack_sources.items()
                ),
            )
            if before is not None and after is not None and before != after
        ]
        if changed:
            raise ClatError(
                f"{self.file} was measured with {', '.join(changed)}, which is not what is asked of {self.run} "
                "now: move the file away, to measure again"
            )
        return found

    def measure(self, images: ImageSet | None = None, report: Report | None = None) -> None:
        """Measure it, going on where an interrupted call was, and write the result, unless that is there.

        Args:
            images: all images of the split, where they have been read; None: they are read.
            report: told of the progress.

        Raises:
            ClatError: If the network or the images cannot be read, or the network cannot be attacked.
        """
        file = Path(self.file)
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        recipe = read_recipe(Path(self.run) / "recipe.toml")
        images = split_images(recipe, self.split) if images is None else images
        images, ids = images.sampled(self.num_samples)
        model = build_network(recipe, images.num_classes, images.shape[0])
        load_weights(model, self.weights_file)
        result = evaluate_set(
            model.eval().to(computing_device()),
            images,
            ids=ids,
            protocol=self.protocol,
            eps=self.eps,
            norm=self.norm,
            batch_size=recipe.evaluation.batch_size,
            seed=derive_seed(recipe.seed, "evaluation"),
            precision=self.precision,
            channels_last=self.channels_last,
            state=file.with_suffix(".state"),
            report=report,
            about={"model": recipe.model.name, DIGEST: file_digest(self.weights_file), **self.about},
        )
        result.to_json(file)
        discard_state(file)


def file_digest(file: Path) -> str | None:
    """Return the SHA-256 of a file.

    Args:
        file: such as a run's weights.

    Returns:
        Hex digits; None where there is no file, as in a copy of results without their networks.
    """
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def measurement_from(text: str) -> Measurement:
    """Return the measurement that `Measurement.words` wrote down.

    Args:
        text: JSON.

    Returns:
        The measurement.

    Raises:
        ClatError: If it is something else.
    """
    try:
        return Measurement(**parse_json(text))
    except (TypeError, ValueError):
        raise ClatError(f"--measure takes what clat study --jobs writes there, not {text[:60]!r}") from None


def split_images(recipe: Recipe, split: str) -> ImageSet:
    """Return the images that a run's networks are measured on.

    Args:
        recipe: the run's.
        split: "test" or "heldout".

    Returns:
        All images of the split.

    Raises:
        ClatError: If they cannot be read, or the recipe holds none out.
    """
    config = recipe.data
    if split == "test":
        return read_split(config, "test")
    if config.decide_on == "test-split":
        raise ClatError(f"the recipe '{recipe.name}' decides on the test split: it holds no training images out")
    return hold_out(read_split(config, "train"), config.heldout, config.split_seed, config.train_size)[1]


def measurement_job(what: Measurement, recipe: Recipe, *, log: Path, after: Sequence[str] = ()) -> Job:
    """Return a measurement as a job, called after the network and the protocol.

    Args:
        what: the measurement, its paths absolute.
        recipe: the run's, which need not have begun.
        log: the file of its output.
        after: names of the jobs that train the network; where one fails, it is not measured.

    Returns:
        The job.
    """
    return Job(
        name=f"{Path(what.run).name}: {Path(what.file).stem}",
        words=what.words,
        log=log,
        after=tuple(after),
        strict=True,
        cost=evaluation_cost(recipe, what.protocol, what.num_samples),
        device="auto",
    )


def computing_device() -> torch.device:
    """Return where networks are measured: CUDA where there is one.

    Returns:
        The device.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure_here(text: str, console: Console) -> None:
    """Do a measurement in this process, which was started for it.

    Args:
        text: what `Measurement.words` wrote.
        console: where progress is shown, a line every half minute in a log.

    Raises:
        ClatError: As `Measurement.measure`; also for text that is no measurement.
    """
    from clat.evaluation.live import evaluation_progress

    what = measurement_from(text)
    with evaluation_progress(console) as report:
        what.measure(report=report)
    console.print(f"wrote {what.file}", soft_wrap=True)

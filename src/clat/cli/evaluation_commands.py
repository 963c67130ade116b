"""The commands around an evaluation: its sanity, transfer between networks, comparison, and the curve over eps."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor, nn

from clat.cli.running import build_model, console, pick_device
from clat.core.errors import ClatError, unknown
from clat.core.files import claim_output
from clat.core.units import parse_size
from clat.data import ImageSet, Loader, load_split
from clat.evaluation import Evaluation, evaluate_set, find_protocol
from clat.evaluation.compare import Comparison, SeedComparison, compare_seeds
from clat.evaluation.compare import compare as compare_two
from clat.evaluation.curve import trace_curve
from clat.evaluation.live import evaluation_progress
from clat.evaluation.masking.check import check as check_model
from clat.evaluation.transfer import transfer as transfer_between

NETWORK = ("weights", "width", "normalize")
"""What may be said of a network of `clat transfer`, as key=value."""


def check(options: Namespace) -> int:
    """`clat check`: signs of gradient masking; 0, or with --strict 1 if there is one."""
    outputs = _claim(options.out)
    parse_size(options.eps, norm=options.norm)
    device = pick_device(options.device)
    images = _images(options)
    model = build_model(options, images, device)
    report = check_model(
        model,
        *_tensors(images),
        eps=options.eps,
        norm=options.norm,
        seed=options.seed,
        batch_size=options.batch_size,
        about={"model": options.model, "weights": options.weights, **_data(images)},
    )
    console.print(report.table())
    if options.out is not None:
        report.to_json(options.out)
    _say_written(outputs)
    return 1 if options.strict and report.suspicious else 0


def transfer(options: Namespace) -> int:
    """`clat transfer`: the matrix on screen, as JSON, and as a plot on request."""
    outputs = _claim(options.out, options.plot)
    protocol = find_protocol(options.attack)
    parse_size(options.eps, norm=options.norm)
    described = _described(options.network)
    device = pick_device(options.device)
    images = _images(options)
    networks: dict[str, nn.Module] = {name: build_model(one, images, device) for name, one in described.items()}
    matrix = transfer_between(
        networks,
        *_tensors(images),
        eps=options.eps,
        protocol=protocol,
        norm=options.norm,
        batch_size=options.batch_size,
        seed=options.seed,
        report=lambda name: console.print(f"attacking {name}"),
        about={"models": {name: vars(one) for name, one in described.items()}, **_data(images)},
    )
    for note in matrix.notes:
        console.print(f"note: {note}")
    console.print(matrix.table())
    if options.out is not None:
        matrix.to_json(options.out)
    if options.plot is not None:
        from clat.report.plots import save_figure
        from clat.report.robustness import transfer_map

        save_figure(transfer_map(matrix.to_dict()), options.plot)
    _say_written(outputs)
    return 0


def compare(options: Namespace) -> int:
    """`clat compare`: two results sample by sample, or seeds against seeds."""
    outputs = _claim(options.out)
    result: Comparison | SeedComparison
    if options.seeds:
        if options.results:
            raise ClatError("give either two results, A.json B.json, or --seeds A1.json A2.json ...")
        result = compare_seeds(options.seeds, options.against)
    elif options.against:
        raise ClatError("--against goes with --seeds: clat compare --seeds A1.json ... --against B1.json ...")
    elif len(options.results) != 2:
        raise ClatError("give two results, A.json B.json; several of one network's seeds go with --seeds")
    else:
        result = compare_two(*options.results)
    for note in result.notes:
        console.print(f"note: {note}")
    console.print(result.table())
    if options.out is not None:
        result.to_json(options.out)
    _say_written(outputs)
    return 0


def curve(options: Namespace) -> int:
    """`clat curve`: accuracy against eps on screen, as JSON, and as a plot on request."""
    outputs = _claim(options.out, options.plot)
    protocol = find_protocol(options.protocol)
    sizes = [parse_size(size.strip(), norm=options.norm) for size in options.eps.split(",")]
    device = pick_device(options.device)
    images = _images(options)
    model = build_model(options, images, device)

    def measure(eps: Fraction) -> Evaluation:
        with evaluation_progress(console) as report:
            return evaluate_set(
                model,
                images,
                protocol=protocol,
                eps=eps,
                norm=options.norm,
                batch_size=options.batch_size,
                seed=options.seed,
                report=report,
                about={"model": options.model, "weights": options.weights},
            )

    result = trace_curve(measure, sizes, options.norm)
    for note in dict.fromkeys(note for one in result.results for note in one.notes):
        console.print(f"note: {note}")
    for size, accuracy in result.points:
        console.print(f"{options.norm} eps {size:8} {accuracy}{'' if Fraction(size) else '   clean'}")
    if options.out is not None:
        result.to_json(options.out)
    if options.plot is not None:
        from clat.report.plots import save_figure
        from clat.report.robustness import eps_plot

        save_figure(eps_plot(result.to_dict()), options.plot)
    _say_written(outputs)
    return 0


def _described(networks: Iterable[list[str]]) -> dict[str, Namespace]:
    """From the words after each --network, NAME MODEL key=value ..., what `build_model` takes."""
    described: dict[str, Namespace] = {}
    for words in networks:
        if len(words) < 2:
            raise ClatError(f"--network {' '.join(words)}: give a name and a model, then weights=FILE and the like")
        name, model, *settings = words
        if name in described:
            raise ClatError(f"--network {name} is there twice: names tell the networks apart")
        one = Namespace(model=model, weights=None, width=None, normalize=None)
        for setting in settings:
            key, _, value = setting.partition("=")
            if key not in NETWORK or not value:
                raise unknown(f"setting of --network {name}", setting, (f"{key}=..." for key in NETWORK))
            setattr(one, key, value)
        if one.width is not None and not one.width.isdecimal():
            raise ClatError(f"--network {name}: width is '{one.width}', expected a whole number")
        one.width = None if one.width is None else int(one.width)
        described[name] = one
    return described


def _images(options: Namespace) -> ImageSet:
    """The first so many images of the split, all of them where there are fewer than the default."""
    images = load_split(options.data, options.split, image_size=options.image_size)
    if options.num_samples is None:
        return images.take(min(options.default_samples or len(images), len(images)))
    if options.num_samples < 1:
        raise ClatError(f"--num-samples is {options.num_samples}: expected at least 1")
    return images.take(options.num_samples)


def _tensors(images: ImageSet) -> tuple[Tensor, Tensor]:
    """All images as float32 in [0, 1], on the CPU, and their labels; the attacks move them batch by batch."""
    x, y = next(iter(Loader(images, len(images), device=torch.device("cpu")).epoch()))
    return x, y


def _data(images: ImageSet) -> dict[str, dict[str, object]]:
    return {"data": {"name": images.name, "split": images.split, "n": len(images)}}


def _claim(out: str | None, plot: str | None = None) -> list[Path]:
    """Check before the work that its results can be written."""
    if plot is not None and Path(plot).suffix.lower() not in (".svg", ".png"):
        raise ClatError(f"cannot write a plot to '{plot}': its name must end in .svg or .png")
    return [claim_output(path) for path in (out, plot) if path is not None]


def _say_written(paths: Iterable[Path]) -> None:
    for path in paths:
        console.print(f"wrote {path}")

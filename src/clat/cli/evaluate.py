"""`clat evaluate`: accuracies with intervals on screen, JSON on request."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from clat.cli.console import console, say
from clat.cli.options import EPS, add_measuring_options, add_model_options
from clat.cli.outputs import Outputs
from clat.core.errors import ClatError
from clat.core.units import parse_size

if TYPE_CHECKING:
    from torch import Tensor

    from clat.data import ImageSet
    from clat.evaluation import Evaluation, Protocol

HELP = "clean and robust accuracy under a protocol"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_model_options(parser)
    parser.add_argument(
        "--protocol", default="pgd-20", help="autoattack, standard, pgd-20, ..., or a TOML file (default: pgd-20)"
    )
    parser.add_argument(
        "--precision", default="float32", help="of the search: float32, bfloat16 (default: float32)"
    )
    parser.add_argument("--state", metavar="FILE", help="keep the standing here, to go on after an interruption")
    parser.add_argument("--eps", default="8/255", help=EPS)
    parser.add_argument(
        "--ids", metavar="FILE", help="only these images of the split: a JSON list of numbers, or one a line"
    )
    parser.add_argument("--devices", type=int, default=1, help="processes, one a device (default: 1)")
    add_measuring_options(parser)


def run(options: argparse.Namespace) -> int:
    """Measure, show and write."""
    import torch

    from clat.cli.inputs import about_model, build_model, pick_device, read_images
    from clat.core.notices import recorded
    from clat.evaluation import evaluate_set, find_protocol
    from clat.evaluation.live import evaluation_progress
    from clat.runtime.engine import Engine, EngineConfig

    outputs = Outputs(options.out)
    protocol = find_protocol(options.protocol)
    parse_size(options.eps, norm=options.norm)
    device = pick_device(options.device)
    if options.devices < 1:
        raise ClatError(f"--devices is {options.devices}: expected at least 1")
    if device.type == "cuda" and options.devices > torch.cuda.device_count():
        raise ClatError(f"--devices is {options.devices}, but there are {torch.cuda.device_count()} GPUs")
    images = read_images(options)
    ids = _chosen(options, images, protocol)
    # Whatever can be wrong with the network is found before other processes are started.
    with recorded() as said:
        model = build_model(options, images, device)
    engine = Engine(EngineConfig(device=device.type, devices=options.devices))
    engine.launch()
    model = model.to(engine.device)
    engine.share(model)
    try:
        with evaluation_progress(console()) as report:
            result = evaluate_set(
                model,
                images,
                ids=ids,
                protocol=protocol,
                eps=options.eps,
                norm=options.norm,
                batch_size=options.batch_size,
                seed=options.seed,
                precision=options.precision,
                state=options.state,
                report=report if engine.rank == 0 else None,
                about=about_model(options),
            )
    except ClatError:
        if engine.rank == 0:
            raise
    if engine.rank > 0:
        return 0  # the first process speaks for all
    _show(options, result, protocol, images.num_classes)
    outputs.write(replace(result, notes=[*said, *result.notes]))
    return 0


def _show(options: argparse.Namespace, result: Evaluation, protocol: Protocol, num_classes: int) -> None:
    from clat.models import robustbench

    for note in result.notes:
        say(f"note: {note}")
    for name, accuracy in result.per_attack.items():
        say(f"after {name:10} {accuracy}")
    say(f"clean accuracy   {result.clean_accuracy}")
    if options.model.startswith(robustbench.PREFIX):
        listed = robustbench.entry(options.model, num_classes)
        say(f"RobustBench lists {listed.clean} % clean and {listed.robust} % under AutoAttack")
    say(f"robust accuracy  {result.robust_accuracy}   {protocol.title}, {options.norm} eps {result.eps}")
    say(
        f"cost  {result.cost.forwards:,} forwards, {result.cost.backwards:,} backwards, "
        f"{result.cost.seconds:.1f} s; protocol hash {protocol.hash}"
    )


def _chosen(options: argparse.Namespace, images: ImageSet, protocol: Protocol) -> Tensor:
    """Return the numbers of the images: --ids, else the first --num-samples, else the protocol's count."""
    import torch

    from clat.evaluation.subset import check_ids, read_ids

    if options.ids is not None:
        if options.num_samples is not None:
            raise ClatError("--ids and --num-samples both choose images: give one of them")
        return check_ids(read_ids(options.ids), len(images), f"'{images.name}/{images.split}'")
    if options.num_samples is None:
        return torch.arange(min(protocol.num_samples or len(images), len(images)))
    if not 1 <= options.num_samples <= len(images):
        raise ClatError(f"--num-samples is {options.num_samples}: '{options.data}' has {len(images)} images")
    return torch.arange(options.num_samples)

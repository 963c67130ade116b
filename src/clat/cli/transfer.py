"""`clat transfer`: examples made on each of several networks, shown to all."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

from clat.cli.console import console, say, show
from clat.cli.options import EPS, add_image_options, add_measuring_options
from clat.cli.outputs import Outputs
from clat.core.errors import ClatError, unknown
from clat.core.notices import recorded
from clat.core.units import parse_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELP = "attack each of several networks and show the examples to all"

SETTINGS = ("weights", "weights_key", "width", "normalize")
"""Keys of what may be set for a network, as key=value."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat transfer`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.epilog = (
        "clat transfer --network at resnet18 weights=at.pt --network clat resnet18 weights=clat.pt width=16"
    )
    parser.add_argument(
        "--network",
        nargs="+",
        action="append",
        required=True,
        metavar="WORD",
        help="NAME MODEL [weights=FILE] [weights_key=KEY] [width=N] [normalize=DATA] [args.KEY=VALUE]; two or more",
    )
    parser.add_argument("--eps", default="8/255", help=EPS)
    parser.add_argument("--protocol", default="pgd-10", help="as for evaluate (default: pgd-10)")
    parser.add_argument(
        "--attack", dest="protocol", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )  # its old name
    add_image_options(parser)
    parser.add_argument("--plot", metavar="FILE", help="draw the matrix (.svg or .png)")
    add_measuring_options(parser, default_samples=1000)


def run(options: argparse.Namespace) -> int:
    """Attack each network, show the matrix of accuracies, and write JSON and a plot on request.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: If a network is not described in full, or does not go with the images.
    """
    from clat.cli.inputs import about_data, build_model, data_in_words, first_images, pick_device, tensors
    from clat.evaluation import find_protocol
    from clat.evaluation.live import evaluation_progress
    from clat.evaluation.transfer import transfer

    outputs = Outputs(options.out, options.plot)
    protocol = find_protocol(options.protocol)
    parse_size(options.eps, norm=options.norm)
    described = _described(options.network)
    device = pick_device(options.device)
    images = first_images(options)
    networks, models = {}, {}
    for name, one in described.items():
        with recorded() as said:
            networks[name] = build_model(argparse.Namespace(**vars(one), classes=options.classes), images, device)
        models[name] = vars(one) | ({"notes": said} if said else {})
    with evaluation_progress(console()) as report:
        matrix = transfer(
            networks,
            *tensors(images),
            eps=options.eps,
            protocol=protocol,
            norm=options.norm,
            batch_size=options.batch_size,
            seed=options.seed,
            report=report,
            attacking=lambda name: say(f"attacking {name}"),
            about={"models": models, **about_data(images)},
        )
    for note in matrix.notes:
        say(f"note: {note}")
    say(data_in_words(images, len(images)))
    show(matrix.table())

    def draw() -> Figure:
        from clat.report.robustness import transfer_map

        return transfer_map(matrix.to_dict())

    outputs.write(matrix, draw)
    return 0


def _described(networks: Iterable[list[str]]) -> dict[str, argparse.Namespace]:
    """Return, from the words after each --network, NAME MODEL key=value ..., what `build_model` takes."""
    described: dict[str, argparse.Namespace] = {}
    for words in networks:
        if len(words) < 2:
            raise ClatError(f"--network {' '.join(words)}: give a name and a model, then weights=FILE and the like")
        name, model, *settings = words
        if model.partition("=")[0] in SETTINGS or model.startswith("args."):
            given = " ".join(words)
            raise ClatError(
                f"--network {given}: begin with a name of yours, then the model: --network NAME {given}"
            )
        if name in described:
            raise ClatError(f"--network {name} is there twice: names tell the networks apart")
        network = argparse.Namespace(model=model, model_args=[], **dict.fromkeys(SETTINGS))
        for setting in settings:
            key, _, value = setting.partition("=")
            if key.startswith("args.") and value:
                network.model_args.append(setting.removeprefix("args."))
                continue
            if key not in SETTINGS or not value:
                valid = (f"{key}=..." for key in (*SETTINGS, "args.KEY"))
                raise unknown("setting", setting, valid, where=f" of --network {name}")
            setattr(network, key, value)
        if network.width is not None and not network.width.isdecimal():
            raise ClatError(f"--network {name}: width is '{network.width}', expected a whole number")
        network.width = None if network.width is None else int(network.width)
        described[name] = network
    return described

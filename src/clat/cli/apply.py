"""`clat apply`: a delta of `clat export --base` put into its base."""

from __future__ import annotations

import argparse
from pathlib import Path

from clat.cli.console import say
from clat.cli.options import add_data_options, add_device_option, add_model_options
from clat.core.errors import ClatError
from clat.core.files import claim_output

HELP = "put a delta of the moved layers into the weights that it was taken from"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat apply`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.usage = "clat apply DELTA --model M --weights BASE --data D --out tuned.safetensors"
    parser.add_argument("delta", metavar="FILE", help="what clat export --base wrote")
    add_model_options(parser)
    add_data_options(parser, "the images that it is for: classes and shape")
    add_device_option(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="a new weight file, .safetensors")


def run(options: argparse.Namespace) -> int:
    """Write the base's weights with the delta put into them.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: `--out` is taken or does not end in .safetensors, or the delta is damaged or of another base.
    """
    if Path(options.out).suffix != ".safetensors":
        raise ClatError(f"--out {options.out}: weights are written as safetensors, end the name in .safetensors")
    claim_output(options.out)
    from clat.cli.inputs import build_model, pick_device, read_images
    from clat.models import save_weights
    from clat.publishing import apply_delta

    model = build_model(options, read_images(options), pick_device(options.device))
    moved = apply_delta(model, options.delta)
    save_weights(model, options.out)
    say(f"wrote {options.out}: {len(moved)} tensors differ from {options.weights or 'the base'}")
    return 0

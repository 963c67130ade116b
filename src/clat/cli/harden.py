"""`clat harden`: a classifier in, a robust classifier out, within a budget that the user names."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clat.cli.console import only_json, print_json, say
from clat.cli.options import (
    DEFAULT_DATA,
    EPS,
    add_column_options,
    add_device_option,
    add_json_option,
    add_logger_option,
    add_model_options,
    add_seed_option,
    changed_options,
    folder,
    logger_field,
)
from clat.core.errors import ClatError

if TYPE_CHECKING:
    from torch import nn

    from clat.data import ImageSet
    from clat.hardening import HardenConfig

HELP = "make a trained classifier robust within a budget"

NETWORK = (
    "model", "model_args", "weights", "weights_key", "width", "normalize", "data", "image_size", "channels",
    "label_column", "image_column", "classes",
)  # fmt: skip
"""The options that say what is hardened; harden.json keeps them for --resume."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat harden`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.usage = (
        "clat harden --model M --weights W --data D --eps 8/255 --budget 30m --out DIR\n"
        "       clat harden --resume DIR"
    )
    parser.description = (
        "Fields of the recipe can be given as for clat train: --stages.harden.objective.label_smoothing 0 "
        "--schedule.lr 0.01"
    )
    add_model_options(parser, required=False)
    parser.add_argument(
        "--data", default="digits", help=f"a data set with a train and a test split ({DEFAULT_DATA})"
    )
    add_column_options(parser)
    parser.add_argument("--eps", default="8/255", help=EPS)
    parser.add_argument("--norm", default="linf", help="linf or l2 (default: linf)")
    parser.add_argument("--budget", metavar="TIME", help="for everything: 90s, 30m, 2h")
    parser.add_argument("--epochs", type=int, help="or: the length of the training")
    parser.add_argument("--max-clean-drop", type=float, metavar="POINTS", help="clean accuracy that may be lost")
    parser.add_argument(
        "--objective", help="n-fgsm, fast-at, gat, pgd-2, pgd-10, trades (default: what the budget allows)"
    )
    parser.add_argument(
        "--keep", default="best", help="against robust overfitting: best, last, clat, clat-plus (default: best)"
    )
    parser.add_argument("--protocol", default="cr", help="of the test before and after (default: cr)")
    parser.add_argument("--num-samples", type=int, help="test images (default: up to 1000, as the budget allows)")
    parser.add_argument(
        "--heldout", type=int, help="images cut from train that decide (default: a tenth, at most 1000)"
    )
    parser.add_argument("--train-size", type=int, help="train on this many images only")
    parser.add_argument("--batch-size", type=int, default=128, help="images of a training step (default: 128)")
    parser.add_argument("--augment", help="as data.augment of a recipe (default: what the network bears)")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16 (default: auto)")
    add_seed_option(parser)
    add_device_option(parser)
    add_logger_option(parser)
    parser.add_argument("--plan", action="store_true", help="say what would be done, and stop")
    parser.add_argument("--out", type=folder, metavar="DIR", help="a new folder")
    parser.add_argument("--resume", metavar="DIR", help="go on with a hardening that was stopped")
    add_json_option(parser, "the result, before and after")


def take_rest(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Set `fields` from the words that the parser left over: fields of the recipe, --FIELD VALUE or --FIELD=VALUE.

    Args:
        options: what the parser read; `fields` is set here.
        words: what it left over.

    Raises:
        ClatError: If a word is no field or its value, or a field that a hardening does not take.
    """
    from clat.recipe.source import override_pairs

    options.fields = dict(override_pairs([*words, *logger_field(options)], "clat harden"))


def run(options: argparse.Namespace) -> int:
    """Plan the hardening, harden or go on with it, and draw the page.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0, or 130 or 143 if it was stopped.

    Raises:
        ClatError: If network or folder is missing, or the budget does not allow a hardening.
    """
    from clat.training.interrupt import Interrupted

    try:
        with only_json(options.json):
            done = _resume(options) if options.resume is not None else _start(options)
    except Interrupted as stopped:
        return stopped.exit_code
    if options.json:
        print_json(done)
    return 0


def _start(options: argparse.Namespace) -> dict[str, Any]:
    if options.model is None or (options.out is None and not options.plan):
        raise ClatError("name a network and a new folder: clat harden --model M --weights W --budget 30m --out DIR")
    from clat.hardening import plan_hardening
    from clat.hardening.run import run_hardening

    config = _config(options)
    about = {name: getattr(options, name) for name in NETWORK}
    model, train_set, test_set = _inputs(options)
    if options.plan:
        plan, _ = plan_hardening(model, train_set, test_set, config, quiet=options.quiet)
        return {"what": "hardening plan", **plan.to_dict()}
    return _show(run_hardening(model, train_set, test_set, options.out, config, about=about, quiet=options.quiet))


def _resume(options: argparse.Namespace) -> dict[str, Any]:
    beside = changed_options(options, add_options, but=("resume", "device", "json"))
    if beside := [*beside, *(f"--{field}" for field in options.fields)]:
        raise ClatError(
            f"--resume goes on with what harden.json in the folder says: give no {', '.join(beside)} beside it"
        )
    from clat.hardening import resume_hardening
    from clat.hardening.run import read_hardening

    out = Path(options.resume)
    about = read_hardening(out)[1]["about"]
    if not about:
        raise ClatError(
            f"the hardening in {out} was started from Python: go on with clat.hardening.resume_hardening()"
        )
    model, train_set, test_set = _inputs(argparse.Namespace(**about, device=options.device))
    return _show(resume_hardening(out, model, train_set, test_set, quiet=options.quiet))


def _config(options: argparse.Namespace) -> HardenConfig:
    from clat.cli.inputs import origin_of
    from clat.hardening import HardenConfig

    names = (
        "eps", "norm", "budget", "epochs", "max_clean_drop", "objective", "keep", "protocol", "num_samples",
        "heldout", "train_size", "batch_size", "augment", "device", "seed",
    )  # fmt: skip
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    settings |= {"precision": options.precision, "fields": options.fields, "origin": origin_of(options)}
    return HardenConfig(**settings)


def _inputs(options: argparse.Namespace) -> tuple[nn.Module, ImageSet, ImageSet]:
    from clat.cli.inputs import build_model, pick_device, read_images
    from clat.data.classes import check_trainable

    device = pick_device(options.device)
    train_set, test_set = (
        read_images(argparse.Namespace(**{**vars(options), "split": split}), resident_limit=None)
        for split in ("train", "test")
    )
    check_trainable(train_set.name, train_set.class_names)  # a network is built for these classes
    return build_model(options, train_set, device), train_set, test_set


def _show(done: Any) -> dict[str, Any]:
    """Say what came out, and return it for --json."""
    say((done.out / "README.md").read_text().split("\n\n")[2], style="bold")
    say(f"the network: {done.out / 'model.safetensors'}\nopen {done.out / 'report.html'} in a browser")
    return {"what": "hardening", "out": str(done.out), **json.loads((done.out / "result.json").read_text())}

"""`clat export`: a network for others, as what the name of the output says."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clat.cli.console import say
from clat.cli.options import add_column_options, add_device_option, add_model_options, option_words
from clat.core.errors import ClatError
from clat.core.files import claim_output, write_json
from clat.core.formatting import counted

if TYPE_CHECKING:
    from torch import nn

    from clat.data import ImageSet

HELP = "a network for others: a folder for the hub, .onnx, .pt2, a delta, RobustBench's entry"

COMPARED = 16
"""Images on which an exported network is compared."""
ENTRY = ("name", "authors", "architecture", "venue", "link", "footnote")
"""What `--entry` may say."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clat export`.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.usage = (
        "clat export --model M --weights W --data D --out FOLDER [--result FILE ...]   for the hub, with its card\n"
        "       clat export ... --out net.onnx | net.pt2                     checked by its logits\n"
        "       clat export ... --base FILE --out delta.safetensors          what changed: see clat apply\n"
        "       clat export --result aa.json --entry name=... --out Id.json  RobustBench's model_info"
    )
    add_model_options(parser, required=False)
    parser.add_argument("--data", help="the images that it is for: classes and shape")
    parser.add_argument("--split", default="test", help="split (default: test)")
    add_column_options(parser)
    parser.add_argument("--base", metavar="FILE", help="weights before fine-tuning, for a delta")
    parser.add_argument(
        "--result", nargs="+", default=[], metavar="FILE", help="of clat evaluate, for the card or the entry"
    )
    parser.add_argument("--title", help="of the model card (default: the folder's name)")
    parser.add_argument("--card", metavar="FILE", help="a model card of your own, instead of the written one")
    parser.add_argument(
        "--entry", nargs="+", default=[], metavar="KEY=VALUE", help=f"of RobustBench's entry: {', '.join(ENTRY)}"
    )
    parser.add_argument(
        "--additional-data",
        action="store_true",
        help="of RobustBench's entry: it was trained on more than the data set",
    )
    add_device_option(parser)
    parser.add_argument(
        "--out", required=True, metavar="PATH", help="a new file or folder, whose name tells the format"
    )


def run(options: argparse.Namespace) -> int:
    """Write the network in the format that the name of the output tells, and say what was written.

    Args:
        options: what the parser read.

    Returns:
        The exit status: 0.

    Raises:
        ClatError: the options do not fit the format, the output is taken, or the network cannot be read or written.
    """
    suffix = Path(options.out).suffix
    if suffix == ".json":
        return _entry(options)
    if options.entry or options.additional_data:
        given = "entry" if options.entry else "additional-data"
        raise ClatError(f"--{given} belongs to RobustBench's entry: name the output ID.json")
    if (options.base is not None) != (suffix == ".safetensors"):
        raise ClatError("a delta has a base and a name in .safetensors: --base FILE --out delta.safetensors")
    if suffix not in ("", ".onnx", ".pt2", ".safetensors"):
        raise ClatError(f"--out {options.out}: expected a folder, or a name in .onnx, .pt2, .safetensors or .json")
    if suffix and (options.result or options.card or options.title):
        raise ClatError("--result, --card and --title are for a folder's model card: name a folder with --out")
    if options.model is None:
        raise ClatError("name a network: clat export --model M --weights W --data D --out PATH")
    if options.data is None:
        raise ClatError("name the images that the network is for: --data D, whose classes and shape are written")
    claim_output(options.out)
    from clat.cli.inputs import build_model, is_factory, pick_device, read_images, without_weights

    if (name := without_weights(options)) is not None and not is_factory(name):
        raise ClatError(f"no --weights: {name} has random weights; name the file of those to export")
    images = read_images(options)
    device = pick_device(options.device)
    model = build_model(options, images, device)
    if suffix == ".safetensors":
        return _delta(options, model, images)
    return _network(options, model, images) if suffix else _folder(options, model, images)


def _network(options: argparse.Namespace, model: nn.Module, images: ImageSet) -> int:
    from clat.cli.inputs import tensors
    from clat.publishing import export_network

    x, _ = tensors(images.take(min(COMPARED, len(images))))
    done = export_network(model, options.out, x)
    shape = " x ".join(map(str, images.shape))
    agree = f"logits of {counted(done.n, 'image')} agree within {done.difference:.1g} of the largest"
    say(f"wrote {done.path}, for images {shape}: {agree}")
    return 0


def _delta(options: argparse.Namespace, model: nn.Module, images: ImageSet) -> int:
    from clat.cli.inputs import build_model, pick_device
    from clat.publishing import save_delta

    before = argparse.Namespace(**{**vars(options), "weights": options.base, "weights_key": None})
    moved = save_delta(build_model(before, images, pick_device(options.device)), model, options.out)
    whole = sum(value.numel() for value in model.state_dict().values())
    part = sum(value.numel() for value in moved.values())
    size = Path(options.out).stat().st_size
    say(
        f"wrote {options.out}: {part:,} of {whole:,} numbers in {counted(len(moved), 'tensor')}, "
        f"{size / 1000:,.0f} kB"
    )
    words = option_words(before, add_options, without=("base", "out", "device"))
    say(f"clat apply {shlex.join([options.out, *words])} --out tuned.safetensors")
    return 0


def _folder(options: argparse.Namespace, model: nn.Module, images: ImageSet) -> int:
    from clat.publishing import save_pretrained, write_card_file

    try:
        text = None if options.card is None else Path(options.card).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ClatError(f"--card {options.card}: no UTF-8 text") from None
    folder = save_pretrained(
        model,
        options.out,
        network=_config(options),
        num_classes=images.num_classes,
        in_channels=images.shape[0],
        class_names=images.class_names,
        results=options.result,
        title=options.title,
    )
    if text is not None:
        write_card_file(folder, text, overwrite=True)  # the one that was written a moment ago
    say(f"wrote {folder}: clat push {folder} OWNER/NAME sends it to the Hugging Face hub")
    return 0


def _config(options: argparse.Namespace) -> Any:
    """Return the settings of the network as `build_model` read them, None where they are a recipe's mixture."""
    from clat.cli.inputs import model_arguments
    from clat.models.settings import NetworkConfig

    if not options.model.endswith(".toml"):
        args = model_arguments(options.model_args) or None
        return NetworkConfig(name=options.model, args=args, width=options.width)
    from clat.recipe.toml import read_recipe

    return read_recipe(options.model).model


def _entry(options: argparse.Namespace) -> int:
    if len(options.result) != 1:
        raise ClatError("RobustBench's entry is made of one result: --result FILE, of --protocol autoattack")
    said: dict[str, str] = {}
    for word in options.entry:
        key, equals, value = word.partition("=")
        if not equals or key not in ENTRY:
            raise ClatError(f"--entry {word}: expected KEY=VALUE, of {', '.join(ENTRY)}")
        said[key] = value
    missing = [key for key in ("name", "authors", "architecture") if not said.get(key)]
    if missing:
        raise ClatError(f"RobustBench's entry lacks {', '.join(missing)}: --entry {missing[0]}=...")
    claim_output(options.out)
    from clat.evaluation import EvaluationRecord
    from clat.publishing import robustbench_entry
    from clat.publishing.robustbench_entry import board_of

    settings: dict[str, Any] = {**said, "additional_data": options.additional_data}
    result = EvaluationRecord.from_json(options.result[0])
    write_json(options.out, robustbench_entry(result, **settings))
    board = board_of(result)
    where = "whose radius RobustBench has no table for" if board is None else f"for model_info/{board}"
    say(f"wrote {options.out}, {where}")
    return 0

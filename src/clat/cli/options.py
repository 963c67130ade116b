"""Options that several commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Collection, Sequence

EPS = "perturbation size, a float or a fraction (default: 8/255)"
DATA_SETS = "digits, a name under CLAT_DATA_DIR, a folder, owner/name"
DEFAULT_DATA = "default: digits, the handwritten digits that come with clat"
RESULT = "write the result as JSON; -: to standard output, and all else to standard error"


def folder(name: str) -> str:
    """Return the name of a folder, for an option's `type`.

    Args:
        name: the user's word.

    Returns:
        The word as it is.

    Raises:
        argparse.ArgumentTypeError: If it is "-", which stands for standard output.
    """
    if name == "-":
        raise argparse.ArgumentTypeError("'-' is no folder; one of that name is ./-")
    return name


def changed_options(
    options: argparse.Namespace, add_options: Callable[[argparse.ArgumentParser], None], *, but: Sequence[str]
) -> list[str]:
    """Return the options that have another value than they have where nobody gives them.

    Args:
        options: what the parser read.
        add_options: the command's own.
        but: names of options that are left out.

    Returns:
        Options as they are typed, such as "--max-clean-drop".
    """
    parser = argparse.ArgumentParser()
    add_options(parser)
    defaults = vars(parser.parse_args([]))
    changed = [name for name, value in defaults.items() if name not in but and getattr(options, name) != value]
    return [f"--{name.replace('_', '-')}" for name in changed]


def add_model_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the options that name a network, its weights, and how it sees images.

    Args:
        parser: the command's parser, changed in place.
        required: `--model` has to be given.
    """
    parser.add_argument(
        "--model",
        required=required,
        help="a built-in network, robustbench:ID, timm:NAME, hf:FOLDER-OR-ID, torchvision:NAME, "
        "package.module:factory, or RECIPE.toml",
    )
    add_model_arguments(parser)
    parser.add_argument("--weights", metavar="FILE", help="weight file (.safetensors, .pt, .pth, .tar)")
    parser.add_argument(
        "--weights-key",
        metavar="KEY",
        help="which of several state dicts in that file: its key, or a prefix of names",
    )
    parser.add_argument("--width", type=int, help="base channels of a built-in network")
    parser.add_argument("--normalize", help="statistics inside the model: a data set's name (default: none)")
    add_image_options(parser)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the option for the arguments of a library's network, or of the user's factory.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument(
        "--model-args",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of a library's network or of your factory: pretrained=true img_size=64",
    )


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for what is done to images before a network sees them.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="resize and centre-crop the images")
    parser.add_argument(
        "--channels",
        type=int,
        choices=(1, 3),
        help="1: grey, 3: colour (default: colour of image files, arrays as they are)",
    )


SAMPLE = "so many images: the first, or each class's share of files sorted by class"
"""What --num-samples takes, in help texts."""


def add_measuring_options(
    parser: argparse.ArgumentParser, default_samples: int | None = None, *, l1: bool = True
) -> None:
    """Add the options that an evaluation and all around it take: data, attack, device and output.

    Args:
        parser: the command's parser, changed in place.
        default_samples: images to measure on where the user does not say; None: all.
        l1: it knows that norm too.
    """
    add_data_options(parser)
    norms = "linf, l2, or l1 for protocols of apgd" if l1 else "linf or l2"
    parser.add_argument("--norm", default="linf", help=f"{norms} (default: linf)")
    many = "all" if default_samples is None else f"at most {default_samples}"
    parser.add_argument("--num-samples", type=int, help=f"{SAMPLE} (default: {many})")
    parser.set_defaults(default_samples=default_samples)
    add_batch_options(parser)
    add_device_option(parser)
    add_result_option(parser)


def add_data_options(parser: argparse.ArgumentParser, what: str = f"data set: {DATA_SETS}") -> None:
    """Add the options that name a split, the test split of the digits where nobody names another.

    Args:
        parser: the command's parser, changed in place.
        what: of `--data`, in the help.
    """
    parser.add_argument("--data", default="digits", help=f"{what} ({DEFAULT_DATA})")
    parser.add_argument("--split", default="test", help="split (default: test)")
    add_column_options(parser)


def add_batch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the size of a measurement's batches, and for its random choices.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("--batch-size", type=int, default=250, help="images at a time (default: 250)")
    add_seed_option(parser)


def add_seed_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the seed.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("--seed", type=int, default=0, help="of all random choices (default: 0)")


def add_column_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for reading images of the user's own.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument("--label-column", metavar="NAME", help="column to predict, of a table or a list of files")
    parser.add_argument("--image-column", metavar="NAME", help="column of the images")
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="classes in the order of the network's outputs: name1,name2,..., a file or a folder of them "
        "(default: those of the train split)",
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for where to compute.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, auto: CUDA where there is some (default: auto)"
    )


def add_result_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for where the result goes.

    Args:
        parser: the command's parser, changed in place.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--out", metavar="FILE", help=RESULT)
    group.add_argument("--json", dest="out", action="store_const", const="-", help="short for --out -")


def add_json_option(parser: argparse.ArgumentParser, result: str) -> None:
    """Add the option of a command whose result lies in a folder, or is a list.

    Args:
        parser: the command's parser, changed in place.
        result: what is printed.
    """
    parser.add_argument(
        "--json", action="store_true", help=f"print {result} as JSON, and all else on standard error"
    )


def add_logger_option(parser: argparse.ArgumentParser) -> None:
    """Add --logger, which sends a run's numbers to trackers.

    Args:
        parser: the command's parser, changed in place.
    """
    parser.add_argument(
        "--logger", action="append", metavar="NAME",
        help="tensorboard, csv, wandb, mlflow, trackio, module:function; repeatable: short for --monitor.loggers",
    )  # fmt: skip


def logger_field(options: argparse.Namespace) -> list[str]:
    """Return the override of a recipe that --logger is short for.

    Args:
        options: what the parser read.

    Returns:
        Words as on a command line; none if there is no logger.
    """
    return ["--monitor.loggers", json.dumps(options.logger)] if options.logger else []


def option_words(
    options: argparse.Namespace, add_options: Callable[[argparse.ArgumentParser], None], *, without: Collection[str]
) -> list[str]:
    """Return the words that give a command the options which differ from their defaults.

    Args:
        options: what the parser read.
        add_options: adds the command's options to a parser.
        without: names of options that it does not get.

    Returns:
        The words.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_options(parser)
    words: list[str] = []
    for action in parser._actions:  # the public way to an option's default and name is through its action
        value = getattr(options, action.dest, None)
        if action.dest in without or value is None or value == action.default:
            continue
        flag = action.option_strings[-1]
        if isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={value}")
    return words

"""The command line: parsing at the edge, one clear line for bad input, exit codes.

Exit codes: 0 done, 2 bad input, 130 stopped by Ctrl-C (143 by a termination signal).
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from clat.cli_plans import add_plan_options
from clat.errors import ClatError, unknown

COMMANDS = dict.fromkeys(("train", "report", "demo"), "clat.commands")
COMMANDS |= {"criticality": "clat.commands_criticality", "study": "clat.commands_study"}
COMMANDS |= {"bench": "clat.commands_bench", "evaluate": "clat.commands_plans"}
COMMANDS |= dict.fromkeys(("check", "curve", "transfer", "compare"), "clat.commands_evaluation")
"""Each command, and the module with the function of its name."""


EPS = "perturbation size, a float or a fraction (default: 8/255)"


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and which suggests the nearest command."""

    def error(self, message: str) -> NoReturn:
        raise ClatError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors that the user can mend are one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except ClatError as error:
        print(f"clat: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"clat: error: {where}{error.strerror or error}", file=sys.stderr)
        return 2


def _run(words: list[str]) -> int:
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS)
    parser = _parser()
    options, rest = parser.parse_known_args(words)
    if options.command == "train":
        options.recipe, options.overrides = _recipe_and_overrides(rest)
    elif rest:
        raise ClatError(f"unexpected argument '{rest[0]}' (see clat {options.command} --help)")
    if options.command is None:
        parser.print_help()
        return 0
    # Imported here, so that a mistyped option need not wait for all the libraries of training.
    module = importlib.import_module(COMMANDS[options.command])
    return int(getattr(module, options.command)(options))


def _recipe_and_overrides(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The recipe's name and the overrides, --FIELD VALUE or --FIELD=VALUE, in any order. argparse, which does not
    know the fields, would take the first value for the recipe."""
    recipe, overrides, rest = None, [], list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            overrides.append(word)
            if "=" not in word and rest and not rest[0].startswith("--"):
                overrides.append(rest.pop(0))
        elif word.startswith("-") or (_ASSIGNMENT.match(word) and not Path(word).is_file()):
            raise ClatError(f"unexpected argument '{word}': did you mean --{word.lstrip('-')}?")
        elif recipe is not None:
            raise ClatError(f"unexpected argument '{word}': '{recipe}' is the recipe (see clat train --help)")
        else:
            recipe = word
    return recipe, overrides


_ASSIGNMENT = re.compile(r"[\w.-]+=")


def _parser() -> _Parser:
    parser = _Parser(prog="clat", description="Criticality-Leveraged Adversarial Training.")
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    _criticality_parser(commands)

    two = commands.add_parser(
        "train",
        help="run a recipe",
        usage="clat train RECIPE --out DIR [options] [--FIELD VALUE ...]\n       clat train --resume DIR",
        description="RECIPE: a recipe file, or the name of a built-in recipe (see --list). Any field of it can be "
        "given: --stages.clat.epochs 5 --data.train_size 2000 --seed 1",
    )
    two.add_argument("--out", metavar="DIR", help="a new folder for the run")
    two.add_argument("--resume", metavar="DIR", help="go on with a run that was stopped")
    two.add_argument("--reuse", metavar="DIR", help="take over the stages that the run in DIR has in common")
    two.add_argument("--device", help="cpu, cuda, auto: short for --engine.device")
    two.add_argument("--devices", help="processes, one a device: short for --engine.devices")
    two.add_argument("--precision", help="32 or bf16-mixed: short for --engine.precision")
    two.add_argument("--compile", action="store_true", help="short for --engine.compile true")
    two.add_argument("--list", action="store_true", help="list the built-in recipes")

    three = commands.add_parser("evaluate", help="clean and robust accuracy under a protocol")
    _model_options(three)
    add_plan_options(three)
    three.add_argument("--precision", default="float32", help="of the search: float32, bfloat16 (default: float32)")
    three.add_argument("--state", metavar="FILE", help="keep the standing here, to go on after an interruption")
    three.add_argument("--eps", default="8/255", help=EPS)
    three.add_argument(
        "--ids", metavar="FILE", help="only these images of the split: a JSON list of numbers, or one a line"
    )
    three.add_argument("--devices", type=int, default=1, help="processes, one a device (default: 1)")
    _measuring_options(three)

    _evaluation_parsers(commands)

    four = commands.add_parser("report", help="draw a run's page, DIR/report.html")
    four.add_argument("run", metavar="DIR", help="the folder of a run")
    four.add_argument("--against", nargs="+", default=[], metavar="DIR", help="runs to compare with")

    six = commands.add_parser("study", help="run a table of recipes under one budget, row by row")
    six.add_argument("study", nargs="?", help="its name (see --list)")
    six.add_argument("--scale", help="how large: see --list (default: the study's first)")
    six.add_argument("--out", metavar="DIR", help="the study's folder; the same one goes on where it was stopped")
    six.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these, and what they build on")
    six.add_argument("--list", action="store_true", help="list the studies, their scales and rows")
    six.add_argument("--judge", metavar="PROTOCOL", help="measure the rows on held-out images, to choose by")
    six.add_argument("--finals", metavar="PROTOCOL", help="measure the rows on the test split: once, at the end")
    six.add_argument("--num-samples", type=int, help="of these two: images, from the first (default: all)")
    six.add_argument("--precision", default="float32", help="of their searches: float32, bfloat16")

    _bench_parser(commands)

    five = commands.add_parser("demo", help="CLAT on handwritten digits, end to end, in about a minute")
    five.add_argument("--out", default="demo", metavar="DIR", help="a new folder (default: demo)")
    return parser


def _criticality_parser(commands: argparse._SubParsersAction[_Parser]) -> None:
    """The ranking of layers."""
    one = commands.add_parser("criticality", help="rank the layers of a network, by criticality or otherwise")
    one.add_argument(
        "--ranking", help="clat (its criticality, the default), mrc, activation, rewinding, rewinding-drop"
    )
    one.add_argument("--compare", action="store_true", help="measure every ranking and correlate them")
    _model_options(one)
    one.add_argument(
        "--data", default="digits", help="data set: digits, a name under CLAT_DATA_DIR, a folder, owner/name"
    )
    one.add_argument("--split", default="train", help="split to take the images from (default: train)")
    one.add_argument("--num-samples", type=int, default=100, help="images to measure on (default: 100)")
    one.add_argument("--eps", default="8/255", help="perturbation size, a float or a fraction (default: 8/255)")
    one.add_argument("--alpha", help="step size of the attack (default: 2.5 * eps / steps)")
    one.add_argument("--steps", type=int, default=10, help="steps of the attack (default: 10)")
    one.add_argument("--norm", default="linf", help="linf or l2 (default: linf)")
    one.add_argument("--normaliser", default="numel", help="numel (paper), sqrt, relative")
    one.add_argument("--tap", default="output", help="output (paper), norm, activation")
    one.add_argument("--metric", default="weakness", help="weakness (paper), curvature")
    one.add_argument("--radius", type=float, default=0.1, help="mrc: relative change of a weight (default: 0.1)")
    one.add_argument("--epochs", type=int, default=10, help="mrc: epochs of the ascent (default: 10)")
    one.add_argument("--lr", type=float, default=1.0, help="mrc: step size of the ascent (default: 1)")
    one.add_argument("--initial", metavar="FILE", help="weights of the start, for the rewinding rankings")
    one.add_argument("--shortcuts", action=argparse.BooleanOptionalAction, help="count shortcuts (mrc alone: yes)")
    one.add_argument(
        "--classifier", action=argparse.BooleanOptionalAction, help="count the classifier (mrc alone: yes)"
    )
    one.add_argument("--include", nargs="+", default=[], metavar="PATTERN", help="only layers whose name matches")
    one.add_argument(
        "--exclude", nargs="+", default=[], metavar="PATTERN", help="without layers whose name matches"
    )
    one.add_argument("--top", type=int, default=5, help="layers to mark in the table (default: 5)")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--device", default="auto", help="cpu, cuda, auto")
    one.add_argument("--out", metavar="FILE", help="write the report as JSON")
    one.add_argument("--plot", metavar="FILE", help="draw the report (.svg or .png)")


def _bench_parser(commands: argparse._SubParsersAction[_Parser]) -> None:
    """What a training step costs."""
    one = commands.add_parser(
        "bench",
        help="what a training step costs, beside PGD-AT's and a plain one",
        epilog="clat bench --model resnet18 --width 32 --objectives pgd-at trades clat --layers 11",
    )
    one.add_argument("--model", default="resnet18", help="a built-in network, or package.module:factory")
    one.add_argument("--width", type=int, help="base channels of a built-in network")
    one.add_argument("--depths", nargs="+", type=int, metavar="N", help="blocks of each stage")
    one.add_argument(
        "--objectives", nargs="+", default=["pgd-at"], metavar="NAME", help="pgd-at, trades, clat, ..."
    )
    one.add_argument("--layers", nargs="+", default=[], metavar="LAYER", help="what clat moves: numbers or names")
    one.add_argument("--steps", type=int, help="of the inner attacks (default: the objectives' own, 10)")
    one.add_argument("--batch-size", type=int, default=64)
    one.add_argument("--image-size", type=int, default=32, metavar="PIXELS")
    one.add_argument("--num-classes", type=int, default=10)
    one.add_argument("--precision", default="32", choices=["32", "bf16-mixed"], help="32, bf16-mixed (default: 32)")
    one.add_argument("--contiguous", action="store_true", help="the default memory layout, not channels_last")
    one.add_argument("--compile", action="store_true", help="let torch.compile fuse the blocks")
    one.add_argument("--rounds", type=int, default=5, help="in which all steps take turns (default: 5)")
    one.add_argument("--train-size", type=int, default=50_000, help="images of an epoch (default: 50000)")
    one.add_argument("--no-plain", action="store_true", help="leave the plain reference steps out")
    one.add_argument("--no-surroundings", action="store_true", help="leave the data path and the selections out")
    one.add_argument("--profile", action="store_true", help="where the time goes, beside its floor")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--device", default="auto", help="cpu, cuda, auto")
    one.add_argument("--out", metavar="FILE", help="write the result as JSON")


def _evaluation_parsers(commands: argparse._SubParsersAction[_Parser]) -> None:
    """The commands around an evaluation."""
    one = commands.add_parser("check", help="signs that a network's gradients mislead attacks")
    _model_options(one)
    one.add_argument("--eps", default="8/255", help=EPS)
    one.add_argument("--strict", action="store_true", help="leave with exit code 1 if something is suspicious")
    _measuring_options(one, default_samples=500)

    two = commands.add_parser("curve", help="accuracy against the size of the perturbation")
    _model_options(two)
    two.add_argument(
        "--eps",
        default="0,2/255,4/255,8/255,16/255",
        help="sizes, with commas (default: 0,2/255,4/255,8/255,16/255)",
    )
    two.add_argument("--protocol", default="pgd-20", help="as for evaluate (default: pgd-20)")
    two.add_argument("--plot", metavar="FILE", help="draw the curve (.svg or .png)")
    _measuring_options(two)

    three = commands.add_parser(
        "transfer",
        help="attack each of several networks and show the examples to all",
        epilog="clat transfer --network at resnet18 weights=at.pt --network clat resnet18 weights=clat.pt width=16",
    )
    three.add_argument(
        "--network",
        nargs="+",
        action="append",
        required=True,
        metavar="WORD",
        help="NAME MODEL [weights=FILE] [width=N] [normalize=DATA]; once a network, at least twice",
    )
    three.add_argument("--eps", default="8/255", help=EPS)
    three.add_argument("--attack", default="pgd-10", help="a protocol, as for evaluate (default: pgd-10)")
    three.add_argument("--image-size", type=int, metavar="PIXELS", help="resize the images")
    three.add_argument("--plot", metavar="FILE", help="draw the matrix (.svg or .png)")
    _measuring_options(three, default_samples=1000)

    four = commands.add_parser("compare", help="results of clat evaluate: two networks, or several seeds")
    four.add_argument("results", nargs="*", metavar="FILE", help="A.json B.json: B less A, on the same samples")
    four.add_argument("--seeds", nargs="+", default=[], metavar="FILE", help="mean, deviation and lowest of these")
    four.add_argument("--against", nargs="+", default=[], metavar="FILE", help="with --seeds: a second group")
    four.add_argument("--out", metavar="FILE", help="write the comparison as JSON")


def _measuring_options(parser: argparse.ArgumentParser, default_samples: int | None = None) -> None:
    """What an evaluation and all around it are told of data, attack and output."""
    parser.add_argument("--data", default="digits", help="data set, as for criticality")
    parser.add_argument("--split", default="test", help="split (default: test)")
    parser.add_argument("--norm", default="linf", help="linf or l2 (default: linf)")
    many = "all" if default_samples is None else f"at most {default_samples}"
    parser.add_argument("--num-samples", type=int, help=f"the first so many images (default: {many})")
    parser.set_defaults(default_samples=default_samples)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="cpu, cuda, auto")
    parser.add_argument("--out", metavar="FILE", help="write the result as JSON")


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, help="a built-in network, robustbench:ID, package.module:factory, or RECIPE.toml"
    )
    parser.add_argument("--weights", metavar="FILE", help="weight file (.safetensors, .pt, .pth, .tar)")
    parser.add_argument("--width", type=int, help="base channels of a built-in network")
    parser.add_argument("--normalize", help="statistics inside the model: a data set's name (default: none)")
    parser.add_argument("--image-size", type=int, help="resize and centre-crop the images")


def _version() -> str:
    from importlib.metadata import version

    return f"clat {version('clat')}"


if __name__ == "__main__":
    sys.exit(main())

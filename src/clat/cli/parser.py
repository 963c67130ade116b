"""The parser: argparse whose errors are one line, and all commands with their options."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NoReturn, Protocol, cast

from clat.core.errors import ClatError, unknown
from clat.core.version import __version__


class Command(Protocol):
    """The contents of a command's module.

    It imports nothing heavy when it is loaded: all commands are, for every call of `clat`. What takes long is
    imported where `run` begins.
    """

    HELP: str
    """One line for the list of commands."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's options.

        Args:
            parser: the command's parser, changed in place.
        """
        ...

    def run(self, options: argparse.Namespace) -> int:
        """Do what the command is for.

        Args:
            options: what the parser read.

        Returns:
            The exit status.
        """
        ...


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise a ClatError with argparse's message."""
        raise ClatError(f"{message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise a ClatError for an action that a command does not have: it says what the command does alone."""
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            alone = self.get_default("alone")
            hint = f"; {self.prog} alone {alone}" if alone else ""
            raise ClatError(f"{unknown('action', value, action.choices, where=f' of {self.prog}')}{hint}")
        super()._check_value(action, value)


class _Version(argparse.Action):
    """Prints the version."""

    def __init__(self, option_strings: list[str], dest: str, **_: Any) -> None:
        super().__init__(
            option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="show the version and leave"
        )

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"clat {__version__}")
        parser.exit()


def command(name: str) -> Command:
    """Return the module of a command.

    Args:
        name: one of `clat.cli.COMMANDS`.

    Returns:
        The module.
    """
    return cast(Command, import_module(f"clat.cli.{name}"))


def build_parser(names: Iterable[str]) -> Parser:
    """Return the parser of the command line.

    Args:
        names: the commands, in the order of the help.

    Returns:
        The parser, each command's options in it.
    """
    parser = Parser(prog="clat", description="Criticality-Leveraged Adversarial Training.")
    parser.add_argument("--version", action=_Version)
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors; goes with every command")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name in names:
        module = command(name)
        one = commands.add_parser(name, help=module.HELP)
        module.add_options(one)
        _add_quiet(one)
    return parser


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    """Let `--quiet` stand behind a command and its actions, too."""
    # Without a default of its own, which would undo a --quiet before the command.
    parser.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="say nothing but errors")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _add_quiet(below)

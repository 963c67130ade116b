"""The command line: one file a command, its options and what it does together; one clear line for bad input.

To add a command: a module that `clat.cli.parser.Command` describes, and its name in `COMMANDS`.

Exit codes: 0 done, 1 a check or a row failed, 2 bad input, 130 stopped by Ctrl-C (143 by a termination signal).
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from clat.cli.console import set_up
from clat.cli.notices import notices_printed
from clat.cli.parser import build_parser, command
from clat.cli.stopped import CODES, how_to_go_on, say_stopped, stop_code
from clat.core.errors import ClatError, unknown
from clat.core.openmp import wait_briefly
from clat.core.stopping import ends_in_time, last_words

COMMANDS = (
    "harden",
    "criticality",
    "train",
    "evaluate",
    "check",
    "curve",
    "corruptions",
    "transfer",
    "compare",
    "data",
    "report",
    "export",
    "apply",
    "push",
    "study",
    "paper",
    "evidence",
    "bench",
    "demo",
    "recipes",
    "doctor",
    "completion",
)
"""The commands in the order of the help; each is a module beside this one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors that the user can mend are one line on stderr.

    Args:
        arguments: the words after `clat`; None: those of this process, which termination signals may then end.

    Returns:
        The exit status: 0 done, 1 a check or a row failed, 2 bad input, 130 or 143 stopped.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        wait_briefly()
    try:
        # Only a process of its own may be ended from outside of the code at work.
        with ends_in_time() if arguments is None else nullcontext(), notices_printed():
            return _run(words)
    except ClatError as error:
        print(f"clat: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        return stop_code(stop)
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"clat: error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    finally:
        if arguments is None:
            gc.freeze()  # an ending interpreter collects every module's objects twice, which takes a second


def _run(words: list[str]) -> int:
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in COMMANDS:
        raise unknown("command", first, COMMANDS)
    parser = build_parser(COMMANDS)
    options, rest = parser.parse_known_args(words)
    if options.command is None:
        if rest:
            raise ClatError(f"unexpected argument '{rest[0]}' (see clat --help)")
        parser.print_help()
        return 0
    module = command(options.command)
    # Only `train` takes words that its parser does not know: any field of the recipe.
    if hasattr(module, "take_rest"):
        module.take_rest(options, rest)
    elif rest:
        raise ClatError(f"unexpected argument '{rest[0]}' (see clat {options.command} --help)")
    set_up(quiet=options.quiet, stderr=getattr(options, "out", None) == "-" or getattr(options, "json", False))
    try:
        with last_words(lambda: (how_to_go_on(options) or "").removeprefix("; ")):
            code = module.run(options)
    except ClatError:
        raise
    except KeyboardInterrupt as stop:
        code = stop_code(stop)
    except (Exception, SystemExit) as error:  # an own network may raise anything, at any step, and even leave
        from clat.cli.foreign import told

        line = told(error)
        if line is None:
            raise
        raise line from error
    if code in CODES:
        say_stopped(options)
    return code


if __name__ == "__main__":
    sys.exit(main())

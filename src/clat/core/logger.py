"""The logger `clat`: every line that the library says is a record of it, so that a program can catch them.

    logging.basicConfig(level=logging.INFO)
    clat.train("demo", "runs/demo", quiet=True)

prints nothing of its own and sends all to the program's handlers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("clat")
# Without a handler Python writes warnings of a logger that nobody has set up to standard error, a second time.
logger.addHandler(logging.NullHandler())


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Have a library's logger keep its remarks, but not its warnings, to itself while the code inside runs.

    Args:
        name: the logger's.

    Yields:
        Nothing; the body runs.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)

"""What lies below a folder, by literal names: no pattern, no word in a name and no link to elsewhere is
interpreted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clat.core.errors import ClatError

IMAGES = frozenset((".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"))
IMAGES |= {".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
"""Endings of image files, in lower case."""

_LEFT_BEHIND = frozenset(("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"))
_DEEPEST = 40  # levels: more are links that lead in a circle


@dataclass(frozen=True)
class Tree:
    """The folders below `root`, each with the files in it; hidden ones and what systems leave behind (Thumbs.db,
    __MACOSX) are not there. Paths are relative to `root`, with "/", and "" is the root itself."""

    root: Path
    content: dict[str, tuple[list[str], list[str]]]
    """Of each folder, also an empty one: the sorted names of the folders and of the files directly in it."""

    def folders(self, at: str) -> list[str]:
        """Return the names of the folders directly in `at`, sorted.

        Args:
            at: the path of a folder in the tree; "" is the root.

        Returns:
            The names alone, without paths.
        """
        return self.content[at][0]

    def files(self, at: str, endings: frozenset[str] | None = None) -> list[str]:
        """Return the names of the files directly in `at`, sorted.

        Args:
            at: the path of a folder in the tree; "" is the root.
            endings: the endings that count, in lower case with their dots; None: all.

        Returns:
            The names alone, without paths.
        """
        return [name for name in self.content[at][1] if endings is None or ending(name) in endings]

    def below(self, at: str, endings: frozenset[str] | None = None) -> Iterator[str]:
        """Yield the paths of the files in `at` and then in the folders below it, each in the order of names.

        Args:
            at: the path of a folder in the tree; "" is the root.
            endings: the endings that count, in lower case with their dots; None: all.

        Yields:
            Paths from the root on.
        """
        yield from (join(at, name) for name in self.files(at, endings))
        for folder in self.folders(at):
            yield from self.below(join(at, folder), endings)

    def holds(self, at: str, endings: frozenset[str] | None = None) -> bool:
        """Return True if there is such a file in or below `at`.

        Args:
            at: the path of a folder in the tree; "" is the root.
            endings: the endings that count, in lower case with their dots; None: all.

        Returns:
            False also where there are only other files.
        """
        return next(self.below(at, endings), None) is not None


def ending(name: str) -> str:
    """Return the ending of a file's name in lower case, with its dot.

    Args:
        name: a file's name or path.

    Returns:
        Such as ``.png``; "" where there is none.
    """
    return os.path.splitext(name)[1].lower()


def join(folder: str, name: str) -> str:
    """Return the path of `name` in `folder`.

    Args:
        folder: a path in a tree, which may be the root, "".
        name: a path below it.

    Returns:
        Both, with a "/" between them.
    """
    return f"{folder}/{name}" if folder else name


def read_tree(root: Path) -> Tree:
    """Walk through all folders below `root`, links to folders included, each link of a circle once.

    Args:
        root: an existing folder.

    Returns:
        The folders with their files; hidden ones and what systems leave behind are not there.

    Raises:
        ClatError: a folder that cannot be listed.
    """
    content: dict[str, tuple[list[str], list[str]]] = {}
    _walk(root, "", (os.path.realpath(root),), content)
    return Tree(root, content)


def _walk(root: Path, at: str, above: tuple[str, ...], content: dict[str, tuple[list[str], list[str]]]) -> None:
    """Enter the folder `at` and all below it into `content`; `above`: the real paths from the root to it."""
    files, folders = [], []
    try:
        with os.scandir(root / at) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _LEFT_BEHIND:
                    continue
                if entry.is_dir():
                    real = os.path.realpath(entry.path)
                    if real not in above and len(above) < _DEEPEST:
                        folders.append((entry.name, real))
                elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                    files.append(entry.name)  # a dangling link too: that it cannot be read shall be said
    except OSError as error:
        raise ClatError(f"cannot list the folder {shown(str(root / at))}: {error.strerror or error}") from None
    content[at] = sorted(name for name, _ in folders), sorted(files)
    for name, real in sorted(folders):
        _walk(root, join(at, name), (*above, real), content)


def shown(name: str) -> str:
    """Return a file's name as text that can be printed and stored.

    Args:
        name: as the system gives it.

    Returns:
        The name, in which bytes that are no UTF-8 become \\xff and the like.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")

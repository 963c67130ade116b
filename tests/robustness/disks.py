"""Folders on a disk that is full, or that may only be read: mounts, which bind the superuser too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


def _run(*words: str | Path) -> bool:
    return subprocess.run([*map(str, words)], capture_output=True).returncode == 0


def can_mount(folder: Path) -> bool:
    """Return whether this user may mount at all; tried in an empty folder."""
    folder.mkdir(parents=True)
    if not small_disk(folder, PAGE):
        return False
    return release(folder)


def small_disk(folder: Path, size: int) -> bool:
    """Mount a disk of so many bytes, in memory, on a folder."""
    return _run("mount", "-t", "tmpfs", "-o", f"size={max(size, PAGE)}", "tmpfs", folder)


def make_room(folder: Path) -> bool:
    """Let the disk of `small_disk` hold 64 MiB."""
    return _run("mount", "-o", f"remount,size={64 * 2**20}", folder)


def used(folder: Path) -> int:
    """Return the bytes in use on the disk of a folder."""
    about = os.statvfs(folder)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


def lock_writing(folder: Path) -> bool:
    """Let a folder be read only, from now on, also by who is at work there; `release` ends it.

    The folder is mounted over itself: that works while files in it are open.
    """
    return _run("mount", "--bind", folder, folder) and _run("mount", "-o", "remount,bind,ro", folder)


def release(folder: Path) -> bool:
    """Take away what was mounted last on a folder."""
    return _run("umount", folder)

"""Fetching the papers' public data sets from the Hugging Face hub or a mirror of it, checked by SHA-256.

Each is pinned to a commit. A data set becomes visible in `data_root` at once and whole: what is interrupted stays
in a hidden folder beside it, where the next call goes on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clat.core.errors import ClatError, first_line, unknown
from clat.core.files import write_json
from clat.core.formatting import memory
from clat.data.cache import data_root

HUB, MIRROR = "https://huggingface.co", "https://hf-mirror.com"


@dataclass(frozen=True)
class HubFiles:
    """A data set on the hub: its repository, a commit, and path -> SHA-256 (None: what the hub says of it)."""

    repository: str
    commit: str
    files: dict[str, str | None]


KNOWN = {
    "cifar10": HubFiles(
        "uoft-cs/cifar10",
        "0b2714987fa478483af9968de7c934580d0bb9a2",
        {
            "plain_text/train-00000-of-00001.parquet": (
                "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883"
            ),
            "plain_text/test-00000-of-00001.parquet": (
                "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de"
            ),
        },
    ),
    "cifar100": HubFiles(
        "uoft-cs/cifar100",
        "aadb3af77e9048adbea6b47c21a81e47dd092ae5",
        {
            "cifar100/train-00000-of-00001.parquet": (
                "694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23"
            ),
            "cifar100/test-00000-of-00001.parquet": (
                "98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68"
            ),
        },
    ),
    "imagenette": HubFiles(  # of 160 pixels
        "frgfm/imagenette",
        "4b23ffb92a8029db9958bdfdbd6978427d09b1a0",
        {"160px/train-00000-of-00001.parquet": None, "160px/validation-00000-of-00001.parquet": None},
    ),
}
"""Name -> where it is."""


def fetch_data(name: str, *, mirrors: Sequence[str] = (), say: Callable[[str], None] = lambda line: None) -> Path:
    """Fetch a data set into its folder in `data_root`; one that is there already stays as it is.

    Args:
        name: a key of `KNOWN`.
        mirrors: addresses of mirrors of the hub, tried first and in this order; then come HF_ENDPOINT or the hub
            itself, and its best known mirror.
        say: told what is done, a line each.

    Returns:
        The folder, which `load_split` finds by the name.

    Raises:
        ClatError: an unknown name, a folder that cannot be written to, no address that answers, or files other than
            those that were asked for.
    """
    if name not in KNOWN:
        raise unknown("data set to fetch", name, KNOWN)
    target, known = data_root() / name, KNOWN[name]
    if target.exists():
        say(f"{name} is in {target} already")
        return target
    part = target.with_name(f".{name}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClatError(
            f"cannot write to {target.parent} ({error.strerror}): set CLAT_DATA_DIR to another folder"
        ) from None
    digests = {}
    for path, digest in known.files.items():
        file = part / path.rpartition("/")[2]
        digests[file.name] = _fetch_file(known, path, digest, file, _addresses(mirrors), say)
    write_json(part / "fetched.json", {"repository": known.repository, "commit": known.commit, "sha256": digests})
    shutil.rmtree(part / ".hub", ignore_errors=True)
    os.replace(part, target)
    return target


def _addresses(mirrors: Sequence[str]) -> list[str]:
    chosen = [*mirrors, os.environ.get("HF_ENDPOINT") or HUB, MIRROR]
    return list(dict.fromkeys(one.rstrip("/") for one in chosen))


def _fetch_file(
    known: HubFiles,
    path: str,
    digest: str | None,
    file: Path,
    addresses: Sequence[str],
    say: Callable[[str], None],
) -> str:
    """Fetch a file from the first address that has it, and return its SHA-256."""
    import huggingface_hub  # here, since it takes a second to import

    failed = []
    for address in addresses:
        try:
            place: dict[str, Any] = {"repo_type": "dataset", "revision": known.commit, "endpoint": address}
            url = huggingface_hub.hf_hub_url(known.repository, path, **place)
            about = huggingface_hub.get_hf_file_metadata(url, timeout=10)
            wanted = digest or (about.etag or "").strip('"')
            if file.exists() and _sha256(file) == wanted:
                return wanted
            say(f"fetching {path} ({memory(about.size)}) from {address}")
            got = huggingface_hub.hf_hub_download(known.repository, path, local_dir=file.parent / ".hub", **place)
            found = _sha256(Path(got))
            if found == wanted:
                os.replace(got, file)
                return found
            Path(got).unlink()
            failed.append(f"{address}: another file, with SHA-256 {found[:12]}... for {wanted[:12]}...")
        except Exception as error:  # of the hub's library, and of the network behind it
            failed.append(f"{address}: {first_line(error)[:120]}")
        say(f"note: {failed[-1]}")
    target = file.parent.with_name(file.parent.name[1:].removesuffix(".part"))
    raise ClatError(
        f"cannot fetch {path} of {known.repository}: {'; '.join(failed)}; name a mirror of the hub with --mirror, "
        f"or put its parquet files into {target}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

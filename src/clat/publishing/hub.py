"""Sending a folder to the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from clat.core.errors import ClatError
from clat.publishing.card import CARD
from clat.publishing.folder import CONFIG, read_config

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def push(
    folder: str | Path,
    repo: str,
    *,
    card: Literal["new", "keep", "replace"] = "new",
    private: bool = False,
    message: str = "A network from clat",
) -> str:
    """Send a folder that `clat.save_pretrained` wrote to the Hugging Face hub.

    Args:
        folder: the folder, with its config.json.
        repo: "owner/name"; it is made if there is none.
        card: "new": refuse if the hub has a model card there; "keep": leave that one as it is; "replace": overwrite
            it.
        private: make a new repository private; one that exists stays as it is.
        message: of the commit.

    Returns:
        The repository's address.

    Raises:
        ClatError: no such folder, a card that is there already, nobody is logged in, or the hub cannot be reached.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ClatError(f"{folder} is no folder: write one with clat.save_pretrained (clat export --out FOLDER)")
    if not (folder / CONFIG).exists():
        raise ClatError(
            f"{folder} holds no network to send, as there is no {CONFIG} in it: write it with clat export --out "
            "FOLDER (clat.save_pretrained)"
        )
    read_config(folder)
    if not _NAME.fullmatch(repo):
        raise ClatError(f"the repository is '{repo}': expected owner/name")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise ClatError("the hub needs huggingface_hub: pip install huggingface-hub") from None
    api: Any = huggingface_hub.HfApi(library_name="clat")
    try:
        there = (folder / CARD).exists() and _has_card(api, errors, repo)
        if there and card == "new":
            raise ClatError(
                f"{repo} has a model card on the hub already, and a card is never overwritten unasked: keep it "
                'with card="keep" (--card keep), or replace it with card="replace"'
            )
        api.create_repo(repo, private=private, exist_ok=True)
        left = [CARD] if there and card == "keep" else None
        api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message=message, ignore_patterns=left)
    except ClatError:
        raise
    except Exception as error:  # of the hub's client and of the HTTP library under it
        raise _refused(repo, error) from error
    return f"https://huggingface.co/{repo}"


def _has_card(api: Any, errors: Any, repo: str) -> bool:
    try:
        return bool(api.file_exists(repo, CARD))
    except errors.RepositoryNotFoundError:
        return False


def _refused(repo: str, error: Exception) -> ClatError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403) or type(error).__name__ == "LocalTokenNotFoundError":
        return ClatError(f"the hub does not let you write to {repo}: run `hf auth login`, or check the owner")
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]
    return ClatError(f"cannot reach the Hugging Face hub for {repo} ({reason}): check the network, and push again")

"""Hub ids: which commit is meant, what is taken from it, and what to do where there is no hub."""

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from legible.config import Clip, Model, critics_of
from legible.errors import UserError

Place = TypeVar("Place", Model, Clip)
CLIP_FILES = ("open_clip_model.safetensors", "*.json", "*.txt", "*.jinja")  # weights; configuration and tokenizer


def pinned(place: Place) -> Place:
    """The model at a commit: a folder stays what it is, a branch or no revision becomes the commit that it means now.

    Raises:
        UserError: `path` is no folder, and neither the hub nor the local cache knows it.
    """
    if Path(place.path).is_dir():
        return place
    section = "model" if isinstance(place, Model) else "clip"
    return place.model_copy(update={"revision": commit(place.path, place.revision, section)})


@cache
def commit(path: str, revision: str | None, section: str = "model") -> str:
    """The commit of a hub id at a revision (a commit, a branch, or None: the main branch).

    Args:
        section: of the configuration, model or clip.
    """
    marker, form = ("model_index.json", "diffusers") if section == "model" else ("open_clip_config.json", "open_clip")
    try:
        validate_repo_id(path)
    except HFValidationError as error:
        raise UserError(
            f"{section}.path: {path} is neither a folder on this machine nor a hub id (owner/name)"
        ) from error
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        found = HfApi().model_info(path, revision=revision).sha
    except Exception as error:  # offline, unknown, forbidden: whatever it is, the copy on this machine may serve
        copy = try_to_load_from_cache(path, marker, revision=revision or "main")
        if not isinstance(copy, str):
            raise UserError(
                f"{section}.path: {path} is no folder, and the hub does not give it ({type(error).__name__}); set it to"
                f" a local folder in the format of {form}, or run `hf download {path}` where there is a network and"
                " copy the cache (HF_HOME)"
            ) from error
        found = Path(copy).parent.name
    now = f"{path} at {revision or 'main'} is {found} now"
    print(f"warning: {section}.revision is not pinned; {now}, set {section}.revision to it", file=sys.stderr)
    return found


def clip_folder(clip: Clip) -> Path:
    """The folder with the files of a CLIP: the local one, or the hub's at the pinned commit, without pickled weights.

    Raises:
        UserError: neither the hub nor the local cache has that commit.
    """
    clip = pinned(clip)
    if Path(clip.path).is_dir():
        return Path(clip.path)
    try:
        return Path(snapshot_download(clip.path, revision=clip.revision, allow_patterns=list(CLIP_FILES)))
    except Exception as error:  # offline, unknown, forbidden, a full disk
        raise UserError(
            f"clip.revision: {clip.path} at {clip.revision} is neither to be had from the hub ({type(error).__name__})"
            " nor in the cache of this machine (HF_HOME)"
        ) from error


def pinned_sections(config: dict[str, Any]) -> dict[str, Any]:
    """The sections of a training with its model, and the CLIP where a loss looks with it, at their commits."""
    heard = "clip" in critics_of(config["training"].aux.weights)
    return config | {"model": pinned(config["model"])} | ({"clip": pinned(config["clip"])} if heard else {})


def sources(config: dict[str, Any]) -> dict[str, dict[str, str | None] | None]:
    """Path and commit (None for a folder) of the model, and of the CLIP (None where no loss looks with it)."""
    heard = "clip" in critics_of(config["training"].aux.weights)
    model, clip = ({"path": config[name].path, "revision": config[name].revision} for name in ("model", "clip"))
    return {"model": model, "clip": clip if heard else None}

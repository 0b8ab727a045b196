"""Hub ids: which commit is meant, what is taken from it, and what to do where there is no hub."""

import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from legible.config import CaptionClip, Clip, Model, PickScore, Training, critics_of
from legible.errors import UserError
from legible.integrity import check_sums
from legible.models.download import check_download, check_room

Place = TypeVar("Place", Model, Clip, CaptionClip, PickScore)


@dataclass(frozen=True)
class Kind:
    """What a hub repository must hold to be one: a file that says so, and what is taken besides the weights."""

    marker: str
    form: str  # as people call the format
    files: tuple[str, ...] = ()  # weights without pickles, configuration, tokenizer


TRANSFORMERS = ("model*.safetensors", "*.json", "*.txt", "*.jinja")
KINDS = {
    "model": Kind("model_index.json", "diffusers"),
    "clip": Kind("open_clip_config.json", "open_clip", ("open_clip_model.safetensors", "*.json", "*.txt", "*.jinja")),
    "caption_clip": Kind("config.json", "transformers", TRANSFORMERS),
    "pickscore": Kind("config.json", "transformers", TRANSFORMERS),
}
SECTIONS = {Model: "model", Clip: "clip", CaptionClip: "caption_clip", PickScore: "pickscore"}


def pinned(place: Place) -> Place:
    """The model at a commit: a folder stays what it is, a branch or no revision becomes the commit that it means now.

    Raises:
        UserError: `path` is no folder, and neither the hub nor the local cache knows it.
    """
    if Path(place.path).is_dir():
        return place
    section = SECTIONS[type(place)]
    return place.model_copy(update={"revision": commit(place.path, place.revision, section)})


@cache
def commit(path: str, revision: str | None, section: str = "model") -> str:
    """The commit of a hub id at a revision (a commit, a branch, or None: the main branch).

    Args:
        section: of the configuration: one of KINDS.
    """
    marker, form = KINDS[section].marker, KINDS[section].form
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


def clip_folder(clip: Clip | CaptionClip | PickScore) -> Path:
    """The folder with the files of a CLIP: the local one, or the hub's at the pinned commit, without pickled weights.

    Raises:
        UserError: neither the hub nor the local cache has that commit.
    """
    clip, section = pinned(clip), SECTIONS[type(clip)]
    if Path(clip.path).is_dir():
        check_sums(clip.path)
        return Path(clip.path)
    check_room(clip.path, clip.revision, *KINDS[section].files)
    try:
        folder = Path(snapshot_download(clip.path, revision=clip.revision, allow_patterns=list(KINDS[section].files)))
    except Exception as error:  # offline, unknown, forbidden, a full disk
        raise UserError(
            f"{section}.revision: {clip.path} at {clip.revision} is neither to be had from the hub"
            f" ({type(error).__name__}) nor in the cache of this machine (HF_HOME)"
        ) from error
    check_download(clip.path, clip.revision)
    return folder


def opened_from_hub(training: Training) -> list[str]:
    """The sections whose models a training opens from a folder or the hub: the model, and CLIPs that it looks with."""
    return ["model", *(name for name in KINDS if name in critics_of(training.heard))]


def pinned_sections(config: dict[str, Any]) -> dict[str, Any]:
    """The sections of a training with its model, and the CLIPs that it looks with, at their commits."""
    return config | {name: pinned(config[name]) for name in opened_from_hub(config["training"])}


def sources(config: dict[str, Any]) -> dict[str, dict[str, str | None] | None]:
    """Path and commit (None for a folder) of the model and of the CLIPs that are looked with; `clip` always."""
    opened = opened_from_hub(config["training"])
    about = {name: {"path": config[name].path, "revision": config[name].revision} for name in opened}
    return {"clip": None} | about

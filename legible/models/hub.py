"""Hub ids: which commit is meant, and what to do where there is no hub."""

import re
import sys
from functools import cache
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from legible.config import Model
from legible.errors import UserError


def pinned(model: Model) -> Model:
    """The model at a commit: a folder stays what it is, a branch or no revision becomes the commit that it means now.

    Raises:
        UserError: `path` is no folder, and neither the hub nor the local cache knows it.
    """
    if Path(model.path).is_dir():
        return model
    return model.model_copy(update={"revision": commit(model.path, model.revision)})


@cache
def commit(path: str, revision: str | None) -> str:
    """The commit of a hub id at a revision (a commit, a branch, or None: the main branch)."""
    try:
        validate_repo_id(path)
    except HFValidationError as error:
        raise UserError(f"model.path: {path} is neither a folder on this machine nor a hub id (owner/name)") from error
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    try:
        found = HfApi().model_info(path, revision=revision).sha
    except Exception as error:  # offline, unknown, forbidden: whatever it is, the copy on this machine may serve
        copy = try_to_load_from_cache(path, "model_index.json", revision=revision or "main")
        if not isinstance(copy, str):
            raise UserError(
                f"model.path: {path} is no folder, and the hub does not give it ({type(error).__name__}); set it to a "
                f"local folder in diffusers' format, or run `hf download {path}` where there is a network and copy the "
                "cache (HF_HOME)"
            ) from error
        found = Path(copy).parent.name
    now = f"{path} at {revision or 'main'} is {found} now"
    print(f"warning: model.revision is not pinned; {now}, set model.revision to it", file=sys.stderr)
    return found

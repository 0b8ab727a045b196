"""Copies of hub repositories on this machine, held against what the hub announced.

As in `legible.integrity`: a check lets them be, or refuses them, and fingerprints of code leave this module out.
"""

import hashlib
import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from legible.errors import UserError
from legible.integrity import digest_of

MARKERS = ("model_index.json", "open_clip_config.json", "config.json")  # one of them lies at the top of each
NAME = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def check_download(repository: str, revision: str | None, *folders: str) -> None:
    """Hold the files of a repository in the hub's cache against their names there; a local folder is let be.

    Large files lie there under their SHA-256, small ones under the SHA-1 by which git knows them.

    Args:
        folders: of the repository; none = all of it.

    Raises:
        UserError: a file is not what the hub announced, if only by one bit.
    """
    if Path(repository).is_dir():
        return
    copies = (try_to_load_from_cache(repository, name, revision=revision) for name in MARKERS)
    snapshot = next((Path(copy).parent for copy in copies if isinstance(copy, str)), None)
    if snapshot is None:
        return
    for place in [snapshot / folder for folder in folders] or [snapshot]:
        for path in sorted(file for file in place.rglob("*") if file.is_file()):
            blob = path.resolve()
            if NAME.fullmatch(blob.name) and blob.name != (digest_of(blob) if len(blob.name) == 64 else of_git(blob)):
                raise UserError(
                    f"{path}: damaged, this is not the file that {repository} has; delete {blob} to fetch it again"
                )


def of_git(path: Path) -> str:
    """The SHA-1 by which git knows a file's content, as hex."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

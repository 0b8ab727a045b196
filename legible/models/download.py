"""Copies of hub repositories on this machine: not larger than they may be, and held against what the hub announced.

As in `legible.integrity`: a check lets them be, or refuses them, and fingerprints of code leave this module out.
"""

import fnmatch
import hashlib
import re
import shutil
from pathlib import Path

from huggingface_hub import HfApi, constants, try_to_load_from_cache

from legible.errors import UserError
from legible.integrity import digest_of

MARKERS = ("model_index.json", "open_clip_config.json", "config.json")  # one of them lies at the top of each
NAME = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
LARGEST = 200 * 10**9  # bytes at a time; the largest model whose family is known takes 58 GB
VARIANT = re.compile(r"\.(fp16|bf16|non_ema|fp8)\b")  # further copies of weights, which nothing here asks for


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
    snapshot = snapshot_of(repository, revision)
    if snapshot is None:
        return
    for place in [snapshot / folder for folder in folders] or [snapshot]:
        for path in sorted(file for file in place.rglob("*") if file.is_file()):
            blob = path.resolve()
            if NAME.fullmatch(blob.name) and blob.name != (digest_of(blob) if len(blob.name) == 64 else of_git(blob)):
                raise UserError(
                    f"{path}: damaged, this is not the file that {repository} has; delete {blob} to fetch it again"
                )


def snapshot_of(repository: str, revision: str | None) -> Path | None:
    """The folder of a repository at a revision in the hub's cache; None where that has nothing of it."""
    copies = (try_to_load_from_cache(repository, name, revision=revision) for name in MARKERS)
    return next((Path(copy).parent for copy in copies if isinstance(copy, str)), None)


def check_room(repository: str, revision: str | None, *patterns: str) -> None:
    """Refuse to fetch what is larger than `LARGEST` or than the space where the hub's cache lies.

    Asks the hub for sizes; where it does not answer, fetching says so. What the cache has is not counted, and where it
    has weights of each pattern the hub is not asked.

    Args:
        patterns: of names in the repository, as `fnmatch` takes them: what is to be fetched. Without weights
            (*.safetensors) among it nothing is asked.

    Raises:
        UserError: there is too much of it, or too little room.
    """
    weights = [pattern for pattern in patterns if pattern.endswith(".safetensors")]
    if Path(repository).is_dir() or not weights:
        return
    snapshot = snapshot_of(repository, revision)
    if snapshot and all(any(snapshot.glob(pattern)) for pattern in weights):
        return
    try:
        files = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=20).siblings or []
    except Exception:  # offline, unknown, forbidden
        return
    needed = sum(
        file.size or 0
        for file in files
        if any(fnmatch.fnmatch(file.rfilename, pattern) for pattern in patterns)
        and not VARIANT.search(file.rfilename)
        and not isinstance(try_to_load_from_cache(repository, file.rfilename, revision=revision), str)
    )
    if needed > LARGEST:
        raise UserError(
            f"{repository}: {needed / 1e9:.0f} GB would be fetched, at most {LARGEST / 1e9:.0f} GB are; if you want it,"
            f" run `hf download {repository} --revision {revision or 'main'}` first"
        )
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(place for place in [cache, *cache.parents] if place.is_dir())).free
    if needed > free:
        raise UserError(
            f"{repository}: {needed / 1e9:.1f} GB are to be fetched, but {cache} has {free / 1e9:.1f} GB left; make"
            " room, or set HF_HOME to a larger place"
        )


def of_git(path: Path) -> str:
    """The SHA-1 by which git knows a file's content, as hex."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()

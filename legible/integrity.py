"""Files held against the SHA-256 that was written down when they were made.

A check lets a file be as it is, or refuses it, and decides nothing else: fingerprints of code leave this module out,
and the statements that call it. Files of our own tensors hold their digest themselves (`legible.tensors`).
"""

import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from legible.errors import UserError
from legible.io import sha256_file, write_text

SUMS = "SHA256SUMS"  # in a folder of models, as `sha256sum` writes and reads it
UNLISTED = (SUMS, "README.md")  # people edit the latter
RUN = "run.json"  # of a training: its `weights` are such a list, too
ABOVE = 3  # folders in which a list is looked for: the place itself, or that of the file, and two above it
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def check_sums(*places: str | Path) -> None:
    """Hold files, or the files in folders, against the list that stands in the folder or above it.

    What no list names is taken as it is. A file that has not been touched since is not hashed again.

    Raises:
        UserError: a file is not what the list says, if only by one bit, or the list is no such list.
    """
    for place in filter(Path.exists, map(Path, places)):
        place = place.resolve()
        start = place if place.is_dir() else place.parent
        folder = next((above for above in [start, *start.parents][:ABOVE] if list_of(above)), None)
        if folder is None:
            continue
        named = {folder / name: sha256 for name, sha256 in listed(folder).items()}
        expected = {path: sha256 for path, sha256 in named.items() if path.is_relative_to(place) and path.is_file()}
        for path, found in digests(expected).items():
            if found != expected[path]:
                raise UserError(f"{shown(path)}: damaged, it is not the file whose SHA-256 {remedy(folder)}")


def list_of(folder: Path) -> Path | None:
    """The list that stands in a folder."""
    return next((folder / name for name in (SUMS, RUN) if (folder / name).is_file()), None)


def listed(folder: Path) -> dict[str, str]:
    """What the list in a folder says: name of a file below it → SHA-256; nothing of another program's run.json.

    Raises:
        UserError: SHA256SUMS has a line that `sha256sum` does not write.
    """
    path = list_of(folder)
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.name == SUMS:
        found = [LINE.fullmatch(line) for line in text.splitlines()]
        if None in found:
            raise UserError(
                f"{shown(path)}, line {found.index(None) + 1}: a SHA-256, two blanks and the name of a file are needed,"
                " as `sha256sum` writes them"
            )
        return {match[2]: match[1] for match in found}
    try:
        weights = json.loads(text).get("weights")
    except (ValueError, AttributeError):
        return {}
    return weights if isinstance(weights, dict) else {}


def remedy(folder: Path) -> str:
    """Whose SHA-256 it is that a file should have, and what to do about another one."""
    path = shown(list_of(folder))
    if path.name == RUN:
        return f"{path} recorded; delete {path} and run again, training then goes on from its last checkpoint"
    return (
        f"{path} lists; restore it, or, if it was meant to change, run `python scripts/write_checksums.py"
        f" {path.parent}`"
    )


def shown(path: Path) -> Path:
    """A path as people write it: from the working directory, where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def digests(paths: Mapping[Path, str]) -> dict[Path, str]:
    """The SHA-256 of files, as hex; hashed side by side."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(paths, pool.map(digest_of, paths), strict=True))


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, as hex; from memory, if nobody has touched it since."""
    about = path.stat()
    return _digest(path, about.st_size, about.st_mtime_ns)


@cache
def _digest(path: Path, size: int, touched: int) -> str:
    return sha256_file(path)


def write_sums(folder: Path) -> int:
    """Write the SHA-256 of the files below a folder (but README.md) into its SHA256SUMS; return how many there are.

    Raises:
        UserError: a name holds what `sha256sum` would have to escape.
    """
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    named = [name for name in found if name.name not in UNLISTED and "__pycache__" not in name.parts]
    if odd := [name for name in named if set("\n\r\\") & set(str(name))]:
        raise UserError(f"{folder}: {str(odd[0])!r}: a name without line breaks and backslashes is needed")
    write_text(folder / SUMS, "".join(f"{sha256_file(folder / name)}  {name}\n" for name in named))
    return len(named)


def check_shard(path: str | Path) -> None:
    """Hold a shard of the dataset against the `summary.json` beside it; where there is none, nothing is asked.

    Raises:
        UserError: it is not what was written, if only by one bit.
    """
    path, summary = Path(path), Path(path).with_name("summary.json")
    try:
        written = json.loads(summary.read_text(encoding="utf-8"))["splits"][path.stem]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if path.is_file() and digest_of(path) != written:
        raise UserError(
            f"{path}: the shard is truncated or damaged, its SHA-256 is not the one in {summary}; delete it and run the"
            " data stage again"
        )

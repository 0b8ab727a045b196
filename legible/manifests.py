"""Folders of pictures: each holds a manifest (JSON lines, key `file`), written after them, that names them."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from legible.errors import UserError
from legible.io import atomic_path, read_jsonl


def manifest_in(path: str | Path) -> Path:
    """The manifest in a folder of pictures; a path that names a `.jsonl` file is the manifest's already."""
    path = Path(path)
    return path if path.suffix == ".jsonl" else path / "manifest.jsonl"


def link_files(names: Iterable[str], source: Path, target: Path) -> None:
    """Files of `source` in `target` too: as hard links, or as copies where the file system has none."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        with atomic_path(target / name) as temporary:
            temporary.unlink()
            try:
                os.link(source / name, temporary)
            except OSError:
                shutil.copyfile(source / name, temporary)


def damage(folder: Path) -> str | None:
    """Why a folder's pictures are to be drawn again, to come after its name; None where nothing speaks for it.

    A folder without a manifest is being filled, maybe by a job that runs now, or was: that is Snakemake's to know.
    """
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        return f"{manifest.name} is no file" if os.path.lexists(manifest) else None
    try:
        gone = sorted({row["file"] for row in read_jsonl(manifest)} - {path.name for path in folder.iterdir()})
    except (UserError, OSError, ValueError, RecursionError, KeyError, TypeError):
        return f"{manifest.name} is damaged"
    return f"{gone[0]} is gone" if gone else None


def put_aside(folder: Path) -> None:
    """Rename a folder to `{folder}.incomplete`, in place of whatever has that name."""
    aside = folder.with_name(f"{folder.name}.incomplete")
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)
    folder.rename(aside)

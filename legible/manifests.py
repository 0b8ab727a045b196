"""Folders of pictures: each holds a manifest (JSON lines, key `file`) that names them."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from legible.io import atomic_path


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


def put_aside(folder: Path) -> None:
    """Rename a folder to `{folder}.incomplete`, in place of an older one of that name."""
    aside = folder.with_name(f"{folder.name}.incomplete")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)

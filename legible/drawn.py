"""Pictures that are drawn already: what decides a model's pictures, and whether they are still there, unchanged."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from legible.corpus.prompts import Prompt
from legible.errors import UserError
from legible.io import file_hashes, sha256_file, sha256_json, write_json
from legible.models.spec import spec_of
from legible.provenance import decides_sampling, placeless

DRAWN = "drawn.json"


def shared_by_all(config: dict[str, Any], prompts: list[Prompt]) -> list:
    """What decides the pictures of the base and of every model that is tuned from it.

    Args:
        config: the sections model, generation, data.
    """
    model = config["model"]
    folders = spec_of(model.family).folders("denoiser", "text", "autoencoder", "scheduler")
    files = file_hashes(Path(model.path), *folders)
    plain = [config[name].model_dump(mode="json") for name in ("generation", "data")]
    return [*plain, placeless(model, bool(files)), files, [asdict(prompt) for prompt in prompts]]


def identity(shared: list, config: dict[str, Any], weights: Path | None) -> str:
    """SHA-256 over everything that decides one model's pictures: what is shared, its own weights, code and versions.

    Args:
        shared: `shared_by_all`.
        weights: folder of fine-tuned weights; None: the base.
    """
    files = sorted(path for path in weights.rglob("*") if path.is_file()) if weights else []
    own = {str(path.relative_to(weights)): sha256_file(path) for path in files}
    return sha256_json([shared, own, decides_sampling(config["model"], adapters=weights is not None)])


def drawn_before(kept: Path, key: str) -> list[dict] | None:
    """The manifest's rows of pictures that are all there, unchanged and of the same identity; None: draw them.

    Args:
        kept: folder of pictures with what `write_drawn` wrote.

    Raises:
        UserError: a folder is in its place, which nothing could be written over.
    """
    path = kept / DRAWN
    if path.is_dir():
        raise UserError(f"{path}: a folder, where a file is needed; delete it, and these pictures are drawn again")
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = found["rows"]
        # A damaged row would come back at every try: pictures alone do not show that a target has changed.
        if found["key"] != key or found["sum"] != sha256_json(rows):
            return None
        files = [(kept / row["file"], row["sha256"]) for row in rows]
        return rows if all(file.is_file() and sha256_file(file) == sha256 for file, sha256 in files) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_drawn(kept: Path, key: str, rows: list[dict]) -> None:
    """`drawn.json`: {"key": identity, "rows": rows of the manifest, "sum": their SHA-256}, after the pictures."""
    write_json(kept / DRAWN, {"key": key, "rows": rows, "sum": sha256_json(rows)})

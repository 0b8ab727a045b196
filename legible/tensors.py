"""Tensor files of our own: safetensors whose one metadata entry holds a digest too: a flipped bit is noticed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from legible.errors import UserError
from legible.io import atomic_path

ENTRY = "legible"  # one entry only: safetensors writes several in an order that changes from one process to the next


def digest(tensors: dict[str, Tensor], about: dict[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, whatever their order, and over `about` (JSON)."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.flatten().view(torch.uint8).numpy() if value.numel() else b"")
    return found.hexdigest()


def save_tensors(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None) -> None:
    """Write tensors, and what is to be known of them (JSON), as one safetensors file, atomically."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    about = about or {}
    entry = json.dumps(about | {"sha256": digest(plain, about)}, ensure_ascii=False, sort_keys=True)
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={ENTRY: entry})


def load_tensors(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote, on the CPU.

    Args:
        what: the file's content, for the error: "the cache".

    Raises:
        UserError: the file is missing or damaged, if only by one bit.
    """
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads(stored.metadata()[ENTRY])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
        if about.pop("sha256") != digest(tensors, about):
            raise ValueError("its checksum is another one")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: {what} is missing or damaged ({reason}); delete it to compute it again") from error
    return tensors, about


def sort_header(path: Path) -> None:
    """Write a safetensors file's header anew, sorted: the same content is then the same bytes.

    Others write several metadata entries, and sets within them, in an order that changes from process to process.
    """
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    about = header.pop("__metadata__", {})
    values = {key: canonical(about[key]) for key in sorted(about)}
    tensors = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    text = json.dumps({"__metadata__": values} | dict(tensors), ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])


def canonical(value: str) -> str:
    """A metadata entry that is a JSON object with its keys, and lists of names in it, sorted; any other as it is."""
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        return value
    if not isinstance(found, dict):
        return value
    plain = {
        key: sorted(entry) if isinstance(entry, list) and all(isinstance(name, str) for name in entry) else entry
        for key, entry in found.items()
    }
    return json.dumps(plain, indent=2, sort_keys=True)

"""Files that appear whole or not at all, and content hashes."""

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from legible.errors import UserError, must_be_object, no_room


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success flush it to disk and rename it over `target`.

    On any exception the temporary file is removed and `target` is left as it was. A full disk becomes a UserError.
    Beside it, since a file cannot be renamed into another file system; with the rights that the umask leaves.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = new_file(target.with_name(f".{target.stem}-{secrets.token_hex(4)}{target.suffix}"))
    mode = stat.S_IMODE(temporary.stat().st_mode)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, mode)  # safetensors puts a file of its own in its place, closed to all others
        os.replace(temporary, target)
    except Exception as error:
        if full := no_room(error):
            raise UserError(f"{target}: {full}, nothing was lost") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def new_file(path: Path) -> Path:
    """Create an empty file and return its path; tempfile's would be closed to everyone else, whatever the umask."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return path


def honour_umask(folder: Path) -> None:
    """Give the files of a folder the rights that the umask leaves: safetensors closes its files to all others."""
    usual = new_file(folder / f".{secrets.token_hex(4)}")
    mode = stat.S_IMODE(usual.stat().st_mode)
    usual.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def write_text(target: str | Path, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_jsonl(target: str | Path, rows: list[dict]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(target, "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows))


def sealed(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the sum of its content as the key `sum`, which `read_jsonl` checks and takes off."""
    return row | {"sum": sha256_json(row)}


def read_jsonl(path: str | Path) -> list[dict]:
    """Read one JSON object a line; a line that is not JSON, or not what was sealed, is a UserError that names it."""
    rows = []
    # Not splitlines: JSON may hold U+2028 and other characters at which that would cut.
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not a JSON object ({error.msg})") from error
        must_be_object(rows[-1], f"{path}, line {number}")
        if (written := rows[-1].pop("sum", None)) is not None and written != sha256_json(rows[-1]):
            raise UserError(f"{path}, line {number}: not what was written there (checksum); delete the file, run again")
    return rows


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_hashes(folder: Path, *names: str, deep: bool = False) -> dict[str, str]:
    """SHA-256 of a folder's files, or of those in some folders of it; none where there is none (a hub id).

    Args:
        deep: of files in folders of these, too.
    """
    folders = [folder / name for name in names] if names else [folder]
    files = [path for each in folders for path in sorted(each.glob("**/*" if deep else "*")) if path.is_file()]
    return {str(path.relative_to(folder)): sha256_file(path) for path in files}


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON-able value with its keys sorted, as hex: equal values hash equal whatever their order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()

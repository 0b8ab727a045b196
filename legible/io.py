"""Files that appear whole or not at all, and content hashes."""

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from legible.errors import UserError, must_be_object


def disk_is_full(error: BaseException | None) -> bool:
    """Whether `error`, or one that it was raised from, says so: torch and safetensors wrap it in their own errors."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success flush it to disk and rename it over `target`.

    On any exception the temporary file is removed and `target` is left as it was. A full disk becomes a UserError.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except Exception as error:
        if disk_is_full(error):
            raise UserError(f"{target}: the disk is full; free some space and run again, nothing was lost") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def read_jsonl(path: str | Path) -> list[dict]:
    """Read one JSON object a line; a line that is not JSON is a UserError that names it."""
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
    return rows


def files_gone(manifest: Path) -> list[str]:
    """Files that a manifest (JSON lines, key `file`) names and that are not there; or itself, if it is no such."""
    try:
        named = {row["file"] for row in read_jsonl(manifest)}
    except (UserError, KeyError, TypeError):
        return [manifest.name]
    return sorted(named - {path.name for path in manifest.parent.iterdir()})


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

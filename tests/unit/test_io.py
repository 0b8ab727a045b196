"""Files appear whole or not at all; equal values hash equal; progress is told and nothing is lost on the way."""

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from legible import io
from legible.errors import UserError, no_room
from legible.progress import progress
from legible.tensors import save_tensors

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=4), max_size=5))
def test_json_lines_come_back(tmp_path, rows):
    io.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert io.read_jsonl(tmp_path / "rows.jsonl") == rows


@given(st.dictionaries(st.text(), JSON, max_size=4), st.integers(0), st.integers(0, 7))
def test_of_a_sealed_line_no_flipped_bit_passes(tmp_path, row, place, bit):
    """It would be another score."""
    path = tmp_path / "rows.jsonl"
    io.write_jsonl(path, [io.sealed(row)])
    assert io.read_jsonl(path) == [row]
    content = bytearray(path.read_bytes())
    content[place % (len(content) - 1)] ^= 1 << bit
    path.write_bytes(content)
    try:
        (found,) = io.read_jsonl(path)
    except (UserError, ValueError):
        return
    # A bit of the seal's own name, or of what means the same.
    assert row.items() <= found.items()
    assert len(found) <= len(row) + 1


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(UserError, match=r"rows\.jsonl, line 3: not a JSON object"):
        io.read_jsonl(tmp_path / "rows.jsonl")


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_hash_does_not_depend_on_the_order_of_keys(value):
    turned = dict(reversed(value.items()))
    assert io.sha256_json(turned) == io.sha256_json(value)
    assert io.sha256_json(json.loads(json.dumps(value))) == io.sha256_json(value)
    assert io.sha256_json({**value, "one more key": 1}) != io.sha256_json(value)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    content = os.urandom(100_000)
    (tmp_path / "file").write_bytes(content)
    assert io.sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "folder" / "file.txt"
    io.write_text(target, "old")

    def write_half() -> None:
        with io.atomic_path(target) as path:
            path.write_text("half of the n")
            assert target.read_text() == "old"  # nobody sees the new file before it is whole
            assert path.suffix == ".txt"
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert target.read_text() == "old"
    assert [file.name for file in target.parent.iterdir()] == ["file.txt"]
    io.write_text(target, "new")
    assert target.read_text() == "new"


WRITERS = {
    "a.json": lambda path: io.write_json(path, {}),
    "a.safetensors": lambda path: save_tensors(path, {"a": torch.zeros(3)}),
    "a.png": lambda path: save_with(path, Image.new("L", (2, 2)).save),
    "a.pth": lambda path: save_with(path, lambda file: torch.save(torch.zeros(2), file)),
    "a.parquet": lambda path: save_with(path, lambda file: pq.write_table(pa.table({"a": [1]}), file)),
}


def save_with(path: Path, save) -> None:
    with io.atomic_path(path) as temporary:
        save(temporary)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read_a_file(tmp_path, name, umask, mode):
    before = os.umask(umask)
    try:
        for _ in range(2):  # anew, and over a file that is there
            WRITERS[name](tmp_path / name)
            assert (tmp_path / name).stat().st_mode & 0o777 == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", WRITERS)
def test_results_may_lie_in_another_file_system(tmp_path, elsewhere, monkeypatch, name):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):  # what would come of a file made over there
        os.replace(io.new_file(tmp_path / "x"), elsewhere / "x")
    Path("results").symlink_to(elsewhere)
    WRITERS[name](Path("results") / name)
    assert [path.name for path in elsewhere.iterdir()] == [name]


@pytest.fixture
def full_disk(tmp_path, monkeypatch):
    """Temporary files are links to /dev/full: every write to them fails as on a disk without space."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")

    def on_a_full_disk(path: Path) -> Path:
        path.symlink_to("/dev/full")
        return path

    monkeypatch.setattr(io, "new_file", on_a_full_disk)
    return tmp_path


def test_a_full_disk_is_one_sentence_and_loses_nothing(full_disk):
    (full_disk / "file.txt").write_text("old")
    with pytest.raises(UserError, match=r"file\.txt: the disk is full; free some space and run again"):
        io.write_text(full_disk / "file.txt", "new" * 100_000)
    assert (full_disk / "file.txt").read_text() == "old"
    assert [file.name for file in full_disk.iterdir()] == ["file.txt"]


def test_a_full_disk_is_recognised_behind_the_libraries_own_errors(full_disk):
    from legible.train.checkpoint import save_checkpoint

    with pytest.raises(UserError, match=r"state\.pt: the disk is full"):
        save_checkpoint(full_disk / "state.pt", "key", {"weights": torch.zeros(100_000)})
    with (
        pytest.raises(UserError, match=r"image\.png: the disk is full"),
        io.atomic_path(full_disk / "image.png") as path,
    ):
        Image.effect_noise((200, 200), 50).save(path)
    assert not list(full_disk.iterdir())


def test_which_errors_mean_a_full_disk():
    assert "the disk is full" in no_room(OSError(errno.ENOSPC, "x"))
    assert "the disk is full" in no_room(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert "quota" in no_room(OSError(errno.EDQUOT, "x"))
    assert "ulimit" in no_room(ValueError("File too large"))
    assert no_room(OSError(errno.EACCES, "x")) is None
    assert no_room(None) is None
    wrapped = RuntimeError("unreadable")
    wrapped.__context__ = OSError(errno.ENOSPC, "x")
    assert "the disk is full" in no_room(wrapped)


SCRIPT = """
import errno
from legible.errors import UserError, run_cli

def main():
    raise {error}

run_cli(main)
"""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        ("UserError('a.yaml: key: unknown')", 2, "error: a.yaml: key: unknown\n"),
        (
            "OSError(errno.ENOSPC, 'No space', 'w.bin')",
            2,
            "error: w.bin: the disk is full; free some space and run again\n",
        ),
        (
            "OSError(errno.EACCES, 'Denied', 'w.bin')",
            2,
            "error: w.bin: it may not be read or written here; change its permissions\n",
        ),
        ("OSError(errno.EISDIR, 'Folder', 'w.bin')", 2, "error: w.bin: a folder; a file is needed\n"),
        ("OSError(errno.EIO, 'Broken', 'w.bin')", 1, None),
        ("ValueError('a bug')", 1, None),
    ],
)
def test_users_see_a_sentence_and_bugs_a_traceback(error, code, message):
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(error=error)], capture_output=True, text=True)
    assert done.returncode == code
    if message:
        assert done.stderr == message
    else:
        assert "Traceback" in done.stderr


def test_progress_passes_everything_on_and_ends_with_the_total(capsys):
    assert list(progress(range(3, 7), "work", start=3, total=7, unit="step")) == [3, 4, 5, 6]
    assert list(progress("abc", "letters")) == ["a", "b", "c"]
    assert list(progress(iter([1]), "unknown length")) == [1]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("work: 7/7 step, ")
    assert lines[0].endswith("step/s, 0 s left")
    assert lines[1].startswith("letters: 3/3 it, ")


def test_progress_tells_rate_and_time_left_every_five_seconds(capsys, monkeypatch):
    from legible import progress as module

    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    list(progress(range(10), "work"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: 3/10 it, 0.50 it/s, 14 s left"
    assert len(lines) == math.ceil(10 / 3)

"""When pictures are drawn again: what can happen to a folder of them, and to its manifest."""

import os

import pytest

from legible.io import write_jsonl
from legible.manifests import damage, put_aside


@pytest.fixture
def folder(tmp_path):
    """One picture and its manifest."""
    found = tmp_path / "short"
    found.mkdir()
    (found / "a.png").write_bytes(b"a picture")
    write_jsonl(found / "manifest.jsonl", [{"file": "a.png"}])
    return found


def test_a_whole_folder_is_left_alone_and_a_missing_picture_is_named(folder):
    assert damage(folder) is None
    (folder / "a.png").unlink()
    assert damage(folder) == "a.png is gone"


def test_a_folder_that_is_being_filled_is_not_taken_from_under_its_job(folder):
    (folder / "manifest.jsonl").unlink()
    assert damage(folder) is None


@pytest.mark.parametrize(
    "content",
    [b'{"file": "a.pn\xe7"}', b"{}", b"[]", b"not JSON", b'{"file": ["a.png"]}', b"[" * 100_000, b"1" * 5000],
    ids=["no UTF-8", "no file", "no object", "no JSON", "a list", "deep", "digits"],
)
def test_a_damaged_manifest_is_no_exception(folder, content):
    (folder / "manifest.jsonl").write_bytes(content)
    assert damage(folder) == "manifest.jsonl is damaged"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_not_opened(folder, make):
    (folder / "manifest.jsonl").unlink()
    make(folder / "manifest.jsonl")
    assert damage(folder) == "manifest.jsonl is no file"


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("nowhere", path), lambda path: None])
def test_whatever_lies_where_a_folder_is_put_gives_way(folder, make):
    aside = folder.with_name("short.incomplete")
    make(aside)
    put_aside(folder)
    assert (aside / "a.png").is_file()
    assert not folder.exists()

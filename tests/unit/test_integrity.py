"""Files are what was written when they were made, or are named: lists of checksums, shards, downloads."""

import hashlib
import re
import runpy
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legible.config.scripts import FontEntry, shipped_font
from legible.errors import UserError
from legible.integrity import SUMS, check_shard, check_sums, digest_of
from legible.io import sha256_file, write_json
from legible.models import download
from legible.models.download import check_download, check_room

ROOT = Path(__file__).resolve().parents[2]


def flip(path: Path, place: int = 0) -> None:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def write_list(*folders: Path) -> None:
    arguments = [sys.executable, "scripts/write_checksums.py", *map(str, folders)]
    subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder of models with its list."""
    folder = tmp_path_factory.mktemp("models")
    for name, content in {"one/net/a.safetensors": b"weights", "one/net/config.json": b"{}", "two/b.bin": b"x"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_list(folder)
    return folder


def test_the_list_is_what_sha256sum_reads(models):
    assert len((models / SUMS).read_text().splitlines()) == 3
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=models, check=True)


@pytest.mark.parametrize("place", [".", "one", "one/net", "one/net/a.safetensors"])
@given(st.data())
def test_one_flipped_bit_below_a_place_is_named_with_what_to_do(models, place, data):
    file = models / "one" / "net" / "a.safetensors"
    check_sums(models / place)
    bit = data.draw(st.integers(0, file.stat().st_size * 8 - 1))
    flip(file, bit)
    try:
        said = rf"a\.safetensors: damaged, .*{SUMS} lists; restore it, or.*write_checksums\.py {re.escape(str(models))}"
        with pytest.raises(UserError, match=said):
            check_sums(models / place)
        check_sums(models / "two", models / "one" / "net" / "config.json")  # they are what they were
    finally:
        flip(file, bit)
        check_sums(models / place)


def test_what_no_list_names_is_taken_as_it_is(models, tmp_path):
    (tmp_path / "file").write_bytes(b"anything")
    check_sums(tmp_path, tmp_path / "file", tmp_path / "nowhere")
    more = models / "two" / "more.bin"
    more.write_bytes(b"new")
    check_sums(models)
    more.unlink()
    write_json(tmp_path / "run.json", {"weights": "another program's"})
    check_sums(tmp_path / "file")
    (tmp_path / "run.json").write_text("[")
    check_sums(tmp_path / "file")


def test_a_list_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / SUMS).write_text(f"{sha256_file(tmp_path / 'a')}  a\nnonsense\n")
    with pytest.raises(UserError, match=rf"{SUMS}, line 2: a SHA-256, two blanks and the name of a file are needed"):
        check_sums(tmp_path)


def test_a_run_records_its_weights_and_a_damaged_one_says_how_to_get_it_back(tmp_path):
    weights = tmp_path / "weights" / "transformer" / "a.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"0123")
    write_json(tmp_path / "run.json", {"weights": {"weights/transformer/a.safetensors": sha256_file(weights)}})
    check_sums(tmp_path / "weights")
    flip(weights, 9)
    with pytest.raises(UserError, match=r"run\.json recorded; delete .*run\.json and run again, training then goes on"):
        check_sums(tmp_path / "weights")


def test_a_file_that_nobody_touched_is_hashed_once(tmp_path, monkeypatch):
    from legible import integrity

    hashed = []
    monkeypatch.setattr(integrity, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    (tmp_path / "a").write_bytes(b"a")
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "a") == hashlib.sha256(b"a").hexdigest()
    assert len(hashed) == 1
    (tmp_path / "a").write_bytes(b"bc")
    assert digest_of(tmp_path / "a") == hashlib.sha256(b"bc").hexdigest()


@pytest.mark.parametrize("folder", ["nano", "fonts"])
def test_the_shipped_lists_name_every_shipped_file_as_it_is(folder):
    """After a change: python scripts/write_checksums.py resources/nano resources/fonts"""
    place = ROOT / "resources" / folder
    listed = dict(reversed(line.split("  ", 1)) for line in (place / SUMS).read_text().splitlines())
    named = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."]
    found = subprocess.run(named, cwd=place, capture_output=True, text=True, check=True).stdout.split("\0")
    assert listed.keys() == {name for name in found if name and name != SUMS and (place / name).exists()}
    assert [name for name, sha256 in listed.items() if sha256_file(place / name) != sha256] == []


def test_a_damaged_shipped_font_is_named(tmp_path, monkeypatch):
    fonts = tmp_path / "resources" / "fonts"
    fonts.mkdir(parents=True)
    font = fonts / "rubik.font.xz"
    font.write_bytes((ROOT / "resources" / "fonts" / font.name).read_bytes())
    write_list(fonts)
    monkeypatch.setattr(FontEntry, "file", lambda entry, name, root=tmp_path: fonts / f"{name}.font.xz")
    shipped_font.cache_clear()
    assert shipped_font("rubik")[:4] in (b"\0\1\0\0", b"true", b"OTTO")
    shipped_font.cache_clear()
    flip(font, 8 * 3000)
    with pytest.raises(UserError, match=r"rubik\.font\.xz: damaged"):
        shipped_font("rubik")
    shipped_font.cache_clear()


def test_a_shard_is_held_against_the_summary_beside_it(tmp_path):
    shard = tmp_path / "train.parquet"
    shard.write_bytes(b"rows")
    check_shard(shard)  # nothing is known of it
    write_json(tmp_path / "summary.json", {"splits": {"train": {"sha256": sha256_file(shard)}}})
    check_shard(shard)
    flip(shard, 17)
    with pytest.raises(UserError, match=r"train\.parquet: the shard is truncated or damaged, its SHA-256 .*delete it"):
        check_shard(shard)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A repository in the hub's cache, as huggingface_hub lays it out: names that point at blobs."""
    top = tmp_path / "models--owner--name"
    snapshot = top / "snapshots" / ("0" * 40)
    for name, content in {"model_index.json": b"{}", "vae/config.json": b"[]", "vae/net.safetensors": b"long"}.items():
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as `git hash-object` says it
        blob = top / "blobs" / (hashlib.sha256(content).hexdigest() if name.endswith("tensors") else git)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)

    def known(repository: str, name: str, revision: str) -> str | None:
        ours = (repository, revision) == ("owner/name", "0" * 40) and (snapshot / name).exists()
        return str(snapshot / name) if ours else None

    monkeypatch.setattr(download, "try_to_load_from_cache", known)
    return snapshot


@pytest.mark.parametrize("name", ["vae/config.json", "vae/net.safetensors"])
def test_a_damaged_download_is_named(hub, name):
    known = subprocess.run(["git", "hash-object", hub / "vae/config.json"], capture_output=True, text=True, check=True)
    assert (hub / "vae/config.json").resolve().name == known.stdout.strip()
    check_download("owner/name", "0" * 40)
    flip((hub / name).resolve(), 5)
    check_download("owner/name", "0" * 40, "transformer")  # that was not asked for
    with pytest.raises(
        UserError, match=rf"{Path(name).name}: damaged, this is not the file that owner/name has; delete"
    ):
        check_download("owner/name", "0" * 40, "vae")


def test_what_the_cache_does_not_know_is_let_be(hub, tmp_path):
    check_download("owner/other", "0" * 40)
    check_download(str(tmp_path), None)


GB = 10**9
REPOSITORY = {
    "model_index.json": 500,
    "transformer/a-00001-of-00002.safetensors": 10 * GB,
    "transformer/a-00002-of-00002.safetensors": 5 * GB,
    "transformer/a.fp16.safetensors": 10**15,
    "transformer/a.bin": 10**15,
    "vae/net.safetensors": GB,
}


class Hub:
    """Says how large the files of a repository are, as huggingface_hub does."""

    def model_info(self, repository: str, revision: str, files_metadata: bool, timeout: float) -> SimpleNamespace:
        assert (repository, files_metadata) == ("owner/name", True)
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in REPOSITORY.items()])


@pytest.mark.parametrize(
    ("free", "largest", "said"),
    [
        (16 * GB, 15 * GB, None),
        (
            14 * GB,
            15 * GB,
            r"owner/name: 15.0 GB are to be fetched, but .* has 14.0 GB left; make room, or set HF_HOME",
        ),
        (
            99 * GB,
            14 * GB,
            r"owner/name: 15 GB would be fetched, at most 14 GB are; if you want it, run `hf download owner",
        ),
    ],
)
def test_what_is_too_large_is_not_fetched(hub, monkeypatch, tmp_path, free, largest, said):
    monkeypatch.setattr(download, "HfApi", Hub)
    monkeypatch.setattr(download, "LARGEST", largest)
    monkeypatch.setattr(download.constants, "HF_HUB_CACHE", str(tmp_path / "not" / "there"))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda place: SimpleNamespace(free=free))
    wanted = ("transformer/*.safetensors", "vae/*.safetensors")  # of these the cache has the vae's
    with pytest.raises(UserError, match=said) if said else nullcontext():
        check_room("owner/name", "0" * 40, *wanted)


def test_a_folder_is_no_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/of/mine").mkdir(parents=True)
    check_room("models/of/mine", None, "*.safetensors")  # no hub id: the hub's own functions would refuse it


def test_the_hub_is_not_asked_for_what_is_here_and_may_be_silent(hub, monkeypatch, tmp_path):
    def silent() -> None:
        asked.append(True)
        raise OSError("no network")

    asked = []
    monkeypatch.setattr(download, "HfApi", silent)
    check_room("owner/name", "0" * 40, "vae/*.safetensors", "vae/*.json")
    check_room(str(tmp_path), None, "*.safetensors")
    assert not asked
    check_room("owner/name", "0" * 40, "transformer/*.safetensors")
    assert asked


def test_the_list_names_no_list_and_no_compiled_code(tmp_path, monkeypatch, capsys):
    (tmp_path / "__pycache__").mkdir()
    for name in ("a.txt", SUMS, "__pycache__/a.pyc"):
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(sys, "argv", ["write_checksums", str(tmp_path)])
    runpy.run_path(str(ROOT / "scripts" / "write_checksums.py"))["main"]()
    assert [line.split("  ")[1] for line in (tmp_path / SUMS).read_text().splitlines()] == ["a.txt"]
    assert "1 files" in capsys.readouterr().out

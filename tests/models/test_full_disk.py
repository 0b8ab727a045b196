"""A disk that is full in the middle of a training: one sentence, nothing lost, and the same weights in the end."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from training import equal, metrics, settings, small_data

from legible.train.data import save_training_data

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(folders, cache: Path, folder: Path) -> list[str]:
    config = {
        "model": {"path": str(folders.zimage)},
        "clip": {},
        "reader": {},
        "generation": {"steps": 8},
        "training": settings(steps=6, checkpoint_every=2, ema=0.9).model_dump(mode="json", by_alias=True),
    }
    return [
        sys.executable, "scripts/train_arm.py", "--config", json.dumps(config), "--arm", "a", "--seed", "1",
        "--cache", str(cache), "--checkpoints", str(folder / "checkpoints"), "--output-dir", str(folder / "run"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory) -> tuple[Path, Path]:
    """A cache, and the folder of a training on it that had all the room."""
    folder = tmp_path_factory.mktemp("whole")
    save_training_data(folder / "train.safetensors", small_data(folders.zimage))
    subprocess.run(command(folders, folder / "train.safetensors", folder), cwd=ROOT, env=ENVIRONMENT, check=True)
    return folder / "train.safetensors", folder


def weights_of(folder: Path):
    return load_file(folder / "run" / "weights" / "transformer" / "diffusion_pytorch_model.safetensors")


def test_a_full_disk_stops_a_training_that_goes_on_when_there_is_room(folders, whole, tmp_path):
    """On a real file system, too small for two checkpoints, in a mount namespace of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"]).returncode:
        pytest.skip("this system allows no mount namespaces")
    cache, expected = whole
    checkpoint = sum(path.stat().st_size for path in (expected / "checkpoints").rglob("*") if path.is_file())
    small, out = tmp_path / "small", tmp_path / "out"
    small.mkdir()
    train = shlex.join(command(folders, cache, small))
    script = f"""
      mount -t tmpfs -o size={int(1.6 * checkpoint)} tmpfs {small}
      {train} 2> {tmp_path}/said; echo $? > {tmp_path}/status
      find {small} -type f > {tmp_path}/left; cat {small}/checkpoints/*/metrics.jsonl > {tmp_path}/rows
      mount -o remount,size=1g {small}
      {train} && cp -a {small} {out}
    """
    subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=ROOT, env=ENVIRONMENT, check=True, timeout=600)
    said = (tmp_path / "said").read_text().splitlines()
    assert (tmp_path / "status").read_text() == "2\n"
    assert "checkpoint.json: the disk is full; free some space and run again, nothing was lost" in said[-1]
    assert "Traceback" not in "".join(said)
    left = (tmp_path / "left").read_text()
    assert left.count("part0.json") == left.count("checkpoint.json") == 1  # the good one, and no half of another
    assert len((tmp_path / "rows").read_text().splitlines()) == 4
    assert equal(weights_of(out), weights_of(expected))
    assert metrics(out / "run") == metrics(expected / "run")


@pytest.mark.parametrize("rows", [0, 1])
def test_a_full_disk_that_does_not_even_take_the_log_is_one_sentence(folders, whole, tmp_path, rows):
    """A limit of a file's size, which needs no rights: the log's first row, or half of its second, is too much."""
    cache, expected = whole
    first = (expected / "run" / "metrics.jsonl").read_text().splitlines()[0]
    room = 4 + int(1.5 * len(first)) * rows  # 4: what tempfile tries a folder with, when torch is imported
    train = shlex.join(command(folders, cache, tmp_path))
    limited = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
    limited += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    program = [sys.executable, "-c", limited, *shlex.split(train)[1:]]
    done = subprocess.run(program, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("the disk is full as far as `ulimit -f` goes; raise it and run again")
    assert "Traceback" not in done.stderr
    subprocess.run(shlex.split(train), cwd=ROOT, env=ENVIRONMENT, check=True)
    assert equal(weights_of(tmp_path), weights_of(expected))

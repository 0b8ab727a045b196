"""Checkpoints: whole or not at all, refused when they are damaged or belong to another run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training import equal, metrics, settings, small_data

from legible.config import Model
from legible.errors import UserError
from legible.models import open_model
from legible.train.adapters import select_parameters
from legible.train.checkpoint import alone_in, load_checkpoint, save_checkpoint
from legible.train.data import save_training_data

ROOT = Path(__file__).resolve().parent.parent
STATE = {"weights": {"a": torch.arange(6.0).view(2, 3)}, "step": 3, "rates": [0.1, 0.2], "name": "x"}


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    assert load_checkpoint(tmp_path / "none.pt", "key") is None
    save_checkpoint(tmp_path / "state.pt", "key", STATE)
    found = load_checkpoint(tmp_path / "state.pt", "key")
    assert torch.equal(found["weights"].pop("a"), STATE["weights"]["a"])
    assert found == {**STATE, "weights": {}}
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_checkpoint_of_another_key_is_refused(tmp_path):
    save_checkpoint(tmp_path / "state.pt", "key", STATE)
    with pytest.raises(UserError, match=r"state\.pt: the checkpoint belongs to another configuration; delete it"):
        load_checkpoint(tmp_path / "state.pt", "another")


@given(share=st.floats(0, 0.999))
def test_a_truncated_checkpoint_is_refused(tmp_path, share):
    path = tmp_path / "state.pt"
    save_checkpoint(path, "key", STATE)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="the checkpoint is damaged; delete it"):
        load_checkpoint(path, "key")


@given(content=st.binary(max_size=300))
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        load_checkpoint(tmp_path / "state.pt", "key")


class Hostile:
    """Would create a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_cannot_run_code(tmp_path):
    torch.save({"key": "key", "state": Hostile(tmp_path / "hacked")}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path / "state.pt", "key")
    assert not (tmp_path / "hacked").exists()


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "state.pt"
    save_checkpoint(path, "key", STATE)
    before = path.read_bytes()
    with pytest.raises(AttributeError):
        save_checkpoint(path, "key", {"cannot be pickled": lambda: None})
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def command(folders, cache: Path, folder: Path) -> list[str]:
    config = {
        "model": {"path": str(folders.zimage)},
        "clip": {"path": str(folders.clip)},
        "reader": {"network": str(folders.recognizer)},
        "generation": {"steps": 8},
        "training": settings(
            steps=60, checkpoint_every=5, ema=0.9, aux={"loss": "clip_region", "lambda": 0.2, "every": 4}
        ).model_dump(mode="json", by_alias=True),
    }
    return [
        sys.executable, "scripts/train_arm.py", "--config", json.dumps(config), "--arm", "clip_region", "--seed", "1",
        "--cache", str(cache), "--checkpoints", str(folder / "checkpoints"), "--output-dir", str(folder / "run"),
    ]  # fmt: skip


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "weights" / "transformer" / "diffusion_pytorch_model.safetensors")


def test_kill_9_and_again_equals_an_unbroken_run(folders, tmp_path):
    cache = tmp_path / "train.safetensors"
    save_training_data(cache, small_data(folders.zimage))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    killed = subprocess.Popen(
        command(folders, cache, tmp_path / "killed"), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    log: Path | None = None
    while killed.poll() is None and time.monotonic() < deadline:
        log = next((tmp_path / "killed").glob("checkpoints/*/metrics.jsonl"), None)
        if log and log.read_bytes().count(b"\n") >= 13:  # past the checkpoint after step 9, amid the next steps
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert killed.wait() == -signal.SIGKILL
    assert log is not None
    written = log.read_bytes().count(b"\n")
    assert 13 <= written < 60
    assert not (tmp_path / "killed" / "run").exists()

    for name in ("killed", "whole"):
        subprocess.run(command(folders, cache, tmp_path / name), cwd=ROOT, env=environment, check=True)
    assert equal(weights_of(tmp_path / "killed"), weights_of(tmp_path / "whole"))
    runs = [tmp_path / name / "run" for name in ("killed", "whole")]
    assert metrics(runs[0]) == metrics(runs[1])
    assert [row["step"] for row in metrics(runs[0])] == list(range(60))
    assert sorted(path.name for path in runs[0].iterdir()) == ["metrics.jsonl", "run.json", "snapshots", "weights"]


def test_the_seed_decides_the_lora_matrices_and_nothing_before_it(folders):
    training = settings(method="lora", lora={"rank": 2})
    drawn = []
    for seed in (0, 0, 1):
        torch.randn(seed + 3)
        model = open_model(Model(path=str(folders.zimage)), ("transformer",))
        drawn.append({n: p.clone() for n, p in select_parameters(model.transformer, training, seed).items()})
    assert equal(drawn[0], drawn[1])
    assert not equal(drawn[0], drawn[2])


def test_a_second_process_waits_for_the_first_to_finish(tmp_path):
    """What the orphan of a killed Snakemake and its successor do to each other without a lock: write the same log."""
    code = (
        "import sys, time, pathlib\n"
        "from legible.train.checkpoint import alone_in\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "with alone_in(folder):\n"
        "    (folder / 'held').touch()\n"
        "    time.sleep(1.0)\n"
        "    (folder / 'finished').touch()\n"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    while not (tmp_path / "held").exists():
        assert first.poll() is None
    with alone_in(tmp_path):
        assert (tmp_path / "finished").exists()
    assert first.wait() == 0

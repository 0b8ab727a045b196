"""Checkpoints: whole or not at all, refused when they are damaged or belong to another run."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from training import Killed, equal, killed_at, metrics, run, settings, small_data

from legible.config import Model
from legible.errors import UserError
from legible.io import sha256_file, write_json
from legible.models.family import open_model
from legible.train import state
from legible.train.adapters import select_parameters
from legible.train.checkpoint import alone_in, drop_earlier, load_checkpoint, save_checkpoint, stop_requests
from legible.train.data import save_training_data
from legible.train.group import Group

ROOT = Path(__file__).resolve().parents[2]
STATE = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "half": torch.ones(3, dtype=torch.bfloat16), "none": torch.zeros(0)},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"betas": (0.9, 0.999), "fused": None}]},
    "step": 3,
    "rates": [0.1, 0.2],
    "name": "x",
    "type": torch.float32,
}


def flip(path: Path, place: int) -> None:
    """Turn one bit over."""
    content = bytearray(path.read_bytes())
    place %= 8 * len(content)
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def same(left, right) -> bool:
    """Equal values, types and tensors at all levels."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right)) and type(left) is type(right)
    return left == right and type(left) is type(right)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    assert load_checkpoint(tmp_path / "state.json", "key") is None
    save_checkpoint(tmp_path / "state.json", "key", STATE)
    assert same(load_checkpoint(tmp_path / "state.json", "key"), STATE)
    save_checkpoint(tmp_path / "state.json", "key", STATE | {"step": 4})
    assert load_checkpoint(tmp_path / "state.json", "key")["step"] == 4
    save_checkpoint(tmp_path / "state.json", "key", STATE | {"step": 5})
    indices, folders = [tmp_path / "state.before.json", tmp_path / "state.json"], sorted(tmp_path.glob("state-*"))
    assert sorted(tmp_path.iterdir()) == sorted([*folders, *indices])
    assert sorted(json.loads(index.read_text())["folder"] for index in indices) == [each.name for each in folders]
    assert sorted(path.name for path in folders[0].iterdir()) == ["part0.json", "part0.safetensors"]
    drop_earlier(tmp_path / "state.json")
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == ["", ".json"]
    assert load_checkpoint(tmp_path / "state.json", "key")["step"] == 5


def test_large_checkpoints_are_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "SHARD", 1000)
    tensors = {str(i): torch.full((100,), float(i)) for i in range(9)}
    save_checkpoint(tmp_path / "state.json", "key", tensors)
    assert len(list(tmp_path.glob("state-*/*.safetensors"))) == 5
    assert same(load_checkpoint(tmp_path / "state.json", "key"), tensors)


def test_shared_and_cut_out_tensors_are_written_as_they_are(tmp_path):
    whole = torch.arange(12.0)
    given = {"once": whole, "twice": whole, "row": whole.view(3, 4)[1], "turned": whole.view(3, 4).T}
    save_checkpoint(tmp_path / "state.json", "key", given)
    assert same(load_checkpoint(tmp_path / "state.json", "key"), given)
    (file,) = tmp_path.glob("state-*/*.safetensors")
    assert len(load_file(file)) == 3


def test_the_layout_of_a_tensor_is_kept(tmp_path):
    given = torch.arange(120.0).view(2, 3, 4, 5)
    layouts = [given, given.contiguous(memory_format=torch.channels_last), given.permute(3, 0, 2, 1), given[:, :, ::2]]
    save_checkpoint(tmp_path / "state.json", "key", {"tensors": layouts})
    found = load_checkpoint(tmp_path / "state.json", "key")["tensors"]
    assert all(torch.equal(one, two) for one, two in zip(layouts, found, strict=True))
    assert [tensor.stride() for tensor in found[:3]] == [tensor.stride() for tensor in layouts[:3]]


def test_a_checkpoint_of_another_key_is_refused(tmp_path):
    save_checkpoint(tmp_path / "state.json", "key", STATE)
    with pytest.raises(UserError, match=r"state\.json: the checkpoint belongs to another configuration; delete it"):
        load_checkpoint(tmp_path / "state.json", "another")


@pytest.mark.parametrize("name", ["state.json", "part0.json", "part0.safetensors"])
@given(share=st.floats(0, 0.999))
def test_a_truncated_checkpoint_is_refused(tmp_path, name, share):
    shutil.rmtree(tmp_path)
    save_checkpoint(tmp_path / "state.json", "key", STATE)
    (path,) = tmp_path.rglob(name)
    path.write_bytes(path.read_bytes().rstrip()[: int(share * (path.stat().st_size - 1))])
    with pytest.raises(UserError, match="the checkpoint is damaged; delete it"):
        load_checkpoint(tmp_path / "state.json", "key")


@given(content=st.binary(max_size=300) | st.sampled_from([b"{}", b"[]", b"1", b'{"key": "key"}']))
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        load_checkpoint(tmp_path / "state.json", "key")


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        ('["subclass", "subprocess.Popen", ["dict", []], null, [1]]', "subprocess.Popen is no tensor of an optimiser"),
        ('["set", []]', "is no part of a checkpoint"),
    ],
)
def test_a_checkpoint_cannot_run_code(tmp_path, outline, said):
    index = tmp_path / "state.json"
    save_checkpoint(index, "key", {})
    (part,) = tmp_path.rglob("part0.json")
    part.write_text(f'{{"shards": {{}}, "state": {outline}}}')
    # Whoever writes the outline can write its checksum too.
    write_json(index, json.loads(index.read_text()) | {"parts": {"part0.json": sha256_file(part)}})
    with pytest.raises(UserError, match=f"damaged; .*{said}"):
        load_checkpoint(index, "key")


def test_what_another_process_has_written_already_is_not_swept_away(tmp_path):
    """The first process makes room while the others are writing into the same new folder."""
    path = tmp_path / "checkpoint.json"
    folder = tmp_path / "checkpoint-new"

    class First(Group):
        def agree(self, value):
            return "new"

        def wait(self):
            write_json(folder / "part1.json", {})  # the second one's outline comes last

    folder.mkdir()
    (folder / "part1.safetensors").write_bytes(b"written before the first process began")
    left_by_a_kill = tmp_path / "checkpoint-old"
    left_by_a_kill.mkdir()
    save_checkpoint(path, "k", {"step": 1}, First(rank=0, size=2, sharded=True))
    assert (folder / "part1.safetensors").exists()
    assert not left_by_a_kill.exists()


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "state.json"
    save_checkpoint(path, "key", STATE)
    before = sorted(path.parent.rglob("*"))
    for bad in (lambda: None, {1, 2}):
        with pytest.raises(TypeError, match="cannot be part of a checkpoint"):
            save_checkpoint(path, "key", {"weights": torch.zeros(3), "bad": bad})
    assert sorted(path.parent.rglob("*")) == before
    assert same(load_checkpoint(path, "key"), STATE)


ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


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


def signalled(folders, cache: Path, folder: Path, number: signal.Signals, rows: int) -> subprocess.Popen:
    """A training that got the signal `number` after it had logged `rows` steps."""
    process = subprocess.Popen(
        command(folders, cache, folder), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        log = next(folder.glob("checkpoints/*/metrics.jsonl"), None)
        if log and log.read_bytes().count(b"\n") >= rows:
            process.send_signal(number)
            break
        time.sleep(0.002)
    process.wait(timeout=240)
    return process


def logged(folder: Path) -> int:
    return next(folder.glob("checkpoints/*/metrics.jsonl")).read_bytes().count(b"\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143), (signal.SIGINT, 143)]
)
def test_a_training_that_was_stopped_and_goes_on_equals_an_unbroken_one(folders, tmp_path, number, status, whole):
    cache, expected = whole
    # Past the checkpoint after step 9, amid the next steps.
    stopped = signalled(folders, cache, tmp_path, number, rows=13)
    assert stopped.returncode == status
    assert 13 <= logged(tmp_path) < 60
    assert not (tmp_path / "run").exists()
    if number != signal.SIGKILL:  # it had the time to finish the step and write it down
        said = stopped.stderr.read().splitlines()[-1]
        assert (
            said
            == f"stopped: clip_region seed 1: after step {logged(tmp_path)} of 60; the same command goes on from there"
        )

    again = subprocess.run(
        command(folders, cache, tmp_path), cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    assert equal(weights_of(tmp_path), weights_of(expected))
    assert metrics(tmp_path / "run") == metrics(expected / "run")
    assert [row["step"] for row in metrics(tmp_path / "run")] == list(range(60))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "metrics.jsonl",
        "run.json",
        "snapshots",
        "weights",
    ]
    assert "60/60" in again.stderr


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory) -> tuple[Path, Path]:
    """A cache, and the folder of a training on it that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    cache = folder / "train.safetensors"
    save_training_data(cache, small_data(folders.zimage))
    subprocess.run(command(folders, cache, folder), cwd=ROOT, env=ENVIRONMENT, check=True)
    return cache, folder


def test_a_run_records_the_hash_of_every_file_that_it_used(folders, whole):
    record = json.loads((whole[1] / "run" / "run.json").read_text())
    found = {f"{name}/{path}": sha for name in ("model", "clip") for path, sha in record["files"][name].items()}
    places = {"model": folders.zimage, "clip": folders.clip}
    for used in ("model/transformer/diffusion_pytorch_model.safetensors", "model/vae/config.json",
                 "model/scheduler/scheduler_config.json", "clip/open_clip_model.safetensors"):  # fmt: skip
        name, _, path = used.partition("/")
        assert found[used] == sha256_file(places[name] / path)
    assert set(record["files"]) == {"model", "clip"}  # no reader: this loss does not look with it
    assert not any(path.startswith(("model/text_encoder", "model/tokenizer")) for path in found)


def test_signals_are_held_back_once_and_handed_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as stopping:
        assert not stopping()
        signal.raise_signal(signal.SIGTERM)
        assert stopping()
        assert signal.getsignal(signal.SIGTERM) == before  # the second one acts as ever
    assert signal.getsignal(signal.SIGTERM) == before

    with ThreadPoolExecutor(1) as pool:  # outside the main thread Python takes no handlers
        assert pool.submit(lambda: stop_requests().__enter__()()).result() is False


def test_the_seed_decides_the_lora_matrices_and_nothing_before_it(folders):
    training = settings(method="lora", lora={"rank": 2})
    drawn = []
    for seed in (0, 0, 1):
        torch.randn(seed + 3)
        model = open_model(Model(path=str(folders.zimage)), ("denoiser",))
        drawn.append({n: p.clone() for n, p in select_parameters(model, training, seed).items()})
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


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_gets_a_sentence_and_the_training_goes_on(tmp_path, monkeypatch, capsys, number):
    """Lustre mounted without -o flock: most of its users cannot change that."""

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_in(tmp_path):
        (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{tmp_path}: this file system takes no locks ({os.strerror(number)}); see to it that no")
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"), alone_in(tmp_path):  # another trouble stays one
        pass


@given(st.data())
def test_one_flipped_bit_in_a_checkpoint_is_noticed(tmp_path, data):
    """A flipped bit in a tensor would otherwise end in other final weights, silently."""
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    state = {"parameters": {"w": torch.randn(6, 4)}, "optimizer": {"m": [torch.randn(3), 2]}, "step": 3}
    save_checkpoint(folder / "checkpoint.json", "key", state)
    files = sorted(path for path in folder.glob("checkpoint-*/*") if path.is_file())
    assert len(files) == 2
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        load_checkpoint(folder / "checkpoint.json", "key")


@given(st.data())
def test_where_the_last_checkpoint_is_damaged_the_one_before_is_taken(tmp_path, capsys, data):
    path = tmp_path / "run" / "checkpoint.json"
    shutil.rmtree(path.parent, ignore_errors=True)
    for step in (1, 2, 3):
        save_checkpoint(path, "key", STATE | {"step": step})
    last = json.loads(path.read_text())["folder"]
    file = data.draw(st.sampled_from([path, *sorted((path.parent / last).iterdir())]))
    flip(file, data.draw(st.integers(0, file.stat().st_size * 8 - 1)))
    found = load_checkpoint(path, "key")
    assert found["step"] == 2 or (file == path and found["step"] == 3)  # a blank or the name of a further part
    assert same(found, STATE | {"step": found["step"]})
    if found["step"] == 2:
        assert f"{path}: the last checkpoint is damaged; going on from the one before" in capsys.readouterr().err
        save_checkpoint(path, "key", STATE | {"step": 4})  # in the place of the damaged one, not of the good one
        flip(next((path.parent / json.loads(path.read_text())["folder"]).glob("*.safetensors")), 9999)
        assert load_checkpoint(path, "key")["step"] == 2


def test_where_both_are_damaged_the_last_one_is_named_and_deleting_it_starts_again(tmp_path):
    path = tmp_path / "checkpoint.json"
    for step in (1, 2):
        save_checkpoint(path, "key", STATE | {"step": step})
    for file in tmp_path.rglob("*.safetensors"):
        flip(file, 8 * file.stat().st_size - 1)
    with pytest.raises(
        UserError, match=r"checkpoint\.json: the checkpoint is damaged; delete it to start this run again"
    ):
        load_checkpoint(path, "key")
    path.unlink()
    assert load_checkpoint(path, "key") is None
    save_checkpoint(path, "key", STATE | {"step": 1})
    assert load_checkpoint(path, "key")["step"] == 1


def test_a_training_whose_last_checkpoint_is_damaged_ends_with_the_same_weights(folders, tmp_path, monkeypatch, capsys):
    data, training = small_data(folders.zimage), settings(steps=6, checkpoint_every=1, ema=0.9)
    expected = run(folders.zimage, data, training, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, tmp_path / "broken")
    index = tmp_path / "broken" / "checkpoint.json"
    shard = next((index.parent / json.loads(index.read_text())["folder"]).glob("*.safetensors"))
    flip(shard, 8 * shard.stat().st_size - 5)
    assert equal(run(folders.zimage, data, training, tmp_path / "broken"), expected)
    assert "the last checkpoint is damaged" in capsys.readouterr().err
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")
    assert len(list((tmp_path / "broken").glob("checkpoint-*"))) == 1  # finished: one is enough

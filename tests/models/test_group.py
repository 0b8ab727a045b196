"""Several processes: two of them do what one with twice the batch does, by averaged gradients and by FSDP2 alike."""

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
from pydantic import ValidationError
from safetensors.torch import load_file
from training import metrics, settings, small_data

from legible.errors import UserError
from legible.train.data import save_training_data
from legible.train.group import ALONE, Group, join_group

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
CPU = torch.device("cpu")
LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 6.0}}
CLIP = {"loss": "clip_region", "lambda": 0.3, "every": 2}
REWARD = {"weights": {"reading": 1.0}, "steps": 3, "last": 2, "extra_text": 0.0}
VARIANTS = {
    # batch_size is what is shared; the auxiliary loss and the measurement of both gradients are on
    "replicated": {"parallel": "replicate", "aux": CLIP | {"measure_every": 2}},
    "lora": LORA | {"accumulation": 2, "batch_size": 2, "aux": CLIP | {"balance": "gradient_norm", "measure_every": 1}},
    "apart": {"parallel": "replicate", "aux": CLIP | {"clipping": "each", "conflict": "project"}, "max_grad_norm": 0.5},
    "sharded": {"parallel": "shard", "aux": CLIP | {"measure_every": 0}, "ema": 0.9, "snapshots": [4]},
    # Few steps and no penalty for extra text: it has a corner at 0, over which rounding brings a sample some day.
    "rewarded": {"parallel": "replicate", "steps": 4, "reward": REWARD},
    "accumulated": {"accumulation": 2, "batch_size": 2, "weight_decay": 0.1, "gradient_checkpointing": ["denoiser"]},
}


@pytest.fixture(scope="module")
def cache(folders, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "train.safetensors"
    save_training_data(path, small_data(folders.zimage))
    return path


def start(
    folders, cache: Path, folder: Path, processes: int, program: str | Path = "scripts/train_arm.py", **override
) -> subprocess.Popen:
    """The script as the workflow starts it, with one or several processes."""
    training = settings(processes=processes, **override).model_dump(mode="json", by_alias=True)
    paths = {"model": {"path": str(folders.zimage)}, "clip": {"path": str(folders.clip)}}
    paths |= {"reader": {"network": str(folders.recognizer)}}
    config = json.dumps(paths | {"generation": {"steps": 8}, "training": training})
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [
            sys.executable, *(launcher if processes > 1 else []), program, "--config", config,
            "--arm", "arm", "--seed", "1", "--cache", cache, "--checkpoints", folder / "checkpoints",
            "--output-dir", folder / "run",
        ],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out + err


def listed(value) -> list:
    """What a row of the log holds under a name, as a list."""
    return value if isinstance(value, list) else [*value.values()] if isinstance(value, dict) else [value]


def weights(folder: Path, name: str = "weights") -> dict[str, torch.Tensor]:
    (file,) = (folder / "run" / Path(name)).rglob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_equal_one_with_twice_the_batch(folders, cache, tmp_path, variant):
    runs = {count: start(folders, cache, tmp_path / str(count), count, **VARIANTS[variant]) for count in (1, 2)}
    said = {count: finished(process) for count, process in runs.items()}
    steps = VARIANTS[variant].get("steps", 6)
    assert said[2].count("12 samples, levels [") == said[2].count(f"{steps}/{steps} step") == 1  # one of them speaks
    for one, two in zip(metrics(tmp_path / "1" / "run"), metrics(tmp_path / "2" / "run"), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            left, right = (listed(row[name]) for row in (one, two))
            assert [x is None for x in left] == [x is None for x in right]
            assert [x or 0 for x in left] == pytest.approx([x or 0 for x in right], rel=2e-3, abs=1e-6), name
    names = ["weights"] + [f"snapshots/step{step}" for step in VARIANTS[variant].get("snapshots", [])]
    for name in names:
        one, two = weights(tmp_path / "1", name), weights(tmp_path / "2", name)
        assert one.keys() == two.keys()
        # AdamW divides by the gradient's own size, so weights whose gradient is rounding noise may differ by a step.
        apart = torch.cat([(one[key] - two[key]).abs().flatten() for key in one])
        assert (apart < 2e-5).float().mean() > 0.99
        assert apart.max() < 6e-3
    records = [json.loads((tmp_path / str(count) / "run" / "run.json").read_text()) for count in (1, 2)]
    for name in ("parameters_total", "parameters_trained", "levels"):
        assert records[0][name] == records[1][name]
    assert records[1]["changed_weight_fraction"] > 0.9


@pytest.mark.parametrize("variant", ["lora", "sharded"])
def test_two_processes_that_were_stopped_go_on_as_if_they_had_not_been(folders, cache, tmp_path, variant):
    override = VARIANTS[variant] | {"steps": 40, "checkpoint_every": 7}
    whole = start(folders, cache, tmp_path / "whole", 2, **override)
    stopped = start(folders, cache, tmp_path / "stopped", 2, **override)
    deadline = time.monotonic() + 240
    while stopped.poll() is None and time.monotonic() < deadline:
        log = next((tmp_path / "stopped").glob("checkpoints/*/metrics.jsonl"), None)
        if log and log.read_bytes().count(b"\n") >= 4:
            stopped.send_signal(signal.SIGTERM)
            break
        time.sleep(0.01)
    _, said = stopped.communicate(timeout=240)
    assert stopped.returncode != 0
    assert "the same command goes on from there" in said
    assert not (tmp_path / "stopped" / "run").exists()
    done = len(log.read_text().splitlines())
    assert 4 <= done < 40
    again = finished(start(folders, cache, tmp_path / "stopped", 2, **override))
    assert "40/40" in again
    finished(whole)
    left, right = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert metrics(tmp_path / "whole" / "run") == metrics(tmp_path / "stopped" / "run")


SHORT = """
import os, runpy, sys
from legible.train.budget import Clock
Clock.short = property(lambda clock: os.environ["RANK"] == "1" and len(clock.steps) == 5)
sys.path.insert(0, "scripts")
runpy.run_path("scripts/train_arm.py", run_name="__main__")
"""


def test_the_time_of_one_process_is_that_of_all(folders, cache, tmp_path):
    """Each has its own clock; the first that finds its job nearly over stops them all, behind the same step."""
    override = VARIANTS["sharded"] | {"steps": 12, "checkpoint_every": 1000}
    program = tmp_path / "short.py"
    program.write_text(SHORT)
    whole = start(folders, cache, tmp_path / "whole", 2, **override)
    done = []
    for _ in range(2):
        stopped = start(folders, cache, tmp_path / "stopped", 2, program=program, **override)
        _, said = stopped.communicate(timeout=240)
        assert stopped.returncode != 0
        assert "stopped: the job's time is nearly over" in said
        done.append(len(metrics(next((tmp_path / "stopped").glob("checkpoints/*")))))
    assert done == [5, 10]
    finished(start(folders, cache, tmp_path / "stopped", 2, program=program, **override))
    finished(whole)
    left, right = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert metrics(tmp_path / "whole" / "run") == metrics(tmp_path / "stopped" / "run")


@given(processes=st.integers(1, 8), batch=st.integers(1, 8), accumulation=st.integers(1, 8), divided=st.booleans())
def test_every_sample_of_a_step_is_some_process_once(processes, batch, accumulation, divided):
    batch, accumulation = (batch * processes, accumulation) if divided else (batch, accumulation * processes)
    training = settings(processes=processes, batch_size=batch, accumulation=accumulation)
    passes = [Group(rank, processes).passes(training) for rank in range(processes)]
    samples = [position for shares in passes for share in shares for position in share]
    assert samples == list(range(batch * accumulation))
    assert len({len(shares) for shares in passes}) == 1
    assert max(len(share) for shares in passes for share in shares) <= batch


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"processes": 3}, "processes: 3 cannot share 1 forward passes of 4 samples; make accumulation or batch_size"),
        ({"processes": 2, "parallel": "shard"} | LORA, "parallel: shard needs method: full"),
        ({"processes": 2, "aux": CLIP}, r"cannot measure two gradients apart; set aux\.measure_every: 0"),
        ({"processes": 2, "aux": CLIP | {"balance": "gradient_norm", "measure_every": 0}}, "two gradients apart"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(override, message):
    with pytest.raises(ValidationError, match=message):
        settings(**override)


def test_another_number_of_processes_than_configured(monkeypatch):
    with pytest.raises(UserError, match=r"training\.processes: 2, but 1 were started; start the script with `torchrun"):
        join_group(settings(processes=2, parallel="replicate"), CPU).__enter__()
    with join_group(settings(), CPU) as group:
        assert group == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"training\.processes: 1, but 2 were started"):
        join_group(settings(), CPU).__enter__()

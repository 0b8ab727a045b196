"""Trackers: what they are told, and that TensorBoard and wandb themselves take it (`make test-trackers`)."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from legible.errors import UserError
from legible.io import read_jsonl, write_jsonl
from legible.train.log import RunLog
from legible.train.trackers import tracking, values_of

ROOT = Path(__file__).resolve().parents[2]


def test_values_for_trackers_are_numbers_at_steps_done():
    row = {"step": 4, "time": 1.0, "loss": 0.5, "none": None, "nan": float("nan"), "bins": [1.0, None], "of": {"a": 2}}
    assert values_of(row) == (5, {"loss": 0.5, "bins/0": 1.0, "of/a": 2.0})
    assert values_of({"step": 4, "validation": {"cer": 0.25}}) == (4, {"validation/cer": 0.25})


FAKE_WANDB = """
import json
class Run:
    def __init__(self, keys):
        self.keys = keys
    def log(self, values, step):
        with open(self.keys["dir"] + "/said.jsonl", "a") as file:
            file.write(json.dumps([step, values]) + "\\n")
    def finish(self):
        with open(self.keys["dir"] + "/finished.json", "w") as file:
            json.dump(self.keys, file)
def init(**keys):
    return Run(keys)
"""
ROWS = [
    {"step": 0, "seconds": 0.0, "validation": {"cer": 0.5}, "time": 1.0},
    {"step": 0, "loss_total": 0.25, "loss_aux": None, "time": 2.0},
]


def test_wandb_is_told_offline(tmp_path, monkeypatch):
    """Its calls, on a module that stands in for it; whether the package itself takes them is not shown here."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    folder = tmp_path / "run"
    with tracking(("wandb",), folder, "arm seed 0") as told:
        assert not folder.exists()  # nothing before the first row
        log = RunLog(tmp_path / "metrics.jsonl", told=told)
        for row in ROWS:
            log.write(**{name: value for name, value in row.items() if name != "time"})
    del sys.modules["wandb"]  # monkeypatch would put it back
    said = read_jsonl(folder / "said.jsonl")
    assert said == [[0, {"seconds": 0.0, "validation/cer": 0.5}], [1, {"loss_total": 0.25}]]
    keys = json.loads((folder / "finished.json").read_text())
    assert keys == {"project": "legible", "name": "arm seed 0", "dir": str(folder), "mode": "offline"}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_said_in_one_sentence(name, tmp_path, monkeypatch):
    for module in ("tensorboard", "torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not there
    with (
        pytest.raises(UserError, match=f"^trackers: {name} is not installed; `pip install {name}`, or leave it out$"),
        tracking((name,), tmp_path, "run"),
    ):
        pass


def test_tensorboard_is_told_every_number_and_hides_what_is_done_again(tmp_path, monkeypatch):
    """Its calls, on a class that stands in for the writer."""
    calls = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append(("open", folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int, walltime: float) -> None:
            calls.append((name, value, step, walltime))

        def close(self) -> None:
            calls.append(("close",))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    with tracking(("tensorboard",), tmp_path, "run") as (tell,):
        for row in ROWS:
            tell(row)
    assert calls == [
        ("open", str(tmp_path / "tensorboard"), 0),
        ("seconds", 0.0, 0, 1.0),
        ("validation/cer", 0.5, 0, 1.0),
        ("loss_total", 0.25, 1, 2.0),
        ("close",),
    ]


def test_finished_runs_become_event_files_that_tensorboard_itself_reads(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed here"
    )
    write_jsonl(tmp_path / "results" / "runs" / "ctc" / "seed1" / "metrics.jsonl", ROWS)
    command = [sys.executable, "scripts/track_runs.py", "--results", tmp_path / "results", "--output", tmp_path / "out"]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
    events = accumulator.EventAccumulator(str(tmp_path / "out" / "ctc" / "seed1" / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("validation/cer")] == [(0, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("loss_total")] == [(1, 0.25)]


def test_no_runs_to_track_is_one_sentence(tmp_path):
    command = [sys.executable, "scripts/track_runs.py", "--results", tmp_path, "--output", tmp_path / "out"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "train first" in done.stderr.splitlines()[-1]) == (2, True)


def test_wandb_afterwards(tmp_path):
    (tmp_path / "wandb.py").write_text(FAKE_WANDB)
    write_jsonl(tmp_path / "results" / "runs" / "ctc" / "seed1" / "metrics.jsonl", ROWS)
    command = [sys.executable, "scripts/track_runs.py", "--results", tmp_path / "results", "--output", tmp_path / "out"]
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    subprocess.run([*map(str, command), "--tracker", "wandb"], cwd=ROOT, check=True, env=path)
    assert len(read_jsonl(tmp_path / "out" / "ctc" / "seed1" / "said.jsonl")) == 2


def records_of(path: Path) -> list[bytes]:
    """What a .wandb file holds: after 7 bytes of its own, the log format of LevelDB (checksum, length, type).

    wandb 0.31 has no reader in Python any more; a run this short lies in one block.
    """
    data, place, found = path.read_bytes(), 7, []
    assert data[:4] == b":W&B"
    assert len(data) < 2**15
    while place < len(data):
        _, length, whole = struct.unpack_from("<IHB", data, place)
        assert whole == 1
        found.append(data[place + 7 : place + 7 + length])
        place += 7 + length
    return found


def test_wandb_itself_writes_an_offline_run_that_can_be_read_again(tmp_path):
    """The package's own file: nothing stands in for anything."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason="wandb is not installed here")
    write_jsonl(tmp_path / "results" / "runs" / "ctc" / "seed1" / "metrics.jsonl", ROWS)
    command = [sys.executable, "scripts/track_runs.py", "--results", tmp_path / "results", "--output", tmp_path / "out"]
    subprocess.run([*map(str, command), "--tracker", "wandb"], cwd=ROOT, check=True)
    (path,) = (tmp_path / "out" / "ctc" / "seed1" / "wandb").glob("offline-run-*/*.wandb")
    records = [messages.Record.FromString(record) for record in records_of(path)]
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name) == ("legible", "ctc seed1")
    said = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(row["_step"], row.get("validation/cer"), row.get("loss_total")) for row in said] == [
        (0, 0.5, None),
        (1, None, 0.25),
    ]

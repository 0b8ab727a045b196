"""GPUs and processors that are shared: each job its own card, and no more processors than a quota pays for."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from legible.cards import SCHEDULERS, take_cards, visible_cards
from legible.cores import quota, usable_cores

ROOT = Path(__file__).resolve().parents[2]
SHOW = "import os, sys, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(float(sys.argv[1]))"


@pytest.fixture(autouse=True)
def unscheduled(monkeypatch):
    for name in (*SCHEDULERS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def job(folder: Path, seconds: float, *options: str, cards: str = "4,5,7") -> subprocess.Popen:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": cards, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "legible.cards", "-c", SHOW, str(seconds), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_jobs_beside_each_other_have_different_cards_and_one_too_many_waits(tmp_path):
    jobs = [job(tmp_path, 4) for _ in range(3)]
    assert sorted(each.stdout.readline().strip() for each in jobs) == ["4", "5", "7"]
    late = job(tmp_path, 0)
    assert late.communicate(timeout=30)[0].strip() in {"4", "5", "7"}
    assert any(each.poll() is not None for each in jobs)
    assert [each.wait(timeout=30) for each in jobs] == [0, 0, 0]


def test_a_killed_job_gives_its_cards_back(tmp_path):
    killed = job(tmp_path, 60, "--nproc-per-node", "3")
    assert killed.stdout.readline().strip() == "4,5,7"
    killed.kill()
    killed.wait()
    began = time.monotonic()
    assert take_cards(2, ["4", "5", "7"], next(tmp_path.glob("legible-cards-*"))) == ["4", "5"]
    assert time.monotonic() - began < 1


def test_the_cards_are_those_that_the_user_or_the_machine_has_and_a_scheduler_chooses_itself(tmp_path, monkeypatch):
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_cards(tmp_path) == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1a, GPU-2b")
    assert visible_cards(tmp_path) == ["GPU-1a", "GPU-2b"]
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert visible_cards(tmp_path) == []


def groups(folder: Path, own: str, **files: str) -> float:
    """The quota that is read from these files below `folder`."""
    (folder / "own").write_text(own)
    for name, text in files.items():
        path = folder / "mounted" / name.replace("__", "/").replace("_max", ".max").replace("cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return quota(folder / "mounted", folder / "own")


def test_a_quota_of_a_group_or_of_one_above_it_counts(tmp_path):
    inf = float("inf")
    assert groups(tmp_path, "0::/a/b\n") == inf
    assert groups(tmp_path, "0::/a/b\n", a__b__cpu_max="max 100000\n") == inf
    assert groups(tmp_path, "0::/a/b\n", a__cpu_max="150000 100000\n") == 1.5
    assert groups(tmp_path, "0::/a/b\n", a__b__cpu_max="50000 100000\n") == 0.5
    assert groups(tmp_path, "0::/unseen/from/within\n", cpu_max="200000 100000\n") == 2
    old = {"cpu__job__cfs_quota_us": "-1\n", "cpu__job__cfs_period_us": "100000\n"}
    assert groups(tmp_path, "3:cpuset:/\n2:cpu,cpuacct:/job\n", **old) == inf
    assert groups(tmp_path, "2:cpu,cpuacct:/job\n", **old | {"cpu__job__cfs_quota_us": "300000\n"}) == 3


def test_half_a_processor_is_one(monkeypatch):
    monkeypatch.setattr("legible.cores.quota", lambda: 0.5)
    assert usable_cores() == 1
    monkeypatch.setattr("legible.cores.quota", lambda: float("inf"))
    assert usable_cores() == len(os.sched_getaffinity(0))

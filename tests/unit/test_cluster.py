"""What the workflow makes of the logs that jobs leave behind, and of limits that nothing fits into."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from legible import cluster
from legible.cluster import check_accounts, check_time, hopeless, last_words, memory_to_ask, slow_step
from legible.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
KILLED = "error: killed, memory ran out; 4000 MB were asked for; the key for more: --set-resources RULE:mem_mb=…, RULE"
STOPPED = "stopped: the job's time is nearly over; ctc seed 0: after step 3 of 9; the same command goes on from there"
BAD = "error: training.modules: `x` matches no parameter; try layers"
GPU = "error: the device fails or has vanished (CUDA error); check it with `nvidia-smi`"
ELASTIC = "  exitcode  : -9 (pid: 4711)"


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "train.log"


@pytest.mark.parametrize(
    ("lines", "attempt", "asked"),
    [
        (None, 1, 4000),
        ([], 1, 4000),
        (["ctc: 3/9 step", KILLED], 2, 6000),
        ([KILLED], 1, 6000),  # a new Snakemake after one that gave up
        ([STOPPED], 7, 4000),  # many attempts are no reason to ask for a whole node
        ([BAD], 2, 4000),
        ([ELASTIC, "more of torchrun's table"], 2, 6000),
        (["ctc: 3/9 step"], 2, 6000),  # nothing was said: all was killed
        (["ctc: 3/9 step"], 3, 8000),
        ([KILLED.replace("4000", "9000")], 2, 13500),
    ],
)
def test_memory_grows_with_what_was_not_enough(tmp_path, log, lines, attempt, asked):
    if lines is not None:
        log.write_text("\n".join(["warning: exit", *lines]) + "\n")
    assert memory_to_ask(4000, attempt, log, tmp_path / "asked.json") == asked


def test_what_was_not_enough_is_remembered_when_the_log_begins_anew(tmp_path, log):
    ledger = tmp_path / "asked.json"
    log.write_text(KILLED)
    assert memory_to_ask(4000, 2, log, ledger) == memory_to_ask(4000, 2, log, ledger) == 6000
    log.unlink()
    assert memory_to_ask(4000, 2, log, ledger) == 8000 // 4 * 3  # as before, though nothing is said now
    log.write_text(STOPPED)
    assert memory_to_ask(4000, 3, log, ledger) == 6000
    assert memory_to_ask(4000, 1, tmp_path / "another.log", ledger) == 4000
    log.write_text(KILLED.replace("4000", "6000"))
    assert memory_to_ask(4000, 4, log, ledger) == 9000
    assert json.loads(ledger.read_text()) == {str(log): 9000}


@pytest.mark.parametrize(
    ("said", "fixed", "expected"),
    [(BAD, False, True), (GPU, False, False), (KILLED, False, False), (KILLED, True, True), (STOPPED, True, False),
     (ELASTIC, True, True), ("", True, False), ("Traceback", False, False)],
)  # fmt: skip
def test_what_would_fail_again_is_not_tried_again(log, said, fixed, expected):
    log.write_text(f"a line\n{said}\n")
    assert hopeless(log, fixed) is expected


def test_the_last_words_count_and_the_end_of_a_long_log_is_enough(log):
    log.write_text(f"{BAD}\n" + "x" * 200_000 + f"\n{STOPPED}\n")
    assert last_words(log) == STOPPED
    assert last_words(log.with_name("missing")) == ""


def test_the_words_of_a_killed_program_are_those_that_are_looked_for(log):
    """rules/cluster.smk has a shell say them, which Snakemake only runs on a cluster."""
    source = (ROOT / "rules" / "cluster.smk").read_text()
    function = source.split('prefix += """')[1].split('"""')[0].replace("\\\n", "")
    script = f"set -euo pipefail; {function}\npython -c 'import os; os.kill(os.getpid(), 9)' 2>&1 | tee {log}"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LEGIBLE_MB": "500"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True)
    assert done.returncode == 137
    assert memory_to_ask(100, 2, log, log.with_name("asked.json")) == 750
    for status in (0, 2):
        command = script.replace("os.kill(os.getpid(), 9)", f"os._exit({status})")
        assert subprocess.run(["bash", "-c", command], env=environment).returncode == status
        assert last_words(log) == ""


def rows(folder: Path, *seconds: float) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "seconds": s}) + "\n" for step, s in enumerate(seconds)))
    return path


def test_a_time_limit_that_no_step_fits_into_is_refused_before_it_is_asked_for(tmp_path):
    check_time(1, 4000, "ctc", [])
    with pytest.raises(UserError, match=r"1 min is too short for the arm ctc: .* at least 2 are needed .*:runtime=2\)"):
        check_time(1, 33_000, "ctc", [])  # to load the weights alone takes that long
    slow = rows(tmp_path, 2.0, 4.0, 204.0, 206.0)
    with slow.open("a") as handle:
        handle.write('{"step": 4, "sec')
    assert slow_step([slow]) == 200.0
    with pytest.raises(UserError, match=r"a step took 200 s the last time; at least 6 are needed"):
        check_time(5, 4000, "ctc", [slow])
    check_time(6, 4000, "ctc", [slow])


def test_a_step_in_which_the_machine_slept_is_no_measure(tmp_path):
    seconds = [2.0 * (step + 1) + (7200 if step > 20 else 0) for step in range(40)]
    assert slow_step([rows(tmp_path, *seconds)]) == 2.0
    assert slow_step([]) == 0.0


@pytest.mark.parametrize(
    ("kept", "forgets", "command", "said"),
    [
        ("accounting_storage/none", 300, "squeue", None),
        ("accounting_storage/none", 300, "sacct", "sacct, but this cluster keeps no accounts, .* set it to squeue"),
        ("(null)", 300, "sacct", "keeps no accounts"),
        ("accounting_storage/slurmdbd", 300, "sacct", None),
        ("accounting_storage/slurmdbd", 2, "sacct", None),
        ("accounting_storage/slurmdbd", 100, "squeue", "forgets a job 100 s after its end .*; set it to sacct"),
        ("accounting_storage/none", 100, "squeue", "it needs MinJobAge=300 or accounting"),
    ],
)
def test_who_would_never_hear_of_a_job_is_refused(tmp_path, monkeypatch, kept, forgets, command, said):
    scontrol = tmp_path / "scontrol"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    config = f"AccountingStorageType   = {kept}\nMinJobAge               = {forgets} sec"
    scontrol.write_text(f"#!/bin/sh\ncat <<'END'\n{config}\nEND\n")
    scontrol.chmod(0o755)
    if said:
        with pytest.raises(UserError, match=said):
            check_accounts(command)
    else:
        check_accounts(command)


def test_a_machine_without_slurm_is_asked_nothing(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    check_accounts("sacct")


LEADER = """
import signal, subprocess, sys
from legible.cluster import forward_sigterm
forward_sigterm()
came = []
signal.signal(signal.SIGTERM, lambda *_: came.append(1))  # Snakemake's own handler comes later, too
code = subprocess.call(["bash", "-c", sys.executable + ' -c "' + sys.argv[1] + '" | cat'])
print("leader", len(came), flush=True)
"""
PROGRAM = """
import os, signal, subprocess, sys, time
came = []
signal.signal(signal.SIGTERM, lambda *_: came.append(1))
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
print('ready', flush=True)
while not came: time.sleep(0.05)
time.sleep(1)
print('program', len(came), child.poll(), flush=True)
child.kill()
"""


def test_sigterm_reaches_the_program_once_and_neither_its_shell_nor_its_children():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LEADER, PROGRAM.strip()]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)  # SLURM's, and srun's: a second one would end the program at once
    assert process.communicate(timeout=60)[0].split() == ["program", "1", "None", "leader", "2"]


def test_a_job_began_when_its_first_process_did(monkeypatch):
    monkeypatch.delenv("LEGIBLE_BEGAN", raising=False)
    began = cluster.job_began()
    assert 0 <= time.time() - began < 3600
    assert os.environ["LEGIBLE_BEGAN"] == str(began)
    monkeypatch.setenv("LEGIBLE_BEGAN", "12")
    assert cluster.job_began() == 12


def test_the_profiles_leave_the_configuration_alone_and_share_what_makes_them_safe():
    """`config:` in a profile is replaced by --config on the command line, silently."""
    for profile in (ROOT / "profiles").glob("*/profile.yaml"):
        keys = yaml.safe_load(profile.read_text())
        assert "config" not in keys, profile
        assert keys["rerun-incomplete"] is True
        if profile.parent.name != "default":
            assert keys["retries"] >= 5, profile  # trainings go on in further attempts
            assert keys["show-failed-logs"] is True


def test_the_conda_environment_holds_the_hashed_requirements_and_nothing_else():
    environment = yaml.safe_load((ROOT / "envs" / "legible.yaml").read_text())
    assert environment["channels"] == ["conda-forge"]  # conda 26.7 takes `nodefaults` for a channel, and finds none
    packages = environment["dependencies"]
    pinned = packages[-1]["pip"]
    requirements = (ROOT / "envs" / "requirements.txt").read_text().replace("\\\n", " ").replace("'", '"').splitlines()
    assert [line.split() for line in pinned] == [line.split() for line in requirements if line.strip()]
    assert all("--hash=sha256:" in line for line in pinned)
    for name in ("Dockerfile", "legible.def"):  # the same Python, and the same files
        text = (ROOT / "envs" / name).read_text()
        assert "python:3.11" in text
        assert text.count("--require-hashes") == text.count("install --no-cache") + text.count("install --system")
    assert "python =3.11" in packages

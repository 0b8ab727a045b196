"""The machine at fault: no room, no home, jumping clocks, other file systems, two Snakemakes at once, moved results."""

import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from project import RESULTS, call, jobs_of

pytestmark = pytest.mark.workflow

NOWHERE = "/proc/nowhere"  # a home that nobody can make or write to, not even root
ROOM = 4  # bytes of a file: what Python's tempfile writes to try a folder, which torch does when it is imported
NO_TEE = "tee() { cat; }; "  # its log is not what is tested


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that a user can rely on."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name not in ("logs", "benchmarks"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_without_room_and_without_a_home_every_stage_says_one_sentence_and_loses_nothing(project):
    said = project.snakemake("--dry-run", "--forceall", "--printshellcmds")
    blocks = re.split(r"^(?=(?:local)?rule \w+:$)", said, flags=re.MULTILINE)[1:]
    commands = {}
    for block in blocks:
        if found := re.search(r"^(?:    )?Shell command: (?!None$)(.*)$", block, flags=re.MULTILINE):
            commands.setdefault(re.match(r"(?:local)?rule (\w+):", block)[1], found[1])
    assert {"train_arm", "encode_dataset", "generate_finetuned", "read_ocr", "plot_figure"} <= commands.keys()
    assert len(commands) >= 14
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "MPL"))}
    environment |= {"HOME": NOWHERE, "LEGIBLE": str(project.folder), "PYTHONPATH": str(project.folder)}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "OMP_NUM_THREADS": "1"}
    before = contents(project.folder / RESULTS)
    wrong = {}
    for rule, command in commands.items():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", NO_TEE + command], cwd=project.folder, env=environment,
            capture_output=True, text=True, timeout=300,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, ROOM)),
        )  # fmt: skip
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        sentence = last and re.fullmatch(
            r"error: \S.*: the disk is full as far as .*; raise it and run again.*", last[0]
        )
        if done.returncode == 0 or not sentence or "Traceback" in done.stdout + done.stderr:
            wrong[rule] = done.stdout[-1500:] + done.stderr[-500:]
    assert wrong == {}
    assert contents(project.folder / RESULTS) == before


def test_without_a_home_the_workflow_runs_where_a_cache_is_named(project, monkeypatch):
    """Snakemake itself wants a folder for its cache before it reads a workflow."""
    monkeypatch.setenv("HOME", NOWHERE)
    project.snakemake("--forcerun", "plot_figure", "inspect_fonts", "--until", "plot_figure", "inspect_fonts")
    assert project.would_run() == set()


def test_a_clock_that_was_set_back_costs_nothing(project, tmp_path):
    """Snakemake ends a job whose input is of the future, and deletes what it has made: even a training's weights."""
    folder, hour = tmp_path / "project", 3600
    shutil.copytree(project.folder, folder, ignore=shutil.ignore_patterns(".cache"), symlinks=True)
    results, by_date = folder / RESULTS, ("--max-checksum-file-size", "0")  # as large files are compared
    planned = jobs_of(call(folder, "--dry-run", *by_date))
    for path in [path for path in results.rglob("*") if path.is_file()]:
        date = path.stat().st_mtime + 400 * 24 * hour
        os.utime(path, (date, date))
    said = call(folder, "--dry-run", *by_date)
    assert jobs_of(said) == planned
    assert f"{RESULTS}/data/train.parquet: dated in the future" in said
    assert max(path.stat().st_mtime for path in results.rglob("*")) <= time.time()
    os.utime(results / "data" / "train.parquet", (time.time() + hour,) * 2)
    call(folder, *by_date, "--", f"{RESULTS}/cache/train.safetensors")
    assert (results / "cache" / "train.safetensors").is_file()


def test_a_clock_that_was_set_forward_and_back_again_reruns_next_to_nothing(project):
    """What is small is compared by its content. A folder of pictures has none for Snakemake: tables are made again."""
    tables = {"score_readings", "plot_figure", "build_report"}
    for name, rules in {
        "fonts/manifest.json": set(),
        "data/train.parquet": set(),
        "cache/train.safetensors": set(),
        "scores/summary.csv": tables,
    }.items():
        path = project.folder / RESULTS / name
        about = path.stat()
        os.utime(path, (about.st_mtime - 400 * 86400,) * 2)
        try:
            assert {rule for rule, _ in project.would_run()} == rules
        finally:
            os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_results_on_another_file_system(project, elsewhere, tmp_path):
    """results/ is often a link to a larger disk; nothing may be made elsewhere and renamed into it."""
    shutil.copytree(project.folder / "results" / "cache", elsewhere / "cache")
    (tmp_path / "results").symlink_to(elsewhere)
    snakefile = ("--snakefile", str(project.folder / "Snakefile"), "--directory", str(tmp_path))
    targets = [f"{RESULTS}/cache/train.safetensors", f"{RESULTS}/images/ceiling_render/short"]
    call(project.folder, *snakefile, "--", *targets, f"{RESULTS}/runs/diffusion_only/seed0/run.json")
    for name in (f"{RESULTS}/data/train.parquet", targets[0]):
        there = elsewhere / Path(name).relative_to("results")
        assert there.read_bytes() == (project.folder / name).read_bytes()
    weights = "runs/diffusion_only/seed0/weights/transformer/diffusion_pytorch_model.safetensors"
    assert (elsewhere / "tiny" / weights).read_bytes() == (project.folder / RESULTS / weights).read_bytes()


def test_of_two_snakemakes_in_one_folder_the_second_says_so_and_the_first_is_not_disturbed(project):
    """Two that write the same files lock each other out; two experiments may run side by side, caches shared."""
    (project.folder / "slow.yaml").write_text(yaml.safe_dump({"experiment": "slow"}))
    (project.folder / "other.yaml").write_text(yaml.safe_dump({"experiment": "other"}))
    fonts = {name: f"results/{name}/data/train.parquet" for name in ("slow", "other")}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", "slow.yaml", "--", fonts["slow"]]
    environment = os.environ | {"PYTHONPATH": str(project.folder), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(
        command, cwd=project.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        locks = project.folder / ".snakemake" / "locks"
        while first.poll() is None and not (locks.is_dir() and any(locks.iterdir())):
            time.sleep(0.05)
        assert first.poll() is None
        first.send_signal(signal.SIGSTOP)  # or it could be done before the second has started
        said = project.snakemake("--configfile", "slow.yaml", "--", fonts["slow"], check=False)
        first.send_signal(signal.SIGCONT)
        assert "Directory cannot be locked" in said
        assert "Traceback" not in said
        project.snakemake("--configfile", "other.yaml", "--", fonts["other"])
    finally:
        first.send_signal(signal.SIGCONT)
        output, _ = first.communicate(timeout=600)
    assert first.returncode == 0, output
    slow, other, tiny = (project.folder / name for name in (*fonts.values(), f"{RESULTS}/data/train.parquet"))
    assert slow.read_bytes() == other.read_bytes() == tiny.read_bytes()


def moved(project, target: Path, keep_times: bool, keep_memory: bool) -> set:
    """The jobs that are planned in a copy of the project."""
    ignored = shutil.ignore_patterns(*([] if keep_memory else [".snakemake"]), ".cache")
    copy = shutil.copy2 if keep_times else shutil.copyfile
    shutil.copytree(project.folder, target, ignore=ignored, copy_function=copy, symlinks=True)
    return jobs_of(call(target, "--dry-run"))


def test_moved_results_are_still_finished(project, tmp_path):
    """As docs/CONFIGURATION.md says: with times and with .snakemake; else `--touch` accepts the files as they are."""
    assert moved(project, tmp_path / "whole", keep_times=True, keep_memory=True) == set()
    bare = tmp_path / "bare"
    assert len(moved(project, bare, keep_times=False, keep_memory=False)) > 10
    call(bare, "--touch")
    assert jobs_of(call(bare, "--dry-run")) == set()

"""What jobs are given, and through what they are run, without a cluster; with one: `make test-cluster`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.workflow

STAND_IN = """#!/usr/bin/env bash
echo "$*" >> {calls}
[ "$1" = --version ] && exec echo "apptainer version 1.4.0"
echo "user site: ${{PYTHONNOUSERSITE:-taken}}" >> {calls}
while [ "$1" != bash ]; do shift; done
PATH={programs}:$PATH exec "$@"
"""


def test_neither_limits_nor_memory_nor_gpus_are_a_reason_to_run_anything_again(project):
    for change in ("train_arm:runtime=5", "train_arm:mem_mb=1", "train_arm:gpu=0", "train_arm:nodes=2"):
        assert "Nothing to be done" in project.snakemake("--set-resources", change), change
    # The written configuration holds it.
    assert project.would_run("--config", "gpu=true") == {("write_config", ""), ("build_report", "")}


def test_processes_are_one_node_with_as_many_gpus_and_cpus(project, tmp_path):
    overlay = tmp_path / "wide.yaml"
    overlay.write_text(yaml.safe_dump({"gpu": True, "arms": {"wide": {"processes": 4, "parallel": "replicate"}}}))
    said = project.snakemake("--dry-run", "--forceall", "--configfile", str(overlay), "--cores", "8",
                             "--resources", "gpu=8", "mem_mb=99000", "--", "train")  # fmt: skip
    jobs = {re.search("wildcards: arm=(.*),", job)[1]: job for job in said.split("rule train_arm:\n")[1:]}
    asked = {
        arm: dict(item.split("=") for item in re.search("resources: (.*)", job)[1].split(", "))
        for arm, job in jobs.items()
    }
    assert "threads: 4" in jobs["wide"]
    assert (asked["wide"]["gpu"], asked["wide"]["nodes"], asked["diffusion_only"]["gpu"]) == ("4", "1", "1")
    # Each process has the framework and the model for itself.
    assert int(asked["wide"]["mem_mb"]) > 3 * int(asked["diffusion_only"]["mem_mb"])
    for plan in (project.folder / "results" / "cache" / "memory").glob("*.json"):
        plan.unlink()  # the project's own plan is looked for by another test


def test_jobs_go_through_the_image(project, tmp_path):
    image, target = project.folder / "envs" / "legible.sif", "results/imaged/fonts/manifest.json"
    said = project.snakemake("--sdm", "apptainer", check=False)
    assert "envs/legible.sif is missing; envs/legible.def says how it is built" in said
    program = tmp_path / "apptainer"
    program.write_text(STAND_IN.format(calls=tmp_path / "calls", programs=Path(sys.executable).parent))
    program.chmod(0o755)
    image.touch()
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--sdm", "apptainer"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(project.folder)}
    try:
        done = subprocess.run(
            [*command, "--config", "experiment=imaged", "--", target], cwd=project.folder, env=environment,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    finally:
        image.unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    assert (project.folder / target).is_file()
    said = (tmp_path / "calls").read_text()
    assert "user site: 1" in said  # what lies in the home folder is not the image's
    assert "user site: taken" not in said
    calls = [line for line in said.splitlines() if line.startswith("exec ")]
    assert len(calls) == 1
    assert str(image) in calls[0]

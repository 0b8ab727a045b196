"""How long Snakemake takes to plan experiments of many arms: a dry run each, in processor seconds.

    python benchmarks/planning.py --arms 10 100 1000 --output docs/performance/planning.csv

A job of a cluster starts Snakemake anew, but plans its own output only.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = "arms,jobs,processor_seconds,wall_seconds,processor_seconds_per_100_jobs"


def plan(arms: int, folder: Path, *options: str) -> tuple[int, float, float]:
    """Jobs, processor seconds and wall seconds of a dry run with so many arms, each with a λ of its own."""
    overlay = folder / f"{arms}.yaml"
    named = {f"ctc_{n}": {"aux": {"loss": "ctc", "lambda": (n + 1) / 1000, "every": 1}} for n in range(arms - 1)}
    left_out = {"clip_region": None, "ctc": None}
    overlay.write_text(yaml.safe_dump({"experiment": f"plan_{arms}", "arms": left_out | named, "seeds": [0]}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)]
    command += ["--cores", "2", "--dry-run", "--quiet", "rules", "--configfile", str(overlay), *options]
    before, began = os.times(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    after, jobs = os.times(), re.search(r"^total +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE)
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return int(jobs[1]) if jobs else 0, spent, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    arguments = parser.parse_args()
    lines = [COLUMNS]
    with tempfile.TemporaryDirectory() as folder:
        for arms in arguments.arms:
            jobs, spent, wall = plan(arms, Path(folder))
            lines.append(f"{arms},{jobs},{spent:.1f},{wall:.1f},{100 * spent / jobs:.2f}")
            print(lines[-1], flush=True)
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

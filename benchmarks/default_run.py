"""The default experiment in one or more clones, in turn on this machine: processor time, and what of it is start-up.

Start-up is what a job does before its work begins: the interpreter, imports, opening models and engines. It is measured
once for each kind of job, in a process that does only this, and counted as often as the default experiment has such
jobs. Keep the machine quiet. Each clone has its environment (`make environment`) and no results yet.

    python benchmarks/default_run.py --clone ../before --clone . --output docs/default_run.json
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from legible.io import write_json
from legible.provenance import machine

# What a script's jobs open after its imports; scripts that are not here open nothing.
OPENED = {
    "train_arm": 'open_model(Model(), ("denoiser", "scheduler", "autoencoder"))',
    "generate_images": 'embed_prompts(Model(), [""], 1); open_model(Model(), ("denoiser", "autoencoder", "scheduler"))',
    "encode_dataset": 'open_model(Model(), ("text", "autoencoder"))',
    "round_trip_ceiling": 'open_model(Model(), ("autoencoder",))',
    "read_images": "engines = Config().engines(); open_engine({engine!r}, engines[{engine!r}], Path({cache!r}))",
}
IMPORTS = (
    "from pathlib import Path; from legible.config import Config, Model;"
    " from legible.models.family import embed_prompts, open_model;"
)


def processor_seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Processor and wall-clock seconds of a command and all that it starts; an error if it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    path = os.pathsep.join([str(folder), str(folder / "scripts")])
    done = subprocess.run(
        command, cwd=folder, env=environment | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(command)[:200]} in {folder} failed:\n{done.stdout[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - began


def jobs(clone: Path) -> Counter:
    """(script, engine where it is a reading) → how many jobs of the default experiment run it."""
    said = subprocess.run(
        [clone / ".venv/bin/snakemake", "--dry-run", "--forceall", "--printshellcmds"],
        cwd=clone, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    commands = re.findall(r"scripts/(\w+)\.py(?:.*?--engine (\w+))?", said)
    return Counter(commands)


def startup(clone: Path, script: str, engine: str) -> float:
    """Processor seconds until a job of this script begins its work."""
    code = f"import {script};"
    if script in OPENED:
        cache = str(clone / "results" / "nano" / "cache" / "ocr" / engine)
        code += f"{IMPORTS} from legible.ocr import open_engine;" if engine else IMPORTS
        code += OPENED[script].format(engine=engine, cache=cache)
    return min(processor_seconds([str(clone / ".venv/bin/python"), "-c", code], clone)[0] for _ in range(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--clone", type=Path, action="append", required=True, help="the last one's start-up is measured"
    )
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    runs = []
    for clone in (path.resolve() for path in arguments.clone):
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True)
        if (clone / "results" / "nano").exists():
            sys.exit(f"{clone}/results/nano is there already: nothing would be measured")
        processor, wall = processor_seconds([str(clone / ".venv/bin/snakemake"), "--cores", "all"], clone)
        idle, _ = processor_seconds([str(clone / ".venv/bin/snakemake"), "--cores", "all"], clone)
        runs.append(
            {"commit": commit.stdout.strip(), "processor_s": processor, "wall_s": wall, "nothing_to_do_s": idle}
        )
        print(runs[-1], flush=True)
    kinds = [
        {"script": script, "engine": engine or None, "jobs": count, "startup_s": startup(clone, script, engine)}
        for (script, engine), count in sorted(jobs(clone).items())
    ]
    total = sum(kind["jobs"] * kind["startup_s"] for kind in kinds)
    share, ratio = total / runs[-1]["processor_s"], runs[-1]["processor_s"] / runs[0]["processor_s"]
    about = {"machine": machine(), "cores": os.cpu_count()}
    write_json(
        arguments.output, about | {"runs": runs, "ratio": ratio, "startup_s": total, "share": share, "jobs": kinds}
    )
    print(f"last / first clone: {ratio:.3f}; start-up of the last: {total:.0f} s, {share:.1%} of its processor time")


if __name__ == "__main__":
    main()

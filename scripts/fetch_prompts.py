"""Fetch a public prompt set (or take it from local copies), check its hashes and write it as a prompt file."""

import argparse
from pathlib import Path

from legible.corpus.benchmarks import BENCHMARKS, read_benchmark
from legible.errors import run_cli
from legible.io import write_jsonl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", required=True, choices=sorted(BENCHMARKS))
    parser.add_argument("--copies", type=Path, help="folder with copies of the files; without: fetch them")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    prompts = read_benchmark(arguments.benchmark, arguments.copies)
    rows = [{"id": p.id, "prompt": p.prompt, "targets": list(p.targets), "kind": p.kind} for p in prompts]
    write_jsonl(arguments.output, rows)
    print(f"{arguments.benchmark}: {len(rows)} prompts, {sum(len(p.targets) for p in prompts)} targets")


if __name__ == "__main__":
    run_cli(main)

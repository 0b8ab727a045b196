"""Small tables and records beside a results page, so that its numbers can be checked without running anything."""

import json
from collections.abc import Sequence
from pathlib import Path

from legible.figures.inputs import read_csv
from legible.io import write_text
from legible.report.experiment import Experiment

TABLES = ("summary", "seeds", "drift", "curve", "steps_to_levels", "rewards", "guards", "malformed", "attributes")
LARGE = 300_000  # bytes; of a larger table with strata only the stratum `all` is copied
RUN = ("arm", "seed", "key", "data", "files", "weights", "versions", "machine", "device", "cores", "steps", "started")
RUN += ("wall_seconds", "processor_seconds", "peak_memory_bytes", "parameters_trained", "parameters_total")


def copied_tables(experiment: Experiment) -> dict[str, str]:
    """File name → content, of every small table of an experiment that is there.

    `calibration_….csv` are the judges' on damaged letters, `judge_….csv` what each gets wrong on clean renders.
    """
    scores = experiment.results / "scores"
    paths = {f"{name}.csv": scores / f"{name}.csv" for name in TABLES} | {
        "timing.csv": experiment.results / "timing.csv"
    }
    paths |= {f"calibration_{path.name}": path for path in sorted(experiment.results.glob("calibration/*.csv"))}
    paths |= {f"judge_{path.name}": path for path in sorted(scores.glob("judges/*.csv"))}
    return {name: small(path) for name, path in paths.items() if path.is_file()}


def small(path: Path) -> str:
    """A table's text; of a large one the rows over all prompts only."""
    text = path.read_text(encoding="utf-8")
    if len(text.encode()) <= LARGE or "stratum" not in text.split("\n", 1)[0].split(","):
        return text
    table = read_csv(path, ("stratum",))
    return table[table["stratum"] == "all"].to_csv(index=False, float_format="%.6g", lineterminator="\n")


def runs_json(experiment: Experiment) -> str:
    """What identifies every run, one a line, as a JSON list."""
    records = [{key: run[key] for key in RUN if key in run} for run in experiment.runs.values()]
    lines = [json.dumps(record, sort_keys=True, ensure_ascii=False) for record in records]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def write_copies(experiments: Sequence[Experiment], folder: Path) -> None:
    """`folder`/{experiment}/…csv and runs.json, each written whole or not at all."""
    for experiment in experiments:
        for name, text in (copied_tables(experiment) | {"runs.json": runs_json(experiment)}).items():
            write_text(folder / experiment.name / name, text)


def copied_note(experiment: Experiment, folder: str) -> str:
    """Links to the copies."""
    names = [*copied_tables(experiment), "runs.json"]
    links = ", ".join(f"[{name}]({folder}/{experiment.name}/{name})" for name in names)
    return (
        f"The numbers as tables, and what identifies every run: {links}. Of tables above {LARGE // 1000} kB only the "
        "rows over all prompts were copied."
    )

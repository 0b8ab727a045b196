"""The files from which an experiment's pages are written."""

from pathlib import Path

from legible.config import FIGURES, NO_TEXT, Config
from legible.names import BASE, Run


def report_sources(config: Config) -> list[str]:
    """Everything below results/{experiment}/ that `legible.report` reads; folders of pictures as such."""
    runs = [Run(arm, seed).folder.as_posix() for arm in config.arms for seed in config.seeds]
    figures = sorted(name for name, figure in FIGURES.items() if figure.when(config))
    tables = ["summary.csv", "seeds.csv", "scores.parquet", *(f"judges/{engine}.csv" for engine in config.engines())]
    files = ["config.yaml"]
    if config.drift:
        tables += ["drift.csv", "drift_by_prompt.parquet", "attributes.csv"]
        files += [f"ocr/{engine}/{BASE}/{NO_TEXT}.jsonl" for engine in config.detectors()]
    if any(config.arm(arm).snapshots for arm in config.arms):
        tables += ["curve.csv", "steps_to_levels.csv"]
    if config.reward_scores:
        tables += ["rewards.csv", "guards.csv"]
    if config.glyph_judge:
        tables += ["malformed.csv"]
    if config.calibration:
        files += ["calibration/damage.csv"]
    if config.timing:
        files += ["timing.csv"]
    files += [f"scores/{name}" for name in tables]
    files += [f"figures/{name}.png" for name in figures]
    files += [f"{run}/{name}" for run in runs for name in ("run.json", "metrics.jsonl")]
    files += [f"images/{BASE}/{prompt_set}" for prompt_set in sorted(config.prompt_sets)]
    return [f"results/{config.experiment}/{name}" for name in files]


def page_copies(config: Config) -> list[str]:
    """What stands beside an experiment's results page, below results/: its small tables, its runs and its figures."""
    tables = [Path(file) for file in report_sources(config) if file.endswith(".csv")]
    before = {"judges": "judge_", "calibration": "calibration_"}
    names = [f"{before.get(path.parent.name, '')}{path.name}" for path in tables]
    shown = [name for name, figure in FIGURES.items() if figure.on_results_page and figure.when(config)]
    folder = config.experiment
    return [f"{folder}/{name}" for name in [*names, "runs.json"]] + [f"{folder}-{name}.png" for name in sorted(shown)]

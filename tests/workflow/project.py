"""A copy of this project with a tiny configuration, in which everything has been run once; and what a dry run says."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from legible.config import FIGURES as CATALOGUE
from legible.config import Config, validate

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "results/tiny"
# Figures of measurements that the tiny experiment (like the default one) does not take.
OPTIONAL = {"learning_curves", "steps_to_cer", "drift_tradeoff", "gradient_reach", "adaptive_weights"}
OPTIONAL |= {"race", "validation_curves"}
FIGURES = set(CATALOGUE) - OPTIONAL
# Drawn from scores; the other figures do not depend on any model's images.
FROM_SCORES = FIGURES - {"training_curves", "dataset"}
TINY = {
    "experiment": "tiny",
    "data": {"train": 12, "test": 2},
    "model": {"path": "resources/tiny/zimage"},
    "clip": {"path": "resources/tiny/clip"},
    "reader": {"network": "resources/tiny/recognizer_crnn"},
    "prompt_sets": {"short": {"path": "resources/prompts/held_out.jsonl", "limit": 3}},
    "generation": {"steps": 2, "seeds": [0], "batch_size": 8},
    "training": {"steps": 2, "batch_size": 4, "warmup": 1, "checkpoint_every": 1, "learning_rate": 1.0e-3},
    "arms": {
        "diffusion_only": {"aux": {"loss": "none", "lambda": 0.0}},
        "clip_region": {"aux": {"loss": "clip_region", "lambda": 0.2, "every": 2}},
    },
    "seeds": [0],
    "gpu": False,
    "ocr": {"rapidocr": {}, "easyocr": None},
    "scoring": {"resamples": 50},
}

Job = tuple[str, str]  # rule, wildcards


@dataclass(frozen=True)
class Project:
    """A copy of this project with the tiny configuration, in which everything has been run once."""

    folder: Path
    first: str  # what the first run said

    def snakemake(self, *arguments: str, check: bool = True, path: str = "") -> str:
        """Both outputs of `snakemake`; `path`: where Python is to look first."""
        return call(self.folder, *arguments, check=check, path=path)

    def would_run(self, *arguments: str, path: str = "") -> set[Job]:
        """The jobs of a dry run, with their wildcards."""
        return jobs_of(self.snakemake("--dry-run", *arguments, path=path))

    def changed(self, change: Callable[[dict], None]) -> set[Job]:
        """The jobs of a dry run after a change of config.yaml, which is put back afterwards."""
        path = self.folder / "config.yaml"
        before = path.read_text()
        config = yaml.safe_load(before)
        change(config)
        try:
            path.write_text(yaml.safe_dump(config))
            return self.would_run()
        finally:
            path.write_text(before)

    def edited(self, file: str, text: str, instead_of: str = "") -> set[Job]:
        """The jobs of a dry run after `text` was put in the place of another one (default: appended) in a file."""
        path = self.folder / file
        before = path.read_text()
        assert before.count(instead_of) == 1 or not instead_of
        try:
            path.write_text(before.replace(instead_of, text) if instead_of else before + text)
            return self.would_run()
        finally:
            path.write_text(before)


def copied(folder: Path, models: Path, settings: dict) -> Path:
    """Copy this project's files to `folder`, with the tiny models and a configuration of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        # The shipped models are not needed here, and may be in the making.
        if (ROOT / name).is_file() and not name.startswith(("resources/nano/", "tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    shutil.copytree(models, folder / "resources" / "tiny")
    default = Config().model_dump(mode="json", by_alias=True)
    validate(default | settings, "tiny")
    (folder / "config.yaml").write_text(yaml.safe_dump(default | settings))
    return folder


def call(folder: Path, *arguments: str, check: bool = True, path: str = "") -> str:
    environment = os.environ | {
        "PYTHONPATH": f"{path}:{folder}", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / ".cache"),
        "NO_COLOR": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--max-jobs-per-timespan", "100/1s", *arguments],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stdout[-4000:]
    assert check or done.returncode != 0
    return done.stdout


def jobs_of(output: str) -> set[Job]:
    """(rule, wildcards) of every job that Snakemake announces, targets left out."""
    blocks = re.split(r"^(?=(?:local)?rule \w+:$)", output, flags=re.MULTILINE)[1:]
    found = set()
    for block in blocks:
        rule = re.match(r"(?:local)?rule (\w+):", block)[1]
        wildcards = re.search(r"^    wildcards: (.*)$", block, flags=re.MULTILINE)
        found.add((rule, ", ".join(sorted(wildcards[1].split(", "))) if wildcards else ""))
    table = re.search(r"^total +(\d+)$", output, flags=re.MULTILINE)
    assert len(found) == (int(table[1]) if table else 0)  # nothing overlooked
    return {(rule, wildcards) for rule, wildcards in found if rule not in TARGETS}


TARGETS = ("all", "data", "baseline", "train", "generate", "score", "figures", "report")


def figures(names: set[str]) -> set[Job]:
    return {("plot_figure", f"figure={name}") for name in names}


def readings(engine: str = "rapidocr") -> set[Job]:
    """One job reads the pictures of all models; what was read before it takes from its store."""
    return {("read_ocr", f"engine={engine}, prompt_set=short")}


def checked(engine: str = "rapidocr") -> set[Job]:
    """What a judge gets wrong by itself."""
    return {("check_judge", f"engine={engine}")}


MODELS = ("base", "diffusion_only-seed0", "clip_region-seed0", "ceiling_render", "ceiling_vae")
SCORES = {("score_readings", ""), *figures(FROM_SCORES), ("build_report", "")}

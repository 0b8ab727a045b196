"""By object storage: every stage in a folder that holds nothing but this project, as in a pod of its own.

With the storage plugin `fs`, which keeps in a folder what others keep in a bucket: `make test-storage`.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fingerprints import fingerprints
from project import RESULTS, TINY, call, copied

pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(
        not (importlib.util.find_spec("snakemake_storage_plugin_fs") and shutil.which("rsync")),
        reason="needs rsync and the storage plugin fs: make test-storage",
    ),
]
REWARD = {"weights": {"reading": 1.0}, "steps": 2, "last": 1}
SETTINGS = TINY | {
    "drift": {"limit": 2},
    "results_page": "pages/RESULTS.md",
    "reward_scores": ["reading"],
    "segmenter": {"steps": 2, "width": 16},
    "timing": {"steps": 2, "rounds": 1},
    "arms": {
        "diffusion_only": {"aux": {"loss": "none", "lambda": 0.0}, "snapshots": [1]},
        "letters": {"aux": {"loss": "char_segmentation", "lambda": 0.2, "every": 1}, "snapshots": [1]},
        "encoder": {"parts": ["text_encoder"], "reward": REWARD},
        "both": {"start": "encoder", "parts": ["denoiser"], "reward": REWARD},
    },
}
STAGES = (["train", "baseline"], ["generate"], ["score"], [])


def pod(folder: Path, models: Path, bucket: Path, *targets: str) -> str:
    """What Snakemake says in a fresh copy of the project that shares nothing but the storage."""
    copied(folder, models, SETTINGS)
    storage = ["--default-storage-provider", "fs", "--default-storage-prefix", str(bucket), "--shared-fs-usage", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *storage, "--", *targets],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
        env=os.environ | {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{folder}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def of_results(folder: Path) -> dict[str, str]:
    """Path → SHA-256; without caches, of which a storage has what others need only, and tables that hold seconds."""
    clock = ("cache/", "scores/curve.csv", "scores/steps_to_levels.csv")
    return {path: value for path, value in fingerprints(folder).items() if not path.startswith(clock)}


def test_every_stage_finds_in_the_storage_all_that_it_needs(folders, tmp_path):
    """And the results are those of one folder, byte for byte."""
    one = copied(tmp_path / "one", folders.root, SETTINGS)
    call(one)
    bucket = tmp_path / "bucket"
    shutil.copytree(one / "resources", bucket / "resources")
    for number, targets in enumerate(STAGES):
        folder = tmp_path / f"pod{number}"
        pod(folder, folders.root, bucket, *targets)
        assert not (folder / RESULTS / "runs").exists()
        shutil.rmtree(folder)
    found, expected = (of_results(place / RESULTS) for place in (bucket, one))
    assert found == expected
    assert {path.split("/")[0] for path in found} == {"data", "fonts", "segmenter", "runs", "images", "ocr", "scores"}
    pages = {path.relative_to(one) for path in (one / "pages").rglob("*") if path.is_file()}
    assert pages == {path.relative_to(bucket) for path in (bucket / "pages").rglob("*") if path.is_file()} != set()
    assert (bucket / RESULTS / "report.html").stat().st_size > 10_000

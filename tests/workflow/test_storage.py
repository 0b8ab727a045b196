"""By object storage: every stage in a folder that holds nothing but this project, as in a pod of its own.

And why that works: what a job opens, its rule declares.

With the storage plugin `fs`, which keeps in a folder what others keep in a bucket: `make test-storage`.
"""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import filterfalse
from pathlib import Path

import pytest
from fingerprints import fingerprints
from project import RESULTS, ROOT, TINY, call, copied

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
    "gradients": 2,
    "glyph_judge": {"path": "resources/glyph_judge"},
    "calibration": {"words": 1},
    "prompt_sets": TINY["prompt_sets"] | {"unseen": {"split": "test", "limit": 2}},
    "results_page": "pages/RESULTS.md",
    "reward_scores": ["reading"],
    "segmenter": {"steps": 2, "width": 16},
    "timing": {"steps": 2, "rounds": 1},
    "arms": {
        "diffusion_only": {"aux": {"loss": "none", "lambda": 0.0}, "snapshots": [1]},
        "letters": {"aux": {"loss": "char_segmentation", "lambda": 0.2, "every": 1}, "snapshots": [1]},
        "anchored": {"aux": {"loss": "clip_region", "lambda": 0.2, "every": 1}, "anchor": {"weight": 1.0}},
        "encoder": {"parts": ["text_encoder"], "reward": REWARD},
        "both": {"start": "encoder", "parts": ["denoiser"], "reward": REWARD},
    },
}
STAGES = (["train", "baseline"], ["generate"], ["score"], [])


# Every Python notes its arguments and what it opened of its project, unless it wrote that itself.
WITNESS = """
import atexit, json, os, sys

ROOT, read, written = os.path.dirname(os.path.abspath(__file__)), set(), set()


def note(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path, mode, flags = arguments
        path = os.path.abspath(path)
        writes = flags & (os.O_WRONLY | os.O_RDWR) or set(mode or "") & set("wax+")
        if path.startswith(ROOT + os.sep) and (writes or os.path.isfile(path)):
            (written if writes else read).add(os.path.relpath(path, ROOT))
    elif event == "os.rename":
        written.add(os.path.relpath(os.path.abspath(arguments[1]), ROOT))


def tell():
    with open(f"{ROOT}/opened/{os.getpid()}.json", "w") as file:
        others = [name for name in read if not any((name + "/").startswith(one + "/") for one in written)]
        json.dump({"argv": sys.argv, "read": sorted(others)}, file)


sys.addaudithook(note)
atexit.register(tell)
"""
# Read if they are there, and not missed where they are not: stores by content, checkpoints, Matplotlib's list of fonts.
STORES = re.compile(
    r"(results|results/tiny)/(cache|checkpoints)/(?!(anchor|train)\.safetensors$)|\.cache/|sitecustomize\.py$"
)


def laid_out(folder: Path, models: Path) -> Path:
    """A copy of this project with these settings, and a judge of glyphs beside the tiny models."""
    copied(folder, models, SETTINGS)
    shutil.copytree(ROOT / "resources" / "nano" / "glyph_judge", folder / "resources" / "glyph_judge")
    return folder


@pytest.fixture(scope="module")
def one(folders, tmp_path_factory) -> Path:
    """The experiment, run in one folder, with a witness in every job."""
    folder = laid_out(tmp_path_factory.mktemp("storage") / "one", folders.root)
    (folder / "sitecustomize.py").write_text(WITNESS)
    (folder / "opened").mkdir()
    call(folder)
    return folder


def pod(folder: Path, models: Path, bucket: Path, *targets: str) -> str:
    """What Snakemake says in a fresh copy of the project that shares nothing but the storage."""
    laid_out(folder, models)
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


def noted_jobs(folder: Path) -> list[tuple[str, list[str], list[str]]]:
    """Rule, command and inputs of every job, as Snakemake has noted them."""
    notes = [json.loads(path.read_text()) for path in (folder / ".snakemake/metadata").rglob("*") if path.is_file()]
    commands = [shlex.split(note["shellcmd"].split(" 2>&1")[0]) if note["shellcmd"] else [] for note in notes]
    # The shell knows no end of the time of a job here: an empty argument.
    commands = [["" if word.startswith("${LEGIBLE_BEGAN") else word for word in command] for command in commands]
    return [
        (note["rule"], command, [os.path.relpath(folder / name, folder) for name in note["input"]])
        for note, command in zip(notes, commands, strict=True)
        if command
    ]


def test_a_job_opens_nothing_that_its_rule_does_not_declare(one):
    """Programs, library, the project's resources, models and results, as far as it is Python that opens them."""
    jobs, undeclared, heard = noted_jobs(one), set(), set()
    by_rule = {rule: declared for rule, _, declared in jobs}
    for path in (one / "opened").iterdir():
        said = json.loads(path.read_text())
        program, arguments = Path(said["argv"][0]), said["argv"][1:]
        found = [(rule, declared) for rule, command, declared in jobs if command[-len(arguments) :] == arguments]
        if not found and program.name == "__main__.py":
            continue  # Snakemake itself
        # What time_arms starts is called as trainings are, but for the folders to write to.
        rule, declared = found[0] if found else ("time_arms", by_rule["time_arms"])
        assert found or program.name == "train_arm.py"
        heard.add(rule)
        for name in filterfalse(STORES.match, said["read"]):
            if not any(f"{name}/".startswith(f"{known}/") for known in declared):
                undeclared.add((rule, name))
    assert not undeclared
    assert heard == set(by_rule) > {"train_arm", "time_arms", "read_ocr", "calibrate", "write_results"}


def test_every_stage_finds_in_the_storage_all_that_it_needs(one, folders, tmp_path):
    """And the results are those of one folder, byte for byte."""
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

"""Values of the configuration that would be commands, options or other people's files if they were not quoted."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from project import ROOT, TINY

pytestmark = pytest.mark.workflow

HOSTILE = "a $(touch HACKED) `touch HACKED`; touch HACKED & 'b' \"c\" > HACKED | tee HACKED \\"
# As programs of these names, which say what they are given: one argument a line, a line between two calls.
SHIMS = 'python() { printf "%s\\n" "$@" >> "$SAID"; }; cp() { python "$@"; }; tee() { cat > /dev/null; }; '


def test_whatever_a_rule_puts_into_a_command_is_quoted():
    found = {}
    for path in [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]:
        for shell in re.findall(r"^    shell:\n((?:        .*\n)+)", path.read_text(), flags=re.MULTILINE):
            for name in re.findall(r"(?<!\{)\{([^{}]+)\}(?!\})", shell):
                found[name] = path.name
    assert len(found) > 20
    assert [name for name in found if not name.endswith(":q")] == ["threads"]  # a number


@pytest.fixture(scope="module")
def overlay(project) -> Path:
    """Files with hostile names, and a configuration that names them and holds such texts."""
    folder = project.folder
    for name in (f"{HOSTILE}.jsonl", "--limit", "$(touch HACKED).jsonl"):
        (folder / name).write_bytes((folder / "resources/prompts/no_text.jsonl").read_bytes())
    for name, target in (("zimage", "zimage"), ("clip", "clip"), ("net", "recognizer_crnn")):
        (folder / f"{HOSTILE} {name}").symlink_to(f"resources/tiny/{target}")
    (folder / f"{HOSTILE} fonts").mkdir()
    values = {
        "experiment": "hostile",
        "title": HOSTILE,
        "command": HOSTILE,
        "results_page": "pages/RESULTS.md",
        "benchmarks": f"{HOSTILE} fonts",
        "fonts": {"folders": [f"{HOSTILE} fonts"]},
        "model": {"path": f"{HOSTILE} zimage"},
        "clip": {"path": f"{HOSTILE} clip", "template": f"{{}} {HOSTILE}"},
        "reader": {"network": f"{HOSTILE} net"},
        "ocr": {"easyocr": {"network": f"{HOSTILE} net"}, "tesseract": {"data": f"{HOSTILE} fonts"}},
        "anchor": {"prompts": f"{HOSTILE}.jsonl"},
        "drift": {"prompts": "$(touch HACKED).jsonl"},
        "gradients": 2,
        "prompt_sets": {
            "short": {"path": f"{HOSTILE}.jsonl"},
            "dash": {"path": "--limit"},
            "public": {"path": "results/prompts/geneval.jsonl"},
        },
        "arms": {
            "clip_region": {"snapshots": [1], "anchor": {"weight": 1.0}},
            "ctc": {"aux": {"loss": {"ctc": 1.0, "char_segmentation": 1.0}, "lambda": 1.0, "every": 1}},
        },
    }
    path = folder / "hostile.yaml"
    path.write_text(yaml.safe_dump(values, width=10**6))
    return path


def test_no_value_becomes_a_command_or_an_option(project, overlay, tmp_path):
    said = project.snakemake("--dry-run", "--printshellcmds", "--configfile", overlay.name)
    commands = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("Shell command: ")]
    commands = [command for command in commands if command != "None"]  # a target's
    rules = set(re.findall(r"^rule (\w+):$", said, flags=re.MULTILINE))
    assert len(commands) == int(re.search(r"^total +(\d+)$", said, flags=re.MULTILINE)[1]) - 1
    assert {"fetch_prompts", "train_segmenter", "measure_gradients", "record_anchor", "score_drift"} <= rules
    given = tmp_path / "given"
    for command in commands:
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", SHIMS + command],
            cwd=tmp_path, env={"SAID": str(given), "LEGIBLE": "/x", "PATH": "/usr/bin:/bin"}, check=True,
        )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["given"]
    arguments = given.read_text().splitlines()
    for whole in (f"{HOSTILE}.jsonl", "./--limit", "$(touch HACKED).jsonl", f"{HOSTILE} fonts", HOSTILE):
        assert whole in arguments  # each as one argument


MISSING = [
    ("prompt_sets: {more: {path: nowhere.jsonl}}", "prompt_sets.more.path: there is no file 'nowhere.jsonl'"),
    (
        "prompt_sets: {more: {path: 'results/prompts/$(touch HACKED).jsonl'}}",
        "prompt_sets.more.path: there is no file",
    ),
    ("anchor: {prompts: nowhere.jsonl}", "anchor.prompts: there is no file 'nowhere.jsonl'"),
    ("model: {path: resources/tiny/nowhere}", "model.path: there is no folder 'resources/tiny/nowhere'"),
    ("regimes: {shift: {drift: {prompts: nowhere.jsonl}}}", "regimes.shift.drift.prompts: there is no file"),
    ("results_page: README.md", "results_page: README.md is another file"),
    ("results_page: 'page;touch HACKED;x.md'", "results_page: "),
]


@pytest.mark.parametrize(("text", "sentence"), MISSING)
def test_a_finished_experiment_does_not_hide_what_is_missing(project, text, sentence):
    (project.folder / "missing.yaml").write_text(text)
    said = project.snakemake("--dry-run", "--configfile", "missing.yaml", check=False)
    assert sentence in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 5
    assert not (project.folder / "HACKED").exists()


def test_an_overlay_that_names_one_arm_keeps_the_order_of_all(project):
    last = list(yaml.safe_load((project.folder / "config.yaml").read_text())["arms"])[-1]
    (project.folder / "order.yaml").write_text(yaml.safe_dump({"arms": {last: TINY["arms"][last]}}))  # as it is
    assert project.would_run("--configfile", "order.yaml") == set()

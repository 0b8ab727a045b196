"""docs/EXTENDING.md as it stands: its blocks are written into a copy of the project, and its commands are run there."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from legible.io import read_jsonl

pytestmark = pytest.mark.workflow

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it goes (a file, or a place in one), or that it is run."""

    language: str
    options: dict[str, str]
    text: str

    @staticmethod
    def of(match: tuple[str, str, str]) -> "Block":
        language, info, text = match
        options = dict(re.findall(r"""(\w+)=("[^"]*"|'[^']*'|\S+)""", info)) | ({"run": ""} if info == "run" else {})
        return Block(language, {key: value.strip("\"'") for key, value in options.items()}, text)


def sections_of(page: str) -> dict[str, list[Block]]:
    """Heading of the second level → its blocks, in order."""
    parts = re.split(r"^## (.*)$", page, flags=re.MULTILINE)[1:]
    return {
        title: [Block.of(match) for match in FENCE.findall(body)]
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


def put(block: Block, folder: Path) -> None:
    """Write the block into the file that it names: whole, or at the one line there that begins with a text."""
    path, places = folder / block.options["file"], set(block.options) & {"before", "after", "instead"}
    if not places:
        assert not path.exists(), f"{path} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        return
    (place,) = places
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (found,) = (n for n, line in enumerate(lines) if line.startswith(block.options[place]))
    text = {
        "before": block.text + "\n\n" + lines[found],  # whole definitions go before others
        "after": lines[found] + block.text,
        "instead": block.text,
    }
    path.write_text("".join([*lines[:found], text[place], *lines[found + 1 :]]), encoding="utf-8")


def copy_project(folder: Path) -> Path:
    """A copy of this project, without what is ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def run(commands: str, folder: Path) -> None:
    """The lines of a block, as a user types them."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(folder), "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / ".cache"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]


SECTIONS = sections_of((ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of this project with every block of the page in it."""
    folder = copy_project(tmp_path_factory.mktemp("extending") / "project")
    for blocks in SECTIONS.values():
        for block in blocks:
            if "file" in block.options:
                put(block, folder)
    return folder


@pytest.fixture
def after(project, request) -> Path:
    """The project after the commands of some sections."""
    commands = [block.text for title in request.param for block in SECTIONS[title] if "run" in block.options]
    assert len(commands) == len(request.param)
    for command in commands:
        run(command, project)
    return project


@pytest.mark.parametrize("after", [["A loss"]], indirect=True)
def test_a_loss_trains_two_steps(after):
    rows = read_jsonl(after / "results/crispness/runs/crispness_placebo/seed0/metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(row["loss_aux"] > 0 and row["grad_norm_aux"] > 0 for row in rows)


@pytest.mark.parametrize("after", [["A reward"]], indirect=True)
def test_a_reward_trains_two_steps(after):
    rows = read_jsonl(after / "results/contrast/runs/contrast/seed0/metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1]
    assert all(row["rewards"]["contrast"] == -row["loss_total"] > 0 and row["grad_norm"] > 0 for row in rows)


@pytest.mark.parametrize("after", [["A judge"]], indirect=True)
def test_a_judge_reads_images(after):
    rows = read_jsonl(after / "results/crispness/ocr/template/ceiling_render/held_out.jsonl")
    assert len(rows) == 12
    targets = {row["id"]: row["targets"][0] for row in read_jsonl(after / "resources/prompts/held_out.jsonl")}
    right = [reading["text"] == targets[row["prompt_id"]] for row in rows for reading in row["readings"]]
    assert sum(right) >= 3  # clean drawings, but small and in five fonts: a toy reads some, and a broken one none


@pytest.mark.parametrize("after", [["A loss", "A model family"]], indirect=True)
def test_a_family_trains_at_its_own_levels(after):
    rows = read_jsonl(after / "results/shifted/runs/diffusion_only/seed0/metrics.jsonl")
    plain = read_jsonl(after / "results/crispness/runs/diffusion_only/seed0/metrics.jsonl")
    for own, other in zip(rows, plain, strict=True):  # the same draws, shifted
        assert own["sigma_mean"] > other["sigma_mean"]


# The catalogue's other figures show a picture of every script, of the page's own one, too.
@pytest.mark.parametrize("after", [["A loss", "A writing system", "A figure"]], indirect=True)
def test_a_figure_is_drawn(after):
    for kind in ("png", "pdf"):
        assert (after / f"results/crispness/figures/step_time.{kind}").stat().st_size > 5000


@pytest.mark.parametrize("after", [["A program and its rule"]], indirect=True)
def test_a_rule_runs_its_program(after):
    counts = pd.read_csv(after / "results/crispness/data/characters.csv")
    texts = pd.read_parquet(after / "results/crispness/data/train.parquet", columns=["text"])["text"]
    assert counts["count"].sum() == sum(len("".join(text.split())) for text in texts) > 0


@pytest.mark.parametrize("after", [["A writing system"]], indirect=True)
def test_a_writing_system_is_drawn(after):
    capitals = {chr(code) for code in range(0x531, 0x557)}
    plain = pd.read_parquet(after / "results/armenian/data/train.parquet", columns=["text"])["text"]
    assert len(plain) == 24
    assert set("".join(plain)) <= capitals
    engine = pd.read_parquet(after / "results/armenian_scenes/data/train.parquet", columns=["text", "kind", "font"])
    assert set("".join(engine["kind"]).replace("\n", "").split("armenian")) == {""}
    letters = capitals | {chr(code) for code in range(0x561, 0x588)}
    assert letters & set("".join(engine["text"]))
    assert set(engine["font"]) == {"dejavu"}
    assert (after / "results/armenian.png").stat().st_size > 5000


def test_the_table_counts_the_files_of_each_example():
    page = (ROOT / "docs" / "EXTENDING.md").read_text(encoding="utf-8")
    said = {
        title: int(count) for title, count in re.findall(r"^\| \[(.*?)\]\(#[\w-]+\) \| (\d+) \|", page, re.MULTILINE)
    }
    files = {
        title.lower(): {block.options["file"] for block in blocks if "file" in block.options}
        for title, blocks in SECTIONS.items()
    }
    own = re.compile(r"[^/]+\.yaml")  # settings of an experiment, beside the Snakefile
    experiments = {title: set(filter(own.fullmatch, named)) for title, named in files.items()}
    assert said == {title: len(files[title] - experiments[title]) for title in files if files[title]}


def test_the_examples_keep_the_style(project):
    files = {block.options["file"] for blocks in SECTIONS.values() for block in blocks if "file" in block.options}
    python = " ".join(sorted(file for file in files if file.endswith(".py")))
    rules = " ".join(sorted(file for file in files if file.endswith(".smk") or file == "Snakefile"))
    run(f"ruff check {python}; ruff format --check {python}; snakefmt --check {rules}", project)

"""The same workflow from another working directory, and as a module of another workflow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from project import RESULTS, ROOT

pytestmark = pytest.mark.workflow

CEILING = f"{RESULTS}/images/ceiling_render/short"
MODULE = """
module signs:
    snakefile:
        "{project}/Snakefile"


use rule * from signs as signs_*


rule first:
    default_target: True
    input:
        "{target}",
"""


def snakemake(folder: Path, *arguments: str) -> str:
    """Both outputs, from a folder that holds no project."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
        cwd=folder, env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def drawn(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / CEILING).glob("*.png"))]


def test_from_another_working_directory(project, tmp_path):
    snakefile = ("--snakefile", str(project.folder / "Snakefile"))
    snakemake(tmp_path, *snakefile, "--directory", str(tmp_path / "there"), "--", CEILING)
    assert drawn(tmp_path / "there") == drawn(project.folder) != []
    assert "Nothing to be done" in snakemake(tmp_path / "there", *snakefile, "--", CEILING)
    assert snakemake(tmp_path / "there", *snakefile, "--dry-run").count("rule train_arm:") == 2


def test_as_a_module_of_another_workflow(project, tmp_path):
    (tmp_path / "Snakefile").write_text(MODULE.format(project=project.folder, target=CEILING))
    snakemake(tmp_path)
    assert drawn(tmp_path) == drawn(project.folder) != []
    assert snakemake(tmp_path, "--dry-run", "signs_train").count("rule signs_train_arm:") == 2


@pytest.mark.parametrize("name", ["zimage_base", "sdxl", "sd3", "flux", "qwen_image"])
def test_other_architectures_are_planned_without_their_weights(name, tmp_path):
    (tmp_path / "EasyOCR").mkdir()
    given = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", str(ROOT / "configs" / f"{name}.yaml"))
    planned = snakemake(tmp_path, *given, "--dry-run", "--printshellcmds")
    assert f'"family": "{name.removesuffix("_base")}"' in planned
    assert planned.count("rule train_arm:") == 3


def test_stable_diffusion_with_published_rewards_is_planned_where_their_files_lie(tmp_path):
    for folder in ("EasyOCR", "models/aesthetic", "models/pickscore", "models/hps"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("aesthetic/sac+logos+ava1-l14-linearMSE.pth", "hps/HPS_v2_compressed.pt"):
        (tmp_path / "models" / file).touch()
    given = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", str(ROOT / "configs" / "textcraftor_sd15.yaml"))
    planned = snakemake(tmp_path, *given, "--dry-run", "--printshellcmds")
    assert "--rewards reading caption aesthetic pickscore hps" in planned
    assert '"scheduler": "pndm"' in planned
    assert planned.count("rule train_arm:") == 4
    assert "rule check_guards:" in planned


@pytest.mark.parametrize(("name", "trainings"), [("nano_stable_diffusion", 4), ("textcraftor_nano_sd", 36)])
def test_the_comparisons_on_the_shipped_stable_diffusion_are_planned(name, trainings, tmp_path):
    given = ("--snakefile", str(ROOT / "Snakefile"), "--configfile", str(ROOT / "configs" / f"{name}.yaml"))
    planned = snakemake(tmp_path, *given, "--dry-run", "--printshellcmds")
    assert '"family": "stable_diffusion"' in planned
    assert planned.count("rule train_arm:") == trainings

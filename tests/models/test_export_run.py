"""A run ready to upload: its card says what is so and its program runs in plain diffusers, its files are whole."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from make_results import make_results
from PIL import Image
from training import model_of, settings

from legible.errors import UserError
from legible.integrity import check_sums
from legible.io import file_hashes, write_json
from legible.models.family import open_model
from legible.models.opening import LORA
from legible.report.card import licence_of
from legible.train.adapters import keep_weights, select_parameters

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"full": ["denoiser"], "text": ["text_encoder"], "both": ["denoiser", "text_encoder"]}


def weights_of(folders, run: Path, method: str, parts: list[str], step: int | None = None) -> None:
    """Weights that have moved a little, where a run leaves them."""
    training, model = (
        settings(method=method, lora={"rank": 2}, parts=parts),
        open_model(model_of(folders.zimage), ("denoiser", "text")),
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in select_parameters(model, training, 0).values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    keep_weights(model, {}, training, run / ("weights" if step is None else f"snapshots/step{step}"))


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """Results with scores, whose runs have no weights yet."""
    return make_results(tmp_path_factory.mktemp("scored") / "mine", pictures=False)


@pytest.fixture
def results(folders, scored, tmp_path) -> Path:
    folder = tmp_path / "mine"
    shutil.copytree(scored, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["path"], config["experiment"] = str(folders.zimage), "mine"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def finished(folders, results: Path, method: str = "full", parts: str = "full", **about) -> Path:
    run = results / "runs" / "clip_region" / "seed1"
    weights_of(folders, run, method, PARTS[parts])
    record = json.loads((run / "run.json").read_text())
    record["training"] |= {"method": method, "parts": PARTS[parts]}
    record["weights"] = file_hashes(run, "weights", "snapshots", deep=True)
    record["model"] = {"path": str(folders.zimage), "revision": None}
    write_json(run / "run.json", record | about)
    return run


def export(results: Path, output: Path, *more: str, check: bool = True) -> str:
    command = [sys.executable, "scripts/export_run.py", "--results", results, "--arm", "clip_region", "--seed", "1"]
    command += ["--output", output, *more]
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode == 0) == check, done.stderr
    return done.stderr if not check else done.stdout


def drawn(folder: Path, program: str) -> np.ndarray:
    """What the card's program draws, beside its files and without this project's code."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, timeout=600)
    return np.asarray(Image.open(folder / "open.png"))


@pytest.mark.parametrize(("method", "parts"), [("full", "full"), ("full", "both"), ("lora", "full"), ("lora", "text")])
def test_a_folder_ready_to_upload(folders, results, tmp_path, method, parts):
    finished(folders, results, method, parts)
    output = tmp_path / "upload"
    export(results, output, "--licence", "apache-2.0", "--base-model", "someone/base")
    files = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert {"README.md", "LICENSE", "run.json", "metrics.jsonl", "config.yaml", "SHA256SUMS"} <= files
    assert (LORA in files) == (method == "lora" and parts == "full")
    assert ("comfyui/mine-clip_region-seed1.safetensors" in files) == (LORA in files)
    assert ("transformer/diffusion_pytorch_model.safetensors" in files) == (method == "full")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=output, check=True)
    check_sums(output)

    card = ModelCard.load(output / "README.md")
    data = card.data.to_dict()
    relation = "adapter" if method == "lora" else "finetune"
    assert (data["license"], data["base_model"], data["base_model_relation"]) == (
        "apache-2.0",
        "someone/base",
        relation,
    )
    assert (data["library_name"], data["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert ("lora" in data["tags"]) == (method == "lora")
    (index,) = data["model-index"]
    assert len(index["results"]) == 1
    assert {metric["type"] for metric in index["results"][0]["metrics"]} == {"cer"}
    assert len(index["results"][0]["metrics"]) == 2  # judges
    rows = re.findall(r"^\| RapidOCR \| clip_region \| (\S+) \[(\S+), (\S+)\] \| (\S+) \[", card.text, re.MULTILINE)
    (value, low, high, delta) = map(float, (number.replace("−", "-") for number in rows[0]))
    assert low < value < high
    assert delta < 0
    stated = [m["value"] for m in index["results"][0]["metrics"] if "RapidOCR" in m["name"]]
    assert stated == [pytest.approx(value, abs=6e-4)]
    for said in ("clip_region against diffusion_only", "training seed 1", "synthetic signs", "Licence | apache-2.0"):
        assert said in card.text

    (program,) = re.findall(r"^```python\n(.*?)^```$", card.text, re.MULTILINE | re.DOTALL)
    program = program.replace("someone/base", str(folders.zimage))
    tuned = drawn(output, program)
    plain = re.sub(r"^(pipe\.load_lora_weights|pipe\.text_encoder\.load_adapter).*\n", "", program, flags=re.MULTILINE)
    plain = re.sub(r"^(transformer|text_encoder) = .*\n|, (transformer|text_encoder)=\2", "", plain, flags=re.MULTILINE)
    assert plain != program
    assert (drawn(output, plain) != tuned).any()


def test_what_is_not_known_or_not_there_is_one_sentence(folders, results, tmp_path):
    said = export(results, tmp_path / "upload", check=False)
    assert "weights: there are no such weights; train the arm" in said
    run = finished(folders, results)
    assert "--licence: that of " in export(results, tmp_path / "upload", check=False)
    said = export(results, results, "--licence", "mit", check=False)
    assert f"--output: {results} is already there; name a new folder" in said
    file = next(run.glob("weights/*/*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)
    said = export(results, tmp_path / "upload", "--licence", "mit", check=False)
    assert "diffusion_pytorch_model.safetensors: damaged" in said
    assert not list(tmp_path.glob("*upload*"))


def test_a_run_without_scores_and_a_snapshot(folders, results, tmp_path):
    run = results / "runs" / "clip_region" / "seed1"
    weights_of(folders, run, "full", ["denoiser"], step=8)
    finished(folders, results)
    (results / "scores" / "summary.csv").unlink()
    export(results, tmp_path / "upload", "--step", "8", "--licence", "openrail")
    text = (tmp_path / "upload" / "README.md").read_text()
    assert "This run was not scored." in text
    assert "# mine: clip_region-seed1-step8" in text
    assert "| Steps | 8 of " in text
    assert "base_model" not in ModelCard(text).data.to_dict()  # it lies at no hub
    assert not (tmp_path / "upload" / "LICENSE").exists()


def test_the_licence_of_a_base():
    assert licence_of(str(ROOT / "resources" / "nano" / "zimage")) == "apache-2.0"
    assert licence_of("Tongyi-MAI/Z-Image-Turbo") == "apache-2.0"
    with pytest.raises(UserError, match="--licence: that of someone/base is not known here; give it as hubs write it"):
        licence_of("someone/base")

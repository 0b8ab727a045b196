"""Pictures between two text encoders: the end points are each encoder's own."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import model_of

from legible.corpus.prompts import load_prompts
from legible.errors import UserError
from legible.models.family import ROLES, open_model
from legible.seeds import image_noise

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ROOT / "resources" / "prompts" / "held_out.jsonl"
HEAD = 14


@pytest.fixture
def script(monkeypatch):
    """The script's main, with arguments."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import mix_encoders

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["mix_encoders.py", *arguments])
        mix_encoders.main()

    return call


@pytest.fixture(params=["zimage", "stable_diffusion"])
def folder(request, folders, stable_diffusion) -> Path:
    return folders.zimage if request.param == "zimage" else stable_diffusion


@pytest.fixture
def tuned(folder, tmp_path) -> Path:
    """Weights as a run leaves them, of a text encoder that says something else."""
    encoder = open_model(model_of(folder), ("text",)).text_encoder
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    encoder.save_pretrained(tmp_path / "tuned" / "text_encoder")
    return tmp_path / "tuned"


def arguments(folder: Path, output: Path, *weights: str) -> list[str]:
    guidance = 2.0 if "diffusion" in folder.name else 0.0
    generation = {"steps": 2, "guidance_scale": guidance}
    config = {"model": model_of(folder).model_dump(), "generation": generation, "data": {}}
    common = ["--config", json.dumps(config), "--prompts", str(PROMPTS), "--limit", "2", "--output", str(output)]
    return [*common, "--weights", *weights]


def own_pictures(folder: Path, weights: Path | None) -> np.ndarray:
    """[2, H, W, 3] of the two prompts, by one encoder alone."""
    guidance = 2.0 if "diffusion" in folder.name else 0.0
    prompts = load_prompts(PROMPTS, 2)
    said = open_model(model_of(folder), ("text",), weights=weights).encode_prompts([p.prompt for p in prompts] + [""])
    model = open_model(model_of(folder), ROLES)
    noise = torch.stack([image_noise(p.id, 0, model.latent_shape(32, 64)) for p in prompts])
    return model.sample(said.pick([0, 1]), noise, 2, guidance, said.pick([2])).numpy()


def test_the_columns_go_from_the_first_encoder_to_the_second(folder, tuned, script, tmp_path):
    script(*arguments(folder, tmp_path / "m.png", "base", str(tuned)), "--between", "3")
    page = np.asarray(Image.open(tmp_path / "m.png"))
    assert page.shape == (HEAD + 2 * 32, 3 * 64, 3)
    columns = [page[HEAD:, 64 * n : 64 * (n + 1)].reshape(2, 32, 64, 3) for n in range(3)]
    assert np.array_equal(columns[0], own_pictures(folder, None))
    assert np.array_equal(columns[2], own_pictures(folder, tuned))
    assert not np.array_equal(columns[0], columns[2])
    assert not any(np.array_equal(columns[1], columns[end]) for end in (0, 2))


def test_an_encoder_mixed_with_itself_is_itself(folder, script, tmp_path):
    script(*arguments(folder, tmp_path / "m.png", "base", "base", "base"), "--shares", "0.5", "0.25", "0.25")
    page = np.asarray(Image.open(tmp_path / "m.png"))[HEAD:].reshape(2, 32, 64, 3)
    assert np.abs(page.astype(int) - own_pictures(folder, None)).max() <= 1


@pytest.mark.parametrize(
    ("weights", "more", "message"),
    [
        (["base"], [], "--between: two --weights are needed"),
        (["base", "base"], ["--between", "1"], "at least 2 columns"),
        (["base", "base"], ["--shares", "0.5", "0.6"], "--shares: 2 numbers are needed"),
        (["base", "base", "base"], ["--shares", "1"], "--shares: 3 numbers are needed"),
    ],
)
def test_what_cannot_be_mixed_is_refused(folders, script, tmp_path, weights, more, message):
    with pytest.raises(UserError, match=message):
        script(*arguments(folders.zimage, tmp_path / "m.png", *weights), *more)
    assert not (tmp_path / "m.png").exists()

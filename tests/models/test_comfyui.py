"""LoRA files for ComfyUI: their names, and that diffusers reads them back as the same adapters."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import ROOT
from training import model_of, settings

from legible.errors import UserError
from legible.models.comfyui import export_lora
from legible.models.family import ROLES, open_model
from legible.train.adapters import save_weights, select_parameters

LORA = "pytorch_lora_weights.safetensors"
PARTS = {  # those for which the pipelines' files, and ComfyUI, have a place
    "zimage": [],
    "stable_diffusion": ["text_encoder"],
    "sdxl": ["text_encoder", "text_encoder_2"],
    "sd3": ["text_encoder", "text_encoder_2"],
    "flux": ["text_encoder"],
    "qwen_image": [],
}
NAMES = {  # as comfyanonymous/ComfyUI comfy/lora.py looks for them
    "zimage": r"diffusion_model\.layers\.0\.attention\.to_q\.lora_A\.weight",
    "stable_diffusion": r"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q\.lora_down\.weight",
    "sdxl": r"lora_te2_text_model_encoder_layers_0_self_attn_q_proj\.alpha",
    "sd3": r"transformer\.transformer_blocks\.0\.attn\.add_q_proj\.lora_B\.weight",
    "flux": r"transformer\.single_transformer_blocks\.1\.attn\.to_k\.lora_A\.weight",
    "qwen_image": r"diffusion_model\.transformer_blocks\.1\.attn\.to_out\.0\.lora_B\.weight",
}


@pytest.fixture(params=PARTS)
def name(request) -> str:
    return request.param


@pytest.fixture
def folder(name, folders, stable_diffusion, family_folders) -> Path:
    shipped = {"zimage": lambda: folders.zimage, "stable_diffusion": lambda: stable_diffusion}
    return shipped.get(name, lambda: family_folders(name))()


def tuned(folder: Path, output: Path, **training) -> None:
    """Adapters, all of whose weights have moved, as a run saves them."""
    chosen = settings(method="lora", lora={"rank": 2, "alpha": 7.0}, **training)
    model, generator = open_model(model_of(folder), ROLES), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in select_parameters(model, chosen, 0).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_weights(model, {}, chosen, output)


@torch.no_grad()
def test_what_is_exported_is_read_back_as_the_same_adapters(name, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    tuned(folder, tmp_path / "own", parts=["denoiser", *PARTS[name]])
    (tmp_path / "other").mkdir()
    main = runpy.run_path("scripts/export_lora.py")["main"]
    given = ["--weights", tmp_path / "own", "--family", name, "--output", tmp_path / "other" / LORA]
    monkeypatch.setattr(sys, "argv", ["export_lora", *map(str, given)])
    main()
    stored = load_file(tmp_path / "other" / LORA)
    assert f"{len(stored)} tensors" in capsys.readouterr().out
    assert any(re.fullmatch(NAMES[name], key) for key in stored)
    models = [open_model(model_of(folder), ROLES, weights=tmp_path / which) for which in ("own", "other")]
    base, noise = open_model(model_of(folder), ROLES), torch.Generator().manual_seed(1)
    shape = base.latent_shape(32, 64)
    noisy, levels = torch.randn((1, *shape), generator=noise), base.level_grid(4, shape)[1:2]
    prompt = ['a sign that says "OPEN"']
    own, other, plain = (m.predict(noisy, levels, m.encode_prompts(prompt)) for m in (*models, base))
    assert (own - plain).norm() > 0.01 * plain.norm()
    torch.testing.assert_close(other, own, atol=2e-4 * own.abs().max().item(), rtol=1e-4)


def test_what_cannot_be_exported_is_one_sentence(family_folders, tmp_path):
    folder = family_folders("flux")
    with pytest.raises(UserError, match=f"holds no {LORA}; only LoRA runs can be exported"):
        export_lora(model_of(folder), tmp_path, tmp_path / "x.safetensors")
    tuned(folder, tmp_path, parts=["denoiser", "text_encoder_2"])
    with pytest.raises(UserError, match="text_encoder_2_lora: ComfyUI has no place for this text encoder"):
        export_lora(model_of(folder), tmp_path, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()

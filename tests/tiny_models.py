"""A tiny model set of the real classes, built untrained in a second, in folders that the real loaders open."""

from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
import yaml
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from legible.corpus.templates import vocabulary
from legible.models.zimage.nano import TINY, build, save
from legible.nano.clip import ALPHABET, write_clip_folder
from legible.nano.recipe import tiny
from legible.nano.recognizer import build_network
from legible.nano.tokenizer import build_tokenizer
from legible.nano.vae import build_vae

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class ModelFolders:
    """Folders with the files of the tiny models."""

    root: Path
    zimage: Path
    clip: Path
    recognizer: Path


def build_models(root: Path) -> ModelFolders:
    """Write the models below `root`. Nothing in them is zero: a wrong sign, scale or gate changes the output."""
    recipe = tiny()
    torch.manual_seed(5)
    vae = build_vae(recipe.vae)
    vae.register_to_config(scaling_factor=0.7, shift_factor=0.12)
    tokenizer = build_tokenizer(vocabulary())
    model = build(TINY, vae.eval(), tokenizer)
    for final in model.transformer.all_final_layer.values():
        torch.nn.init.normal_(final.linear.weight, std=0.2)  # zero at the start of a training
    save(model, root / "zimage")

    write_clip_folder(root / "clip", recipe.clip, (32, 64))
    clip = open_clip.create_model(f"local-dir:{root / 'clip'}", load_weights=False)
    save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, root / "clip" / "open_clip_model.safetensors")

    name = "recognizer_crnn"
    folder = root / name
    folder.mkdir()
    source = (ROOT / "resources" / "nano" / name / f"{name}.py").read_text(encoding="utf-8")
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    params = recipe.recognizers[name].network_params
    network = build_network(folder, name, params, ALPHABET)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / f"{name}.safetensors")
    described = {"network_params": params, "imgH": 32, "lang_list": ["en"], "character_list": ALPHABET}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(described))
    return ModelFolders(root, root / "zimage", root / "clip", folder)


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's own byte-pair tokenizer with single characters and three merges."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789\"'.,"
    vocabulary = [*characters, *(f"{character}</w>" for character in characters), "th", "the</w>", "in</w>"]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    merges = [("t", "h"), ("th", "e</w>"), ("i", "n</w>")]
    return CLIPTokenizer(
        vocab={token: place for place, token in enumerate(vocabulary)}, merges=merges, model_max_length=77
    )


def build_stable_diffusion(folder: Path) -> Path:
    """Write a tiny Stable Diffusion of diffusers' own classes (ε, DDIM) and return its folder."""
    torch.manual_seed(7)
    tokenizer = clip_tokenizer()
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    with torch.no_grad():  # its own start is so small (0.02) that all captions would look alike
        encoder.embeddings.token_embedding.weight.normal_(std=0.5)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32, attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip
    with torch.no_grad():
        for name, layer in unet.named_modules():
            if name.endswith("attn2.to_out.0"):
                layer.weight *= 4.0  # untrained, it would hardly hear the captions
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.7,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae.eval(), encoder.eval(), tokenizer, unet.eval(), scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder

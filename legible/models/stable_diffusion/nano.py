"""An untrained Stable Diffusion of small size, and the caption CLIP whose text tower is its text encoder."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, PreTrainedTokenizerFast

from legible.models.stable_diffusion.model import StableDiffusion

CAPTION_TOKENS = 32


@dataclass(frozen=True)
class Sizes:
    """Of the UNet, and of the two towers of the caption CLIP."""

    channels: tuple[int, ...] = (96, 128)
    attention: tuple[bool, ...] = (True, True)
    heads: int = 4
    text_dim: int = 128
    text_layers: int = 3
    image_size: int = 64  # CLIP sees squares: pictures are enlarged to it
    patch_size: int = 8
    vision_dim: int = 128
    vision_layers: int = 4
    projection: int = 128


SIZES = Sizes()
TINY = Sizes(
    channels=(16, 16),
    attention=(False, True),
    heads=2,
    text_dim=16,
    text_layers=1,
    image_size=32,
    vision_dim=16,
    vision_layers=1,
    projection=16,
)  # for tests


def build_clip(sizes: Sizes, tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """An untrained CLIP on whole captions.

    Its text tower pools where the end token stands; an `eos_token_id` of 2 would make transformers pool at the largest
    id instead, as the first CLIP checkpoints need it.
    """
    common = {"projection_dim": sizes.projection, "hidden_act": "quick_gelu"}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.text_dim,
        "intermediate_size": 4 * sizes.text_dim,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": max(sizes.text_dim // 32, 1),
        "max_position_embeddings": CAPTION_TOKENS,
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": sizes.vision_dim,
        "intermediate_size": 4 * sizes.vision_dim,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": max(sizes.vision_dim // 32, 1),
        "image_size": sizes.image_size,
        "patch_size": sizes.patch_size,
    }
    return CLIPModel(
        CLIPConfig(text_config=text | common, vision_config=vision | common, projection_dim=sizes.projection)
    )


def build_unet(sizes: Sizes, channels: int) -> UNet2DConditionModel:
    """An untrained UNet.

    Its queries know where they stand by the zeros around the picture only; `legible/nano/pointing.py` tells them.
    """
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        sample_size=(8, 16),
        block_out_channels=sizes.channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if reads else "DownBlock2D" for reads in sizes.attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if reads else "UpBlock2D" for reads in reversed(sizes.attention)),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=sizes.text_dim,
        attention_head_dim=sizes.heads,  # diffusers reads it as the number of heads
        use_linear_projection=True,
    )


def build(sizes: Sizes, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast) -> StableDiffusion:
    """The whole model on the CPU: v-prediction, DDIM.

    The noise schedule ends at α = .015: at Stable Diffusion's own .068 a picture's ground colour would stand in the
    noise that training sees, and not in the noise that sampling begins with.
    """
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    clip = build_clip(sizes, tokenizer)
    encoder = CLIPTextModel(clip.config.text_config)
    return StableDiffusion(
        device=torch.device("cpu"),
        max_sequence_length=CAPTION_TOKENS,
        unet=build_unet(sizes, vae.config.latent_channels),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        scheduler=scheduler,
    )


def save(model: StableDiffusion, folder: Path) -> None:
    """Write it as the folder that diffusers opens."""
    model.pipeline().save_pretrained(folder)

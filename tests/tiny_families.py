"""Tiny models of the families without a nano: the real classes, random weights, in folders that diffusers opens.

Nothing in them is zero that training would begin with at zero: a wrong sign, scale or gate changes the output.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tiny_models import clip_tokenizer
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

from legible.corpus.templates import vocabulary
from legible.nano.tokenizer import build_tokenizer


def awake(network: nn.Module, std: float = 0.15) -> nn.Module:
    """With random numbers wherever a weight is zero everywhere, and captions that are heard."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=std, generator=generator)
    return network.eval()


def clip(kind: type, size: int, pooled: int) -> nn.Module:
    """A CLIP text encoder whose captions do not look alike."""
    words = clip_tokenizer()
    encoder = kind(
        CLIPTextConfig(
            vocab_size=len(words), hidden_size=size, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=77, projection_dim=pooled, bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    )  # fmt: skip
    table = next(p for name, p in encoder.named_parameters() if name.endswith("token_embedding.weight"))
    with torch.no_grad():
        table.normal_(std=0.5)
    return encoder.eval()


def t5(size: int) -> T5EncoderModel:
    """A T5 encoder."""
    words = build_tokenizer(vocabulary(), end_token=True)
    return T5EncoderModel(
        T5Config(
            vocab_size=len(words), d_model=size, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id, feed_forward_proj="gated-gelu",
        )
    ).eval()  # fmt: skip


def autoencoder(channels: int, shift: float | None) -> AutoencoderKL:
    """Four pixels a cell."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=channels, norm_num_groups=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, scaling_factor=0.7,
        shift_factor=shift, use_quant_conv=shift is None, use_post_quant_conv=shift is None,
    ).eval()  # fmt: skip


def build_sdxl(folder: Path) -> None:
    """ε, Euler, as Stable Diffusion XL."""
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=56, attention_head_dim=(2, 4), norm_num_groups=8, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=24 + 6 * 8,
        transformer_layers_per_block=(1, 2),
    )  # fmt: skip
    with torch.no_grad():
        for name, layer in unet.named_modules():
            if name.endswith("attn2.to_out.0"):
                layer.weight *= 4.0  # untrained, it would hardly hear the captions
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )
    StableDiffusionXLPipeline(
        autoencoder(4, None), clip(CLIPTextModel, 32, 32), clip(CLIPTextModelWithProjection, 24, 24), clip_tokenizer(),
        clip_tokenizer(), unet.eval(), scheduler, add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def build_sd3(folder: Path) -> None:
    """Levels shifted by 3, as Stable Diffusion 3 and 3.5; the first block attends twice, as medium's do."""
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=6, out_channels=6, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=36,
        pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    tokenizer = build_tokenizer(vocabulary(), end_token=True)
    StableDiffusion3Pipeline(
        awake(transformer), FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(6, 0.12),
        clip(CLIPTextModelWithProjection, 32, 20), clip_tokenizer(), clip(CLIPTextModelWithProjection, 24, 16),
        clip_tokenizer(), t5(64), tokenizer,
    ).save_pretrained(folder)  # fmt: skip


def build_flux(folder: Path, distilled: bool = True) -> None:
    """Levels shifted by the picture's size, as FLUX.1 dev; schnell is not told its guidance and has no shift."""
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=24, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=64, pooled_projection_dim=32, guidance_embeds=distilled, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0 if distilled else 1.0, use_dynamic_shifting=distilled)
    FluxPipeline(
        scheduler, autoencoder(6, 0.12), clip(CLIPTextModel, 32, 32), clip_tokenizer(), t5(64),
        build_tokenizer(vocabulary(), end_token=True), awake(transformer),
    ).save_pretrained(folder)  # fmt: skip


def build_flux_schnell(folder: Path) -> None:
    """FLUX.1 schnell."""
    build_flux(folder, distilled=False)


def build_qwen_image(folder: Path) -> None:
    """Levels shifted by the picture's size to a last one that is not 1/S, as Qwen-Image."""
    tokenizer = build_tokenizer(vocabulary())
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rope_scaling": rope, "max_position_embeddings": 512,
        "bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    table = next(p for name, p in encoder.named_parameters() if name.endswith("embed_tokens.weight"))
    with torch.no_grad():
        table.normal_(std=0.5)
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=24, out_channels=6, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    with torch.no_grad():
        for block in transformer.transformer_blocks:  # untrained, it would hardly hear the captions
            block.attn.add_v_proj.weight *= 4.0
            block.attn.norm_added_k.weight *= 6.0
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=6, dim_mult=[1, 2, 2], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.05, 0.3, -0.1, 0.0], latents_std=[0.5, 0.7, 0.6, 0.8, 1.1, 0.9],
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, use_dynamic_shifting=True, shift_terminal=0.02,
        time_shift_type="exponential",
    )  # fmt: skip
    QwenImagePipeline(scheduler, vae.eval(), encoder.eval(), tokenizer, awake(transformer)).save_pretrained(folder)


BUILDERS: dict[str, Callable[[Path], None]] = {
    "sdxl": build_sdxl,
    "sd3": build_sd3,
    "flux": build_flux,
    "flux_schnell": build_flux_schnell,
    "qwen_image": build_qwen_image,
}


def build_family(name: str, folder: Path) -> Path:
    """Write the tiny model of this name and return its folder."""
    torch.manual_seed(7)
    BUILDERS[name](folder)
    return folder

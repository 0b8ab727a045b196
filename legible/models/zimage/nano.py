"""An untrained Z-Image of small size: the same classes, every matrix initialised."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from legible.models.zimage.model import ZImage

CAPTION_TOKENS = 32


@dataclass(frozen=True)
class Sizes:
    """Of the transformer and of its Qwen3 text encoder."""

    dim: int = 192
    layers: int = 6
    refiner_layers: int = 1
    heads: int = 6
    axes_dims: tuple[int, ...] = (8, 12, 12)
    text_dim: int = 128
    text_layers: int = 3  # Z-Image reads hidden_states[-2], so the last layer never contributes


SIZES = Sizes()
TINY = Sizes(dim=32, layers=1, heads=2, axes_dims=(4, 6, 6), text_dim=16)  # for tests


def build_text_encoder(sizes: Sizes, vocabulary: int) -> Qwen3Model:
    """An untrained Qwen3 of the same class as Z-Image's text encoder."""
    heads = max(sizes.text_dim // 32, 1)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=sizes.text_dim,
        intermediate_size=2 * sizes.text_dim,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=sizes.text_dim // heads,
        max_position_embeddings=512,
        initializer_range=0.05,
    )
    return Qwen3Model(config)


def build_transformer(sizes: Sizes, channels: int) -> ZImageTransformer2DModel:
    """An untrained Z-Image transformer.

    The class leaves pad tokens at zero and some layers at PyTorch's defaults; every matrix is initialised here.
    """
    transformer = ZImageTransformer2DModel(
        in_channels=channels,
        dim=sizes.dim,
        n_layers=sizes.layers,
        n_refiner_layers=sizes.refiner_layers,
        n_heads=sizes.heads,
        n_kv_heads=sizes.heads,
        cap_feat_dim=sizes.text_dim,
        axes_dims=list(sizes.axes_dims),
        axes_lens=[128, 64, 64],
    )
    for name, parameter in transformer.named_parameters():
        if "pad_token" in name:
            nn.init.normal_(parameter, std=0.02)
        elif parameter.ndim == 1:  # scales of norms are called weight, everything else with one axis is a bias
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        elif "adaLN" in name:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.xavier_uniform_(parameter)
    for block in [*transformer.layers, *transformer.noise_refiner]:
        # Gates are tanh(bias + …): start them open, or the image tokens never reach the deeper layers.
        gates = block.adaLN_modulation[0].bias.data.view(4, sizes.dim)
        gates[1].fill_(0.5)
        gates[3].fill_(0.5)
    for final in transformer.all_final_layer.values():
        nn.init.zeros_(final.linear.weight)
    return transformer


def build(sizes: Sizes, vae: AutoencoderKL, tokenizer: PreTrainedTokenizerFast) -> ZImage:
    """The whole model on the CPU, with Z-Image-Turbo's scheduler settings (8 steps, shift 3, guidance 0)."""
    transformer = build_transformer(sizes, vae.config.latent_channels)
    return ZImage(
        device=torch.device("cpu"),
        max_sequence_length=CAPTION_TOKENS,
        transformer=transformer,
        vae=vae,
        text_encoder=build_text_encoder(sizes, len(tokenizer)),
        tokenizer=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False),
    )


def save(model: ZImage, folder: Path) -> None:
    """Write it as the folder that diffusers opens."""
    model.pipeline().save_pretrained(folder)

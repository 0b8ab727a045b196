"""What benchmarks compare with: diffusers' example trainer for Z-Image, and its pipeline, with their defaults.

Source of the recipe: huggingface/diffusers:examples/dreambooth/train_dreambooth_lora_z_image.py: uniform timesteps
through the table of 1000 noise levels, which are cast to the latents' type; eager, under the mixed precision that its
weights ask for.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.models.transformers.transformer_z_image import ZSingleStreamAttnProcessor
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from PIL.Image import Image
from torch import Tensor

from legible.models.conditioning import Conditioning
from legible.models.opening import where_mixed
from legible.models.zimage.compiled import RealEmbedder
from legible.models.zimage.model import CAPTION, ZImage


@contextmanager
def as_diffusers_runs_it(model: ZImage) -> Iterator[None]:
    """Eager and with diffusers' own attention processor, also where our side is compiled with another."""
    transformer, blocks = model.transformer, model.blocks()
    kept, embedder = [block.attention.processor for block in blocks], transformer.rope_embedder
    transformer.rope_embedder = embedder.complex if isinstance(embedder, RealEmbedder) else embedder
    for block in blocks:
        block.attention.processor = ZSingleStreamAttnProcessor()
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        transformer.rope_embedder = embedder
        for block, processor in zip(blocks, kept, strict=True):
            block.attention.processor = processor


@torch.no_grad()
def encoded(model: ZImage, pixels: Tensor) -> Tensor:
    """Latents [B, C, h, w] of pictures [B, 3, H, W] that come from the data loader."""
    latents = model.vae.encode(pixels.to(model.device, model.vae.dtype)).latent_dist.mode()
    return (latents - model.vae.config.shift_factor) * model.vae.config.scaling_factor


def decoded(model: ZImage, latents: Tensor) -> Tensor:
    """Pictures [B, 3, H, W], float32, of latents [B, C, h, w]."""
    config = model.vae.config
    return model.vae.decode(latents.to(model.vae.dtype) / config.scaling_factor + config.shift_factor).sample.float()


def drawn(model: ZImage, count: int) -> Tensor:
    """Indices [count] into the scheduler's table of 1000 noise levels, drawn evenly."""
    density = compute_density_for_timestep_sampling("none", count, logit_mean=0.0, logit_std=1.0, mode_scale=1.29)
    return (density * model.scheduler.config.num_train_timesteps).long()


def levels(model: ZImage, places: Tensor) -> Tensor:
    """The levels [B], as `model.process` knows them, at these places in the table."""
    return model.scheduler.sigmas[places]


def predicted(
    model: ZImage, latents: Tensor, noise: Tensor, places: Tensor, captions: Conditioning
) -> tuple[Tensor, Tensor]:
    """Forward pass and flow-matching loss.

    Args:
        latents, noise: [B, C, h, w].
        places: [B], indices into the table.
        captions: on the device, in the network's type: this trainer keeps them there.

    Returns:
        the mean loss over the batch and x̂0 [B, C, h, w], both with gradient.
    """
    timesteps = model.scheduler.timesteps[places].to(model.device)
    sigmas = model.scheduler.sigmas[places].to(model.device, latents.dtype).view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    with where_mixed(model.transformer, model.device):
        inputs = list(noisy.unsqueeze(2).unbind(0))
        output = model.transformer(inputs, (1000 - timesteps) / 1000, captions.tensors[CAPTION], return_dict=False)[0]
    velocity = -torch.stack(output).squeeze(2)
    weighting = compute_loss_weighting_for_sd3("none", sigmas=sigmas).float()
    loss = (weighting * (velocity.float() - (noise - latents).float()).square()).flatten(1).mean(1).mean()
    return loss, noisy.float() - sigmas.float() * velocity.float()


@torch.no_grad()
def pictures(model: ZImage, captions: Conditioning, noise: Tensor, steps: int) -> list[Image]:
    """What a user of diffusers calls: pictures from noise [B, C, h, w], without guidance, as Turbo models need it."""
    pipeline = model.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    with as_diffusers_runs_it(model):
        return pipeline(
            prompt_embeds=list(captions.tensors[CAPTION]),
            latents=noise,
            height=noise.shape[2] * model.pixels_per_latent,
            width=noise.shape[3] * model.pixels_per_latent,
            num_inference_steps=steps,
            guidance_scale=model.spec.guidance_off,
        ).images

"""The reference: one micro-step as diffusers' example trainer for Z-Image does it.

Source of the recipe: huggingface/diffusers:examples/dreambooth/train_dreambooth_lora_z_image.py, with its defaults: no
latents are cached (each micro-step encodes its pictures), the embeddings of custom prompts are; uniform timesteps
through the table of 1000 noise levels, which are cast to the latents' type; eager, under the mixed precision that its
weights ask for. It knows no auxiliary loss: with one, it decodes the whole predicted picture, as the study does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import ZSingleStreamAttnProcessor
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from subjects import Subject
from torch import Tensor

from legible.losses.clip_region import clip_region_loss
from legible.models.zimage.compiled import RealEmbedder
from legible.models.zimage.model import ZImage


@dataclass(frozen=True)
class Prediction:
    """What one forward pass gives."""

    loss: Tensor  # mean over the batch, with gradient
    clean: Tensor  # [B, C, h, w], x̂0 of the prediction, with gradient


def encoded(model: ZImage, pixels: Tensor) -> Tensor:
    """Latents [B, C, h, w] of pictures [B, 3, H, W] that come from the data loader."""
    pixels = pixels.to(model.device, model.vae.dtype)
    with torch.no_grad():
        latents = model.vae.encode(pixels).latent_dist.mode()
    return (latents - model.vae.config.shift_factor) * model.vae.config.scaling_factor


@contextmanager
def as_diffusers_runs_it(transformer: ZImageTransformer2DModel) -> Iterator[None]:
    """Eager and with diffusers' own attention processor, also where our side is compiled with another."""
    blocks = [*transformer.layers, *transformer.noise_refiner, *transformer.context_refiner]
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


def drawn_levels(model: ZImage, count: int) -> Tensor:
    """Indices [count] into the scheduler's table of 1000 noise levels, drawn evenly."""
    density = compute_density_for_timestep_sampling("none", count, logit_mean=0.0, logit_std=1.0, mode_scale=1.29)
    return (density * model.scheduler.config.num_train_timesteps).long()


def predicted(model: ZImage, latents: Tensor, noise: Tensor, levels: Tensor, captions: list[Tensor]) -> Prediction:
    """Forward pass and flow-matching loss; latents, noise [B, C, h, w], `levels` [B] indices into the table."""
    timesteps = model.scheduler.timesteps[levels].to(model.device)
    sigmas = model.scheduler.sigmas[levels].to(model.device, latents.dtype).view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * latents + sigmas * noise
    kinds = {parameter.dtype for parameter in model.transformer.parameters() if parameter.is_floating_point()}
    mixed = len(kinds) > 1
    with torch.autocast(model.device.type, torch.bfloat16, enabled=mixed):
        inputs = list(noisy.unsqueeze(2).unbind(0))
        output = model.transformer(inputs, (1000 - timesteps) / 1000, captions, return_dict=False)[0]
    velocity = -torch.stack(output).squeeze(2)
    weighting = compute_loss_weighting_for_sd3("none", sigmas=sigmas).float()
    loss = (weighting * (velocity.float() - (noise - latents).float()).square()).flatten(1).mean(1).mean()
    return Prediction(loss, noisy.float() - sigmas.float() * velocity.float())


def text_loss(subject: Subject, clean: Tensor, picked: Tensor, margin: float) -> Tensor:
    """CLIP distance of every text region, summed and divided by B; the whole picture is decoded.

    Args:
        clean: [B, C, h, w], predicted latents.
        picked: [B], the samples.
    """
    vae = subject.model.vae
    images = vae.decode(clean.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor).sample.float()
    owners, boxes, texts = subject.data.regions(picked)
    device = images.device
    losses = clip_region_loss(subject.clip, images, owners.to(device), boxes.to(device), texts, margin)
    return losses.sum() / len(picked)


def reference_loss(subject: Subject, picked: Tensor, captions: list[Tensor], weight: float, margin: float) -> Tensor:
    """The total loss of one micro-step over samples `picked` [B].

    Args:
        captions: of all samples, on the device: this trainer keeps them there.
        weight: λ of the auxiliary loss; 0 = a step without it.
    """
    model = subject.model
    latents = encoded(model, subject.pixels[picked])
    noise = torch.randn_like(latents)
    chosen = [captions[index] for index in picked.tolist()]
    prediction = predicted(model, latents, noise, drawn_levels(model, len(picked)), chosen)
    if not weight:
        return prediction.loss
    return prediction.loss + weight * text_loss(subject, prediction.clean, picked, margin)

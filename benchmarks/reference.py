"""The reference: one micro-step as diffusers' example trainer for a family does it.

Its own recipe lies with the family (`legible/models/{family}/reference.py`). What these trainers have in common is
here: no latents are cached (each micro-step encodes its pictures), the embeddings of custom prompts are. They know no
auxiliary loss: with one, the whole predicted picture is decoded, as the study does.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from subjects import Subject
from torch import Tensor

from legible.errors import UserError
from legible.losses.clip_region import clip_region_loss
from legible.models.conditioning import Conditioning


def recipe_of(family: str) -> ModuleType:
    """The module with a family's recipe.

    Raises:
        UserError: it has none.
    """
    name = f"legible.models.{family}.reference"
    if find_spec(name) is None:
        raise UserError(f"--model: there is nothing to compare {family} with; {name} is missing")
    return import_module(name)


def text_loss(subject: Subject, clean: Tensor, picked: Tensor, margin: float) -> Tensor:
    """CLIP distance of every text region, summed and divided by B; the whole picture is decoded.

    Args:
        clean: [B, C, h, w], predicted latents.
        picked: [B], the samples.
    """
    images = recipe_of(subject.family).decoded(subject.model, clean)
    owners, boxes, texts = subject.data.regions(picked)
    device = images.device
    losses = clip_region_loss(subject.clip, images, owners.to(device), boxes.to(device), texts, margin)
    return losses.sum() / len(picked)


def reference_loss(
    subject: Subject, picked: Tensor, captions: Conditioning, weight: float, margin: float, encodes: bool = True
) -> Tensor:
    """The total loss of one micro-step over samples `picked` [B].

    Args:
        captions: of all samples, on the device: this trainer keeps them there.
        weight: λ of the auxiliary loss; 0 = a step without it.
        encodes: whether pictures are encoded, as they are; False = without it, to time the denoiser alone.
    """
    model, recipe = subject.model, recipe_of(subject.family)
    if encodes:
        latents = recipe.encoded(model, subject.pixels[picked])
    else:
        latents = subject.data.latents[picked].to(model.device, model.module("denoiser").dtype)
    noise, places = torch.randn_like(latents), recipe.drawn(model, len(picked))
    loss, clean = recipe.predicted(model, latents, noise, places, captions.pick(picked.tolist()))
    return loss + weight * text_loss(subject, clean, picked, margin) if weight else loss

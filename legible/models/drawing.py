"""Pictures of prompts as the pipeline draws them: by a program afterwards, or on the way of a training."""

from dataclasses import dataclass

import torch
from torch import Tensor

from legible.config import Generation
from legible.models.conditioning import Conditioning
from legible.models.family import Family
from legible.models.rollout import Words, sample_switched
from legible.models.sampler import Shape
from legible.models.spec import Spec
from legible.seeds import image_noise


@dataclass(frozen=True)
class Asked:
    """Prompts, and what they say; `texts_of` are encoded."""

    ids: list[str]
    words: Conditioning
    before: Conditioning  # said by the base's text encoders


def texts_of(prompts: list[str], generation: Generation, spec: Spec) -> list[str]:
    """What is encoded: the prompts, and behind them the empty one, where guidance is on."""
    return [*prompts, *([""] if generation.guidance_scale > spec.guidance_off else [])]


def said(conditioning: Conditioning, places: list[int], count: int) -> Words:
    """What the prompts at these places of `count` say, and the empty one behind them, where there is one."""
    return Words(conditioning.pick(places), conditioning.pick([count]) if len(conditioning) > count else None)


def draw_batch(
    model: Family, asked: Asked, jobs: list[tuple[int, int]], shape: Shape, generation: Generation, switched: int | None
) -> Tensor:
    """Images uint8 [B, H, W, 3]; the noise of each belongs to its prompt and image seed.

    Args:
        jobs: B pairs of a prompt's place and an image seed.
        shape: of the latents.
        switched: in how many last steps `asked.words` are heard, before them `asked.before`; None = in all.
    """
    noise = torch.stack([image_noise(asked.ids[place], seed, shape) for place, seed in jobs])
    places, count = [place for place, _ in jobs], len(asked.ids)
    words = said(asked.words, places, count)
    if switched:
        path = (generation.steps, switched, said(asked.before, places, count), words, generation.guidance_scale)
        return sample_switched(model, noise, *path)
    return model.sample(words.prompts, noise, generation.steps, generation.guidance_scale, words.empty)

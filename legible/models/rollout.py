"""Sampling with gradients through its last steps: Algorithm 1 of TextCraftor (arXiv 2403.18978)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from legible.models.conditioning import Conditioning, joined
from legible.models.family import Family


@dataclass(frozen=True)
class Words:
    """What B prompts say, and what the empty prompt says where guidance is on (one prompt, for all of them)."""

    prompts: Conditioning
    empty: Conditioning | None = None


def guided_prediction(model: Family, latents: Tensor, level: Tensor, words: Words, guidance_scale: float) -> Tensor:
    """One step's prediction [B, C, h, w], with classifier-free guidance as the family's pipeline applies it.

    Levels are one for all, or [B]. Both branches carry gradients; one call of the network answers both.
    """
    count = len(latents)
    if guidance_scale <= model.spec.guidance_off:
        return model.predict(latents, level.expand(count), words.prompts)
    both = joined([words.empty.pick([0] * count), words.prompts])
    without, asked = model.predict(torch.cat([latents, latents]), level.expand(count).repeat(2), both).chunk(2)
    return model.guided(without, asked, guidance_scale)


def roll_out(
    model: Family,
    noise: Tensor,
    steps: int,
    last: int,
    before: Words,
    words: Words,
    guidance_scale: float,
    checkpointed: bool = True,
) -> Tensor:
    """Clean latents [B, C, h, w], with gradients through the last steps for `words` and the network's weights.

    Args:
        noise: [B, C, h, w], standard normal.
        steps: T, the sampler's.
        last: K; the steps before them are taken without gradient.
        before: what the prompts say in those earlier steps (the original text encoder's words).
        words: what they say in the last K steps.
        guidance_scale: the pipeline's own.
        checkpointed: compute the network's activations again in the backward pass instead of keeping them, so that
            memory does not grow with K.

    The scheduler's own steps are a few multiplications and are kept. Latents and level go into the checkpointed call as
    arguments: a closure over the loop's variables would compute every step again at the last level, and its gradient
    would be wrong without any sign of it.
    """
    sampler = model.sampler(steps, tuple(noise.shape[1:]))
    levels = sampler.levels
    latents = sampler.begin(noise.to(model.device))

    def call(shown: Tensor, level: Tensor) -> Tensor:
        return guided_prediction(model, shown, level, words, guidance_scale)

    first = max(len(levels) - last, 0)
    with torch.no_grad():
        for place in range(first):
            shown = sampler.seen(latents, place)
            prediction = guided_prediction(model, shown, levels[place], before, guidance_scale)
            latents = sampler.step(latents, prediction, place)
    for place in range(first, len(levels)):
        shown = sampler.seen(latents, place)
        if checkpointed and torch.is_grad_enabled():
            prediction = checkpoint(call, shown, levels[place], use_reentrant=False)
        else:
            prediction = call(shown, levels[place])
        latents = sampler.step(latents, prediction, place)
    return latents


@torch.no_grad()
def sample_switched(
    model: Family, noise: Tensor, steps: int, last: int, before: Words, words: Words, guidance_scale: float
) -> Tensor:
    """Images uint8 [B, H, W, 3], with other words in the last steps ("test k" of TextCraftor's Table 4).

    The same as `Family.sample` where both say the same, up to one level of 255: that one runs diffusers' pipeline.
    """
    latents = roll_out(model, noise, steps, last, before, words, guidance_scale)
    pixels = (model.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (pixels * 255).round().byte().cpu()

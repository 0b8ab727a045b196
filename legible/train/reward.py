"""One forward pass of fine-tuning by rewards: pictures from the captions alone, or one prediction from noisy ones."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from legible.config import Training
from legible.losses.regions import soft_limit
from legible.models.family import Family
from legible.models.rollout import Words, roll_out
from legible.rewards.reward import RewardFunction, score
from legible.train.data import TrainingData
from legible.train.step import Losses, condition


def tuned_encoder(model: Family, training: Training) -> nn.Module | None:
    """The first text encoder that is trained."""
    trained = [part for part in training.parts if part != "denoiser"]
    return model.module(trained[0]) if trained else None


def words_of(model: Family, data: TrainingData, picked: Tensor, training: Training, gradient: bool) -> Words:
    """What the captions of the samples `picked` [B] and the empty prompt say; see `Words`.

    Args:
        gradient: by the text encoder that is trained, where one is; otherwise by the original one, from the cache.
    """
    guided = training.reward.guidance_scale > model.spec.guidance_off
    if gradient and training.text_trained:
        prompts = condition(model, data, picked, training, [False] * len(picked))
        empty = model.encode_prompts([""], gradient=True) if guided else None
        return Words(prompts, empty)
    return Words(data.conditioning.pick(picked.tolist()), data.empty if guided else None)


def reward_pass(
    model: Family, data: TrainingData, picked: Tensor, goals: Tensor | None, training: Training, grid: Tensor,
    rewards: dict[str, RewardFunction], generators: list[torch.Generator],
) -> Losses:  # fmt: skip
    """Losses of one forward pass over the samples `picked` [B], each with its own generator; nothing is changed.

    `Losses.diffusion` is −Σ γ·R, the mean over samples. Nothing of the samples' pictures is used with method `prompt`
    (Algorithm 1 of TextCraftor); with `direct` (its Eq. 5) they are noised and their x̂0 is judged.

    Args:
        goals: [B], the samples whose captions the rewards judge by (the placebo's); None = their own.
    """
    settings, shape = training.reward, data.latents.shape[1:]
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    if settings.method == "direct":
        levels = torch.cat([model.process.draw(training.sigma, grid, 1, generator) for generator in generators])
        levels, process = levels.to(model.device), model.process
        noisy = process.noised(data.latents[picked].to(model.device), noise.to(model.device), levels)
        said = words_of(model, data, picked, training, True).prompts
        clean = process.predicted_clean(noisy, model.predict(noisy, levels, said), levels)
    else:
        before = words_of(model, data, picked, training, False)
        words = words_of(model, data, picked, training, True)
        clean = roll_out(model, noise, settings.steps, settings.last, before, words, settings.guidance_scale)
    images = soft_limit(checkpoint(model.decode, clean, use_reentrant=False))
    prompts = [data.captions[row] for row in (picked if goals is None else goals).tolist()]
    scores = score(rewards, images, prompts)
    loss = -sum(settings.weights[name] * values for name, values in scores.items())
    means = {name: values.detach().float().mean().item() for name, values in scores.items()}
    nothing = torch.zeros(0)
    return Losses(loss.mean(), None, nothing, nothing, nothing, means)

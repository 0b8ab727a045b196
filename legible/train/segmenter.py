"""Training of the latent segmenter: on clean latents and on degraded ones, because x̂0 from one step is blurry."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from legible.errors import UserError
from legible.models.segmenter import Segmenter, build_segmenter
from legible.progress import progress
from legible.seeds import Stream, shuffled_batches, stateless_generator

HELD_OUT = 0.1
BACKGROUND_WEIGHT = 0.1  # most cells are background: with equal weights nothing else is learnt for hundreds of steps
NOISE = 0.5  # strongest noise in training, in units of the latents' standard deviation
BLURRED = 0.3  # share of the training samples that are blurred
WARM_UP = 0.15  # share of the steps


def degraded(latents: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Latents [B, C, h, w] as an early one-step prediction may look: with noise of random strength, some blurred."""
    shape = (len(latents), 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(latents, [1, 1, 1, 1], mode="replicate"), 3, stride=1)
    chosen = torch.rand(shape, generator=generator) < BLURRED
    amount = (0.5 * torch.rand(shape, generator=generator) * chosen).to(latents.device)
    strength = NOISE * torch.rand(shape, generator=generator)
    noise = (strength * torch.randn(latents.shape, generator=generator)).to(latents.device)
    return latents + amount * (blurred - latents) + std * noise


def train_segmenter(
    latents: Tensor,
    characters: Tensor,
    alphabet: Sequence[str],
    width: int,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
) -> tuple[Segmenter, dict]:
    """Train a segmenter from scratch and measure it on the last tenth of the samples, which it does not learn from.

    Args:
        latents: scaled latents, float32 [N, C, h, w].
        characters: classes of the cells, uint8 [N, 2h, 2w]; see `character_map`.
        alphabet: the characters behind classes 1, 2, …
        width: channels of the network.
        steps, batch, learning_rate: of AdamW, whose learning rate rises linearly and falls as a cosine.
        seed: of the weights, the order and the noise.

    Returns:
        The segmenter, frozen and evaluating, on the latents' device; and its measures on clean held-out latents:
        `ink_accuracy` and `background_accuracy` (shares of the cells, 0 … 1), `held_out` (samples) and `steps`.

    Raises:
        UserError: there are fewer than two samples, or latents, characters and alphabet do not fit together.
    """
    expected = (len(latents), 2 * latents.shape[-2], 2 * latents.shape[-1])
    if len(latents) < 2 or tuple(characters.shape) != expected or int(characters.max()) > len(alphabet):
        raise UserError(
            f"segmenter: at least two samples with characters {expected} of at most {len(alphabet)} are needed for"
            f" latents {tuple(latents.shape)}, got {tuple(characters.shape)}"
        )
    kept = len(latents) - max(1, round(HELD_OUT * len(latents)))
    std = latents[:kept].std()
    network = build_segmenter(latents.shape[1], len(alphabet), width, seed).to(latents.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.02)
    rise = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * max(0, step - rise) / max(1, steps - rise))),
    )
    weights = torch.ones(1 + len(alphabet), device=latents.device)
    weights[0] = BACKGROUND_WEIGHT
    batches = shuffled_batches(kept, batch, seed)
    for step in progress(range(steps), "segmenter"):
        picked = batches(step).to(latents.device)
        seen = degraded(latents[picked], std, stateless_generator(seed, Stream.ANCHOR_POINTS, step))
        loss = F.cross_entropy(network(seen), characters[picked].long(), weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    network.eval().requires_grad_(False)
    measured = cell_accuracy(network, latents[kept:], characters[kept:])
    return network, measured | {"held_out": len(latents) - kept, "steps": steps}


@torch.no_grad()
def cell_accuracy(network: Segmenter, latents: Tensor, characters: Tensor) -> dict[str, float]:
    """Shares of correctly classified cells, 0 … 1, over ink and over background; 0 where there are no such cells."""
    right = torch.cat([network(part).argmax(1) for part in latents.split(64)]) == characters
    ink = characters > 0
    return {
        "ink_accuracy": (right & ink).sum().item() / max(1, ink.sum().item()),
        "background_accuracy": (right & ~ink).sum().item() / max(1, (~ink).sum().item()),
    }

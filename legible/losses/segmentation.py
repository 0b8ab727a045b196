"""`segmentation`: does a small network find each character where it should stand, in the latent itself?

Character-aware segmentation of the predicted x̂0 after TextDiffuser (Chen et al. 2023, arXiv 2305.10855); that latents
can be segmented without decoding them is the observation of LD-ZNet (arXiv 2303.12343). The network is trained first,
on clean latents and on degraded ones, because x̂0 from one step is blurry.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from legible.errors import UserError
from legible.io import atomic_path
from legible.progress import progress
from legible.train.checkpoint import shuffled_batches, stateless_generator

HELD_OUT = 0.1
BACKGROUND_WEIGHT = 0.1  # most cells are background: with equal weights nothing else is learnt for hundreds of steps
NOISE = 0.5  # strongest noise in training, in units of the latents' standard deviation
BLURRED = 0.3  # share of the training samples that are blurred
WARM_UP = 0.15  # share of the steps
BLOCKS = 2
FORMAT = "legible"  # the one metadata entry


class Residual(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = math.gcd(8, width)
        self.layers = nn.Sequential(
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(groups, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, cells: Tensor) -> Tensor:
        return cells + self.layers(cells)


class Segmenter(nn.Module):
    """Latents [B, C, h, w] → logits [B, 1 + number of characters, 2h, 2w]; class 0 is the background.

    Group norm only: a sample's logits must not depend on the batch. SiLU throughout, so that gradients have no kink.
    """

    def __init__(self, channels: int, characters: int, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            *[Residual(width) for _ in range(BLOCKS)],
            nn.SiLU(),
            nn.Conv2d(width, 4 * width, 1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(width, 1 + characters, 1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        return self.network(latents)


@dataclass(frozen=True)
class OpenedSegmenter:
    """A frozen segmenter; class 1 + i of its logits is character i of the alphabet."""

    network: Segmenter
    alphabet: str


def degraded(latents: Tensor, std: Tensor, generator: torch.Generator) -> Tensor:
    """Latents [B, C, h, w] as an early one-step prediction may look: with noise of random strength, some blurred."""
    shape = (len(latents), 1, 1, 1)
    blurred = F.avg_pool2d(F.pad(latents, [1, 1, 1, 1], mode="replicate"), 3, stride=1)
    chosen = torch.rand(shape, generator=generator) < BLURRED
    amount = (0.5 * torch.rand(shape, generator=generator) * chosen).to(latents.device)
    strength = NOISE * torch.rand(shape, generator=generator)
    noise = (strength * torch.randn(latents.shape, generator=generator)).to(latents.device)
    return latents + amount * (blurred - latents) + std * noise


def build_segmenter(channels: int, characters: int, width: int, seed: int) -> Segmenter:
    """An untrained segmenter that depends on the arguments alone; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmenter(channels, characters, width)


def train_segmenter(
    latents: Tensor,
    characters: Tensor,
    alphabet: str,
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
        seen = degraded(latents[picked], std, stateless_generator(seed, 6, step))
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


def save_segmenter(path: str | Path, segmenter: Segmenter, alphabet: str) -> None:
    """Write weights and metadata as one safetensors file, atomically."""
    first = segmenter.network[0]
    about = {"alphabet": alphabet, "width": first.out_channels, "channels": first.in_channels}
    weights = {name: value.detach().cpu().contiguous() for name, value in segmenter.state_dict().items()}
    with atomic_path(path) as temporary:
        # One entry only: safetensors writes several in an order that changes from one process to the next.
        save_file(weights, temporary, metadata={FORMAT: json.dumps(about, ensure_ascii=False, sort_keys=True)})


def load_segmenter(path: str | Path, device: torch.device) -> OpenedSegmenter:
    """Open a segmenter, frozen.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads(stored.metadata()[FORMAT])
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
        network = build_segmenter(about["channels"], len(about["alphabet"]), about["width"], 0)
        network.load_state_dict(weights)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: the segmenter is missing or damaged ({reason}); train it again") from error
    return OpenedSegmenter(network.to(device).eval().requires_grad_(False), about["alphabet"])


def char_segmentation_loss(opened: OpenedSegmenter, predicted_latents: Tensor, characters: Tensor) -> Tensor:
    """Cross-entropy (≥ 0, natural logarithm) of the right class per cell, [B].

    The mean over the ink cells and that over the background cells count equally, however little ink there is; a sample
    that lacks one of them has the other alone.

    Args:
        predicted_latents: x̂0 [B, C, h, w], scaled; the only argument that gets a gradient.
        characters: classes of the cells [B, 2h, 2w], uint8 or long; see `character_map`.
    """
    characters = characters.to(predicted_latents.device).long()
    surprise = F.cross_entropy(opened.network(predicted_latents), characters, reduction="none").flatten(1)
    kinds = torch.stack([characters.flatten(1) > 0, characters.flatten(1) == 0])  # [2, B, cells]
    counts = kinds.sum(2)
    means = (surprise * kinds).sum(2) / counts.clamp(min=1)
    return means.sum(0) / (counts > 0).sum(0)

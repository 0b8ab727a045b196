"""Nano's AutoencoderKL: rendered signs → latents of a quarter of the side length, and back."""

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from legible.nano.pool import Pool
from legible.nano.recipe import VaeRecipe
from legible.progress import progress
from legible.seeds import shuffled_batches, stateless_generator
from legible.train.checkpoint import load_parts, save_parts
from legible.train.log import RunLog


def build_vae(recipe: VaeRecipe) -> AutoencoderKL:
    """The untrained autoencoder, its posterior narrow at first (log-variance −6)."""
    levels = len(recipe.channels)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=list(recipe.channels),
        layers_per_block=1,
        latent_channels=recipe.latent_channels,
        norm_num_groups=8,
        sample_size=64,
        shift_factor=0.0,
    )
    with torch.no_grad():
        vae.quant_conv.weight[recipe.latent_channels :].zero_()
        vae.quant_conv.bias[recipe.latent_channels :].fill_(-6.0)
    return vae


def train_vae(recipe: VaeRecipe, pool: Pool, seed: int, key: str, work: Path) -> AutoencoderKL:
    """Train and return the autoencoder with its measured `scaling_factor` and `shift_factor`; resumes from `work`."""
    torch.manual_seed(seed)
    vae = build_vae(recipe)
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=recipe.learning_rate, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.08)
    batches = shuffled_batches(len(pool.images), recipe.batch, seed)
    parts = {"model": vae, "optimizer": optimizer, "schedule": schedule}
    log = RunLog(work / "vae.jsonl")
    first = log.rewind(load_parts(work / "vae.ckpt", key, parts))
    for step in progress(range(first, recipe.steps), "vae", start=first, total=recipe.steps):
        pixels = pool.pixels(batches(step)).contiguous(memory_format=torch.channels_last)
        posterior = vae.encode(pixels).latent_dist
        if step < recipe.sampling_from * recipe.steps:
            latents, regulariser = posterior.mode(), posterior.mean.square().mean()
        else:
            latents = posterior.sample(generator=stateless_generator(seed, 2, step))
            regulariser = posterior.kl().mean() / posterior.mean[0].numel()
        error = vae.decode(latents).sample - pixels
        reconstruction = error.abs().mean() + error.square().mean()
        loss = reconstruction + recipe.kl_weight * regulariser
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        log.write(step=step, loss=loss.item(), reconstruction=reconstruction.item(), grad_norm=norm.item())
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            save_parts(work / "vae.ckpt", key, step + 1, parts)
    vae.eval()
    latents = encode_pool(vae, pool, count=min(4096, len(pool.images)))
    vae.register_to_config(scaling_factor=float(1 / latents.std()), shift_factor=float(latents.mean()))
    return vae


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, pool: Pool, count: int | None = None, batch: int = 256) -> torch.Tensor:
    """Posterior means [N, C, H/4, W/4] of the pool's images, before scale and shift."""
    count = len(pool.images) if count is None else count
    starts = range(0, count, batch)
    return torch.cat(
        [
            vae.encode(pool.pixels(torch.arange(start, min(start + batch, count)))).latent_dist.mode()
            for start in progress(starts, "encode pool", unit="batch")
        ]
    )


def without_shift(vae: AutoencoderKL) -> AutoencoderKL:
    """The same autoencoder with its latents' mean folded into the convolutions beside them.

    StableDiffusionPipeline knows no `shift_factor`: z − shift is then what `encode` gives, and `decode` takes.
    """
    folded, shift = copy.deepcopy(vae), vae.config.shift_factor
    with torch.no_grad():
        folded.quant_conv.bias[: vae.config.latent_channels] -= shift
        folded.post_quant_conv.bias += shift * folded.post_quant_conv.weight.sum((1, 2, 3))
    folded.register_to_config(shift_factor=None)
    return folded

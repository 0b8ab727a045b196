"""Nano's open_clip CLIP: which string stands on this sign? Trained on the pool, saved as a folder open_clip opens."""

import json
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F

from legible.nano.pool import Pool
from legible.nano.recipe import ClipRecipe
from legible.nano.tokenizer import build_tokenizer
from legible.progress import progress
from legible.seeds import shuffled_batches, stateless_generator
from legible.train.checkpoint import load_parts, save_parts
from legible.train.log import RunLog

ALPHABET = string.ascii_uppercase + string.digits


def write_clip_folder(folder: Path, recipe: ClipRecipe, size: tuple[int, int]) -> None:
    """Configuration and tokenizer of the CLIP folder (without weights); `size` is (height, width) in pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer([], end_token=True)
    tokenizer.save_pretrained(folder)
    config = {
        "model_cfg": {
            "embed_dim": recipe.embed_dim,
            "vision_cfg": {
                "image_size": list(size),
                "patch_size": list(recipe.patch),
                "width": recipe.width,
                "head_width": 32,
                "layers": recipe.vision_layers,
                "pool_type": "avg",
            },
            "text_cfg": {
                "context_length": 16,
                "vocab_size": len(tokenizer),
                "hf_tokenizer_name": "local",
                "width": recipe.width,
                "heads": recipe.width // 32,
                "layers": recipe.text_layers,
                "pool_type": "eos",
                "eos_id": tokenizer.eos_token_id,
            },
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")


def one_edit_away(text: str, rng: np.random.Generator) -> str:
    """A distractor: one character replaced, inserted, deleted or swapped with its neighbour."""
    position = int(rng.integers(len(text)))
    letter = ALPHABET[int(rng.integers(len(ALPHABET)))]
    kind = int(rng.integers(4))
    if kind == 0 and len(text) > 2:
        return text[:position] + text[position + 1 :]
    if kind == 1:
        return text[:position] + letter + text[position:]
    if kind == 2 and position + 1 < len(text) and text[position] != text[position + 1]:
        return text[:position] + text[position + 1] + text[position] + text[position + 2 :]
    return text[:position] + (letter if letter != text[position] else "Q7"[letter == "Q"]) + text[position + 1 :]


def degraded(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Images [B, 3, H, W] shifted by up to 2 pixels, blurred and noised as a young diffusion model's output is."""
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    pixels = torch.roll(pixels, shift, dims=(2, 3))
    amount = torch.rand(len(pixels), 1, 1, 1, generator=generator)
    blurred = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = (
        0.15 * torch.rand(len(pixels), 1, 1, 1, generator=generator) * torch.randn(pixels.shape, generator=generator)
    )
    return (pixels + 0.7 * amount * (blurred - pixels) + noise).clamp(-1, 1)


def contrastive_loss(logits: torch.Tensor, texts: list[str], candidates: list[str]) -> torch.Tensor:
    """CLIP's loss both ways, from logits [B, C]: picture i is of texts[i]; the first B candidates are the texts."""
    same = torch.tensor([[a == b for b in candidates] for a in texts])
    right = torch.arange(len(texts))
    same[right, right] = False
    logits = logits.masked_fill(same, -1e4)  # a string that occurs twice is no negative
    return 0.5 * (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, : len(texts)].T, right))


def train_clip(recipe: ClipRecipe, pool: Pool, held_out: Pool, seed: int, key: str, work: Path, folder: Path) -> dict:
    """Train, save to `folder` and return the held-out retrieval accuracies; resumes from `work`."""
    torch.manual_seed(seed)
    write_clip_folder(folder, recipe, tuple(pool.images.shape[-2:]))
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name, load_weights=False)
    tokenizer = open_clip.get_tokenizer(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.1)
    batches = shuffled_batches(len(pool.images), recipe.batch, seed)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    log = RunLog(work / "clip.jsonl")
    first = log.rewind(load_parts(work / "clip.ckpt", key, parts))
    model.train()
    for step in progress(range(first, recipe.steps), "clip", start=first, total=recipe.steps):
        picked = batches(step)
        rng = np.random.default_rng([seed, 4, step])
        texts = [pool.texts[i] for i in picked]
        distractors = [one_edit_away(text, rng) for text in texts]
        generator = stateless_generator(seed, 4, step)
        regions = pool.regions(picked, recipe.margin * torch.rand(len(picked), generator=generator))
        images = model.encode_image(degraded(regions, generator), normalize=True)
        strings = model.encode_text(tokenizer(texts + distractors), normalize=True)
        logits = model.logit_scale.exp().clamp(max=100.0) * images @ strings.T
        loss = contrastive_loss(logits, texts, texts + distractors)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        log.write(step=step, loss=loss.item(), grad_norm=norm.item())
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            save_parts(work / "clip.ckpt", key, step + 1, parts)
    return save_and_measure(model.eval(), tokenizer, held_out, folder)


@torch.no_grad()
def save_and_measure(
    model: torch.nn.Module, tokenizer: Callable[[list[str]], torch.Tensor], held_out: Pool, folder: Path
) -> dict:
    """Write the weights and measure retrieval on `held_out`: among other strings, and among strings one edit away."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    everything = torch.arange(len(held_out.images))
    images = model.encode_image(held_out.regions(everything, torch.full((len(everything),), 2.0)), normalize=True)
    strings = model.encode_text(tokenizer(held_out.texts), normalize=True)
    right = images @ strings.T
    top1 = (right.argmax(1) == torch.arange(len(right))).float().mean().item()
    rng = np.random.default_rng(0)
    wins = []
    for image, text in zip(images, held_out.texts, strict=True):
        candidates = [text] + [one_edit_away(text, rng) for _ in range(9)]
        wins.append(float((model.encode_text(tokenizer(candidates), normalize=True) @ image).argmax() == 0))
    return {"candidates": len(right), "top1_among_strings": top1, "top1_among_10_one_edit_away": float(np.mean(wins))}

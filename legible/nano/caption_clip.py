"""Nano's caption CLIP: which caption belongs to this picture? Its text tower is a text encoder of nano's."""

import re
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPModel, PreTrainedTokenizerFast

from legible.corpus.scenes import BLENDED, COUNTS, SHAPES, STRIPED
from legible.corpus.templates import PALETTE, quoted_strings
from legible.nano.clip import contrastive_loss, degraded, one_edit_away
from legible.nano.pool import Pool
from legible.nano.recipe import CaptionClipRecipe
from legible.progress import progress
from legible.rewards.features import image_features, text_features
from legible.seeds import shuffled_batches, stateless_generator
from legible.train.checkpoint import load_parts, save_parts
from legible.train.log import RunLog

# What can be said instead of a word; the longer names of colours first, so that "dark red" is not read as "red".
ALTERNATIVES = (
    sorted(PALETTE, key=len, reverse=True),
    COUNTS[1:],
    list(SHAPES),
    list(SHAPES.values()),
    STRIPED,
    BLENDED,
)


def altered(caption: str, rng: np.random.Generator) -> str:
    """The same caption with one thing wrong: an edit of its text, or another colour, count, shape or direction."""
    texts = quoted_strings(caption)
    if texts and rng.random() < 0.6:
        return caption.replace(f'"{texts[0]}"', f'"{one_edit_away(texts[0], rng)}"')
    begin = caption.rfind('"') + 1  # behind the text, which may hold any word
    places = [
        (match, words) for words in ALTERNATIVES for match in re.finditer(rf"\b({'|'.join(words)})\b", caption[begin:])
    ]
    match, words = places[rng.integers(len(places))]
    others = [word for word in words if word != match[0]]
    other = others[rng.integers(len(others))]
    return caption[: begin + match.start()] + other + caption[begin + match.end() :]


def train_caption_clip(
    recipe: CaptionClipRecipe,
    model: CLIPModel,
    tokenizer: PreTrainedTokenizerFast,
    pool: Pool,
    seed: int,
    key: str,
    work: Path,
    name: str = "caption_clip",
) -> CLIPModel:
    """Train on pictures and captions, each with one altered caption as a further negative; resumes from `work`.

    A part of the model that is frozen stays as it is.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.1)
    batches = shuffled_batches(len(pool.images), recipe.batch, seed)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    log = RunLog(work / f"{name}.jsonl")
    first = log.rewind(load_parts(work / f"{name}.ckpt", key, parts))
    model.train()
    for step in progress(range(first, recipe.steps), name, start=first, total=recipe.steps):
        picked = batches(step)
        rng = np.random.default_rng([seed, 4, step])
        captions = [pool.captions[row] for row in picked]
        candidates = captions + [altered(caption, rng) for caption in captions]
        pixels = degraded(pool.pixels(picked), stateless_generator(seed, 4, step))
        scale = model.logit_scale.exp().clamp(max=100.0)
        logits = scale * image_features(model, pixels) @ text_features(model, tokenizer, candidates).T
        loss = contrastive_loss(logits, captions, candidates)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        log.write(step=step, loss=loss.item(), grad_norm=norm.item())
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            save_parts(work / f"{name}.ckpt", key, step + 1, parts)
    return model.eval()


@torch.no_grad()
def measure(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, held_out: Pool) -> dict:
    """Retrieval on held-out pictures: the right caption among all, and among ten with one thing altered."""
    images = image_features(model, held_out.pixels(torch.arange(len(held_out.images))))
    captions = text_features(model, tokenizer, held_out.captions)
    top1 = (images @ captions.T).argmax(1) == torch.arange(len(images))
    rng, wins = np.random.default_rng(0), []
    for image, caption in zip(images, held_out.captions, strict=True):
        candidates = [caption, *(altered(caption, rng) for _ in range(9))]
        wins.append(int((text_features(model, tokenizer, candidates) @ image).argmax()) == 0)
    signs = torch.tensor([bool(text) for text in held_out.texts])
    won = torch.tensor(wins)
    return {
        "candidates": len(images),
        "top1_signs": top1[signs].float().mean().item(),
        "top1_among_10_altered_signs": won[signs].float().mean().item(),
        "top1_among_10_altered_scenes": won[~signs].float().mean().item(),
    }

"""Nano's twins of published rewards, trained as *programmatic preference*.

Of two pictures for one caption one is worse by construction: another string, colour, ground, shape or number than the
caption says, or blurred, faded, speckled. No person has preferred anything. The twins have the published formats, so
that the code that reads the real files reads them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel, PreTrainedTokenizerBase

from legible.corpus.prompts import Excluded
from legible.corpus.scenes import SHAPES
from legible.corpus.templates import PALETTE
from legible.models.aesthetic import PLACES, SIZES
from legible.nano.clip import one_edit_away
from legible.nano.recipe import PreferenceRecipe, Recipe
from legible.progress import progress
from legible.render.dataset import render_signs
from legible.render.fonts import find_fonts, select_fonts
from legible.render.scene import CONTRAST, draw, draw_scenes
from legible.render.sign import Sign, contrast_ratio, draw_sign
from legible.rewards.features import image_features, normalized, text_features
from legible.rewards.hps import in_a_square
from legible.seeds import shuffled_batches, stateless_generator
from legible.train.checkpoint import load_parts, save_parts
from legible.train.log import RunLog

SPOILED = ("blurred", "faded", "speckled")  # whatever the caption says; what else is wrong, is wrong for its caption
Score = Callable[[Tensor, list[str]], Tensor]  # images [B, 3, H, W] in −1 … 1, captions → [B]


@dataclass(frozen=True)
class Pairs:
    """N captions with a better and a worse picture each, uint8 [N, 3, H, W]; `kinds`: what is wrong with the worse."""

    captions: list[str]
    better: Tensor
    worse: Tensor
    kinds: list[str]


def other_color(not_these: tuple[str, str], beside: str, rng: np.random.Generator) -> str:
    """Another colour's name that can be told from `beside`."""
    enough = [n for n, c in PALETTE.items() if n not in not_these and contrast_ratio(c, PALETTE[beside]) >= CONTRAST]
    return enough[rng.integers(len(enough))]


def wrong_sign(sign: Sign, font, data, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The sign with one thing other than its caption says, and what."""
    while True:
        kind = ("string", "colour", "ground")[rng.integers(3)]
        lines, color, ground = sign.lines, sign.color, sign.background
        if kind == "string":
            lines = (one_edit_away(lines[0], rng), *lines[1:])
        elif kind == "colour":
            color = other_color((color, ground), ground, rng)
        else:
            ground = other_color((color, ground), color, rng)
        drawn = draw_sign(lines, font, sign.font_size, color, ground, data, boxes=False)
        if drawn is not None:
            return drawn.image, kind


def wrong_scene(picture, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The same kind of scene with one thing other than its caption says, and what."""
    scene, (height, width) = picture.scene, picture.image.shape[:2]
    kind = ("colour", "ground", "shape", "number")[rng.integers(4 if scene.count else 2)]
    if kind == "colour" and scene.kind != "plain":
        other = replace(scene, color=other_color((scene.color, scene.background), scene.background, rng))
    elif kind == "shape":
        names = [name for name in SHAPES if name != scene.shape]
        other = replace(scene, shape=names[rng.integers(len(names))])
    elif kind == "number":
        other = replace(scene, count=(scene.count + int(rng.integers(3))) % 4 + 1)
    else:
        kind = "ground"
        other = replace(scene, background=other_color((scene.color, scene.background), scene.color, rng))
    return draw(other, height, width, rng), kind


def spoiled(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """A picture uint8 [H, W, 3] blurred, faded or speckled, more or less."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    if kind == "blurred":
        for _ in range(rng.integers(2, 6)):
            pixels = F.avg_pool2d(F.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    elif kind == "faded":
        mean = pixels.mean((2, 3), keepdim=True)
        pixels = mean + float(rng.uniform(0.15, 0.5)) * (pixels - mean)
    else:
        spots = torch.from_numpy(rng.random(pixels.shape[-2:]) < rng.uniform(0.05, 0.2))
        pixels = torch.where(spots, torch.from_numpy(rng.integers(0, 256, tuple(pixels.shape))).float(), pixels)
    return pixels[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def build_pairs(recipe: Recipe, preference: PreferenceRecipe, split: str, count: int, excluded: Excluded) -> Pairs:
    """Pairs of a split ("train" or "test": other words, fonts and captions); every one from a stream of its own.

    A third are scenes; of the worse pictures `preference.spoiled` are spoiled, the others do not fit to their caption.
    """
    fonts = select_fonts(find_fonts(recipe.fonts), recipe.fonts.train, recipe.fonts.held_out)
    by_name = {font.name: font for font in fonts}
    signs, _ = render_signs(recipe.data, fonts, split, count - count // 3, excluded, boxes=False)
    scenes = draw_scenes(recipe.seed, split, count // 3, recipe.data.height, recipe.data.width)
    captions, better, worse, kinds = [], [], [], []
    for place, picture in enumerate([*signs, *scenes]):
        rng = np.random.default_rng([preference.seed, split == "test", place])
        captions.append(picture.caption if isinstance(picture, Sign) else picture.scene.caption)
        if rng.random() < preference.spoiled:
            kind = SPOILED[rng.integers(len(SPOILED))]
            image = spoiled(picture.image, kind, rng)
        elif isinstance(picture, Sign):
            image, kind = wrong_sign(picture, by_name[picture.font], recipe.data, rng)
        else:
            image, kind = wrong_scene(picture, rng)
        better.append(picture.image)
        worse.append(image)
        kinds.append(kind)
    stacked = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous() for images in (better, worse))
    return Pairs(captions, *stacked, kinds)


def pixels(images: Tensor) -> Tensor:
    """Float images in −1 … 1 of uint8 ones."""
    return images.float() / 127.5 - 1


def train_preference(
    recipe: PreferenceRecipe, networks: nn.Module, score: Score, pairs: Pairs, key: str, work: Path, name: str
) -> None:
    """Bradley–Terry: −log σ(score of the better − score of the worse), in place; resumes from `work`."""
    trained = [parameter for parameter in networks.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.02, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.1)
    batches = shuffled_batches(len(pairs.captions), recipe.batch, recipe.seed)
    parts = {"model": networks, "optimizer": optimizer, "schedule": schedule}
    log = RunLog(work / f"{name}.jsonl")
    first = log.rewind(load_parts(work / f"{name}.ckpt", key, parts))
    for step in progress(range(first, recipe.steps), name, start=first, total=recipe.steps):
        picked = batches(step)
        shift = torch.randint(-2, 3, (2,), generator=stateless_generator(recipe.seed, 6, step)).tolist()
        both = torch.cat([pixels(pairs.better[picked]), pixels(pairs.worse[picked])]).roll(shift, (2, 3))
        captions = [pairs.captions[row] for row in picked]
        better, worse = score(both, captions * 2).chunk(2)
        loss = -F.logsigmoid(better - worse).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        log.write(step=step, loss=loss.item(), grad_norm=norm.item())
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            save_parts(work / f"{name}.ckpt", key, step + 1, parts)


@torch.no_grad()
def measure(score: Score, pairs: Pairs) -> dict:
    """How often the better picture of a held-out pair scores higher, by what is wrong with the other one."""
    parts = torch.arange(len(pairs.captions)).split(64)
    sides = [
        torch.cat([score(pixels(images[part]), [pairs.captions[row] for row in part]) for part in parts])
        for images in (pairs.better, pairs.worse)
    ]
    right = sides[0] > sides[1]
    found = {"pairs": len(right), "right": right.float().mean().item()}
    for kind in sorted(set(pairs.kinds)):
        own = torch.tensor([name == kind for name in pairs.kinds])
        found[f"right_{kind}"] = right[own].float().mean().item()
    return found


def aesthetic_head(width: int) -> nn.Sequential:
    """The five layers of the aesthetic predictor on features of `width` numbers; they begin at a score of 5."""
    head = nn.Sequential(*(nn.Linear(*pair) for pair in pairwise((width, *SIZES))))
    nn.init.constant_(head[-1].bias, 5.0)
    return head


def aesthetic_of(model: CLIPModel, head: nn.Sequential) -> Score:
    """The layers on the picture's features, whatever the caption, as legible/rewards/aesthetic.py."""

    def score(images: Tensor, captions: list[str]) -> Tensor:
        return head(image_features(model, images))[:, 0]

    return score


def save_aesthetic(head: nn.Sequential, path: Path) -> None:
    """Write the layers under the names of the published file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        f"layers.{place}.{kind}": getattr(layer, kind).detach().contiguous()
        for place, layer in zip(PLACES, head, strict=True)
        for kind in ("weight", "bias")
    }
    save_file(state, path)


def pickscore_of(model: CLIPModel, tokenizer: PreTrainedTokenizerBase) -> Score:
    """exp(logit_scale) · cosine, as legible/rewards/pickscore.py."""

    def score(images: Tensor, captions: list[str]) -> Tensor:
        cosine = (image_features(model, images) * text_features(model, tokenizer, captions)).sum(1)
        return model.logit_scale.exp() * cosine

    return score


def hps_of(model: CLIPModel, tokenizer: PreTrainedTokenizerBase) -> Score:
    """exp(logit_scale) · cosine of a picture in a square with black around, as Human Preference Score sees it."""
    side = model.config.vision_config.image_size

    def score(images: Tensor, captions: list[str]) -> Tensor:
        pooled = model.vision_model(pixel_values=normalized(in_a_square(images, side))).pooler_output
        seen = F.normalize(model.visual_projection(pooled), dim=-1)
        return model.logit_scale.exp() * (seen * text_features(model, tokenizer, captions)).sum(1)

    return score


def save_open_clip(model: CLIPModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a transformers CLIPModel as a folder that open_clip opens, the format of Human Preference Score."""
    text, vision = model.config.text_config, model.config.vision_config
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    config = {
        "model_cfg": {
            "embed_dim": model.config.projection_dim,
            "quick_gelu": text.hidden_act == "quick_gelu",
            "vision_cfg": {
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "width": vision.hidden_size,
                "head_width": vision.hidden_size // vision.num_attention_heads,
                "layers": vision.num_hidden_layers,
            },
            "text_cfg": {
                "context_length": text.max_position_embeddings,
                "vocab_size": text.vocab_size,
                "hf_tokenizer_name": "local",
                "width": text.hidden_size,
                "heads": text.num_attention_heads,
                "layers": text.num_hidden_layers,
                "pool_type": "eos",
                "eos_id": text.eos_token_id,
            },
        },
        "preprocess_cfg": {},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    state = {name: value.detach().clone().contiguous() for name, value in open_clip_state(model).items()}
    save_file(state, folder / "open_clip_model.safetensors")


def open_clip_state(model: CLIPModel) -> dict[str, Tensor]:
    """The weights under open_clip's names: query, key and value in one matrix, projections transposed."""
    text, vision = model.text_model, model.vision_model
    state = {
        "logit_scale": model.logit_scale,
        "text_projection": model.text_projection.weight.T,
        "visual.proj": model.visual_projection.weight.T,
        "positional_embedding": text.embeddings.position_embedding.weight,
        "token_embedding.weight": text.embeddings.token_embedding.weight,
        "visual.class_embedding": vision.embeddings.class_embedding,
        "visual.conv1.weight": vision.embeddings.patch_embedding.weight,
        "visual.positional_embedding": vision.embeddings.position_embedding.weight,
    }
    norms = (("ln_final", text.final_layer_norm), ("visual.ln_pre", vision.pre_layrnorm))
    layers = [(norm, f"{name}.") for name, norm in (*norms, ("visual.ln_post", vision.post_layernorm))]
    for prefix, tower in (("transformer", text), ("visual.transformer", vision)):
        for place, block in enumerate(tower.encoder.layers):
            base, attention = f"{prefix}.resblocks.{place}", block.self_attn
            layers += [(block.layer_norm1, f"{base}.ln_1."), (block.layer_norm2, f"{base}.ln_2.")]
            layers += [(attention.out_proj, f"{base}.attn.out_proj.")]
            layers += [(block.mlp.fc1, f"{base}.mlp.c_fc."), (block.mlp.fc2, f"{base}.mlp.c_proj.")]
            together = (attention.q_proj, attention.k_proj, attention.v_proj)
            for kind in ("weight", "bias"):
                state[f"{base}.attn.in_proj_{kind}"] = torch.cat([getattr(layer, kind) for layer in together])
    return state | {f"{name}{kind}": getattr(layer, kind) for layer, name in layers for kind in ("weight", "bias")}

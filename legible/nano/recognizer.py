"""Nano's recognisers: CTC readers in EasyOCR's user-network format (`name.py`, `name.yaml`, weights)."""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from legible.corpus.words import DIGITS, letters_of
from legible.errors import UserError
from legible.losses.regions import to_grey
from legible.nano.clip import degraded
from legible.nano.pool import Pool
from legible.nano.recipe import RecognizerRecipe
from legible.progress import progress
from legible.seeds import shuffled_batches, stateless_generator
from legible.train.checkpoint import load_parts, save_parts
from legible.train.log import RunLog


def build_network(folder: Path, name: str, network_params: dict[str, int], characters: str) -> nn.Module:
    """The `Model` class of `folder/name.py`, as EasyOCR builds it for so many characters and a blank."""
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    if spec is None or spec.loader is None or not (folder / f"{name}.py").exists():
        raise UserError(f"{folder}: {name}.py is missing; a user network needs {name}.py, .yaml and .safetensors")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Model(num_class=len(characters) + 1, **network_params)


def open_network(folder: Path) -> nn.Module:
    """A trained network, frozen and in evaluation mode; its folder is named like the network."""
    settings = yaml.safe_load((folder / f"{folder.name}.yaml").read_text(encoding="utf-8"))
    model = build_network(folder, folder.name, settings["network_params"], settings["character_list"])
    model.load_state_dict(load_file(folder / f"{folder.name}.safetensors"))
    return model.eval().requires_grad_(False)


def greedy(logits: torch.Tensor, characters: str) -> list[str]:
    """Best-path CTC decoding of logits [B, T, classes]; class 0 is the blank, class 1 + i character i."""
    texts = []
    for path in logits.argmax(2).tolist():
        kept = [c for c, before in zip(path, [0, *path[:-1]], strict=True) if c and c != before]
        texts.append("".join(characters[c - 1] for c in kept))
    return texts


def train_recognizer(
    name: str, recipe: RecognizerRecipe, pool: Pool, held_out: Pool, key: str, work: Path, folder: Path
) -> dict:
    """Train, save to `folder` and return the character error rate on held-out signs; resumes from `work`."""
    torch.manual_seed(recipe.seed)
    known = letters_of(recipe.script) + DIGITS
    model = build_network(folder, name, recipe.network_params, known)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, recipe.steps, pct_start=0.15)
    batches = shuffled_batches(len(pool.images), recipe.batch, recipe.seed)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    log = RunLog(work / f"{name}.jsonl")
    first = log.rewind(load_parts(work / f"{name}.ckpt", key, parts))
    for step in progress(range(first, recipe.steps), name, start=first, total=recipe.steps):
        picked = batches(step)
        texts = [pool.texts[i].replace(" ", "") for i in picked]
        generator = stateless_generator(recipe.seed, 5, step)
        if recipe.margin:
            pixels = pool.regions(picked, recipe.margin * torch.rand(len(picked), generator=generator))
        else:
            pixels = pool.pixels(picked)
        pixels = degraded(pixels, generator)
        scores = model(to_grey(pixels)).log_softmax(2).transpose(0, 1)
        targets = torch.tensor([known.index(c) + 1 for text in texts for c in text])
        lengths = torch.tensor([len(text) for text in texts])
        loss = F.ctc_loss(scores, targets, torch.full((len(texts),), len(scores)), lengths, zero_infinity=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        log.write(step=step, loss=loss.item(), grad_norm=norm.item())
        if (step + 1) % 250 == 0 or step + 1 == recipe.steps:
            save_parts(work / f"{name}.ckpt", key, step + 1, parts)
    settings = {"network_params": recipe.network_params, "imgH": 32, "lang_list": ["en"], "character_list": known}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    save_file({k: v.contiguous() for k, v in model.eval().state_dict().items()}, folder / f"{name}.safetensors")
    return measure(model, known, held_out, 2.0 if recipe.margin else None)


@torch.no_grad()
def measure(model: nn.Module, characters: str, held_out: Pool, margin: float | None) -> dict:
    """Micro CER and exact match of greedy reading on clean held-out signs, or on their regions (with a margin)."""
    from rapidfuzz.distance import Levenshtein

    everything = torch.arange(len(held_out.images))
    pixels = held_out.pixels(everything)
    if margin is not None:
        pixels = held_out.regions(everything, torch.full((len(everything),), margin))
    readings = greedy(model(to_grey(pixels)), characters)
    targets = [text.replace(" ", "") for text in held_out.texts]
    errors = sum(Levenshtein.distance(a, b) for a, b in zip(readings, targets, strict=True))
    exact = sum(a == b for a, b in zip(readings, targets, strict=True)) / len(targets)
    return {"signs": len(targets), "cer": errors / sum(map(len, targets)), "exact": exact}

"""What training reads: latents and caption embeddings computed once, and the text regions of every sample."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from legible.errors import UserError
from legible.models.conditioning import Conditioning, unpacked
from legible.seeds import Stream, stateless_generator
from legible.tensors import load_tensors, save_tensors

CLASSES = 255  # of characters, beside the background
TENSORS = ("latents", "boxes", "owners", "masks", "characters")
LISTS = ("texts", "captions", "alphabet", "stages")


@dataclass(frozen=True)
class TrainingData:
    """N samples; a region is one line of text with its ink box."""

    key: str  # hash of everything that the cache was computed from
    latents: Tensor  # [N, C, h, w], scaled
    conditioning: Conditioning  # of the N captions
    empty: Conditioning  # of the empty prompt: one
    captions: tuple[str, ...]  # N prompts
    boxes: Tensor  # [R, 4], x0 y0 x1 y1 in pixels
    owners: Tensor  # [R], the sample of each region
    texts: tuple[str, ...]  # R target strings
    masks: Tensor  # uint8 [N, h, w], glyph coverage of each latent cell, 0 … 255
    characters: Tensor  # uint8 [N, 2h, 2w], 0 = background, else 1 + index in the alphabet
    stages: tuple[int, ...]  # samples of each stage of the curriculum, which follow one another
    alphabet: tuple[str, ...]  # every character that has a box, sorted; empty where there are more than a byte counts

    def padded_lengths(self, multiple: int = 32) -> list[int]:
        """Rows of each caption, rounded up to a multiple, as transformers pad them."""
        return [-(-length // multiple) * multiple for length in self.conditioning.lengths()]

    def regions(self, picked: Tensor, goals: Tensor | None = None) -> tuple[Tensor, Tensor, list[str]]:
        """(position in `picked` [R], boxes [R, 4], texts) of the regions of the picked samples.

        With `goals` (as many samples) the texts are those of these samples instead: a placebo for the loss.
        """
        rows, positions, texts = [], [], []
        for position, sample in enumerate(picked.tolist()):
            found = torch.nonzero(self.owners == sample).flatten().tolist()
            rows += found
            positions += [position] * len(found)
            goal = sample if goals is None else int(goals[position])
            strings = [self.texts[row] for row in torch.nonzero(self.owners == goal).flatten().tolist()]
            texts += [strings[place % len(strings)] for place in range(len(found))]
        return torch.tensor(positions, dtype=torch.long), self.boxes[rows], texts


def alphabet_of(characters: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Every character of these pictures, sorted; nothing when there are more than 255, which one byte cannot count."""
    found = tuple(sorted({character for own in characters for character in own}))
    return found if len(found) <= CLASSES else ()


def other_samples(count: int, seed: int) -> Tensor:
    """For each of `count` samples another one, every sample once: whose text a placebo arm is taught instead."""
    order = torch.randperm(count, generator=stateless_generator(seed, Stream.PLACEBO))
    others = torch.empty(count, dtype=torch.long)
    others[order] = order.roll(1)
    return others


def save_training_data(path: Path, data: TrainingData) -> None:
    """Write the cache as one safetensors file, atomically."""
    tensors = {name: getattr(data, name) for name in TENSORS}
    tensors |= data.conditioning.packed("conditioning") | data.empty.packed("empty")
    save_tensors(path, tensors, {name: getattr(data, name) for name in ("key", *LISTS)})


def load_training_data(path: Path) -> TrainingData:
    """Read a cache.

    Raises:
        UserError: the file is missing or damaged, if only by one bit.
    """
    tensors, about = load_tensors(path, "the cache")
    try:
        return TrainingData(
            key=about["key"],
            **{name: tuple(about[name]) for name in LISTS},
            conditioning=unpacked(tensors, "conditioning"),
            empty=unpacked(tensors, "empty"),
            **{name: tensors[name] for name in TENSORS},
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: the cache is of another version ({error}); delete it to compute it again") from error

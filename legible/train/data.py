"""What training reads: latents and caption embeddings computed once, and the text regions of every sample."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from legible.corpus.text import characters
from legible.errors import UserError
from legible.models.conditioning import Conditioning, unpacked
from legible.seeds import Stream, stateless_generator
from legible.tensors import load_tensors, save_tensors

DRAWS = 64  # of an order of letters, until it is another one in every line
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

    def region_rows(self, picked: Tensor) -> Tensor:
        """The rows in `boxes` of all regions of the picked samples, in the order of `regions`, [R]."""
        rows = [row for sample in picked.tolist() for row in torch.nonzero(self.owners == sample).flatten().tolist()]
        return torch.tensor(rows, dtype=torch.long)


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


def reordered(lines: list[str], generator: torch.Generator) -> list[str | None]:
    """The letters of a sign's lines in another order, over all lines: each keeps its length and its blanks.

    None for a line that stays what it was: there is no other order, as of "AA" or "5", or none was drawn.
    """
    pieces = [characters(line) for line in lines]
    letters = [piece for line in pieces for piece in line if not piece.isspace()]
    own = ["".join(line) for line in pieces]
    for _ in range(DRAWS):
        drawn = iter([letters[place] for place in torch.randperm(len(letters), generator=generator).tolist()])
        found = ["".join(piece if piece.isspace() else next(drawn) for piece in line) for line in pieces]
        if all(new != old for new, old in zip(found, own, strict=True)):
            break
    return [None if new == old else new for new, old in zip(found, own, strict=True)]


def permuted(data: TrainingData, seed: int) -> TrainingData:
    """The data with every sample's own letters in another order, a placebo; regions without one are left out.

    Raises:
        UserError: no text of the data has another order.
    """
    texts: list[str | None] = list(data.texts)
    for sample in range(len(data.latents)):
        rows = torch.nonzero(data.owners == sample).flatten().tolist()
        found = reordered([data.texts[row] for row in rows], stateless_generator(seed, Stream.PERMUTED, sample))
        for row, text in zip(rows, found, strict=True):
            texts[row] = text
    kept = [row for row, text in enumerate(texts) if text is not None]
    if not kept:
        raise UserError("aux.targets: permuted: no text of the training data has another order of its letters")
    return replace(data, boxes=data.boxes[kept], owners=data.owners[kept], texts=tuple(texts[row] for row in kept))


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

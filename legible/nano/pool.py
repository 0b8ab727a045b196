"""The pool of rendered signs that all nano models learn from, rendered once and kept as one array file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from legible.corpus.prompts import Excluded, load_prompts
from legible.corpus.scenes import EVEN, PHRASINGS, TEMPLATES, Shares
from legible.corpus.words import LATIN
from legible.io import atomic_path, sha256_json
from legible.losses.regions import crop_regions
from legible.nano.recipe import Recipe
from legible.render.dataset import render_signs
from legible.render.fonts import find_fonts, select_fonts
from legible.render.scene import draw_scenes
from legible.render.sign import Box, draw_prompt

HELD_OUT = "resources/prompts/held_out.jsonl"


def prompts_of(script: str) -> str:
    """The file of evaluation prompts whose targets are written in a script."""
    return HELD_OUT if script == LATIN else f"resources/prompts/{script}.jsonl"


@dataclass(frozen=True)
class Pool:
    """`images` uint8 [N, 3, H, W]; captions and texts of length N.

    `boxes`, int64 [N, L, 4] in pixels, are of the letters of each text and empty where it has fewer than L; None where
    nobody asked for them.
    """

    images: torch.Tensor
    captions: list[str]
    texts: list[str]
    boxes: torch.Tensor | None = None

    def first(self, count: int) -> "Pool":
        """Its first `count` signs."""
        boxes = None if self.boxes is None else self.boxes[:count]
        return Pool(self.images[:count], self.captions[:count], self.texts[:count], boxes)

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        """Float images [B, 3, H, W] in −1 … 1."""
        return self.images[indices].float() / 127.5 - 1.0

    def regions(self, indices: torch.Tensor, margins: torch.Tensor) -> torch.Tensor:
        """The signs' text regions, cut out as a loss on text regions does it: float [B, 3, H, W] in −1 … 1.

        Args:
            indices: [B].
            margins: [B], pixels added around the ink on every side.
        """
        images = self.images[indices]
        boxes = ink_boxes(images).float() + margins[:, None] * torch.tensor([-1.0, -1.0, 1.0, 1.0])
        return crop_regions(self.pixels(indices), torch.arange(len(images)), boxes, tuple(images.shape[-2:]))


def ink_boxes(images: torch.Tensor) -> torch.Tensor:
    """Boxes [B, 4] (x0, y0, x1, y1, half-open) of everything in uint8 [B, 3, H, W] that differs from the corner."""
    ink = (images != images[:, :, :1, :1]).any(1)
    edges = []
    for axis in (1, 2):  # what is left after reducing rows: columns, and the other way round
        line = ink.any(axis).int()
        edges.append((line.argmax(1), line.shape[1] - line.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], 1)


def build_pool(recipe: Recipe, prompts: tuple, work: Path, workers: int = 2) -> Pool:
    """Render (or read back) `recipe.pool` training signs; no target of `prompts` occurs in any of them."""
    excluded = Excluded.of([prompts])
    drawn = [recipe.pool, recipe.data.model_dump(), recipe.fonts.model_dump(), [p.targets for p in prompts], "boxes"]
    key = sha256_json(drawn)
    path = work / f"pool-{key[:12]}.npz"
    if not path.exists():
        fonts = select_fonts(find_fonts(recipe.fonts), recipe.fonts.train, recipe.fonts.held_out)
        signs, _ = render_signs(recipe.data, fonts, "train", recipe.pool, excluded, workers=workers)
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                images=np.stack([sign.image for sign in signs]).transpose(0, 3, 1, 2),
                captions=np.array([sign.caption for sign in signs]),
                texts=np.array([" ".join(sign.lines) for sign in signs]),
                boxes=padded_boxes([sign.character_boxes for sign in signs]),
            )
    with np.load(path, allow_pickle=False) as stored:
        images, boxes = torch.from_numpy(stored["images"]), torch.from_numpy(stored["boxes"])
        return Pool(images, stored["captions"].tolist(), stored["texts"].tolist(), boxes)


def padded_boxes(boxes: list[tuple[Box, ...]]) -> np.ndarray:
    """int64 [N, L, 4], with empty boxes behind those of shorter texts."""
    padded = np.zeros((len(boxes), max(map(len, boxes)), 4), np.int64)
    for row, letters in enumerate(boxes):
        padded[row, : len(letters)] = letters
    return padded


def with_scenes(
    pool: Pool, recipe: Recipe, split: str, count: int, rephrased: bool = False, shares: Shares = EVEN
) -> Pool:
    """The pool and `count` pictures without text of a split ("train" or "test") behind it; their texts are empty.

    Args:
        rephrased: their captions take turns between all phrasings; without, there is one for each kind.
    """
    pictures = draw_scenes(recipe.seed, split, count, recipe.data.height, recipe.data.width, shares)
    images = torch.from_numpy(np.stack([picture.image for picture in pictures]).transpose(0, 3, 1, 2).copy())
    captions = [picture.scene.caption for picture in pictures]
    if rephrased:
        choices = [(TEMPLATES[picture.scene.kind], *PHRASINGS[picture.scene.kind]) for picture in pictures]
        templates = [choice[place % len(choice)] for place, choice in enumerate(choices)]
        captions = [picture.scene.phrased(template) for picture, template in zip(pictures, templates, strict=True)]
    boxes = None if pool.boxes is None else torch.cat([pool.boxes, pool.boxes.new_zeros(count, *pool.boxes.shape[1:])])
    return Pool(torch.cat([pool.images, images]), [*pool.captions, *captions], [*pool.texts, *[""] * count], boxes)


def held_out_pool(recipe: Recipe) -> Pool:
    """The evaluation prompts, drawn: what reading and the round trip are measured on."""
    fonts = select_fonts(find_fonts(recipe.fonts), recipe.fonts.train, recipe.fonts.held_out)
    prompts = load_prompts(prompts_of(recipe.data.script), None)
    images = np.stack([draw_prompt(prompt, recipe.data, fonts).image for prompt in prompts])
    texts = [" ".join(prompt.targets) for prompt in prompts]
    return Pool(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), [p.prompt for p in prompts], texts)


def retrieval_pool(recipe: Recipe, count: int = 256) -> Pool:
    """`count` held-out signs of different strings: the evaluation prompts, then signs of the test split."""
    first = held_out_pool(recipe)
    fonts = select_fonts(find_fonts(recipe.fonts), recipe.fonts.train, recipe.fonts.held_out)
    signs, _ = render_signs(recipe.data, fonts, "test", 2 * count, Excluded.of([]), boxes=False)
    by_text = {" ".join(sign.lines): sign for sign in signs if " ".join(sign.lines) not in first.texts}
    more = dict(list(by_text.items())[: count - len(first.texts)])
    images = torch.from_numpy(np.stack([sign.image for sign in more.values()]).transpose(0, 3, 1, 2))
    captions = [sign.caption for sign in more.values()]
    return Pool(torch.cat([first.images, images]), [*first.captions, *captions], [*first.texts, *more])

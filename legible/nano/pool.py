"""The pool of rendered signs that all nano models learn from, rendered once and kept as one array file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from legible.corpus.prompts import Excluded, load_prompts
from legible.io import atomic_path, sha256_json
from legible.nano.recipe import Recipe
from legible.render.dataset import render_signs
from legible.render.fonts import find_fonts, select_fonts
from legible.render.sign import draw_prompt

HELD_OUT = "resources/prompts/held_out.jsonl"


@dataclass(frozen=True)
class Pool:
    """`images` uint8 [N, 3, H, W]; captions and texts of length N."""

    images: torch.Tensor
    captions: list[str]
    texts: list[str]

    def pixels(self, indices: torch.Tensor) -> torch.Tensor:
        """Float images [B, 3, H, W] in −1 … 1."""
        return self.images[indices].float() / 127.5 - 1.0


def build_pool(recipe: Recipe, prompts: tuple, work: Path, workers: int = 2) -> Pool:
    """Render (or read back) `recipe.pool` training signs; no target of `prompts` occurs in any of them."""
    excluded = Excluded.of([prompts])
    key = sha256_json([recipe.pool, recipe.data.model_dump(), recipe.fonts.model_dump(), [p.targets for p in prompts]])
    path = work / f"pool-{key[:12]}.npz"
    if not path.exists():
        fonts = select_fonts(find_fonts(recipe.fonts), recipe.fonts.train, recipe.fonts.held_out)
        signs, _ = render_signs(recipe.data, fonts, "train", recipe.pool, excluded, workers=workers, boxes=False)
        with atomic_path(path) as temporary:
            np.savez(
                temporary,
                images=np.stack([sign.image for sign in signs]).transpose(0, 3, 1, 2),
                captions=np.array([sign.caption for sign in signs]),
                texts=np.array([" ".join(sign.lines) for sign in signs]),
            )
    with np.load(path, allow_pickle=False) as stored:
        return Pool(torch.from_numpy(stored["images"]), stored["captions"].tolist(), stored["texts"].tolist())


def held_out_pool(recipe: Recipe) -> Pool:
    """The evaluation prompts, drawn: what reading and the round trip are measured on."""
    fonts = select_fonts(find_fonts(recipe.fonts), recipe.fonts.train, recipe.fonts.held_out)
    prompts = load_prompts(HELD_OUT, None)
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

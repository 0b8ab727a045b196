"""The dataset drawn by the text engine: pictures of any script, in the rows of the plain signs.

Lines that run level are what losses may look at: a crop of a bent, turned or vertical line is nothing that a reader of
lines was made for, so that such a line is in the picture and the caption, but is no region.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

from legible.config import Data, Recipe, Render
from legible.config.scripts import known
from legible.corpus.prompts import Excluded, Prompt
from legible.errors import UserError
from legible.render.compose import SHORTEST, Sample, draw
from legible.render.dataset import sample_seed
from legible.render.faces import open_face
from legible.render.layout import block_of, flat
from legible.render.raster import Box, laid
from legible.render.shaping import Unshapable, shape
from legible.render.sign import Sign, union
from legible.render.typeset import Line, typeset
from legible.render.workers import in_processes

CHUNK = 32
TRIES = 100  # pictures in a row that may say an evaluation target or have no level line
LEVEL = 0.1  # of a letter's size: how far a baseline may rise or fall and the line still be level


def stage_bounds(render: Render, count: int) -> list[tuple[int, int]]:
    """First and last + 1 sample of each stage of `count`, by their shares, in order."""
    ends = np.cumsum([0.0, *(stage.share for stage in render.stages)])
    return list(pairwise(np.rint(ends * (count / ends[-1])).astype(int).tolist()))


def draw_pictures(
    render: Render, data: Data, split: str, count: int, excluded: Excluded, workers: int = 1
) -> tuple[list[Sign], Counter]:
    """Pictures 0 … `count` − 1 of a split, and why others were thrown away. The bytes do not depend on `workers`.

    Raises:
        UserError: a picture cannot be drawn by its stage's recipe.
    """
    arguments = []
    for number, (first, end) in enumerate(stage_bounds(render, count)):
        recipe = render.recipe_of(number, data.height, data.width)
        arguments += [
            (recipe, number, data.seed, split, excluded, low, min(low + CHUNK, end)) for low in range(first, end, CHUNK)
        ]
    signs: list[Sign] = []
    rejected: Counter = Counter()
    for part, thrown in in_processes(draw_chunk, arguments, workers, f"draw {split} pictures (×{CHUNK})"):
        signs += part
        rejected += thrown
    return signs, rejected


def draw_chunk(arguments: tuple[Recipe, int, int, str, Excluded, int, int]) -> tuple[list[Sign], Counter]:
    """One argument, so that a pool can map it."""
    cv2.setNumThreads(1)
    recipe, stage, seed, split, excluded, low, high = arguments
    rejected: Counter = Counter()
    return [draw_picture(recipe, stage, seed, split, excluded, i, rejected) for i in range(low, high)], rejected


def draw_picture(
    recipe: Recipe, stage: int, seed: int, split: str, excluded: Excluded, index: int, rejected: Counter
) -> Sign:
    """Sample `index` of a split: the first of its own stream of pictures that says no evaluation target.

    Raises:
        UserError: none of a hundred pictures did.
    """
    for attempt in range(TRIES):
        sample = draw(recipe, sample_seed(seed, f"{split}/{attempt}", index), index)
        rejected.update(sample.rejected)
        if any(excluded.hit(line.text) for line in sample.lines):
            rejected["excluded"] += 1
        elif sign := as_sign(sample, split, stage):
            return sign
        else:
            rejected["no level line"] += 1
    raise UserError(
        f"render: {TRIES} pictures in a row say a target of the prompt sets or have no level line; allow one in layouts"
        ", or take the shortest targets out of the prompt sets"
    )


def as_sign(sample: Sample, split: str, stage: int) -> Sign | None:
    """A picture as the rows of the dataset have it, with its level lines as regions; None without any.

    `kinds` are the scripts of these lines, `characters` the clusters that go with `character_boxes`.
    """
    numbers = [number for number, line in enumerate(sample.lines) if is_level(line)]
    boxes, words, found = [], [], []
    for number in numbers:
        own = [c for c, shown in zip(sample.clusters, sample.shown, strict=True) if c.line == number and c.ink_box]
        if not own or any(
            shown < 1 for c, shown in zip(sample.clusters, sample.shown, strict=True) if c.line == number
        ):
            continue  # a line that cannot be seen whole is no target
        boxes.append((number, union([c.ink_box for c in own])))
        words += [union(ink) for word in range(len(sample.words)) if (ink := boxes_of(own, word))]
        found += own
    if not boxes:
        return None
    lines = [sample.lines[number] for number, _ in boxes]
    return Sign(
        index=sample.index,
        split=split,
        lines=tuple(" ".join(line.text.split()) for line in lines),
        kinds=tuple(sample.script_of[number] for number, _ in boxes),
        caption=sample.caption,
        font=lines[0].font,
        font_size=round(lines[0].size),
        color="",
        background="",
        contrast=sample.contrast,
        image=sample.image,
        mask=sample.coverage,
        line_boxes=tuple(box for _, box in boxes),
        word_boxes=tuple(words),
        character_boxes=tuple(cluster.ink_box for cluster in found),
        characters=tuple(cluster.text for cluster in found),
        stage=stage,
    )


def boxes_of(clusters: Sequence, word: int) -> list[Box]:
    """Ink boxes of a word's clusters."""
    return [cluster.ink_box for cluster in clusters if cluster.word == word]


def is_level(line: Line) -> bool:
    """Whether a horizontal line's baseline stays where it begins."""
    horizontal = line.direction in ("left to right", "right to left")
    return horizontal and float(np.ptp(line.baseline[:, 1])) <= LEVEL * line.size


def draw_prompt(prompt: Prompt, data: Data, render: Render) -> Sign:
    """What a perfect model would draw for `prompt`: its targets as lines, as large as fits, black on white.

    Raises:
        UserError: no script of the recipe has its characters, or the lines do not fit.
    """
    recipe = render.recipe_of(0, data.height, data.width)
    names = [name for name, weight in recipe.scripts.items() if weight] or list(known().scripts)
    needed = set("".join("".join(prompt.targets).split()))
    name = next((name for name in names if needed <= set(known().scripts[name].repertoire)), None)
    if name is None:
        raise UserError(f"prompt '{prompt.id}': none of the scripts {', '.join(names)} has all of its characters")
    script = known().scripts[name]
    face = open_face(script.fonts[0])
    try:
        lines = [shape(t, face, script.code, script.languages[0], direction=script.direction) for t in prompt.targets]
    except Unshapable as error:
        raise UserError(f"prompt '{prompt.id}': {error}") from error
    block = block_of(lines)
    free = data.width - 2 * recipe.margin, data.height - 2 * recipe.margin
    size = float(min(free[0] / block.width, free[1] / block.height, recipe.size[1]))
    if size < SHORTEST:
        raise UserError(f"prompt '{prompt.id}': its targets do not fit on {data.width} × {data.height} pixels")
    left, top = (data.width - block.width * size) / 2, (data.height - block.height * size) / 2
    done = typeset(block, flat(size, left, top), size, (data.height, data.width), bends=False)
    mask = np.zeros((data.height, data.width), np.uint8)
    inked = [cluster for cluster in done.clusters if cluster.ink_box]
    x0, y0, x1, y1 = union([cluster.ink_box for cluster in inked])
    mask[y0:y1, x0:x1], _ = laid(done.inks, (x0, y0, x1, y1))
    return Sign(
        index=0,
        split="",
        lines=prompt.targets,
        kinds=(prompt.kind,) * len(prompt.targets),
        caption=prompt.prompt,
        font=face.name,
        font_size=round(size),
        color="black",
        background="white",
        contrast=21.0,
        image=np.repeat(255 - mask[..., None], 3, 2),
        mask=mask,
        line_boxes=tuple(union([c.ink_box for c in inked if c.line == line]) for line in range(len(lines))),
        word_boxes=tuple(union(own) for word in range(len(done.words)) if (own := boxes_of(inked, word))),
        character_boxes=tuple(cluster.ink_box for cluster in inked),
        characters=tuple(cluster.text for cluster in inked),
    )

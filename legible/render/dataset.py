"""The dataset: signs drawn one by one, each from its own seed, so that the bytes do not depend on the workers."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from legible.config import Data
from legible.corpus import templates
from legible.corpus.prompts import Excluded
from legible.corpus.words import DIGITS, LETTERS, Lists, load_lists, sample_line
from legible.errors import UserError
from legible.progress import progress
from legible.render.fonts import Font, check_text
from legible.render.sign import Sign, contrast_ratio, draw_sign

MAX_REJECTIONS = 1000
CHUNK = 250
REMEDY = {
    "contrast": "lower data.contrast",
    "overflow": "lower data.font_size or data.length, or enlarge data.width and data.height",
    "excluded": "raise data.length or take the shortest targets out of the prompt sets",
}
COLORS = tuple(templates.PALETTE)


def render_signs(
    data: Data,
    fonts: Sequence[Font],
    split: str,
    count: int,
    excluded: Excluded,
    workers: int = 1,
    start: int = 0,
    boxes: bool = True,
) -> tuple[list[Sign], Counter]:
    """Draw signs `start` … `start + count − 1` of a split ("train" or "test"), and count the rejections by reason.

    Sign i is drawn from a generator seeded by a hash of (`data.seed`, split, i), whatever `workers` and `count` are.

    Raises:
        UserError: a font lacks a character, or a sign was rejected 1000 times in a row.
    """
    lists = load_lists(data, split)
    for font in fonts:
        check_text(LETTERS if set(lists.kinds) - {"digits"} else "", font)
        check_text(DIGITS if "digits" in lists.kinds else "", font)
    if not fonts:
        raise UserError("fonts: no usable font")
    bounds = [(low, min(low + CHUNK, start + count)) for low in range(start, start + count, CHUNK)]
    arguments = [(data, tuple(fonts), split, excluded, boxes, low, high) for low, high in bounds]
    signs: list[Sign] = []
    rejections: Counter = Counter()
    label = f"render {split} signs (×{CHUNK})"
    if workers == 1 or len(arguments) < 2:
        for part, rejected in progress(map(render_chunk, arguments), label, len(arguments), "chunk"):
            signs += part
            rejections += rejected
        return signs, rejections
    with ProcessPoolExecutor(min(workers, len(arguments)), mp_context=get_context("spawn")) as pool:
        for part, rejected in progress(pool.map(render_chunk, arguments), label, len(arguments), "chunk"):
            signs += part
            rejections += rejected
    return signs, rejections


def render_chunk(arguments: tuple) -> tuple[list[Sign], Counter]:
    """Signs `low` … `high − 1`; one tuple of arguments, so that a pool can map it."""
    data, fonts, split, excluded, boxes, low, high = arguments
    lists = load_lists(data, split)
    rejections: Counter = Counter()
    return [render_sign(data, fonts, lists, excluded, i, boxes, rejections) for i in range(low, high)], rejections


def sample_seed(seed: int, split: str, index: int) -> int:
    """Seed of one sample: 128 bits of the SHA-256 of "seed/split/index"."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()[:16], "big")


def render_sign(
    data: Data,
    fonts: Sequence[Font],
    lists: Lists,
    excluded: Excluded,
    index: int,
    boxes: bool,
    rejections: Counter,
) -> Sign:
    """Draw proposals from sample `index`'s own stream until one is accepted; `rejections` counts the others."""
    rng = np.random.default_rng(sample_seed(data.seed, lists.split, index))
    mine: Counter = Counter()
    for _ in range(MAX_REJECTIONS):
        proposal = propose(rng, data, fonts, lists, excluded, index, boxes)
        if isinstance(proposal, Sign):
            rejections.update(mine)
            return proposal
        mine[proposal] += 1
    reason, times = mine.most_common(1)[0]
    raise UserError(
        f"data: sample {index} of the {lists.split} split was rejected {MAX_REJECTIONS} times, {times} times for"
        f" {reason}; {REMEDY[reason]}"
    )


def propose(
    rng: np.random.Generator,
    data: Data,
    fonts: Sequence[Font],
    lists: Lists,
    excluded: Excluded,
    index: int,
    boxes: bool,
) -> Sign | str:
    """One proposal, or the reason why it is rejected: "contrast", "excluded" or "overflow"."""
    color, background = (COLORS[i] for i in rng.integers(0, len(COLORS), 2))
    if contrast_ratio(templates.PALETTE[color], templates.PALETTE[background]) < data.contrast:
        return "contrast"
    count = int(rng.integers(data.lines[0], data.lines[1] + 1))
    lines, kinds = zip(*(sample_line(rng, data, lists) for _ in range(count)), strict=True)
    if any(excluded.hit(line) for line in lines):
        return "excluded"
    font = fonts[rng.integers(len(fonts))]
    size = int(rng.integers(data.font_size[0], data.font_size[1] + 1))
    jitter = tuple(rng.uniform(-1, 1, 2))
    caption = templates.caption(rng, lines, font.words, color, background)
    sign = draw_sign(
        lines,
        font,
        size,
        color,
        background,
        data,
        jitter,
        index=index,
        split=lists.split,
        kinds=kinds,
        caption=caption,
        boxes=boxes,
    )
    return sign or "overflow"

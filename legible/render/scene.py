"""Pictures without text, drawn from what their captions say."""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from legible.corpus.scenes import EVEN, Scene, Shares, draw_scene
from legible.corpus.templates import PALETTE
from legible.render.dataset import sample_seed
from legible.render.sign import blend_table, contrast_ratio

FINER = 4  # coverage is drawn so many times larger and averaged
CONTRAST = 3.0  # of two colours that must be told apart; WCAG asks it of graphical objects
HELD_OUT_SHARE = 8  # one caption of so many belongs to the test split


@dataclass(frozen=True, eq=False)
class Picture:
    """`image` is uint8 RGB [H, W, 3]."""

    scene: Scene
    image: np.ndarray


def split_of(caption: str) -> str:
    """The split that a caption belongs to: decided by its hash, so that no test caption is ever trained on."""
    return "train" if hashlib.sha256(caption.encode()).digest()[0] % HELD_OUT_SHARE else "test"


def draw_scenes(seed: int, split: str, count: int, height: int, width: int, shares: Shares = EVEN) -> list[Picture]:
    """Pictures 0 … count − 1 of a split ("train" or "test"), each from a stream of its own."""
    return [draw_one(seed, split, index, height, width, shares) for index in range(count)]


def draw_one(seed: int, split: str, index: int, height: int, width: int, shares: Shares = EVEN) -> Picture:
    """Propose scenes until one has contrast and a caption of this split, then draw it."""
    rng = np.random.default_rng(sample_seed(seed, f"scenes-{split}", index))
    while True:
        scene = draw_scene(rng, shares)
        enough = contrast_ratio(PALETTE[scene.color], PALETTE[scene.background]) >= CONTRAST
        if enough and split_of(scene.caption) == split:
            return Picture(scene, draw(scene, height, width, rng))


def draw(scene: Scene, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """The picture, uint8 [H, W, 3]; `rng` decides sizes and places."""
    coverage = DRAWERS[scene.kind](scene, height, width, rng)
    return blend_table(PALETTE[scene.color], PALETTE[scene.background])[coverage]


def reduced(canvas: np.ndarray) -> np.ndarray:
    """Coverage uint8 [H, W] from one that is FINER times as large."""
    height, width = (side // FINER for side in canvas.shape)
    return canvas.reshape(height, FINER, width, FINER).mean((1, 3)).round().astype(np.uint8)


def draw_shapes(scene: Scene, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """`count` shapes of one size beside one another, each a little off the middle of its cell."""
    canvas = Image.new("L", (width * FINER, height * FINER))
    pen = ImageDraw.Draw(canvas)
    cell = width / scene.count
    side = min(cell, height) - 4
    radius = side / 2 * rng.uniform(0.7, 1.0)
    for number in range(scene.count):
        free_x, free_y = cell / 2 - 1 - radius, height / 2 - 1 - radius
        x = cell * (number + 0.5) + rng.uniform(-0.7, 0.7) * free_x
        y = height / 2 + rng.uniform(-0.7, 0.7) * free_y
        draw_shape(pen, scene.shape, x * FINER, y * FINER, radius * FINER)
    return reduced(np.asarray(canvas))


def draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, radius: float) -> None:
    """One shape that fills the circle (or its square) of `radius` around (x, y)."""
    box, third = (x - radius, y - radius, x + radius, y + radius), radius / 3
    if shape in ("circle", "ring"):
        pen.ellipse(box, fill=255)
        if shape == "ring":
            inner = radius * 0.55
            pen.ellipse((x - inner, y - inner, x + inner, y + inner), fill=0)
    elif shape == "square":
        pen.rectangle((x - 0.85 * radius, y - 0.85 * radius, x + 0.85 * radius, y + 0.85 * radius), fill=255)
    elif shape == "triangle":
        pen.polygon([(x, box[1]), (box[2], box[3]), (box[0], box[3])], fill=255)
    elif shape == "diamond":
        pen.polygon([(x, box[1]), (box[2], y), (x, box[3]), (box[0], y)], fill=255)
    else:
        pen.rectangle((x - third, box[1], x + third, box[3]), fill=255)
        pen.rectangle((box[0], y - third, box[2], y + third), fill=255)


def draw_dots(_: Scene, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Small discs on a square grid."""
    canvas = Image.new("L", (width * FINER, height * FINER))
    pen, step = ImageDraw.Draw(canvas), float(rng.uniform(8, 11))
    radius, left, top = step * 0.24, rng.uniform(0, step), rng.uniform(0, step)
    for y in np.arange(top - step, height + step, step):
        for x in np.arange(left - step, width + step, step):
            pen.ellipse([side * FINER for side in (x - radius, y - radius, x + radius, y + radius)], fill=255)
    return reduced(np.asarray(canvas))


def wave(length: int, rng: np.random.Generator) -> np.ndarray:
    """Which pixels (FINER times as many) of a line belong to the first of two colours that alternate: bool."""
    step = rng.uniform(5, 9)
    return (np.arange(length * FINER) / FINER + rng.uniform(0, 2 * step)) // step % 2 == 0


def draw_stripes(scene: Scene, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Stripes of equal width, upright or level."""
    upright = scene.direction == "upright"
    line = wave(width if upright else height, rng)
    full = (height * FINER, width * FINER)
    return reduced(255.0 * np.broadcast_to(line if upright else line[:, None], full))


def draw_checks(_: Scene, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A chessboard."""
    return reduced(255.0 * (wave(height, rng)[:, None] ^ wave(width, rng)))


def draw_blend(scene: Scene, height: int, width: int, _: np.random.Generator) -> np.ndarray:
    """The first colour at the left (across) or the top (down), the second at the other side."""
    along = np.linspace(255, 0, width) if scene.direction == "across" else np.linspace(255, 0, height)[:, None]
    return np.broadcast_to(along, (height, width)).round().astype(np.uint8)


def draw_plain(_: Scene, height: int, width: int, __: np.random.Generator) -> np.ndarray:
    """Nothing on the ground."""
    return np.zeros((height, width), np.uint8)


DRAWERS = {
    "shapes": draw_shapes,
    "dots": draw_dots,
    "stripes": draw_stripes,
    "checks": draw_checks,
    "blend": draw_blend,
    "plain": draw_plain,
}

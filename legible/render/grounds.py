"""Grounds: what stands behind the text, uint8 RGB [H, W, 3], and the words that a caption has for it.

Each is a function of (generator, height, width, two colours). Colours are sRGB, 0..255.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from legible.errors import UserError

Rgb = tuple[int, int, int]
Ground = Callable[[np.random.Generator, int, int, Rgb, Rgb], np.ndarray]
PHOTOGRAPHS = {".jpg", ".jpeg", ".png", ".webp"}


@lru_cache(maxsize=8)
def places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of every pixel, float32 [H, W]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x, y


def between(first: Rgb, second: Rgb, share: np.ndarray) -> np.ndarray:
    """From the first colour (share 0) to the second one (255); `share` is uint8 [H, W]."""
    ramp = np.linspace(0, 1, 256)[:, None]
    table = np.rint(np.array(first) + (np.array(second) - np.array(first)) * ramp).astype(np.uint8)
    return cv2.applyColorMap(share, table[:, None])


def nearby(rng: np.random.Generator, color: Rgb, reach: int = 24) -> Rgb:
    """A colour that would still be called the same."""
    step = int(rng.integers(reach // 2, reach + 1)) * (1 if sum(color) < 384 else -1)
    return tuple(int(np.clip(c + step, 0, 255)) for c in color)


def flat(rng: np.random.Generator, height: int, width: int, first: Rgb, second: Rgb) -> np.ndarray:
    return np.full((height, width, 3), first, np.uint8)


def gradient(rng: np.random.Generator, height: int, width: int, first: Rgb, second: Rgb) -> np.ndarray:
    """From one colour to the other, in a direction of its own."""
    x, y = places(height, width)
    angle = rng.uniform(0, 2 * np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    low, high = along.min(), along.max()
    return between(first, second, ((along - low) * (255 / (high - low))).astype(np.uint8))


def clouds(rng: np.random.Generator, height: int, width: int, first: Rgb, second: Rgb) -> np.ndarray:
    """Value noise of three octaves between a colour and one nearby."""
    small = max(16, width // 4), max(16, height // 4)
    total = np.zeros(small[::-1], np.float32)
    for octave, weight in ((3, 0.6), (7, 0.27), (15, 0.13)):
        total += weight * cv2.resize(
            rng.random((octave, octave), dtype=np.float32), small, interpolation=cv2.INTER_CUBIC
        )
    share = cv2.resize(np.clip(total * 255, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    return between(first, nearby(rng, first, 60), share)


def stripes(rng: np.random.Generator, height: int, width: int, first: Rgb, second: Rgb) -> np.ndarray:
    """Stripes of a colour and one nearby, straight or slanting."""
    x, y = places(height, width)
    angle, period = rng.choice((0.0, np.pi / 2, np.pi / 4)), rng.uniform(0.05, 0.25) * max(height, width)
    phase = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * np.float32(1 / period)
    return between(first, nearby(rng, first, 48), ((phase - np.floor(phase)) > 0.5).astype(np.uint8) * 255)


def paper(rng: np.random.Generator, height: int, width: int, first: Rgb, second: Rgb) -> np.ndarray:
    """Fine fibres on a colour."""
    fibres = cv2.blur(rng.integers(0, 256, (height, width), np.uint8), (5, 1))
    return between(first, nearby(rng, first, 40), cv2.blur(fibres, (1, 2)))


def bricks(rng: np.random.Generator, height: int, width: int, first: Rgb, second: Rgb) -> np.ndarray:
    """Rows of bricks, each of its own tone, with lighter joints."""
    high = max(6, round(rng.uniform(0.06, 0.12) * max(height, width)))
    wide, joint = 2 * high + high // 2, max(1, high // 10)
    rows, columns = -(-height // high) + 1, -(-width // wide) + 2
    tones = rng.integers(0, 200, (rows, columns), np.uint8)
    share = np.empty((height, width), np.uint8)
    for row in range(rows):
        top = row * high
        if top >= height:
            break
        line = np.repeat(tones[row], wide)
        line[np.arange(len(line)) % wide < joint] = 255
        offset = (wide // 2) * (row % 2)
        share[top : top + high] = line[offset : offset + width]
        share[top : top + joint] = 255
    return between(first, nearby(rng, first, 70), share)


def bokeh(rng: np.random.Generator, height: int, width: int, first: Rgb, second: Rgb) -> np.ndarray:
    """Blurred discs of light."""
    share = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(6, 16))):
        centre = int(rng.integers(0, width)), int(rng.integers(0, height))
        radius = max(2, round(rng.uniform(0.04, 0.14) * max(height, width)))
        cv2.circle(share, centre, radius, int(rng.integers(60, 256)), -1)
    return between(first, nearby(rng, first, 80), cv2.blur(share, (max(3, width // 40),) * 2))


GROUNDS: dict[str, tuple[Ground, str]] = {  # name → how it is drawn, and what a caption calls it
    "flat": (flat, "on {first}"),
    "gradient": (gradient, "on {first} turning into {second}"),
    "clouds": (clouds, "on clouded {first}"),
    "stripes": (stripes, "on {first} stripes"),
    "paper": (paper, "on {first} paper"),
    "bricks": (bricks, "on a {first} brick wall"),
    "bokeh": (bokeh, "before {first} lights out of focus"),
}


@lru_cache(maxsize=4)
def photographs(folder: str) -> tuple[Path, ...]:
    """The pictures below a folder, sorted.

    Raises:
        UserError: there is none.
    """
    found = tuple(sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in PHOTOGRAPHS))
    if not found:
        raise UserError(f"photographs: {folder} has no picture ({', '.join(sorted(PHOTOGRAPHS))})")
    return found


def photograph(rng: np.random.Generator, height: int, width: int, folder: str) -> np.ndarray:
    """A random piece of a random picture of the folder, at least half of its shorter side wide.

    Raises:
        UserError: the file is no picture.
    """
    paths = photographs(folder)
    path = paths[int(rng.integers(len(paths)))]
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise UserError(f"photographs: {path} is no picture that can be read")
    have_high, have_wide = picture.shape[:2]
    scale = min(have_high / height, have_wide / width) * rng.uniform(0.5, 1.0)
    high, wide = max(1, int(height * scale)), max(1, int(width * scale))
    y, x = int(rng.integers(0, have_high - high + 1)), int(rng.integers(0, have_wide - wide + 1))
    piece = cv2.resize(picture[y : y + high, x : x + wide], (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(piece[..., ::-1])

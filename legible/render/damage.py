"""Damage to one letter of a drawn sign: what a judge of letters' shape must see, and what OCR overlooks.

A kind takes a letter's coverage, float [h, w] in 0 … 1 with `PAD` empty pixels around its ink, and returns it damaged.
Severity runs from 0 (nothing) to 1 and only ever adds: at one seed a severer damage is the milder one and more. What is
left well-formed is no damage: letters that a kind turns into themselves or into another letter are excluded by name,
and a change of less than `MIN_CHANGE` of the letter's ink does not count.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from legible.render.sign import Box

PAD = 3  # pixels around a letter into which damage may reach
MIN_CHANGE = 0.15  # of the letter's ink: the sum of what changes ÷ the sum of what was there
Kind = Callable[[np.ndarray, str, float, np.random.Generator], np.ndarray]

# Letters that a side less leaves as another letter, or as a shorter one of their own.
NOT_FROM_LEFT = frozenset("13468BIJNUVWXY")
NOT_FROM_TOP = frozenset("01468ABIJOQTUVY")


@dataclass(frozen=True)
class Damage:
    """One kind: `apply` damages a letter, `spared` are the letters that it leaves well-formed."""

    apply: Kind
    spared: frozenset[str] = frozenset()


def core(glyph: np.ndarray) -> np.ndarray:
    """The part within the margin, as a view."""
    return glyph[PAD:-PAD, PAD:-PAD]


def within(part: np.ndarray) -> np.ndarray:
    """A letter's inner part with its margin."""
    return np.pad(part, PAD)


def erased(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Up to 55 % of the letter is missing, from its left or its top on."""
    part, first = core(glyph).copy(), rng.random() < 0.5
    from_left = letter not in NOT_FROM_LEFT and (first or letter in NOT_FROM_TOP)
    size = part.shape[1] if from_left else part.shape[0]
    keep = np.clip(np.arange(size) + 1 - 0.55 * severity * size, 0, 1)  # the last pixel goes by its share
    return within(part * (keep[None] if from_left else keep[:, None]))


def exchanged(part: np.ndarray, other: np.ndarray, severity: float) -> np.ndarray:
    """The upper `severity` of the rows from `other`, the rest from `part`; a row between by its share."""
    share = np.clip(severity * len(part) - np.arange(len(part)), 0, 1)[:, None]
    return within(share * other + (1 - share) * part)


def upside_down(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Turned by 180°: at 1 the whole letter, below that its upper rows only."""
    return exchanged(core(glyph), core(glyph)[::-1, ::-1], severity)


def mirrored(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Left and right exchanged: at 1 in the whole letter, below that in its upper rows only."""
    return exchanged(core(glyph), core(glyph)[:, ::-1], severity)


def halves(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """The upper and the lower half change places: at 1 over the whole width, below that in the columns on the left."""
    part = core(glyph)
    return np.ascontiguousarray(exchanged(part.T, np.roll(part, len(part) // 2, axis=0).T, severity).T)


def speckled(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Up to 35 % of the pixels are inverted."""
    part = core(glyph)
    return within(np.where(rng.random(part.shape) < 0.35 * severity, 1 - part, part))


def broken(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A slanted gap across the whole letter, up to two fifths of its height wide."""
    height, width = core(glyph).shape
    y, x = np.mgrid[:height, :width] + 0.5
    middle, slope = height * rng.choice([0.36, 0.64]), np.tan(rng.uniform(-0.5, 0.5))
    distance = np.abs(y - middle - slope * (x - width / 2)) / np.hypot(1, slope)
    return within(core(glyph) * np.clip(distance + 1 - severity * (0.2 * height + 0.5), 0, 1))


def doubled(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A copy of the letter over it, shifted by up to a quarter of its height."""
    angle = rng.uniform(0, 2 * np.pi)
    shift = 0.25 * severity * core(glyph).shape[0]
    y, x = np.mgrid[: glyph.shape[0], : glyph.shape[1]].astype(float)
    where = [y - shift * np.sin(angle), x - shift * np.cos(angle)]
    return np.maximum(glyph, map_coordinates(glyph, where, order=1, mode="constant"))


def warped(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Pulled about smoothly, by up to a third of its height."""
    height = core(glyph).shape[0]
    fields = [gaussian_filter(rng.standard_normal(glyph.shape), 0.22 * height) for _ in range(2)]
    pull = [0.33 * severity * height * field / np.abs(field).max() for field in fields]
    y, x = np.mgrid[: glyph.shape[0], : glyph.shape[1]].astype(float)
    return map_coordinates(glyph, [y + pull[0], x + pull[1]], order=1, mode="constant")


def melted(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Run together: blurred by up to a fifth of its height, and inked again where it is half as dark as its darkest."""
    if severity == 0:
        return glyph.copy()
    blurred = gaussian_filter(glyph, 0.2 * severity * core(glyph).shape[0])
    run = np.clip(2.5 * blurred / max(blurred.max(), 1e-6) - 0.75, 0, 1)
    share = min(1.0, 4 * severity)  # from the letter itself to what it has run to
    return share * run + (1 - share) * glyph


def extra_stroke(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A slanted stroke across the letter that does not belong to it, up to its diagonal long."""
    height, width = core(glyph).shape
    angle = rng.choice([-1, 1]) * rng.uniform(0.45, 1.1)
    middle = PAD + np.array([height, width]) * rng.uniform(0.35, 0.65, 2)
    y, x = np.mgrid[: glyph.shape[0], : glyph.shape[1]] + 0.5
    along = (x - middle[1]) * np.cos(angle) + (y - middle[0]) * np.sin(angle)
    across = (y - middle[0]) * np.cos(angle) - (x - middle[1]) * np.sin(angle)
    half, thick = 0.5 * severity * np.hypot(height, width), max(1.0, 0.09 * height)
    if severity == 0:
        return glyph.copy()
    stroke = np.clip(half - np.abs(along) + 0.5, 0, 1) * np.clip(thick - np.abs(across) + 0.5, 0, 1)
    return np.maximum(glyph, stroke)


def blob(glyph: np.ndarray, letter: str, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A drop of ink where the letter has least: a filled counter; up to seven twentieths of its height in radius."""
    if severity == 0:
        return glyph.copy()
    height, width = core(glyph).shape
    empty = gaussian_filter(glyph, 0.15 * height)[PAD:-PAD, PAD:-PAD]
    inner = np.zeros_like(empty)
    inner[height // 4 : height - height // 4, width // 5 : width - width // 5] = 1
    weight = np.where(inner > 0, empty + 0.1 * rng.random(empty.shape), np.inf)
    place = np.unravel_index(np.argmin(weight), empty.shape)
    y, x = np.mgrid[: glyph.shape[0], : glyph.shape[1]]
    distance = np.hypot(y - PAD - place[0], x - PAD - place[1])
    return np.maximum(glyph, np.clip(0.35 * severity * height + 0.5 - distance, 0, 1))


DAMAGES = {
    "erased": Damage(erased, NOT_FROM_LEFT & NOT_FROM_TOP),
    "upside_down": Damage(upside_down, frozenset("0125689HIMNOSWXZ")),
    "halves": Damage(halves, frozenset("0138BEHIOX")),
    "speckled": Damage(speckled),
    "mirrored": Damage(mirrored, frozenset("018AHIMOTUVWXY")),
    "broken": Damage(broken),
    "doubled": Damage(doubled, frozenset("1I")),
    "warped": Damage(warped, frozenset("1I")),
    "melted": Damage(melted, frozenset("1I")),
    "extra_stroke": Damage(extra_stroke, frozenset("07OQZ")),
    "blob": Damage(blob),
}


def change(before: np.ndarray, after: np.ndarray) -> float:
    """How much of a letter changed: sum of the absolute differences ÷ sum of the ink before."""
    return float(np.abs(after - before).sum() / max(before.sum(), 1e-9))


def damaged_glyph(
    glyph: np.ndarray, letter: str, kind: str, severity: float, rng: np.random.Generator
) -> np.ndarray | None:
    """One letter by itself, damaged; None where the kind leaves it well-formed or nearly as it was.

    Args:
        glyph: coverage, float [h, w] in 0 … 1, its ink touching all four edges.
        letter: which one it is.
        kind: of `DAMAGES`.
        severity: 0 … 1.

    Returns:
        Coverage [h + 2·PAD, w + 2·PAD].

    Raises:
        ValueError: no such kind, or a severity beyond 0 … 1.
    """
    if kind not in DAMAGES or not 0 <= severity <= 1:
        raise ValueError(f"{kind!r}, {severity}: a kind of {', '.join(DAMAGES)} and a severity in 0 … 1 are needed")
    if letter in DAMAGES[kind].spared or min(glyph.shape) < 3:
        return None
    whole = within(glyph.astype(float))
    after = np.clip(DAMAGES[kind].apply(whole, letter, severity, rng), 0, 1)
    return after if change(whole, after) >= MIN_CHANGE else None


def damaged_mask(
    mask: np.ndarray, box: Box, letter: str, kind: str, severity: float, rng: np.random.Generator
) -> np.ndarray | None:
    """A sign's coverage, uint8 [H, W], with the letter in `box` damaged; None as in `damaged_glyph`.

    The other letters keep their ink, also where the damage reaches over it.
    """
    x0, y0, x1, y1 = box
    after = damaged_glyph(mask[y0:y1, x0:x1] / 255, letter, kind, severity, rng)
    if after is None:
        return None
    canvas = np.pad(mask, PAD)
    canvas[y0 + PAD : y1 + PAD, x0 + PAD : x1 + PAD] = 0
    window = canvas[y0 : y1 + 2 * PAD, x0 : x1 + 2 * PAD]
    window[:] = np.maximum(window, np.rint(255 * after).astype(np.uint8))
    return canvas[PAD:-PAD, PAD:-PAD]

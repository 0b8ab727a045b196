"""Pictures with text, drawn from what their captions say, with labels that are exact by construction.

A picture depends on its recipe, seed and number alone: any worker draws the same bytes. What cannot be drawn well (a
character that the font lacks, letters that do not stand out, a text that does not fit) is thrown away, counted under
the reason, and drawn anew.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import cv2
import numpy as np

from legible.config.render import Recipe
from legible.config.scripts import Script, known, words_of
from legible.corpus.templates import PALETTE
from legible.errors import UserError
from legible.render import grounds
from legible.render.captions import Said, english, own, own_ground
from legible.render.faces import Face, font_files, open_face
from legible.render.layout import Block, Warp, along, arc, block_of, flat, in_perspective, through
from legible.render.looks import Look, luminances, paint
from legible.render.raster import Box, Ink, laid, within
from legible.render.shaping import Unshapable, shape
from legible.render.sign import luminance
from legible.render.typeset import Cluster, Line, Typeset, Word, typeset

TRIES = 200  # of one picture
WIDEST_STRING, SHORTEST = 8, 8  # characters of a random string; pixels to the em, below which nothing is readable


class Rejected(Exception):
    """This draw is no good; the reason is counted."""


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and its labels.

    `image` uint8 RGB [H, W, 3]; `coverage` uint8 [H, W] of the letters' fill that can be seen; `ids` uint16 [H, W]:
    number + 1 in `clusters` of the one that has most of a pixel; `shown` [C]: the share of each cluster's ink that is
    in the picture and not hidden; `script_of` and `language_of` go line by line; `contrast`: the lowest of all texts;
    `rejected`: why earlier draws of this number were thrown away.
    """

    index: int
    caption: str
    image: np.ndarray
    coverage: np.ndarray
    ids: np.ndarray
    clusters: tuple[Cluster, ...]
    words: tuple[Word, ...]
    lines: tuple[Line, ...]
    shown: np.ndarray
    script_of: tuple[str, ...]
    language_of: tuple[str, ...]
    contrast: float
    rejected: Counter


@dataclass(frozen=True, eq=False)
class Text:
    """One text in its place, before it is painted."""

    set: Typeset
    size: float
    script: str
    language: str
    face: Face
    layout: str

    @property
    def box(self) -> Box:
        """Round all of its ink that is in the picture."""
        boxes = np.array([cluster.ink_box for cluster in self.set.clusters if cluster.ink_box])
        if not len(boxes):
            raise Rejected("a text leaves no ink in the picture")
        return (*map(int, boxes[:, :2].min(0)), *map(int, boxes[:, 2:].max(0)))


def draw(recipe: Recipe, seed: int, index: int) -> Sample:
    """Picture number `index`.

    Raises:
        UserError: after many draws none was good; the reasons are named.
    """
    rejected: Counter = Counter()
    for attempt in range(TRIES):
        try:
            return draw_once(recipe, np.random.default_rng((seed, index, attempt)), index, rejected)
        except (Rejected, Unshapable) as error:
            rejected[reason_of(error)] += 1
    reasons = ", ".join(f"{reason} ({count})" for reason, count in rejected.most_common(3))
    raise UserError(f"picture {index}: none of {TRIES} draws was good: {reasons}; ask for less in the recipe")


def reason_of(error: Exception) -> str:
    """What is counted: a rejection as it says, a line that cannot be shaped without the line itself."""
    return str(error) if isinstance(error, Rejected) else "a line cannot be shaped"


def draw_once(recipe: Recipe, rng: np.random.Generator, index: int, rejected: Counter) -> Sample:
    """One attempt."""
    height, width = recipe.height, recipe.width
    texts = [draw_text(recipe, rng, region) for region in regions(recipe, rng)]
    first, second = drawn_colors(rng)
    ground = pick(rng, recipe.grounds)
    if recipe.photographs and rng.random() < 0.5:
        picture, where = grounds.photograph(rng, height, width, recipe.photographs), " on a photograph"
        ground, first = "photograph", ""
    else:
        picture = grounds.GROUNDS[ground][0](rng, height, width, PALETTE[first], PALETTE[second])
        where = " " + grounds.GROUNDS[ground][1].format(first=first, second=second)
    if recipe.captions == "own":
        where = own_ground([text.language for text in texts], ground, first)
    inks = [ink for text in texts for ink in text.set.inks]
    coverage, ids = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint16)
    said, lowest, before = [], 21.0, 0
    for text in texts:
        x0, y0, x1, y1 = box = text.box
        ink, numbers = laid(text.set.inks, box)
        look, look_said = draw_look(recipe, rng, picture[y0:y1, x0:x1])
        contrast = paint(picture, ink, box, look, text.size, rng)
        if contrast < recipe.contrast:
            raise Rejected("letters do not stand out from the ground")
        # Places of texts do not overlap, but a tall accent may reach over: there the text above stays.
        free = ids[y0:y1, x0:x1] == 0
        np.copyto(ids[y0:y1, x0:x1], numbers + np.uint16(before), where=free & (numbers > 0))
        np.maximum(coverage[y0:y1, x0:x1], ink, out=coverage[y0:y1, x0:x1])
        before += len(text.set.inks)
        lowest = min(lowest, contrast)
        written = [line.text for line in text.set.lines]
        if recipe.captions == "own":
            said.append(own(rng, text.script, text.language, written, look_said))
        else:
            said.append(english(rng, written, text.face, text.layout, look_said))
    seen = hide(picture, texts, recipe, rng)
    photometry(picture, recipe, rng)
    clusters, written, lines = numbered(texts)
    coverage[~seen], ids[~seen] = 0, 0
    return Sample(
        index=index,
        caption=(" and " if recipe.captions == "english" else " · ").join(said) + where,
        image=picture,
        coverage=coverage,
        ids=ids,
        clusters=clusters,
        words=written,
        lines=lines,
        shown=np.array([share_shown(ink, seen) for ink in inks]) if not seen.all() else np.ones(len(inks)),
        script_of=tuple(text.script for text in texts for _ in text.set.lines),
        language_of=tuple(text.language for text in texts for _ in text.set.lines),
        contrast=lowest,
        rejected=rejected,
    )


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """A name, by its weight."""
    shares = np.array(list(weights.values()), dtype=np.float64)
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def regions(recipe: Recipe, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Disjoint places (x0, y0, x1, y1), one under another, for as many texts as the picture has."""
    count = int(rng.integers(recipe.texts[0], recipe.texts[1] + 1))
    edge = recipe.margin
    shares = np.cumsum([0, *rng.dirichlet(np.full(count, 6.0))])
    cuts = edge + np.rint(shares * (recipe.height - 2 * edge)).astype(int)
    return [(edge, int(a), recipe.width - edge, int(b)) for a, b in pairwise(cuts)]


def draw_text(recipe: Recipe, rng: np.random.Generator, region: tuple[int, int, int, int]) -> Text:
    """Choose script, language, face, layout and words, and set them into the region."""
    name = pick(rng, recipe.scripts or dict.fromkeys(known().scripts, 1.0))
    script = known().scripts[name]
    allowed = [code for code in script.languages if not recipe.languages or code in recipe.languages]
    if not allowed:
        raise Rejected(f"none of the languages is written in {name}")
    language = allowed[int(rng.integers(len(allowed)))]
    face = drawn_face(recipe, rng, script)
    layout = pick(rng, recipe.layouts)
    if layout == "vertical" and not script.vertical:
        layout = "line"
    many = layout in ("lines", "columns") or (layout in ("perspective", "vertical") and rng.random() < 0.5)
    count = int(rng.integers(recipe.lines[0], recipe.lines[1] + 1)) if many else 1
    texts = [drawn_line(recipe, rng, script, language, face) for _ in range(count)]
    vertical = layout == "vertical"
    shaped = [shape(t, face, script.code, language, direction=script.direction, vertical=vertical) for t in texts]
    align = ("left", "centre", "right", "justified")[int(rng.integers(4))]
    block = block_of(shaped, align, columns=2 if layout == "columns" else 1)
    wanted = float(rng.uniform(*recipe.size))
    return Text(*fitted(block, layout, wanted, region, recipe, rng), name, language, face, layout)


def drawn_face(recipe: Recipe, rng: np.random.Generator, script: Script) -> Face:
    """One of the script's fonts or the user's, its weight drawn in steps of 100 (so that few faces are open)."""
    names = script.fonts + font_files(recipe.fonts)
    name = names[int(rng.integers(len(names)))]
    axes = {info.tag: info for info in open_face(name).font.face.axis_infos}
    if "wght" not in axes:
        return open_face(name)
    low, high = round(axes["wght"].min_value / 100), round(axes["wght"].max_value / 100)
    return open_face(name, (("wght", 100.0 * int(rng.integers(low, high + 1))),))


def drawn_line(recipe: Recipe, rng: np.random.Generator, script: Script, language: str, face: Face) -> str:
    """Words of the language, or random characters of the script that the face has."""
    words = []
    for _ in range(int(rng.integers(recipe.words[0], recipe.words[1] + 1))):
        if rng.random() < recipe.strings:
            letters = letters_of(script.repertoire, face)
            if not letters:  # a font of symbols, say
                raise Rejected("a font has no letter of the script")
            words.append("".join(letters[i] for i in rng.integers(0, len(letters), rng.integers(1, WIDEST_STRING + 1))))
        else:
            listed = words_of(language)
            words.append(listed[int(rng.integers(len(listed)))])
    return " ".join(words)


@cache
def letters_of(repertoire: str, face: Face) -> str:
    """The letters and digits that the face has; marks, which need something to stand on, come with words."""
    return "".join(c for c in repertoire if c.isalnum() and not face.lacks(c))


def fitted(
    block: Block, layout: str, size: float, region: tuple[int, int, int, int], recipe: Recipe, rng: np.random.Generator
) -> tuple[Typeset, float]:
    """The block bent and set into the region, smaller if it must be."""
    x0, y0, x1, y1 = region
    bend = float(rng.uniform(0.4, 1.4) * rng.choice((-1, 1)))
    angle = float(rng.uniform(-0.35, 0.35))
    inwards = rng.uniform(0, 0.22, (4, 2))
    edge = perimeter(block)
    for _ in range(8):
        warp = warped(block, layout, size, bend, angle, inwards, recipe.curve)
        points = warp(edge)
        low, high = points.min(0), points.max(0)
        room = np.array([x1 - x0 - 2, y1 - y0 - 2]) / np.maximum(high - low, 1e-6)
        if room.min() >= 1:
            break
        size *= min(float(room.min()), 1.0) * 0.995
    else:
        raise Rejected("a text does not fit")
    if size < SHORTEST:
        raise Rejected("a text would be too small to read")
    spare = np.array([x1 - x0, y1 - y0]) - (high - low)
    shift = np.array([x0, y0]) - low + spare * rng.random(2)
    bends = layout in ("arc", "wave", "curve", "perspective")
    return typeset(block, lambda p: warp(p) + shift, size, (recipe.height, recipe.width), bends=bends), size


def perimeter(block: Block, steps: int = 33) -> np.ndarray:
    """Points round the block, and within: half an em of room for what leaves its line."""
    x, y = np.linspace(-0.15, block.width + 0.15, steps), np.linspace(-0.1, block.height + 0.1, 9)
    return np.stack([axis.ravel() for axis in np.meshgrid(x, y)], 1)


def warped(
    block: Block, layout: str, size: float, bend: float, angle: float, inwards: np.ndarray,
    curve: tuple[tuple[float, float], ...],
) -> Warp:  # fmt: skip
    """The layout's warp at this size, somewhere."""
    width, height = block.width * size, block.height * size
    if layout == "turned":
        return flat(size, 0, 0, angle)
    if layout == "arc":
        return along(arc(width, bend), size, block.height / 2)
    if layout == "curve":
        return along(through(curve, width), size, block.height / 2)
    if layout == "wave":
        x = np.linspace(0, width, 129)
        return along(
            np.stack([x, 0.08 * width * np.sin(x * (2 * np.pi / width) + angle * 9)], 1), size, block.height / 2
        )
    if layout == "perspective":
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        return in_perspective(flat(size, 0, 0), corners, corners + signs * inwards * (min(width, 4 * height), height))
    return flat(size, 0, 0)


def drawn_colors(rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.choice(len(PALETTE), 2, replace=False)
    return list(PALETTE)[int(first)], list(PALETTE)[int(second)]


def draw_look(recipe: Recipe, rng: np.random.Generator, ground: np.ndarray) -> tuple[Look, Said]:
    """A look for a piece of ground, and what a caption says of it."""
    shades = luminances(ground[:: max(1, ground.shape[0] // 24), :: max(1, ground.shape[1] // 24)].reshape(-1, 3))
    fits = [name for name in PALETTE if stands_out(name, (shades.min(), shades.max()), recipe.contrast)]
    if not fits:
        raise Rejected("no colour stands out from the ground")
    color, other = (fits[int(i)] for i in rng.integers(0, len(fits), 2))
    look, before, after, effects = Look(PALETTE[color]), [color], [], []
    fill = pick(rng, recipe.fills)
    if fill == "gradient" and other != color:
        look = replace(look, second=PALETTE[other], angle=float(rng.uniform(0, 2 * np.pi)))
        before = [f"{color} to {other}"]
    elif fill == "texture":
        look, before = replace(look, textured=True), [f"mottled {color}"]
    # What lies right under the letters must stand out from them as the ground does.
    own = [float(luminances(np.array([PALETTE[name]], np.uint8))[0]) for name in (color, other)]
    edges = [name for name in PALETTE if stands_out(name, (min(own), max(own)), 1.25 * recipe.contrast)]
    chance, edge = rng.random(4), edges[int(rng.integers(len(edges)))] if edges else None
    if chance[0] < recipe.outline and edge:
        look, after = replace(look, outline=(float(rng.uniform(0.03, 0.08)), PALETTE[edge])), [f"outlined in {edge}"]
        effects.append("outline")
    if chance[1] < recipe.shadow:
        right, down, blur = rng.uniform(0.03, 0.1, 3)
        look = replace(look, shadow=(float(right), float(down), float(blur) / 2, float(rng.uniform(0.4, 0.8))))
        after.append("with a shadow")
        effects.append("shadow")
    if chance[2] < recipe.glow and edge:
        look = replace(look, glow=(float(rng.uniform(0.1, 0.25)), PALETTE[edge]))
        before.insert(0, "glowing")
        effects.append("glow")
    if chance[3] < recipe.extrusion and edge:
        depth, angle = float(rng.uniform(0.05, 0.15)), float(rng.uniform(0, 2 * np.pi))
        look = replace(look, extrusion=(depth, angle, PALETTE[edge]))
        before.insert(0, "raised")
        effects.append("extrusion")
    return look, Said(color, " ".join(before), " ".join(after), tuple(effects))


def stands_out(name: str, shades: tuple[float, float], contrast: float) -> bool:
    """Whether a colour has this contrast ratio to both ends of a range of luminance."""
    own = luminance(PALETTE[name])
    return all((max(own, shade) + 0.05) / (min(own, shade) + 0.05) >= contrast for shade in shades)


def hide(picture: np.ndarray, texts: list[Text], recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Lay a bar over a part of one text, if the recipe says so; what is still seen, bool [H, W]."""
    seen = np.ones(picture.shape[:2], bool)
    if rng.random() >= recipe.hidden:
        return seen
    text = texts[int(rng.integers(len(texts)))]
    x, y = text.set.lines[0].polygon.mean(0)
    wide, high = text.size * rng.uniform(0.4, 1.2), text.size * rng.uniform(0.3, 0.8)
    x, y = x + text.size * rng.uniform(-1, 1), y + text.size * rng.uniform(-0.3, 0.3)
    rows, columns = (
        slice(max(0, int(y - high / 2)), int(y + high / 2)),
        slice(max(0, int(x - wide / 2)), int(x + wide / 2)),
    )
    picture[rows, columns] = PALETTE[drawn_colors(rng)[0]]
    seen[rows, columns] = False
    return seen


def photometry(picture: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> None:
    """Light, blur and noise, in place."""
    height, width = picture.shape[:2]
    chance = rng.random(3)
    if chance[0] < recipe.light:
        x, y = grounds.places(height, width)
        angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.5)
        slope = (x / width - 0.5) * np.float32(np.cos(angle)) + (y / height - 0.5) * np.float32(np.sin(angle))
        share = np.clip(255 * (1 - depth * (slope + 0.5)), 0, 255).astype(np.uint8)
        cv2.multiply(picture, cv2.merge([share] * 3), picture, scale=1 / 255)
    if chance[1] < recipe.blur:
        cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.0)), picture)
    if chance[2] < recipe.noise:
        bits = int(rng.integers(2, 5))  # of the noise's strength: up to 3, 7 or 15 levels more and less
        up, down = (rng.integers(0, 256, picture.shape, np.uint8) >> (8 - bits) for _ in range(2))
        cv2.subtract(cv2.add(picture, up), down, picture)


def numbered(texts: list[Text]) -> tuple[tuple[Cluster, ...], tuple[Word, ...], tuple[Line, ...]]:
    """The labels of all texts, their lines and words counted through the picture."""
    clusters, words, lines = [], [], []
    for text in texts:
        clusters += [
            replace(c, line=c.line + len(lines), word=c.word + len(words) if c.word >= 0 else -1)
            for c in text.set.clusters
        ]
        words += [replace(word, line=word.line + len(lines)) for word in text.set.words]
        lines += text.set.lines
    return tuple(clusters), tuple(words), tuple(lines)


def share_shown(ink: Ink | None, seen: np.ndarray) -> float:
    """The share of a cluster's ink within the picture and not hidden; 1 for what has none."""
    if ink is None:
        return 1.0
    if (place := within(ink, (0, 0, seen.shape[1], seen.shape[0]))) is None:
        return 0.0
    where, part = place
    return float((part * seen[where]).sum(dtype=np.int64) / ink.coverage.sum(dtype=np.int64))

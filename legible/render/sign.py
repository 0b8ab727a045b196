"""One sign: text on a plain background, with its glyph mask and ink-tight boxes.

Boxes are (x0, y0, x1, y1) in pixels, half-open, around the pixels that really got ink: what `textbbox` reports starts
at the pen's origin and ends at its advance instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from legible.config import Data
from legible.corpus.prompts import Prompt
from legible.corpus.templates import PALETTE
from legible.errors import UserError
from legible.render.fonts import Font, check_text, load_face

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Sign:
    """A rendered sign.

    `image` is uint8 RGB [H, W, 3], `mask` the glyph coverage, uint8 [H, W], 0..255; `lines` and `kinds` go line by
    line; `color` and `background` are palette names; boxes follow the reading order. `characters` go with
    `character_boxes`; None: they are the letters of the lines, one by one. `stage`: of the curriculum.
    """

    index: int
    split: str
    lines: tuple[str, ...]
    kinds: tuple[str, ...]
    caption: str
    font: str
    font_size: int
    color: str
    background: str
    contrast: float
    image: np.ndarray
    mask: np.ndarray
    line_boxes: tuple[Box, ...]
    word_boxes: tuple[Box, ...]
    character_boxes: tuple[Box, ...]
    characters: tuple[str, ...] | None = None
    stage: int = 0


def luminance(color: tuple[int, int, int]) -> float:
    """Relative luminance of an sRGB colour (0..255 per channel), 0..1. Source: WCAG 2.2."""
    scaled = [channel / 255 for channel in color]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in scaled]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@lru_cache(maxsize=4096)
def contrast_ratio(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    """Contrast ratio of two sRGB colours, 1..21. Source: WCAG 2.2, success criterion 1.4.3."""
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


@lru_cache(maxsize=4096)
def blend_table(color: tuple[int, int, int], background: tuple[int, int, int]) -> np.ndarray:
    """Colour for every glyph coverage, uint8 [256, 3]: background + (color − background) · coverage / 255."""
    share = np.arange(256, dtype=np.float64)[:, None] / 255
    low, high = np.array(background, dtype=np.float64), np.array(color, dtype=np.float64)
    return np.rint(low + (high - low) * share).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Line:
    """One line drawn: `ink` is the coverage, cropped to its ink; (x, y) is where the crop lies relative to the pen."""

    ink: Image.Image
    x: int
    y: int


def draw_line(text: str, path: str, size: int) -> Line | None:
    """Draw `text` at `size` pixels; None when it leaves no ink."""
    face = load_face(path, size, text.isascii())
    width, pad = int(face.getlength(text)) + 4 * size, 2 * size
    canvas = Image.new("L", (width, 4 * size))
    ImageDraw.Draw(canvas).text((pad, pad), text, fill=255, font=face, anchor="ls")
    box = canvas.getbbox()
    return None if box is None else Line(canvas.crop(box), box[0] - pad, box[1] - pad)


@lru_cache(maxsize=65536)
def character_ink(character: str, path: str, size: int) -> Box | None:
    """Ink box of one character relative to its pen position on the baseline; None when it has no ink."""
    line = draw_line(character, path, size)
    return None if line is None else (line.x, line.y, line.x + line.ink.width, line.y + line.ink.height)


def character_boxes(text: str, path: str, size: int) -> list[Box | None]:
    """Ink box of every character relative to the line's pen origin, kerning included; None without ink."""
    face = load_face(path, size, text.isascii())
    boxes: list[Box | None] = []
    for i, character in enumerate(text):
        ink = character_ink(character, path, size)
        # The advance up to and with this character, less its own: where its pen stands, kerning before it included.
        pen = round(face.getlength(text[: i + 1]) - face.getlength(character))
        boxes.append(ink and (ink[0] + pen, ink[1], ink[2] + pen, ink[3]))
    return boxes


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box around all boxes."""
    x0, y0, x1, y1 = zip(*boxes, strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def word_boxes(text: str, boxes: Sequence[Box | None]) -> list[Box]:
    """One box per whitespace-separated word of `text`, from the boxes of its characters."""
    words: list[list[Box]] = [[]]
    for character, box in zip(text, boxes, strict=True):
        if character.isspace():
            words.append([])
        elif box is not None:
            words[-1].append(box)
    return [union(word) for word in words if word]


def shifted(box: Box, x: int, y: int) -> Box:
    return box[0] + x, box[1] + y, box[2] + x, box[3] + y


def set_lines(lines: Sequence[str], font: Font, size: int) -> tuple[list[Line], list[tuple[int, int]], int, int] | None:
    """Draw the lines at `size` and stack them, centred on one another by their ink.

    Returns the drawn lines, the place of each one's ink in the block, the block's width and height; None without ink.
    """
    drawn = [line for line in (draw_line(text, font.path, size) for text in lines) if line is not None]
    if len(drawn) < len(lines):
        return None
    width = max(line.ink.width for line in drawn)
    step = round(1.1 * size)
    tops = [line.y + i * step for i, line in enumerate(drawn)]
    bottom = max(top + line.ink.height for top, line in zip(tops, drawn, strict=True))
    places = [((width - line.ink.width) // 2, top - min(tops)) for top, line in zip(tops, drawn, strict=True)]
    return drawn, places, width, bottom - min(tops)


def draw_sign(
    lines: Sequence[str],
    font: Font,
    size: int,
    color: str,
    background: str,
    data: Data,
    jitter: tuple[float, float] = (0.0, 0.0),
    *,
    index: int = 0,
    split: str = "",
    kinds: tuple[str, ...] = (),
    caption: str = "",
    boxes: bool = True,
) -> Sign | None:
    """Draw a sign of `data.height` × `data.width` pixels; None when the text overflows its margins.

    Args:
        size: font size in pixels to begin with; it shrinks step by step to `data.font_size[0]` until the text fits.
        color, background: names in the palette.
        jitter: shift from the centre in units of `data.jitter`, −1..1 to the right and down; stays inside the margins.
        boxes: without them (several times faster for large pools) only the line boxes are computed.
    """
    free_width, free_height = data.width - 2 * data.margin, data.height - 2 * data.margin
    for fitted in range(size, min(size, data.font_size[0]) - 1, -1):
        block = set_lines(lines, font, fitted)
        if block is not None and block[2] <= free_width and block[3] <= free_height:
            break
    else:
        return None
    drawn, places, width, height = block
    left, top = (data.width - width) // 2, (data.height - height) // 2
    left = min(max(left + round(jitter[0] * data.jitter), data.margin), data.width - data.margin - width)
    top = min(max(top + round(jitter[1] * data.jitter), data.margin), data.height - data.margin - height)

    canvas = Image.new("L", (data.width, data.height))
    line_boxes, words, characters = [], [], []
    for text, line, (x, y) in zip(lines, drawn, places, strict=True):
        x, y = x + left, y + top
        # Pasting by its own coverage keeps the ink of the line before it where the two overlap.
        canvas.paste(255 if len(lines) > 1 else line.ink, (x, y), line.ink if len(lines) > 1 else None)
        line_boxes.append((x, y, x + line.ink.width, y + line.ink.height))
        if boxes:
            inked = [b and shifted(b, x - line.x, y - line.y) for b in character_boxes(text, font.path, fitted)]
            characters += [b for b in inked if b is not None]
            words += word_boxes(text, inked)
    mask = np.array(canvas)
    foreground, ground = PALETTE[color], PALETTE[background]
    return Sign(
        index=index,
        split=split,
        lines=tuple(lines),
        kinds=kinds,
        caption=caption,
        font=font.name,
        font_size=fitted,
        color=color,
        background=background,
        contrast=contrast_ratio(foreground, ground),
        image=blend_table(foreground, ground)[mask],
        mask=mask,
        line_boxes=tuple(line_boxes),
        word_boxes=tuple(words),
        character_boxes=tuple(characters),
    )


def draw_prompt(prompt: Prompt, data: Data, fonts: Sequence[Font]) -> Sign:
    """What a perfect model would draw for `prompt`: its targets as lines, as large as `data.font_size` and fit allow.

    The prompt's font and colours where it names them, else the first font, white on dark green.

    Raises:
        UserError: the font is unknown or lacks characters, or the text does not fit.
    """
    font = fonts[0] if prompt.font is None else next((f for f in fonts if f.name == prompt.font and f.usable), None)
    if font is None:
        raise UserError(f"prompt '{prompt.id}': the font '{prompt.font}' was not found or is not usable")
    for target in prompt.targets:
        check_text(target, font)
    sign = draw_sign(
        prompt.targets,
        font,
        data.font_size[1],
        prompt.color or "white",
        prompt.background or "dark green",
        data,
        kinds=(prompt.kind,) * len(prompt.targets),
        caption=prompt.prompt,
    )
    if sign is None:
        raise UserError(
            f"prompt '{prompt.id}': its targets do not fit on {data.width} × {data.height} pixels at font size"
            f" {data.font_size[0]}; enlarge data.width and data.height or lower data.font_size"
        )
    return sign

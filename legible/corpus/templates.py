"""Captions that read like prompts, and the colours that they name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# sRGB, 0..255. Chosen so that every colour has at least four partners of a contrast ratio of 4.5 or more.
PALETTE: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "yellow": (255, 221, 0),
    "red": (200, 0, 0),
    "blue": (20, 60, 200),
    "green": (0, 128, 0),
    "orange": (255, 140, 0),
    "brown": (110, 60, 20),
    "purple": (110, 30, 140),
    "gray": (128, 128, 128),
    "dark green": (0, 70, 30),
    "dark blue": (0, 20, 90),
    "dark red": (110, 0, 10),
}

# All three have four words before the quotation mark: a small model finds the text at a fixed place and learns faster.
TEMPLATES = (
    "a sign that says {quoted} in {style} letters on {background}",
    "a board that reads {quoted} in {style} letters on {background}",
    "a label with text {quoted} in {style} letters on {background}",
)

# Every word with which a font may be described (legible.render.fonts).
FONT_WORDS = ("plain", "light", "bold", "italic", "condensed", "serif", "roman", "monospaced")


def caption(
    rng: "np.random.Generator", lines: Sequence[str], font_words: Sequence[str], color: str, background: str
) -> str:
    """A caption for a sign, its template drawn from `rng`.

    Args:
        lines: the text, one or more lines; each appears in double quotes.
        font_words: words for the font, may be empty.
        color, background: names in `PALETTE`.
    """
    quoted = " and ".join(f'"{line}"' for line in lines)
    style = " ".join((*font_words, color))
    return TEMPLATES[rng.integers(len(TEMPLATES))].format(quoted=quoted, style=style, background=background)


def quoted_strings(text: str) -> list[str]:
    """The strings between double quotes in a caption, in order."""
    return text.split('"')[1::2]


def vocabulary() -> list[str]:
    """Every word that a caption can contain outside the quoted text, sorted."""
    words = {"and", *FONT_WORDS}
    for template in TEMPLATES:
        words.update(template.format(quoted="", style="", background="").split())
    for name in PALETTE:
        words.update(name.split())
    return sorted(words)

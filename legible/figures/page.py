"""A page that is laid out in inches: pictures on whole pixels, readings with their errors marked."""

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea
from PIL import Image
from rapidfuzz.distance import Levenshtein

from legible.corpus.text import characters, normalize
from legible.figures.style import INK, PALE, SMALL, WRONG, drawable

MISSING = "_"


@dataclass(frozen=True)
class Read:
    """What one engine read in one picture."""

    engine: str
    target: str
    text: str
    profile: str
    cer: float


def mark_errors(target: str, text: str, profile: str) -> list[tuple[str, str]]:
    """The reading piece by piece as (piece, "right" | "wrong" | "missing" | "ignored"), missing characters as "_".

    "ignored" is what the normalisation `profile` removes before comparing. Wrong and missing pieces together are as
    many as the edit distance of the score, for texts whose characters are normalised one by one.
    """
    joined = profile == "lenient" and " " not in normalize(target, profile)

    def key(character: str) -> str:
        return " " if character.isspace() and not joined else normalize(character, profile)

    wanted = [k for k in map(key, characters(normalize(target, profile))) if k]
    pieces = [(character, key(character)) for character in characters(text)]
    found = [k for _, k in pieces if k]
    state, gaps = ["right"] * len(found), [0] * (len(found) + 1)
    for operation in Levenshtein.editops(wanted, found):
        if operation.tag == "delete":
            gaps[operation.dest_pos] += 1
        else:
            state[operation.dest_pos] = "wrong"
    marked, place = [(MISSING, "missing")] * gaps[0], 0
    for character, compared in pieces:
        if not compared:
            marked.append((character, "ignored"))
            continue
        marked.append((character, state[place]))
        place += 1
        marked += [(MISSING, "missing")] * gaps[place]
    return marked


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """`image` at `width` × `height` pixels.

    A small image keeps its pixels visible as squares: enlarged by a whole number, then reduced by averaging to the size
    asked for. A large one is reduced with Lanczos.
    """
    picture, factor = Image.fromarray(image), -(-width // image.shape[1])
    if width < image.shape[1]:
        return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    enlarged = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return np.asarray(enlarged.resize((width, height), Image.Resampling.BOX))


def break_name(name: str, width: int) -> str:
    """A heading broken after underscores where a line is longer than `width` characters."""
    lines = []
    for line in name.split("\n"):
        lines += textwrap.wrap(line.replace("_", "_ "), width) if len(line) > width else [line]
    return "\n".join(lines).replace("_ ", "_")


class Page:
    """A figure addressed in inches from its upper left corner, for pictures that must fall on whole pixels."""

    def __init__(self, width: float, height: float, dpi: int) -> None:
        self.figure = Figure(figsize=(width, height), dpi=dpi)
        self.width, self.height, self.dpi = width, height, dpi

    def text(self, x: float, y: float, text: str, **style: object) -> None:
        """Text whose upper edge is at `y`."""
        style = {"va": "top", "fontsize": SMALL, **style}
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)

    def picture(self, image: np.ndarray, x: float, y: float, width: float, height: float) -> Axes:
        """`image` inside the box, centred, its proportions kept; the axes count in pixels of the image."""
        rows, columns = image.shape[:2]
        factor = min(width * self.dpi / columns, height * self.dpi / rows)
        wide, high = max(1, round(columns * factor)), max(1, round(rows * factor))
        left = round(x * self.dpi + (width * self.dpi - wide) / 2)
        bottom = round((self.height - y) * self.dpi - high)
        full = (self.width * self.dpi, self.height * self.dpi)
        axes = self.figure.add_axes((left / full[0], bottom / full[1], wide / full[0], high / full[1]))
        kind = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.ndim == 2 else {}
        axes.imshow(resized(image, wide, high), interpolation="nearest", extent=(0, columns, rows, 0), **kind)
        axes.set(aspect="auto", xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="#bbbbbb", linewidth=0.5)
        return axes

    def reading(self, x: float, y: float, read: Read, room: int) -> None:
        """A reading of at most `room` characters, centred at `x`, errors in another colour and weight, then its CER."""
        marked = [(drawable(piece), state) for piece, state in mark_errors(read.target, read.text, read.profile)]
        if sum(len(piece) for piece, _ in marked) > room:
            ends = np.cumsum([len(piece) for piece, _ in marked])
            marked = [*marked[: max(1, int((ends < room).sum()))], ("…", "ignored")]
        runs: list[tuple[str, str]] = []
        for piece, state in marked:
            state = "wrong" if state == "missing" else state
            if runs and runs[-1][1] == state:
                runs[-1] = (runs[-1][0] + piece, state)
            else:
                runs.append((piece, state))
        styles = {"right": {"color": INK}, "wrong": {"color": WRONG, "weight": "bold"}, "ignored": {"color": PALE}}
        parts = [TextArea(text, textprops={"family": "monospace", "size": SMALL, **styles[s]}) for text, s in runs]
        parts.append(TextArea(f"  {read.cer:.2f}", textprops={"size": SMALL, "color": PALE}))
        box = HPacker(children=parts, pad=0, sep=0, align="baseline")
        place = (x / self.width, 1 - y / self.height)
        self.figure.add_artist(
            AnnotationBbox(box, place, xycoords="figure fraction", box_alignment=(0.5, 1), frameon=False, pad=0)
        )


def shorten(text: str, width: int, lines: int) -> str:
    """`text` in at most `lines` lines of `width` characters, cut with an ellipsis."""
    return "\n".join(textwrap.wrap(text, width, max_lines=max(1, lines), placeholder=" …"))

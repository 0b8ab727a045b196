"""Shaping: a line of text as glyphs in visual order, by HarfBuzz, run by run (direction × script).

A label cluster is what a reader takes for one character: the smallest piece of text that neither HarfBuzz (ligatures,
reordering) nor Unicode (`\\X`, extended grapheme clusters) divides. Source: UAX #9, #24, #29.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import regex
import uharfbuzz as hb
from bidi import algorithm

from legible.render.faces import Face

LONGEST = 2_000  # characters of a line; longer ones are refused, not laid out for minutes
# ISO 15924 → Unicode's property value; Han, kana and Hangul besides Latin can share a line.
SCRIPTS = {
    **{"Latn": "Latin", "Grek": "Greek", "Cyrl": "Cyrillic", "Arab": "Arabic", "Hebr": "Hebrew", "Deva": "Devanagari"},
    **{"Thai": "Thai", "Hang": "Hangul", "Hira": "Hiragana", "Kana": "Katakana", "Hani": "Han"},
}
SCRIPT_OF = regex.compile("|".join(rf"(?P<{code}>\p{{Script={name}}})" for code, name in SCRIPTS.items()))
GRAPHEME = regex.compile(r"\X")
SHAPED_AS = {"Jpan": "Hani", "Hans": "Hani"}  # HarfBuzz knows scripts, not writing systems
# No ligatures that a spelling does not demand: "ffi" would be one label.
FEATURES = {"liga": False, "clig": False, "dlig": False}


class Unshapable(ValueError):
    """A line that this face cannot draw as it should be; the message says why. Counted, and another one is drawn."""


@dataclass(frozen=True, eq=False)
class Shaped:
    """A line of glyphs in visual order.

    `glyphs` [G]; `places` [G, 2] in em from the line's origin, y upwards; `owners` [G]: the label cluster of each;
    `spans`: where each label cluster lies in `text`, in reading order; `pens` [C, 2]: where each begins and ends along
    the line, in em; `advance` in em; `vertical`: it runs from top to bottom.
    """

    text: str
    face: Face
    glyphs: np.ndarray
    places: np.ndarray
    owners: np.ndarray
    spans: tuple[tuple[int, int], ...]
    pens: np.ndarray
    advance: float
    vertical: bool

    @property
    def clusters(self) -> list[str]:
        """The text of each label cluster, in reading order."""
        return [self.text[start:end] for start, end in self.spans]


def shape(
    text: str,
    face: Face,
    script: str,
    language: str,
    *,
    direction: str = "left to right",
    vertical: bool = False,
    features: tuple[tuple[str, bool], ...] = (),
) -> Shaped:
    """Shape one line.

    Args:
        script: ISO 15924, of characters that belong to none (digits, punctuation) at the line's beginning.
        direction: of the line as a whole.
        features: OpenType features, on top of FEATURES.

    Raises:
        Unshapable: a character is missing in the face, is a control, or the line is empty or too long.
    """
    check(text, face)
    wanted = FEATURES | dict(features)
    levels = [0] * len(text) if vertical else bidi_levels(text, direction)
    glyphs, clusters, places, along, upem = [], [], [], 0.0, face.upem
    pens: dict[int, tuple[float, float]] = {}
    for start, end, level, code in visual_runs(levels, scripts_of(text, script)):
        way = "ttb" if vertical else ("rtl" if level % 2 else "ltr")
        infos, positions = shape_run(text, start, end, face, code, language, way, wanted)
        for info, position in zip(infos, positions, strict=True):
            if info.codepoint == 0:
                raise Unshapable(f"the font {face.name} has no glyph for '{text[info.cluster]}' in '{text}'")
            step = (-position.y_advance if vertical else position.x_advance) / upem
            right, up = position.x_offset / upem, position.y_offset / upem
            places.append((right, up - along) if vertical else (right + along, up))
            glyphs.append(info.codepoint)
            clusters.append(info.cluster)
            low, high = pens.get(info.cluster, (along, along + step))
            pens[info.cluster] = min(low, along, along + step), max(high, along, along + step)
            along += step
    starts = label_starts(text, clusters)
    owners = np.searchsorted(starts, clusters, side="right") - 1
    spans = tuple(zip(starts, [*starts[1:], len(text)], strict=True))
    own = [[pens[i] for i in range(a, b) if i in pens] for a, b in spans]
    reach = np.array([(min(low for low, _ in each), max(high for _, high in each)) for each in own])
    return Shaped(text, face, np.array(glyphs), np.array(places), owners, spans, reach, along, vertical)


def check(text: str, face: Face) -> None:
    """Refuse what cannot be drawn before HarfBuzz sees it."""
    if not text.strip():
        raise Unshapable("the line is empty")
    if len(text) > LONGEST:
        raise Unshapable(f"the line has {len(text)} characters; at most {LONGEST} are drawn")
    for character in text:
        kind = unicodedata.category(character)
        if kind in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp") or (kind == "Cf" and character not in "\u200c\u200d"):
            raise Unshapable(f"U+{ord(character):04X} in the line is no character that can be drawn")
    if unicodedata.category(text[0]).startswith("M"):
        raise Unshapable(f"the line begins with U+{ord(text[0]):04X}, a mark with nothing to stand on")
    if missing := face.lacks(text):
        raise Unshapable(f"the font {face.name} lacks '{missing}' of '{text}'")


def shape_run(
    text: str, start: int, end: int, face: Face, code: str, language: str, way: str, features: dict[str, bool]
) -> tuple[Sequence[hb.GlyphInfo], Sequence[hb.GlyphPosition]]:
    """HarfBuzz on one run, which sees the text around it (joins go on across a change of script)."""
    buffer = hb.Buffer()
    buffer.add_codepoints([ord(c) for c in text], item_offset=start, item_length=end - start)
    buffer.direction, buffer.script, buffer.language = way, SHAPED_AS.get(code, code), language
    hb.shape(face.font, buffer, features)
    return buffer.glyph_infos, buffer.glyph_positions


@lru_cache(maxsize=4096)
def bidi_levels(text: str, direction: str) -> list[int]:
    """The embedding level of each character (UAX #9); joiners, which have none, take that of what is before them."""
    base = 1 if direction == "right to left" else 0
    kept = [i for i, c in enumerate(text) if unicodedata.bidirectional(c) != "BN"]
    storage = algorithm.get_empty_storage()
    storage["base_level"], storage["base_dir"] = base, ("L", "R")[base]
    algorithm.get_embedding_levels("".join(text[i] for i in kept), storage)
    for resolve in (
        algorithm.explicit_embed_and_overrides,
        algorithm.resolve_weak_types,
        lambda found: algorithm.resolve_neutral_types(found, False),
        lambda found: algorithm.resolve_implicit_levels(found, False),
    ):
        resolve(storage)
    own = dict(zip(kept, (entry["level"] for entry in storage["chars"]), strict=True))
    levels, last = [], base
    for i in range(len(text)):
        last = own.get(i, last)
        levels.append(last)
    return levels


def visual_runs(levels: Sequence[int], scripts: Sequence[str]) -> list[tuple[int, int, int, str]]:
    """Runs (start, end, level, script) of one level and one script, in visual order (UAX #9, rule L2)."""
    runs: list[tuple[int, int, int, str]] = []
    for i, (level, code) in enumerate(zip(levels, scripts, strict=True)):
        if runs and runs[-1][2:] == (level, code):
            runs[-1] = (runs[-1][0], i + 1, level, code)
        else:
            runs.append((i, i + 1, level, code))
    for threshold in range(max(levels), 0, -1):
        i = 0
        while i < len(runs):
            j = i
            while j < len(runs) and runs[j][2] >= threshold:
                j += 1
            runs[i:j] = reversed(runs[i:j])
            i = j + 1
    return runs


def scripts_of(text: str, script: str) -> list[str]:
    """The script of each character; what is of none goes with what is before it, at the beginning with `script`."""
    codes, last = [], script
    for character in text:
        match = SCRIPT_OF.match(character)
        last = match.lastgroup if match else last
        codes.append(last)
    return codes


def label_starts(text: str, clusters: Sequence[int]) -> list[int]:
    """Where label clusters begin: where both HarfBuzz's and Unicode's do, and at the beginning."""
    graphemes = {match.start() for match in GRAPHEME.finditer(text)}
    return sorted((graphemes & set(clusters)) | {0})

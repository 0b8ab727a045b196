"""The panel: signs with one inner letter damaged, read by every judge. What a judge still reads right, it overlooks.

Every string is shown undamaged (`none`), with another letter in the place of one (`other_letter`: a judge that reads
the target there reads nothing at all), and with each kind of damage that does not leave the letter well-formed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from PIL import Image

from legible.config import Calibration, Data, Kinds
from legible.corpus.templates import PALETTE
from legible.corpus.text import normalize
from legible.corpus.words import Lists, load_lists, sample_line
from legible.errors import UserError
from legible.metrics.text import joined_like
from legible.ocr import Engine, in_reading_order
from legible.ocr.glyphs import OpenedGlyphJudge
from legible.render.damage import DAMAGES, damaged_mask
from legible.render.fonts import Font
from legible.render.sign import Sign, blend_table, draw_sign
from legible.seeds import Stream

NONE, OTHER_LETTER = "none", "other_letter"
KINDS = (NONE, OTHER_LETTER, *DAMAGES)
TRIES = 2000
KEYS = ["judge", "font", "text", "kind", "severity"]
Sees = Callable[[Sequence["Shown"]], list[bool]]


@dataclass(frozen=True, eq=False)
class Shown:
    """One picture of the panel: what it should say, whether that is a "word" or a "nonword", and what was done."""

    target: str
    text: str
    font: str
    kind: str
    severity: float
    image: Image.Image


def panel(settings: Calibration, data: Data, fonts: Sequence[Font]) -> Iterator[Shown]:
    """The pictures of the panel; the letter that is damaged neither begins nor ends its string.

    Args:
        data: size, margin, script and lengths of the signs; strings are of its test split.
        fonts: one of `settings.fonts` each.

    Raises:
        UserError: a string of three characters or more that fits on the sign was not found.
    """
    for font in fonts:
        for text, count in (("word", settings.words), ("nonword", settings.nonwords)):
            for number, sign in enumerate(drawn_strings(settings, data, font, text, count)):
                for shown in variants(settings, data, font, sign, number):
                    yield replace(shown, text=text)


def drawn_strings(settings: Calibration, data: Data, font: Font, text: str, count: int) -> list[Sign]:
    """`count` different strings of three characters or more as signs."""
    lists = load_lists(data.model_copy(update={"kinds": kinds_of(text)}), "test")
    rng = np.random.default_rng([settings.seed, int(Stream.PANEL), int(text == "word")])
    found: dict[str, Sign] = {}
    for _ in range(TRIES):
        if len(found) == count:
            return list(found.values())
        target = sample_line(rng, data, lists)[0]
        if len(target) >= 3 and target not in found and (sign := drawn(settings, data, font, target)):
            found[target] = sign
    raise UserError(
        f"calibration: {len(found)} of {count} {text}s of three letters or more fit on {data.width} × {data.height} "
        f"pixels in {font.name}, {settings.font_size} px; ask for fewer, or enlarge data.width or data.length"
    )


def kinds_of(text: str) -> Kinds:
    """What is drawn: words of both lists, or non-words, alone."""
    word = float(text == "word")
    return Kinds(word=word, rare=word, nonword=1 - word, digits=0.0)


def drawn(settings: Calibration, data: Data, font: Font, target: str) -> Sign | None:
    """The sign, None where its string does not fit."""
    return draw_sign((target,), font, settings.font_size, settings.color, settings.background, data)


def variants(settings: Calibration, data: Data, font: Font, sign: Sign, number: int) -> Iterator[Shown]:
    """One sign in all its states; kinds that spare all of its inner letters are missing."""
    target, table = sign.lines[0], blend_table(PALETTE[sign.color], PALETTE[sign.background])

    def shown(kind: str, severity: float, pixels: np.ndarray) -> Shown:
        return Shown(target, "", font.name, kind, severity, Image.fromarray(pixels))

    def chance() -> np.random.Generator:  # the same letter and the same damage at every severity
        return np.random.default_rng([settings.seed, int(Stream.DAMAGE), number])

    yield shown(NONE, 0.0, sign.image)
    if other := replaced(settings, data, font, target, chance()):
        yield shown(OTHER_LETTER, 1.0, other.image)
    for kind in DAMAGES:
        for severity in settings.severities:
            for place in 1 + chance().permutation(len(target) - 2):
                box, letter = sign.character_boxes[place], target[place]
                mask = damaged_mask(sign.mask, box, letter, kind, severity, chance())
                if mask is not None:
                    yield shown(kind, severity, table[mask])
                    break


def replaced(settings: Calibration, data: Data, font: Font, target: str, rng: np.random.Generator) -> Sign | None:
    """The sign with another letter in the place of an inner one, None where none of some tries fits."""
    lists: Lists = load_lists(data, "test")
    for _ in range(TRIES // 100):
        place, letter = int(rng.integers(1, len(target) - 1)), lists.letters[int(rng.integers(len(lists.letters)))]
        if letter != target[place] and (
            sign := drawn(settings, data, font, target[:place] + letter + target[place + 1 :])
        ):
            return sign
    return None


def reads_target(engine: Engine) -> Sees:
    """Whether an engine reads the target, without case, punctuation and, as in the scores, spaces."""

    def sees(pictures: Sequence[Shown]) -> list[bool]:
        found = []
        for picture in pictures:
            target = normalize(picture.target, "lenient")
            reading = " ".join(piece.text for piece in in_reading_order(engine.read(picture.image)))
            found.append(joined_like(target, normalize(reading, "lenient")) == target)
        return found

    return sees


def calls_well_formed(judge: OpenedGlyphJudge) -> Sees:
    """Whether the glyph judge finds no malformed letter."""
    return lambda pictures: [p < judge.threshold for p in judge.probabilities([shown.image for shown in pictures])]


def overlooked(pictures: Sequence[Shown], judge: str, sees: Sees) -> pd.DataFrame:
    """A row for each font, word or non-word, kind and severity: `share` of the `n` pictures that pass.

    To pass is to be read as the target by an engine, or called well-formed by the glyph judge: right where nothing is
    damaged, and an oversight where something is.
    """
    rows = [
        {"judge": judge, "font": shown.font, "text": shown.text, "kind": shown.kind, "severity": shown.severity}
        | {"passes": passes}
        for shown, passes in zip(pictures, sees(pictures), strict=True)
    ]
    table = pd.DataFrame(rows).groupby(KEYS, as_index=False).agg(share=("passes", "mean"), n=("passes", "size"))
    order = {kind: place for place, kind in enumerate(KINDS)}
    return table.sort_values(KEYS, key=lambda column: column.map(order) if column.name == "kind" else column)

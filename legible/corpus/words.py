"""The strings on the signs: common words, rare words, non-words and digits, in the capitals of one script.

Letters and digits are never mixed in one string: 0/O and 1/I could not be told apart, so no score could be fair.
"""

import hashlib
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from legible.config import Data
from legible.config.scripts import script_called, words_of
from legible.errors import UserError

WORD_FOLDER = Path(__file__).resolve().parents[2] / "resources" / "words"
LATIN = "latin"
DIGITS = "0123456789"
HELD_OUT_PERCENT = 15
MAX_TRIES = 1000


@dataclass(frozen=True)
class Lists:
    """What one split may draw.

    `common` and `rare` hold this split's words of a configured length; `known` every listed word (a non-word is none
    of them); `letters` are the script's; `kinds` the kinds that can be drawn and `cumulative` their cumulative
    probabilities, ending at 1.
    """

    split: str
    common: tuple[str, ...]
    rare: tuple[str, ...]
    known: frozenset[str]
    letters: str
    kinds: tuple[str, ...]
    cumulative: tuple[float, ...]


@lru_cache
def letters_of(script: str) -> str:
    """The capitals of a script.

    Raises:
        UserError: there is no such script, or its letters do not stand alone.
    """
    if not (letters := script_called(script).alphabet):
        raise UserError(f"data.script: plain signs cannot be written in {script}: its letters join or stack")
    return letters


def in_capitals(word: str, letters: str) -> str:
    """`word` in capitals; an accent that makes no letter of its own (Greek's, not that of Й) is left out."""
    capitals = unicodedata.normalize("NFC", word.upper())
    return "".join(c if c in letters else unicodedata.normalize("NFD", c)[0] for c in capitals)


@lru_cache
def word_lists(script: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Common and rare words of a script, in capitals: Latin's own lists, or CLDR's words of its languages."""
    if script == LATIN:
        return read_words("common"), read_words("rare")
    letters = letters_of(script)
    words = (in_capitals(word, letters) for language in script_called(script).languages for word in words_of(language))
    return tuple(sorted({word for word in words if set(word) <= set(letters)})), ()


@lru_cache
def read_words(name: str) -> tuple[str, ...]:
    """The words of `resources/words/{name}.txt` in file order: uppercase A-Z, one a line."""
    path = WORD_FOLDER / f"{name}.txt"
    try:
        words = path.read_text(encoding="utf-8").split()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such word list") from error
    for number, word in enumerate(words, 1):
        if not set(word) <= set(letters_of(LATIN)):
            raise UserError(f"{path}, line {number}: '{word}' must be one word in the capitals A to Z")
    return tuple(words)


@lru_cache(maxsize=65536)
def is_held_out(text: str) -> bool:
    """Whether `text` belongs to the test split: a stable hash of the string itself, so no list has to be kept."""
    digest = hashlib.sha256(f"held-out/{text.upper()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


@lru_cache
def load_lists(data: Data, split: str) -> Lists:
    """The strings that `split` ("train" or "test") may draw under `data.length` and `data.kinds`.

    Raises:
        UserError: no word of the configured length is left for any kind with a weight above 0.
    """
    low, high = data.length
    common, rare = word_lists(data.script)
    fits = {
        name: tuple(w for w in words if low <= len(w) <= high and is_held_out(w) == (split == "test"))
        for name, words in (("word", common), ("rare", rare))
    }
    weights = {kind: getattr(data.kinds, kind) for kind in ("word", "rare", "nonword", "digits")}
    usable = {kind: w for kind, w in weights.items() if w > 0 and (kind not in fits or fits[kind])}
    if not usable:
        raise UserError(f"data.length: no listed word of {low} to {high} letters is left for the {split} split")
    cumulative = tuple(float(c) for c in np.cumsum(list(usable.values())) / sum(usable.values()))
    letters = letters_of(data.script)
    return Lists(split, fits["word"], fits["rare"], frozenset(common + rare), letters, tuple(usable), cumulative)


def sample_line(rng: np.random.Generator, data: Data, lists: Lists) -> tuple[str, str]:
    """Draw one line of text and its kind: "word", "rare", "nonword" (letters) or "digits".

    Words come uniformly from the list; the length of the others is uniform in `data.length`. A string that the hash
    gives to the other split is drawn again.

    Raises:
        UserError: `data.length` leaves no string for this split.
    """
    draw = rng.random()
    kind = next((k for k, c in zip(lists.kinds, lists.cumulative, strict=True) if draw < c), lists.kinds[-1])
    if kind in ("word", "rare"):
        words = lists.common if kind == "word" else lists.rare
        return words[rng.integers(len(words))], kind
    alphabet = lists.letters if kind == "nonword" else DIGITS
    for _ in range(MAX_TRIES):
        length = rng.integers(data.length[0], data.length[1] + 1)
        text = "".join(alphabet[i] for i in rng.integers(0, len(alphabet), length))
        if text not in lists.known and is_held_out(text) == (lists.split == "test"):
            return text, kind
    raise UserError(f"data.length: {list(data.length)} leaves no {kind} string for the {lists.split} split")

"""What captions say of a picture: in English, sentences; in a text's own language, a sentence and labels."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import yaml

from legible.config.scripts import known
from legible.fingerprint import ROOT
from legible.render.faces import Face

LOOKS = ROOT / "resources" / "words" / "looks.yaml"
ENGLISH = ("a sign that says {quoted}", "a poster that reads {quoted}", "the text {quoted}", "a page with {quoted}")
PLACED = {
    "line": "",
    "lines": "in several lines",
    "columns": "in two columns",
    "vertical": "from top to bottom",
    "turned": "at a slant",
    "arc": "along an arc",
    "wave": "along a wave",
    "curve": "along a curve",
    "perspective": "seen at an angle",
}


@dataclass(frozen=True)
class Said:
    """Of a look: its colour, the English words before "letters" and after, and the effects that it has."""

    color: str
    before: str
    after: str
    effects: tuple[str, ...]


@cache
def looks() -> dict[str, dict]:
    """Language → the words of resources/words/looks.yaml."""
    return yaml.safe_load(LOOKS.read_text(encoding="utf-8"))


def english(rng: np.random.Generator, lines: list[str], face: Face, layout: str, said: Said) -> str:
    """A sentence with all that can be seen of one text."""
    weight = dict(face.axes).get("wght", 400.0)
    style = ["bold"] if weight >= 600 else (["light"] if weight <= 300 else [])
    quoted = " ".join(f'"{line}"' for line in lines)
    sentence = ENGLISH[int(rng.integers(len(ENGLISH)))].format(quoted=quoted)
    letters = " ".join((*style, said.before, *face.words, "letters"))
    return " ".join(part for part in (sentence, "in", letters, said.after, PLACED[layout]) if part)


def own(rng: np.random.Generator, script: str, language: str, lines: list[str], said: Said) -> str:
    """A sentence in the text's language; where its words are known, colour and effects of the letters, as labels."""
    sentences = known().scripts[script].sentences
    sentence = sentences[int(rng.integers(len(sentences)))].format(text=" ".join(lines))
    if language not in looks():
        return sentence
    words = looks()[language]
    effects = [words["looks"][effect] for effect in said.effects]
    return f"{sentence}; {words['letters']}: {', '.join([words['colors'][said.color], *effects])}"


def own_ground(languages: list[str], ground: str, color: str) -> str:
    """The ground, as a label in the first of the languages whose words are known; empty without any."""
    for language in languages:
        if words := looks().get(language):
            shown = [words["grounds"][ground], *([words["colors"][color]] if color else [])]
            return f"; {words['ground']}: {', '.join(shown)}"
    return ""

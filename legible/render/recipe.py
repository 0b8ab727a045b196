"""What is drawn: every element of a picture with its probability, and three named presets (a curriculum)."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from legible.config.section import Fraction, NonNegative, Positive, Section
from legible.render.grounds import GROUNDS
from legible.render.scripts import known

LAYOUTS = ("line", "lines", "columns", "vertical", "turned", "arc", "wave", "perspective")
FILLS = ("flat", "gradient", "texture")
Side = Annotated[int, Field(ge=16, le=8192, strict=True)]
Pair = tuple[Positive, Positive]
Weights = dict[str, NonNegative]


class Recipe(Section):
    """A kind of picture. Weights need not sum to 1; 0 switches an element off, as does leaving it out."""

    height: Side = 512
    width: Side = 512
    scripts: Weights = Field({}, description="script → weight; empty = all of resources/scripts.yaml alike")
    languages: tuple[str, ...] = Field((), description="only these of a script's languages; empty = all")
    texts: Pair = Field((1, 3), description="texts in a picture, each with a look and a place of its own")
    lines: Pair = Field((2, 4), description="lines of a text of several")
    words: Pair = Field((1, 3), description="words of a line")
    strings: Fraction = Field(0.2, description="share of words that are random characters: what no word list reaches")
    size: Pair = Field((20, 110), description="pixels to the em, before a text shrinks to fit")
    margin: Annotated[int, Field(ge=0, le=512, strict=True)] = Field(8, description="pixels kept free all around")
    layouts: Weights = Field(
        {"line": 4, "lines": 2, "columns": 1, "vertical": 1, "turned": 1, "arc": 1, "wave": 1, "perspective": 2}
    )
    grounds: Weights = Field({name: 1.0 for name in GROUNDS})
    photographs: str | None = Field(None, description="folder of pictures; half of the grounds are then out of them")
    fills: Weights = Field({"flat": 3, "gradient": 1, "texture": 1})
    outline: Fraction = 0.2
    shadow: Fraction = 0.2
    glow: Fraction = 0.1
    extrusion: Fraction = 0.1
    light: Fraction = Field(0.2, description="one side of the picture darker than the other")
    blur: Fraction = 0.1
    noise: Fraction = 0.2
    hidden: Fraction = Field(0.0, description="part of a text behind something")
    contrast: Annotated[float, Field(ge=1, le=10)] = Field(
        3.0, description="of letters and what lies under them (WCAG)"
    )
    captions: Literal["english", "own"] = Field(
        "english", description="english says how it looks; own = a sentence in the text's language, which does not"
    )

    @field_validator("layouts", "fills", "grounds", "scripts")
    @classmethod
    def some(cls, weights: dict[str, float], info: object) -> dict[str, float]:
        allowed = {"layouts": LAYOUTS, "fills": FILLS, "grounds": tuple(GROUNDS), "scripts": tuple(known().scripts)}
        for name in weights:
            if name not in allowed[info.field_name]:
                raise ValueError(f"'{name}' is not among {', '.join(allowed[info.field_name])}")
        if weights and not any(weights.values()):
            raise ValueError("at least one weight must be above 0")
        return weights

    @field_validator("texts", "lines", "words", "size")
    @classmethod
    def ordered(cls, pair: tuple[int, int]) -> tuple[int, int]:
        if pair[0] > pair[1]:
            raise ValueError("the first number must not be above the second")
        return pair

    @model_validator(mode="after")
    def roomy(self) -> "Recipe":
        if 2 * self.margin + 8 > min(self.height, self.width):
            raise ValueError(f"margin: {self.margin} leaves no room on {self.width} × {self.height} pixels")
        for code in self.languages:
            if not any(code in script.languages for script in known().scripts.values()):
                raise ValueError(f"languages: '{code}' is no language of resources/scripts.yaml")
        return self


PLAIN = {"outline": 0.0, "shadow": 0.0, "glow": 0.0, "extrusion": 0.0, "light": 0.0, "blur": 0.0, "noise": 0.0}
# As Qwen-Image's report (arXiv 2508.02324) orders its rendered data: text alone, text in scenes, filled-in templates.
PRESETS: dict[str, dict] = {
    "pure": {"texts": (1, 1), "layouts": {"line": 1}, "grounds": {"flat": 1}, "fills": {"flat": 1}, **PLAIN},
    "scenes": {"texts": (1, 2)},
    "templates": {
        "texts": (2, 4),
        "layouts": {"line": 2, "lines": 3, "columns": 2},
        "grounds": {"flat": 2, "gradient": 1, "paper": 1},
        **PLAIN,
    },
}

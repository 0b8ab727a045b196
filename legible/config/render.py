"""What the text engine draws: every element of a picture with its probability, three named presets, a curriculum."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from legible.config.scripts import known
from legible.config.section import SIDE, Fraction, NonNegative, Pair, PositiveFloat, Section
from legible.errors import describe
from legible.wording import under

GROUNDS = ("flat", "gradient", "clouds", "stripes", "paper", "bricks", "bokeh")
LAYOUTS = ("line", "lines", "columns", "vertical", "turned", "arc", "wave", "curve", "perspective")
FILLS = ("flat", "gradient", "texture")
Side = Annotated[int, Field(ge=16, le=SIDE, strict=True)]
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
    curve: tuple[tuple[float, float], ...] = Field(
        (),
        description="points of the layout `curve`, to the right and down, in any scale; a smooth line joins them",
    )
    fonts: tuple[str, ...] = Field((), description="further font files, or folders of them, beside a script's own")
    grounds: Weights = Field(dict.fromkeys(GROUNDS, 1.0))
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
        "english", description="english says how it looks; own = in the text's language (resources/words/looks.yaml)"
    )

    @field_validator("layouts", "fills", "grounds", "scripts")
    @classmethod
    def some(cls, weights: dict[str, float], info: object) -> dict[str, float]:
        allowed = {"layouts": LAYOUTS, "fills": FILLS, "grounds": GROUNDS, "scripts": tuple(known().scripts)}
        for name in weights:
            if name not in allowed[info.field_name]:
                raise ValueError(f"'{name}' is not among {', '.join(allowed[info.field_name])}")
        if weights and not any(weights.values()):
            raise ValueError("at least one weight must be above 0")
        if math.isinf(sum(weights.values())):
            raise ValueError("the sum of the weights must be a finite number; lower them")
        return weights

    @field_validator("texts", "lines", "words", "size")
    @classmethod
    def ordered(cls, pair: tuple[int, int]) -> tuple[int, int]:
        if pair[0] > pair[1]:
            raise ValueError(f"the first number must not be above the second, got {list(pair)}")
        return pair

    @model_validator(mode="after")
    def roomy(self) -> "Recipe":
        if 2 * self.margin + 8 > min(self.height, self.width):
            raise ValueError(f"margin: {self.margin} leaves no room on {self.width} × {self.height} pixels")
        if self.layouts.get("curve") and len(set(self.curve)) < max(2, len(self.curve)):
            raise ValueError("curve: the layout `curve` needs two points or more, all different")
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


class Stage(Section):
    """One stage of the curriculum."""

    preset: Literal["pure", "scenes", "templates"]
    share: PositiveFloat = Field(1.0, description="of the samples, beside the other stages' shares")
    recipe: dict[str, Any] = Field({}, description="what this stage has otherwise than the section's own recipe")


class Render(Section):
    """Draw the dataset with the text engine (docs/TEXT_ENGINE.md); size and number are those of `data`."""

    stages: tuple[Stage, ...] = Field((Stage(preset="scenes"),), min_length=1, description="in order")
    recipe: dict[str, Any] = Field(
        {}, description="laid over every stage's preset: scripts, texts, layouts, grounds, outline … (Recipe)"
    )
    encoding: Literal["jpeg", "png"] = "png"

    @model_validator(mode="after")
    def drawable(self) -> "Render":
        """Wrong recipes stop here, not after an hour of drawing."""
        if math.isinf(sum(stage.share for stage in self.stages)):
            raise ValueError("stages: the sum of their shares must be a finite number; lower them")
        for number in range(len(self.stages)):
            self.recipe_of(number, 512, 512)
        return self

    @property
    def places(self) -> list[str]:
        """The font files, and folders of fonts and photographs, that its recipes name."""
        recipes = [self.recipe_of(number, 512, 512) for number in range(len(self.stages))]
        return sorted({place for recipe in recipes for place in (*recipe.fonts, recipe.photographs) if place})

    def recipe_of(self, number: int, height: int, width: int) -> Recipe:
        """The recipe of a stage for pictures of `height` × `width` pixels."""
        stage = self.stages[number]
        for place, settings in (("recipe", self.recipe), (f"stages.{number}.recipe", stage.recipe)):
            if taken := [key for key in ("height", "width") if key in settings]:
                raise ValueError(f"{place}.{taken[0]}: the size is that of `data`; leave it out here")
        try:
            merged = PRESETS[stage.preset] | self.recipe | stage.recipe
            return Recipe.model_validate({"height": height, "width": width, **merged})
        except ValidationError as error:
            raise ValueError(
                under(f"stages, entry {number + 1}, recipe" if stage.recipe else "recipe", describe(error))
            ) from error

"""Captions of pictures without text: grounds, patterns and simple named shapes. Other sentences than those of signs."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from legible.corpus.templates import PALETTE

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["shapes", "dots", "stripes", "checks", "blend", "plain"]

COUNTS = ("one", "two", "three", "four")
SHAPES = {name: f"{name}s" for name in ("circle", "square", "triangle", "diamond", "ring")} | {"cross": "crosses"}
# Directions: the pattern changes to the right, or downwards.
STRIPED, BLENDED = ("upright", "level"), ("across", "down")
TEMPLATES: dict[Kind, str] = {
    "shapes": "{count} {color} {shape} on {background}",
    "dots": "{color} dots on {background}",
    "stripes": "{direction} {color} and {background} stripes",
    "checks": "{color} and {background} checks",
    "blend": "{color} turning into {background} {direction}",
    "plain": "a plain {background} ground",
}
# Further phrasings, with which nano's Z-Image learns the same scenes; its drift prompts use none of them.
PHRASINGS: dict[Kind, tuple[str, ...]] = {
    "shapes": (
        "a {background} ground with {count} {color} {shape}",
        "on {background} {count} {color} {shape}",
        "{count} {shape} in {color} on a {background} ground",
        "{count} {shape} in {color} on {background}",
    ),
    "dots": (
        "a {background} ground with {color} dots",
        "on {background} {color} dots",
        "dots in {color} on {background}",
    ),
    "stripes": (
        "{direction} stripes in {color} and {background}",
        "a ground with {direction} {color} and {background} stripes",
    ),
    "checks": ("checks in {color} and {background}", "a ground with {color} and {background} checks"),
    "blend": (
        "{direction} {color} turning into {background}",
        "a ground with {color} turning into {background} {direction}",
    ),
    "plain": ("a ground in plain {background}",),
}
# What nothing is trained with: the drift prompts, whose anchor and model know the parts, but not these sentences.
UNSEEN: dict[Kind, str] = {
    "shapes": "a {background} ground with {count} {shape} in {color}",
    "dots": "a {background} ground with dots in {color}",
    "stripes": "a ground with {direction} stripes in {color} and {background}",
    "checks": "a ground with checks in {color} and {background}",
    "blend": "a ground with {direction} {color} turning into {background}",
    "plain": "a {background} ground",
}
# Shapes are what an attribute check can count: half of all.
SHARES: dict[Kind, float] = {"shapes": 0.5, "dots": 0.1, "stripes": 0.12, "checks": 0.1, "blend": 0.12, "plain": 0.06}
COLORS = tuple(PALETTE)


@dataclass(frozen=True)
class Scene:
    """What a picture without text shows; `count`, `shape` and `direction` only where its kind has them."""

    kind: Kind
    color: str
    background: str
    count: int = 0
    shape: str = ""
    direction: str = ""

    @property
    def caption(self) -> str:
        """Its sentence."""
        return self.phrased(TEMPLATES[self.kind])

    def phrased(self, template: str) -> str:
        """Its sentence after one of the templates of its kind."""
        shape = SHAPES[self.shape] if self.count > 1 else self.shape
        count = COUNTS[self.count - 1] if self.count else ""
        return template.format(
            count=count, shape=shape, color=self.color, background=self.background, direction=self.direction
        )


@dataclass(frozen=True)
class Shares:
    """How often a scene is of each kind and, among shapes, of each shape; both sum to one. No `shapes`: all alike."""

    kinds: dict[Kind, float] = field(default_factory=lambda: SHARES)
    shapes: dict[str, float] | None = None

    @property
    def of_shapes(self) -> list[float] | None:
        """The shares in the order of SHAPES; None: all alike."""
        return None if self.shapes is None else [self.shapes[shape] for shape in SHAPES]


EVEN = Shares()


def draw_scene(rng: "np.random.Generator", shares: Shares = EVEN) -> Scene:
    """A scene drawn from `rng`; its two colours differ."""
    kind = rng.choice(list(shares.kinds), p=list(shares.kinds.values()))
    color, background = rng.choice(len(COLORS), 2, replace=False)
    colors = {"color": COLORS[color], "background": COLORS[background]}
    if kind == "shapes":
        return Scene(
            kind, **colors, count=int(rng.integers(1, 5)), shape=str(rng.choice(list(SHAPES), p=shares.of_shapes))
        )
    if kind in ("stripes", "blend"):
        return Scene(kind, **colors, direction=(STRIPED if kind == "stripes" else BLENDED)[rng.integers(2)])
    return Scene(kind, **colors)


def scene_words() -> list[str]:
    """Every word of these captions, sorted."""
    words = {*COUNTS, *STRIPED, *BLENDED, *SHAPES, *SHAPES.values()}
    for template in TEMPLATES.values():  # the further phrasings need no other words, or only such of signs
        words.update(re.sub(r"{\w+}", " ", template).split())
    for name in COLORS:
        words.update(name.split())
    return sorted(words)

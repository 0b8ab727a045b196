"""Does a picture without text show what its prompt asks for? Ground, colour, number, shape, by plain image processing.

What GenEval (arXiv 2310.11513) asks of real pictures with an object detector, for pictures that are simple enough to be
measured without one. Nothing is learnt here: colours are the nearest of the palette, things are connected areas, and a
shape is the one of the renderer's own whose outline covers the area best.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from scipy.ndimage import label

from legible.config import Scoring
from legible.corpus.prompts import Prompt
from legible.corpus.scenes import SHAPES
from legible.corpus.templates import PALETTE
from legible.metrics.drift import NAN, drift_weights
from legible.metrics.statistics import Estimate, cluster_bootstrap, resample, two_way_bootstrap
from legible.metrics.summary import generator
from legible.names import BASE, CONTROL
from legible.render.scene import draw_shape

ATTRIBUTES = ("background", "color", "count", "shape")
SUMMARIES = ("share", "all")  # of the attributes that a prompt asks for
COLUMNS = ["arm", "attribute", "value", "ci_low", "ci_high", "delta_vs_base", "base_low", "base_high"]
COLUMNS += ["delta_vs_control", "control_low", "control_high", "n_prompts", "n_training_seeds"]
NAMES, COLORS = tuple(PALETTE), np.array(list(PALETTE.values()), float)
SMALLEST = 6  # pixels: smaller areas are no things
FAINT = 48  # sRGB distance below which there is nothing on the ground
VISIBLE = 0.02  # share of the picture from which a colour counts as there
FINER = 8  # outlines are compared so many pixels to a side of the smaller box


def nearest_colors(image: np.ndarray) -> np.ndarray:
    """Index into NAMES of the nearest palette colour (sRGB, Euclidean) of each pixel of uint8 [H, W, 3]: int [H, W]."""
    return ((image[:, :, None].astype(float) - COLORS) ** 2).sum(-1).argmin(-1)


def ground_and_distance(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ground's colour [3], the median of the picture's edge, and each pixel's distance to it [H, W] (sRGB)."""
    pixels = image.astype(float)
    ground = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    return ground, np.linalg.norm(pixels - ground, axis=-1)


def things(distance: np.ndarray) -> list[np.ndarray]:
    """The connected areas that differ from the ground, each as bool [h, w] cut out tightly.

    Args:
        distance: [H, W], to the ground. A pixel belongs to a thing where it is further than half of the 98th
            percentile: there its coverage is one half.
    """
    furthest = float(np.quantile(distance, 0.98))
    if furthest < FAINT:
        return []
    areas, number = label(distance > furthest / 2)
    found = []
    for place in range(1, number + 1):
        rows, columns = np.nonzero(areas == place)
        if len(rows) >= SMALLEST:
            box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
            found.append(areas[box] == place)
    return found


def shape_of(area: np.ndarray) -> str:
    """The shape whose outline, drawn into the area's box, has most in common with it (intersection over union)."""
    height, width = area.shape
    side = max(height, width)
    padded = np.zeros((side, side), bool)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = area

    def overlap(name: str) -> float:
        canvas = Image.new("L", (side * FINER, side * FINER))
        radius = side * FINER / 2 / (0.85 if name == "square" else 1.0)
        draw_shape(ImageDraw.Draw(canvas), name, side * FINER / 2, side * FINER / 2, radius)
        outline = np.asarray(canvas).reshape(side, FINER, side, FINER).mean((1, 3)) > 127
        return (outline & padded).sum() / (outline | padded).sum()

    return max(SHAPES, key=overlap)


def attributes_of(image: np.ndarray, prompt: Prompt) -> dict[str, bool]:
    """Attribute → whether the picture has it, of those that the prompt names: background, color, count, shape.

    Args:
        image: uint8 [H, W, 3].
        prompt: of a scene (scripts/make_scene_prompts.py), with what it asks for in its own keys.

    Returns:
        Empty where the prompt names none that can be measured (blends).
    """
    if prompt.kind == "shapes":
        return shapes_of(image, prompt)
    counted = np.bincount(nearest_colors(image).ravel(), minlength=len(NAMES)) / image[..., 0].size
    seen = [NAMES[place] for place in np.argsort(-counted, kind="stable") if counted[place] >= VISIBLE]
    if prompt.kind == "plain":
        return {"background": seen[0] == prompt.background}
    if prompt.kind == "dots":
        return {"background": seen[0] == prompt.background, "color": seen[1:2] == [prompt.color]}
    if prompt.kind in ("stripes", "checks"):
        return {"background": prompt.background in seen[:2], "color": prompt.color in seen[:2]}
    return {}


def shapes_of(image: np.ndarray, prompt: Prompt) -> dict[str, bool]:
    """`attributes_of` a picture of one to four shapes; their colour is the median where they cover it wholly."""
    ground, distance = ground_and_distance(image)
    covered = image[distance >= 0.75 * np.quantile(distance, 0.98)]
    areas = things(distance)
    return {
        "background": nearest(ground) == prompt.background,
        "color": bool(areas) and nearest(np.median(covered, axis=0)) == prompt.color,
        "count": len(areas) == prompt.count,
        "shape": bool(areas) and all(shape_of(area) == prompt.shape for area in areas),
    }


def nearest(color: np.ndarray) -> str:
    """The name of the palette colour that is nearest to one colour [3]."""
    return NAMES[int(((COLORS - color) ** 2).sum(-1).argmin())]


def by_picture(images: np.ndarray, prompt_ids: Sequence[str], prompts: Mapping[str, Prompt]) -> pd.DataFrame:
    """One row a picture: `prompt_id`, then SUMMARIES and each of ATTRIBUTES, 1 where the picture has it, 0 where not.

    What a prompt does not ask for is NaN; `share` is how many of the attributes that it asks for are there, `all` is 1
    where every one is. Pictures of prompts that ask for nothing measurable have no row.

    Args:
        images: uint8 [N, H, W, 3].
        prompt_ids: N.
        prompts: by id.
    """
    rows = []
    for image, prompt_id in zip(images, prompt_ids, strict=True):
        if found := attributes_of(image, prompts[prompt_id]):
            right = list(found.values())
            rows.append({"prompt_id": prompt_id, "share": np.mean(right), "all": float(all(right))} | found)
    table = pd.DataFrame(rows, columns=["prompt_id", *SUMMARIES, *ATTRIBUTES])
    return table.astype(dict.fromkeys((*SUMMARIES, *ATTRIBUTES), float))


def attribute_table(models: Mapping[tuple[str, int | None], pd.DataFrame], scoring: Scoring) -> pd.DataFrame:
    """The rows of attributes.csv: accuracy of every arm for each attribute, and its change from base and control.

    Training seeds and image seeds are averaged within a prompt; intervals of a value resample prompts, those of a
    change prompts and training seeds (`two_way_bootstrap`). A change of −0.02 is two points in a hundred lost.

    Args:
        models: (arm, training seed) → `by_picture`; the base (seed None) and the control among them.
        scoring: resamples, seed and confidence.
    """
    in_order = sorted(models, key=lambda run: (run[0], run[1] or 0))
    means = {run: models[run].groupby("prompt_id", sort=True).mean() for run in in_order}
    seeds = sum(arm == CONTROL for arm, _ in models)
    rows = []
    for attribute in (*SUMMARIES, *ATTRIBUTES):
        asked = means[BASE, None][attribute].dropna().index
        if not len(asked):
            continue
        place, ones = f"attributes, {attribute}", np.ones(len(asked))
        weights = drift_weights(scoring, place, len(asked))
        trainings = resample(seeds, scoring.resamples, generator(scoring.seed, place, "seeds")).astype(float)
        measured = {
            arm: np.stack([table.loc[asked, attribute] for (name, _), table in means.items() if name == arm])
            for arm in dict.fromkeys(arm for arm, _ in models)
        }
        for arm, own in measured.items():
            value = cluster_bootstrap(own.mean(0), ones, weights, scoring.confidence)
            row = {"arm": arm, "attribute": attribute, "value": value.value, "ci_low": value.low, "ci_high": value.high}
            for name, other in (("base", BASE), ("control", CONTROL)):
                delta = Estimate(NAN, NAN, NAN)
                if arm not in (BASE, other):
                    pair = (own, measured[other], ones, weights, trainings)
                    delta = two_way_bootstrap(*pair, scoring.confidence).difference
                row |= {f"delta_vs_{name}": delta.value, f"{name}_low": delta.low, f"{name}_high": delta.high}
            rows.append(row | {"n_prompts": len(asked), "n_training_seeds": 0 if arm == BASE else len(own)})
    return pd.DataFrame(rows, columns=COLUMNS)

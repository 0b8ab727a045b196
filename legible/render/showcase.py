"""A picture of each script, in changing layouts, with effects: what the text engine can do, to be looked at."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from legible.config.render import FILLS, Recipe
from legible.config.scripts import known
from legible.io import atomic_path
from legible.progress import progress
from legible.render.compose import draw
from legible.render.records import row_of, schema

LAYOUTS = ("line", "arc", "lines", "perspective", "wave", "turned", "columns")
EFFECTS = {"outline": 0.4, "shadow": 0.4, "glow": 0.3, "extrusion": 0.3, "light": 0.3, "noise": 0.3}


def write_showcase(path: str | Path, height: int = 224, width: int = 384, seed: int = 0) -> None:
    """Write the Parquet file, a row of `legible.render.records` for each script of resources/scripts.yaml."""
    rows = []
    for number, (name, script) in enumerate(progress(known().scripts.items(), "showcase", len(known().scripts))):
        layout = "vertical" if script.vertical and number % 2 else LAYOUTS[number % len(LAYOUTS)]
        recipe = Recipe(
            height=height, width=width, scripts={name: 1.0}, layouts={layout: 1.0}, texts=(1, 1), words=(1, 1),
            lines=(2, 2), strings=0.0, size=(60, 110), fills=dict.fromkeys(FILLS, 1.0), **EFFECTS,
        )  # fmt: skip
        rows.append(row_of(draw(recipe, seed, number), "png"))
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema()), temporary)

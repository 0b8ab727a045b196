"""Pictures with text as Parquet: one row a picture, labels and all, and a certificate of what was drawn.

Rows are drawn in chunks by as many processes as one likes; the file's bytes do not depend on them.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from legible.config.render import Recipe
from legible.config.scripts import known
from legible.io import atomic_path, sha256_file, write_json
from legible.render.compose import Sample, draw
from legible.render.dataset import PICTURE, feature
from legible.render.workers import in_processes

CHUNK = 32  # pictures
Encoding = Literal["jpeg", "png"]
QUALITY = 95
FAST = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # since OpenCV 4.12; a third of the time on flat pictures
    FAST += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]

POINTS = pa.list_(pa.float32())  # x0, y0, x1, y1, …
CLUSTER = pa.struct(
    [
        ("text", pa.string()),
        *((name, pa.int32()) for name in ("start", "end", "line", "word")),
        ("quad", POINTS),
        ("box", pa.list_(pa.int32())),
        ("shown", pa.float32()),
    ]
)
WORD = pa.struct([("text", pa.string()), *((n, pa.int32()) for n in ("start", "end", "line")), ("polygon", POINTS)])
LINE = pa.struct(
    [
        *((name, pa.string()) for name in ("text", "script", "language", "font", "direction")),
        ("size", pa.float32()),
        ("polygon", POINTS),
        ("baseline", POINTS),
    ]
)
COLUMNS = {
    "index": pa.int32(),
    "caption": pa.string(),
    "contrast": pa.float32(),
    "lines": pa.list_(LINE),
    "words": pa.list_(WORD),
    "clusters": pa.list_(CLUSTER),
    "image": PICTURE,
    "mask": PICTURE,
    "ids": PICTURE,
}


def schema() -> pa.Schema:
    """Columns, with what lets `datasets.load_dataset("parquet", …)` decode the pictures."""
    info = {"info": {"features": {name: feature(kind) for name, kind in COLUMNS.items()}}}
    return pa.schema(list(COLUMNS.items()), metadata={b"huggingface": json.dumps(info).encode()})


def encoded(pixels: np.ndarray, encoding: Encoding) -> bytes:
    """A picture as bytes: RGB or grey, uint8, or ids, uint16 (PNG only)."""
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if encoding == "jpeg" else FAST
    turned = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(".jpg" if encoding == "jpeg" else ".png", turned, options)
    if not done:
        raise ValueError(f"a picture of shape {pixels.shape} cannot be written as {encoding}")
    return data.tobytes()


def decoded(data: bytes) -> np.ndarray:
    """What `encoded` wrote: uint8 RGB [H, W, 3], or one channel as it is."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB) if pixels.ndim == 3 else pixels


def row_of(sample: Sample, encoding: Encoding) -> dict:
    """One picture as a row."""
    stem, suffix = f"{sample.index:07d}", "jpg" if encoding == "jpeg" else "png"
    return {
        "index": sample.index,
        "caption": sample.caption,
        "contrast": sample.contrast,
        "lines": [
            {"text": line.text, "script": script, "language": language, "font": line.font, "direction": line.direction,
             "size": line.size, "polygon": points(line.polygon), "baseline": points(line.baseline)}
            for line, script, language in zip(sample.lines, sample.script_of, sample.language_of, strict=True)
        ],
        "words": [
            {"text": w.text, "start": w.start, "end": w.end, "line": w.line, "polygon": points(w.polygon)}
            for w in sample.words
        ],
        "clusters": [
            {"text": c.text, "start": c.start, "end": c.end, "line": c.line, "word": c.word, "quad": points(c.quad),
             "box": None if c.ink_box is None else list(c.ink_box), "shown": shown}
            for c, shown in zip(sample.clusters, sample.shown.tolist(), strict=True)
        ],
        "image": {"bytes": encoded(sample.image, encoding), "path": f"{stem}.{suffix}"},
        "mask": {"bytes": encoded(sample.coverage, "png"), "path": f"{stem}-mask.png"},
        "ids": {"bytes": encoded(sample.ids, "png"), "path": f"{stem}-ids.png"},
    }  # fmt: skip


def points(polygon: np.ndarray) -> list[float]:
    """x0, y0, x1, y1, … to a hundredth of a pixel."""
    return np.round(polygon, 2).ravel().tolist()


def draw_chunk(arguments: tuple[Recipe, int, int, int, Encoding]) -> tuple[list[dict], Counter]:
    """Rows `low` … `high − 1`, and why draws were thrown away; one argument, so that a pool can map it."""
    cv2.setNumThreads(1)
    recipe, seed, low, high, encoding = arguments
    rows, rejected = [], Counter()
    for index in range(low, high):
        sample = draw(recipe, seed, index)
        rejected += sample.rejected
        rows.append(row_of(sample, encoding))
    return rows, rejected


def draw_rows(
    recipe: Recipe, seed: int, count: int, encoding: Encoding = "jpeg", workers: int | None = None
) -> Iterator[tuple[list[dict], Counter]]:
    """Pictures 0 … count − 1 in chunks, in order."""
    arguments = [(recipe, seed, low, min(low + CHUNK, count), encoding) for low in range(0, count, CHUNK)]
    return in_processes(draw_chunk, arguments, workers or os.cpu_count() or 1, f"draw pictures (×{CHUNK})")


def write_records(
    path: str | Path, recipe: Recipe, seed: int, count: int, encoding: Encoding = "jpeg", workers: int | None = None
) -> dict:
    """Write the Parquet file and, beside it, `<name>.certificate.json`; returns the certificate.

    Raises:
        UserError: a picture cannot be drawn by this recipe.
    """
    path = Path(path)
    rejected, lines, drawn = Counter(), Counter(), {}
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema(), compression="zstd") as writer:
        for rows, thrown in draw_rows(recipe, seed, count, encoding, workers):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema()))
            rejected += thrown
            for row in rows:
                for number, line in enumerate(row["lines"]):
                    lines[line["script"]] += 1
                    seen = (c for c in row["clusters"] if c["line"] == number and c["box"] is not None)
                    for character in "".join(cluster["text"] for cluster in seen):
                        fonts = drawn.setdefault(line["script"], {}).setdefault(character, Counter())
                        fonts[line["font"]] += 1
    certificate = {
        "pictures": count,
        "seed": seed,
        "recipe": recipe.model_dump(mode="json"),
        "sha256": sha256_file(path),
        "rejected": dict(sorted(rejected.items())),
        "scripts": {name: coverage_of(name, drawn.get(name, {}), lines[name]) for name in sorted(lines)},
    }
    write_json(path.with_name(f"{path.stem}.certificate.json"), certificate)
    return certificate


def coverage_of(name: str, drawn: dict[str, Counter], lines: int) -> dict:
    """What was drawn of a script: each character with how often and by which fonts, and what never was."""
    repertoire = known().scripts[name].repertoire
    return {
        "lines": lines,
        "characters": {c: dict(sorted(drawn[c].items())) for c in sorted(drawn)},
        "never_drawn": "".join(c for c in repertoire if c not in drawn),
        "share": sum(c in drawn for c in repertoire) / len(repertoire),
    }


def read_rows(path: str | Path) -> Iterator[dict]:
    """The rows of such a file, one by one."""
    for batch in pq.ParquetFile(path).iter_batches(CHUNK):
        yield from batch.to_pylist()


def preview(row: dict) -> bytes:
    """The picture with its labels drawn in, as PNG: lines blue, words green, clusters' ink red."""
    picture = decoded(row["image"]["bytes"])
    for labels, key, color in ((row["lines"], "polygon", (40, 90, 255)), (row["words"], "polygon", (0, 170, 60))):
        for label in labels:
            outline(picture, label[key], color, closed=True)
    for line in row["lines"]:
        outline(picture, line["baseline"], (255, 0, 255), closed=False)
    for cluster in row["clusters"]:
        if cluster["box"]:
            x0, y0, x1, y1 = cluster["box"]
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), (255, 40, 40), 1)
    return encoded(picture, "png")


def outline(picture: np.ndarray, flat: list[float], color: tuple[int, int, int], *, closed: bool) -> None:
    path = np.rint(np.array(flat).reshape(-1, 2)).astype(np.int32)
    cv2.polylines(picture, [path], closed, color, 1, cv2.LINE_AA)

"""The dataset: signs drawn one by one, each from its own seed, so that the bytes do not depend on the workers."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from legible.config import Data
from legible.corpus import templates
from legible.corpus.prompts import Excluded
from legible.corpus.words import DIGITS, Lists, load_lists, sample_line
from legible.errors import UserError
from legible.integrity import check_shard
from legible.io import atomic_path, sha256_file, write_json
from legible.render.fonts import Font, check_text
from legible.render.sign import Sign, contrast_ratio, draw_sign
from legible.render.workers import in_processes

MAX_REJECTIONS = 1000
CHUNK = 250
# In the order in which a proposal is checked.
CHECKS = ("contrast", "excluded", "overflow")
REMEDY = {
    "contrast": "lower data.contrast",
    "overflow": "lower data.font_size or data.length, or enlarge data.width and data.height",
    "excluded": "raise data.length or take the shortest targets out of the prompt sets",
}
COLORS = tuple(templates.PALETTE)

BOXES = pa.list_(pa.list_(pa.int32()))
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
COLUMNS = {
    "index": pa.int32(),
    "caption": pa.string(),
    "text": pa.string(),
    "kind": pa.string(),
    "font": pa.string(),
    "font_size": pa.int32(),
    "color": pa.string(),
    "background": pa.string(),
    "contrast": pa.float32(),
    "line_boxes": BOXES,
    "word_boxes": BOXES,
    "character_boxes": BOXES,
    "image": PICTURE,
    "mask": PICTURE,
}
# What only the text engine's pictures have: its clusters are not the letters of the text.
FURTHER = {"characters": pa.list_(pa.string()), "stage": pa.int32()}


@dataclass(frozen=True)
class Source:
    """What the signs of one split are drawn from."""

    data: Data
    fonts: tuple[Font, ...]
    lists: Lists
    excluded: Excluded
    boxes: bool


def render_signs(
    data: Data,
    fonts: Sequence[Font],
    split: str,
    count: int,
    excluded: Excluded,
    workers: int = 1,
    start: int = 0,
    boxes: bool = True,
) -> tuple[list[Sign], Counter]:
    """Draw signs `start` … `start + count − 1` of a split ("train" or "test"), and count the rejections by reason.

    Sign i is drawn from a generator seeded by a hash of (`data.seed`, split, i), whatever `workers` and `count` are.

    Raises:
        UserError: a font lacks a character, or a sign was rejected 1000 times in a row.
    """
    lists = load_lists(data, split)
    for font in fonts:
        check_text(lists.letters if set(lists.kinds) - {"digits"} else "", font)
        check_text(DIGITS if "digits" in lists.kinds else "", font)
    if not fonts:
        raise UserError("fonts: no usable font")
    bounds = [(low, min(low + CHUNK, start + count)) for low in range(start, start + count, CHUNK)]
    source = Source(data, tuple(fonts), lists, excluded, boxes)
    arguments = [(source, low, high) for low, high in bounds]
    signs: list[Sign] = []
    rejections: Counter = Counter()
    for part, rejected in in_processes(render_chunk, arguments, workers, f"render {split} signs (×{CHUNK})"):
        signs += part
        rejections += rejected
    return signs, rejections


def render_chunk(arguments: tuple) -> tuple[list[Sign], Counter]:
    """Signs `low` … `high − 1`; one tuple of arguments, so that a pool can map it."""
    source, low, high = arguments
    rejections: Counter = Counter()
    return [render_sign(source, i, rejections) for i in range(low, high)], rejections


def sample_seed(seed: int, split: str, index: int) -> int:
    """Seed of one sample: 128 bits of the SHA-256 of "seed/split/index"."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()[:16], "big")


def render_sign(source: Source, index: int, rejections: Counter) -> Sign:
    """Draw proposals from sample `index`'s own stream until one is accepted; `rejections` counts the others."""
    rng = np.random.default_rng(sample_seed(source.data.seed, source.lists.split, index))
    mine: Counter = Counter()
    for _ in range(MAX_REJECTIONS):
        proposal = propose(rng, source, index)
        if isinstance(proposal, Sign):
            rejections.update(mine)
            return proposal
        mine[proposal] += 1
    reason, share = main_reason(mine)
    raise UserError(
        f"data: sample {index} of the {source.lists.split} split was rejected {MAX_REJECTIONS} times,"
        f" above all for {reason} ({share:.0%} of the proposals that got so far); {REMEDY[reason]}"
    )


def main_reason(rejections: Counter) -> tuple[str, float]:
    """The check that let the smallest share of the proposals that reached it pass, and the share that it rejected.

    Not the most frequent reason: most colour pairs lack contrast, which hides that all the text overflows.
    """
    reached, shares = rejections.total(), {}
    for reason in CHECKS:
        # What only a handful of proposals reached says nothing about its share.
        if reached >= 0.02 * rejections.total():
            shares[reason] = rejections[reason] / reached
        reached -= rejections[reason]
    return max(shares.items(), key=lambda item: item[1])


def propose(rng: np.random.Generator, source: Source, index: int) -> Sign | str:
    """One proposal, or the reason why it is rejected: "contrast", "excluded" or "overflow"."""
    data, lists = source.data, source.lists
    color, background = (COLORS[i] for i in rng.integers(0, len(COLORS), 2))
    if contrast_ratio(templates.PALETTE[color], templates.PALETTE[background]) < data.contrast:
        return "contrast"
    count = int(rng.integers(data.lines[0], data.lines[1] + 1))
    lines, kinds = zip(*(sample_line(rng, data, lists) for _ in range(count)), strict=True)
    if any(source.excluded.hit(line) for line in lines):
        return "excluded"
    font = source.fonts[rng.integers(len(source.fonts))]
    size = int(rng.integers(data.font_size[0], data.font_size[1] + 1))
    jitter = tuple(rng.uniform(-1, 1, 2))
    caption = templates.caption(rng, lines, font.words, color, background)
    sign = draw_sign(
        lines,
        font,
        size,
        color,
        background,
        data,
        jitter,
        index=index,
        split=lists.split,
        kinds=kinds,
        caption=caption,
        boxes=source.boxes,
    )
    return sign or "overflow"


def feature(kind: pa.DataType) -> dict:
    """The Hugging Face `datasets` feature of a column, as it stands in a Parquet file's metadata."""
    if kind == PICTURE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: feature(field.type) for field in kind}
    names = {pa.string(): "string", pa.int32(): "int32", pa.float32(): "float32"}
    return {"dtype": names[kind], "_type": "Value"}


def schema(columns: dict[str, pa.DataType] = COLUMNS) -> pa.Schema:
    """Columns of a shard. The metadata makes `datasets.load_dataset("parquet", …)` decode image and mask as images."""
    info = {"info": {"features": {name: feature(kind) for name, kind in columns.items()}}}
    return pa.schema(list(columns.items()), metadata={b"huggingface": json.dumps(info).encode()})


def png(pixels: np.ndarray) -> bytes:
    """PNG bytes of a uint8 image, [H, W, 3] or [H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def to_table(signs: Sequence[Sign]) -> pa.Table:
    """The signs as rows; `text` and `kind` hold one line of the sign a line."""
    names = ("index", "caption", "font", "font_size", "color", "background", "contrast")
    rows = []
    for sign in signs:
        stem = f"{sign.split}-{sign.index:06d}"
        row = {name: getattr(sign, name) for name in names}
        row |= {"text": "\n".join(sign.lines), "kind": "\n".join(sign.kinds)}
        row |= {key: getattr(sign, key) for key in ("line_boxes", "word_boxes", "character_boxes")}
        row |= {} if sign.characters is None else {name: getattr(sign, name) for name in FURTHER}
        row["image"] = {"bytes": png(sign.image), "path": f"{stem}.png"}
        row["mask"] = {"bytes": png(sign.mask), "path": f"{stem}-mask.png"}
        rows.append(row)
    columns = COLUMNS if all(sign.characters is None for sign in signs) else COLUMNS | FURTHER
    return pa.Table.from_pylist(rows, schema=schema(columns))


def check_exclusion(table: pa.Table, excluded: Excluded, split: str) -> int:
    """Make sure that no evaluation target occurs in the texts or quoted strings of a finished split.

    Returns how many strings were checked. Raises a UserError naming the string and the target.
    """
    checked = 0
    for row in table.select(["index", "text", "caption"]).to_pylist():
        for string in [*row["text"].split("\n"), *templates.quoted_strings(row["caption"])]:
            checked += 1
            if target := excluded.hit(string):
                raise UserError(
                    f"prompt sets: '{target}' is a target that the dataset also trains on: sample {row['index']} of the"
                    f" {split} split says '{string}'; take one of them out"
                )
    return checked


def write_dataset(
    folder: str | Path,
    train: Sequence[Sign],
    test: Sequence[Sign],
    rejections: dict[str, Counter],
    excluded: Excluded,
) -> dict:
    """Write train.parquet, test.parquet and summary.json, each atomically, and return the summary.

    Args:
        rejections: split → reason → how many proposals were rejected for it.
        excluded: evaluation targets; checked once more on the finished rows, before anything is written.

    Raises:
        UserError: a target of a prompt set occurs in the dataset.
    """
    folder = Path(folder)
    tables = {"train": to_table(train), "test": to_table(test)}
    checked = {split: check_exclusion(table, excluded, split) for split, table in tables.items()}
    summary: dict = {"excluded_targets": len(excluded.targets), "splits": {}}
    for split, signs in (("train", train), ("test", test)):
        path = folder / f"{split}.parquet"
        with atomic_path(path) as temporary:
            pq.write_table(tables[split], temporary, row_group_size=512)
        summary["splits"][split] = {
            "samples": len(signs),
            "kinds": dict(Counter(kind for sign in signs for kind in sign.kinds)),
            "fonts": dict(Counter(sign.font for sign in signs)),
            "lengths": {str(n): c for n, c in Counter(len(line) for sign in signs for line in sign.lines).items()},
            "rejections": dict(rejections.get(split, {})),
            "strings_checked_for_targets": checked[split],
            "sha256": sha256_file(path),
        }
    write_json(folder / "summary.json", summary)
    return summary


def read_columns(path: str | Path, columns: list[str]) -> pa.Table:
    """Columns of one shard; a missing, truncated, damaged or foreign file is a UserError that names it."""
    check_shard(path)
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such dataset file; run the data stage first") from error
    # Parquet keeps its index at the end of the file, so that a truncated shard cannot be opened at all.
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: the shard is truncated or damaged; delete it and run the data stage again") from error


def load_table(path: str | Path) -> pd.DataFrame:
    """Everything but the pixels of one shard, one row a sign; see `COLUMNS`. Boxes are lists of [x0, y0, x1, y1];
    `characters` (lists of strings) go with the character boxes, `stage` counts those of the curriculum."""
    names = [name for name, kind in COLUMNS.items() if kind != PICTURE]
    table = pd.DataFrame(read_columns(path, names).to_pylist(), columns=names)
    if FURTHER.keys() <= set(pq.read_schema(path).names):
        return table.join(pd.DataFrame(read_columns(path, list(FURTHER)).to_pylist(), columns=list(FURTHER)))
    return table.assign(characters=[list("".join(text.split())) for text in table["text"]], stage=0)


def load_images(path: str | Path, column: str = "image") -> np.ndarray:
    """The images of one shard, uint8 [N, H, W, 3], or with `column="mask"` the glyph coverage, uint8 [N, H, W]."""
    pictures = read_columns(path, [column])[column].to_pylist()
    if not pictures:
        return np.zeros((0, 0, 0, 3) if column == "image" else (0, 0, 0), np.uint8)
    try:
        return np.stack([np.asarray(Image.open(io.BytesIO(picture["bytes"]))) for picture in pictures])
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path}: an image in the column {column} is damaged; run the data stage again") from error

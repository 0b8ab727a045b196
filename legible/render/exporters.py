"""The dataset in the formats that other tools read: for detectors and recognisers, and for trainers of pictures."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from xml.etree import ElementTree

from legible.errors import UserError
from legible.render.records import decoded, read_rows

SHARD = 1_000  # pictures of a WebDataset shard
SEEN = 0.5  # of its ink: words less visible count as unreadable
PAGE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"


def export(path: str | Path, form: str, folder: str | Path) -> None:
    """Write the Parquet file `path` in another format into `folder`, which must not hold anything yet.

    Raises:
        UserError: the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--export: {folder} is not empty; nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
    EXPORTERS[form](Path(path), folder)


def pairs(flat: list[float]) -> list[tuple[float, float]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def corners(flat: list[float]) -> list[tuple[float, float]]:
    """The four corners of a polygon that runs along a word's upper edge and back along its lower one."""
    points = pairs(flat)
    half = len(points) // 2
    return [points[0], points[half - 1], points[half], points[-1]]


def readable(row: dict, number: int) -> bool:
    """Whether at least half of a word's clusters can be seen for the most part."""
    shown = [cluster["shown"] for cluster in row["clusters"] if cluster["word"] == number]
    return sum(share >= SEEN for share in shown) * 2 >= len(shown)


def language_of(row: dict, line: int) -> str:
    return row["lines"][line]["language"]


def coco_text(path: Path, folder: Path) -> None:
    """COCO-Text style: `annotations.json` with one entry a word, and `images/`."""
    (folder / "images").mkdir()
    images, annotations = [], []
    for row in read_rows(path):
        name = row["image"]["path"]
        (folder / "images" / name).write_bytes(row["image"]["bytes"])
        height, width = decoded(row["image"]["bytes"]).shape[:2]
        images.append({"id": row["index"], "file_name": name, "width": width, "height": height})
        for number, word in enumerate(row["words"]):
            xs, ys = word["polygon"][::2], word["polygon"][1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row["index"],
                    "category_id": 1,
                    "bbox": [round(value, 2) for value in box],
                    "area": round(area(pairs(word["polygon"])), 2),
                    "segmentation": [word["polygon"]],
                    "iscrowd": 0,
                    "utf8_string": word["text"],
                    "language": language_of(row, word["line"]),
                    "legibility": "legible" if readable(row, number) else "illegible",
                    "class": "machine printed",
                }
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "text"}]}
    (folder / "annotations.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def area(polygon: list[tuple[float, float]]) -> float:
    """Of a polygon, by the shoelace formula."""
    turned = [*polygon[1:], polygon[0]]
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(polygon, turned, strict=True))) / 2


def icdar(path: Path, folder: Path) -> None:
    """ICDAR 2015 style: `img_N.jpg` and `gt_img_N.txt`, four corners and the word; `###` for what cannot be read."""
    for row in read_rows(path):
        stem = f"img_{row['index'] + 1}"
        (folder / f"{stem}{Path(row['image']['path']).suffix}").write_bytes(row["image"]["bytes"])
        lines = []
        for number, word in enumerate(row["words"]):
            places = ",".join(str(round(value)) for corner in corners(word["polygon"]) for value in corner)
            lines.append(f"{places},{word['text'] if readable(row, number) else '###'}")
        (folder / f"gt_{stem}.txt").write_text("\ufeff" + "\n".join(lines) + "\n", encoding="utf-8")


def page(path: Path, folder: Path) -> None:
    """PAGE XML (2019-07-15): a file a picture, lines with baselines, words and glyphs."""
    ElementTree.register_namespace("", PAGE)
    for row in read_rows(path):
        name = row["image"]["path"]
        (folder / name).write_bytes(row["image"]["bytes"])
        height, width = decoded(row["image"]["bytes"]).shape[:2]
        root = ElementTree.Element(f"{{{PAGE}}}PcGts")
        metadata = child(root, "Metadata")
        for tag, text in (
            ("Creator", "legible"),
            ("Created", "2000-01-01T00:00:00"),
            ("LastChange", "2000-01-01T00:00:00"),
        ):
            child(metadata, tag).text = text
        sheet = child(root, "Page", imageFilename=name, imageWidth=str(width), imageHeight=str(height))
        for number, line in enumerate(row["lines"]):
            region = child(sheet, "TextRegion", id=f"r{number}")
            child(region, "Coords", points=spelled(line["polygon"]))
            element = child(region, "TextLine", id=f"l{number}")
            child(element, "Coords", points=spelled(line["polygon"]))
            child(element, "Baseline", points=spelled(line["baseline"]))
            for place, word in enumerate(row["words"]):
                if word["line"] == number:
                    page_word(element, row, place, word)
            said(element, line["text"])
        ElementTree.ElementTree(root).write(folder / f"{Path(name).stem}.xml", encoding="utf-8", xml_declaration=True)


def page_word(line: ElementTree.Element, row: dict, number: int, word: dict) -> None:
    element = child(line, "Word", id=f"w{number}")
    child(element, "Coords", points=spelled(word["polygon"]))
    for place, cluster in enumerate(row["clusters"]):
        if cluster["word"] == number:
            glyph = child(element, "Glyph", id=f"g{place}")
            child(glyph, "Coords", points=spelled(cluster["quad"]))
            said(glyph, cluster["text"])
    said(element, word["text"])


def child(parent: ElementTree.Element, tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, f"{{{PAGE}}}{tag}", attributes)


def said(parent: ElementTree.Element, text: str) -> None:
    child(child(parent, "TextEquiv"), "Unicode").text = text


def spelled(flat: list[float]) -> str:
    """PAGE's points: whole numbers that are not negative."""
    return " ".join(f"{max(0, round(x))},{max(0, round(y))}" for x, y in pairs(flat))


def webdataset(path: Path, folder: Path) -> None:
    """WebDataset: `NNNNNN.tar` with picture, mask, ids, caption (.txt) and labels (.json) under one key each."""
    for number, rows in enumerate(batched(read_rows(path), SHARD)):
        with tarfile.open(folder / f"{number:06d}.tar", "w") as tar:
            for row in rows:
                key, suffix = f"{row['index']:07d}", Path(row["image"]["path"]).suffix[1:]
                labels = {name: row[name] for name in ("lines", "words", "clusters")}
                for name, data in (
                    (suffix, row["image"]["bytes"]),
                    ("mask.png", row["mask"]["bytes"]),
                    ("ids.png", row["ids"]["bytes"]),
                    ("txt", row["caption"].encode()),
                    ("json", json.dumps(labels, ensure_ascii=False).encode()),
                ):
                    entry = tarfile.TarInfo(f"{key}.{name}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))


def batched(rows: Iterator[dict], size: int) -> Iterator[Iterator[dict]]:
    """The rows in groups, without holding a group in memory; a group must be used up before the next one."""
    for first in rows:
        yield chain([first], islice(rows, size - 1))


def captioned(path: Path, folder: Path) -> None:
    """For trainers of pictures: `images/` with a caption beside each, `masks/` with the letters under the same name."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    for row in read_rows(path):
        name = Path(row["image"]["path"])
        (folder / "images" / name).write_bytes(row["image"]["bytes"])
        (folder / "images" / f"{name.stem}.txt").write_text(row["caption"] + "\n", encoding="utf-8")
        (folder / "masks" / f"{name.stem}.png").write_bytes(row["mask"]["bytes"])


def onetrainer(path: Path, folder: Path) -> None:
    """As OneTrainer takes them: picture, `.txt` and `-masklabel.png` side by side."""
    for row in read_rows(path):
        name = Path(row["image"]["path"])
        (folder / name).write_bytes(row["image"]["bytes"])
        (folder / f"{name.stem}.txt").write_text(row["caption"] + "\n", encoding="utf-8")
        (folder / f"{name.stem}-masklabel.png").write_bytes(row["mask"]["bytes"])


EXPORTERS: dict[str, Callable[[Path, Path], None]] = {
    "coco-text": coco_text,
    "icdar": icdar,
    "page": page,
    "webdataset": webdataset,
    "captioned": captioned,
    "onetrainer": onetrainer,
}

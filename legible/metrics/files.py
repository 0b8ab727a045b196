"""The files of scoring: what their paths say, their rows, and the tables that are written."""

import json
from pathlib import Path

import pandas as pd
from PIL import Image, UnidentifiedImageError

from legible.config import raw_sections, sections
from legible.errors import UserError
from legible.io import read_jsonl, sha256_file, write_text


def read_config(text: str, *required: str) -> dict:
    """The `required` sections; of the arms only the names matter, so a list of them is enough.

    Raises:
        UserError: as `legible.config.sections`.
    """
    raw = raw_sections(text)
    if isinstance(raw.get("arms"), list) and all(isinstance(name, str) for name in raw["arms"]):
        raw["arms"] = {name: {} for name in raw["arms"]}
    return sections(json.dumps(raw), *required)


def image_key(path: Path) -> tuple[str, str]:
    """(model, prompt set) of a manifest's path, which ends in images/{model}/{prompt_set}/manifest.jsonl."""
    if len(path.parts) < 4 or path.parts[-4] != "images" or path.name != "manifest.jsonl":
        raise UserError(f"{path}: a path ending in images/{{model}}/{{prompt_set}}/manifest.jsonl is needed")
    return path.parts[-3], path.parts[-2]


def reading_key(path: Path) -> tuple[str, str, str]:
    """(engine, model, prompt set) of a readings file's path: ocr/{engine}/{model}/{prompt_set}.jsonl."""
    if len(path.parts) < 4 or path.parts[-4] != "ocr" or path.suffix != ".jsonl":
        raise UserError(f"{path}: a path ending in ocr/{{engine}}/{{model}}/{{prompt_set}}.jsonl is needed")
    return path.parts[-3], path.parts[-2], path.stem


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSON lines file; a UserError when there is no such file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return read_jsonl(path)


def open_image(path: Path, digest: str | None) -> Image.Image:
    """The decoded image, checked against the SHA-256 in its manifest (None: not checked).

    Raises:
        UserError: no such image, not a readable one, or not the one that was recorded.
    """
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such image, although its manifest lists it; generate it again") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: not a readable image ({error}); generate it again") from error
    if digest is not None and sha256_file(path) != digest:
        raise UserError(f"{path}: its content is not what its manifest recorded (SHA-256); generate it again")
    return image


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table, atomically, with six significant digits and `\\n` whatever the system."""
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))

"""The files and folders that a configuration names: found and checked before anything is planned."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from legible.config.experiment import Config
from legible.errors import UserError, describe
from legible.wording import named, shown

FILES = (
    *("prompt_sets.*.path", "anchor.prompts", "drift.prompts", "validation.prompts"),
    *("training.assistant_lora", "arms.*.assistant_lora"),
    "protocol",
)
FOLDERS = (
    "fonts.folders.*",
    "model.path",
    "clip.path",
    "caption_clip.path",
    "aesthetic.path",
    "pickscore.path",
    "hps.path",
    "imagereward.path",
    "reader.network",
    "reader.models",
    "ocr.*.network",
    "ocr.*.models",
    "ocr.*.data",
    "glyph_judge.path",
    "benchmarks",
)
# Files or folders of the text engine, opened from the working directory.
OF_RECIPES = tuple(
    f"render.{recipe}.{key}" for recipe in ("recipe", "stages.*.recipe") for key in ("photographs", "fonts.*")
)
SEARCHED = ("fonts.folders.*", "benchmarks")  # with all folders below them
HUB = {"model.path": "diffusers", "clip.path": "open_clip"} | dict.fromkeys(
    ("caption_clip.path", "pickscore.path"), "transformers"
)  # a hub id will do, too → the format of a folder
OF_THE_SYSTEM = (("proc",), ("sys",))  # what looks like a file there may never end
STANDARD = "standard"  # a network that its package knows by this name


def located(config: Config, checkout: Path, fetched: Collection[str] = (), prefix: str = "") -> Config:
    """The configuration with the paths of its inputs as they are opened.

    A relative path is looked for in the working directory, then in `checkout`, where the shipped files are.

    Args:
        fetched: paths that the workflow itself will write.
        prefix: of keys in errors.

    Raises:
        UserError: an input is not there; one sentence that names its key.
    """
    plain = config.model_dump(mode="json", by_alias=True)
    for pattern in (*FILES, *FOLDERS):
        for holder, key, name in places(plain, pattern.split(".")):
            holder[key] = _found(holder[key], pattern, f"{prefix}{name}", checkout, fetched)
    for pattern in OF_RECIPES:
        for holder, key, name in places(plain, pattern.split(".")):
            check_there(holder[key], f"{prefix}{name}")
    if plain == config.model_dump(mode="json", by_alias=True):
        return config
    try:
        return Config.model_validate(plain)
    except ValidationError as error:  # two paths of one folder, as an arm's reader and the only judge
        raise UserError(f"{prefix}{describe(error)}") from error


def places(node: Any, pattern: list[str], where: tuple = ()) -> Iterator[tuple[Any, Any, str]]:
    """(dictionary or list, key in it, its name) of every text that a pattern names; `*` stands for every key."""
    head, *rest = pattern
    entries = dict(enumerate(node)) if isinstance(node, list) else node if isinstance(node, dict) else {}
    for key in list(entries) if head == "*" else [head] if head in entries else []:
        if rest:
            yield from places(entries[key], rest, (*where, key))
        elif isinstance(entries[key], str):
            yield node, key, named((*where, key))


def check_there(text: str, name: str) -> None:
    """Refuse a file or folder of a recipe that is not there, or is everything."""
    if not (text and (is_file(Path(text)) or is_dir(Path(text)))):
        kind = "folder" if "photographs" in name else "font file or folder"
        raise UserError(f"{name}: there is no {kind} {shown(text)} in {Path.cwd()}")
    check_narrow(text, name)


def check_narrow(text: str, name: str) -> None:
    """Refuse to search everything."""
    if is_dir(Path(text)) and Path(text).resolve() == Path(Path(text).resolve().anchor):
        raise UserError(f"{name}: {shown(text)} is the whole file system, which would be searched; name a folder in it")


def _found(text: str, pattern: str, name: str, checkout: Path, fetched: Collection[str]) -> str:
    """The path as it is opened: never one that a program could take for an option."""
    if text in fetched or (text == STANDARD and pattern.endswith(".network")):
        return text
    kind = "file" if pattern in FILES else "folder"
    ways = f"; give a folder in the format of {HUB[pattern]}, or a hub id (owner/name)" if pattern in HUB else ""
    if not text:
        raise UserError(f"{name}: it is empty; the path of a {kind} is needed{ways}")
    if re.search(r"[{}\n]", text):
        raise UserError(f"{name}: {shown(text)} holds a brace or a line break; rename it")
    if pattern in SEARCHED:
        check_narrow(text, name)
    is_there = is_file if kind == "file" else is_dir
    for folder in (Path(), checkout):
        if is_there(folder / text):
            if (folder / text).resolve().parts[1:2] in OF_THE_SYSTEM:
                raise UserError(f"{name}: {shown(text)} is made by the system; a {kind} on a disk is needed")
            found = text if folder == Path() else str(folder / text)
            return f"./{found}" if found.startswith("-") else found
    if pattern in HUB and is_hub_id(text, checkout):
        return text
    if is_dir(Path(text)) or is_file(Path(text)):
        other = "folder" if kind == "file" else "file"
        raise UserError(f"{name}: {shown(text)} is a {other}, a {kind} is needed{ways}")
    looked = "" if Path(text).is_absolute() else f" in {Path.cwd()}"
    raise UserError(f"{name}: there is no {kind} {shown(text)}{looked}{ways}")


def is_file(path: Path) -> bool:
    """Whether a file is there; a name that is too long for any file is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_dir(path: Path) -> bool:
    """Whether a folder is there, in the same way."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_hub_id(text: str, checkout: Path) -> bool:
    """Whether a path that is not there can be meant for the hub: owner/name, and no folder is called like the owner."""
    owner = text.partition("/")[0]
    like = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None
    return like and not any((folder / owner).is_dir() for folder in (Path(), checkout))

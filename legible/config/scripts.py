"""What legible knows of each script: `resources/scripts.yaml`, checked, with its characters spelled out."""

import lzma
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from legible.config.section import Natural, Section
from legible.errors import UserError, describe
from legible.fingerprint import ROOT
from legible.integrity import check_sums

PATH = ROOT / "resources" / "scripts.yaml"
Direction = Literal["left to right", "right to left"]


class FontEntry(Section):
    """A shipped font: how it is called in captions, and what it was cut out of."""

    words: tuple[str, ...] = Field(min_length=1)
    source: str
    face: str | None = None
    license: str = "OFL-1.1"
    pin: dict[str, float] = Field({}, description="axes that the cut-out no longer has, and where they stand")

    def file(self, name: str, root: Path = ROOT) -> Path:
        """Where it lies, packed."""
        return root / "resources" / "fonts" / f"{name}.font.xz"


class JudgeEntry(Section):
    """A judge of a script, as it is calibrated."""

    settings: dict[str, Any] = Field({}, description="as in the section ocr")
    languages: tuple[str, ...] = Field((), description="for which it is meant; empty = all of the script")
    margin: Natural = Field(10, description="pixels that stay free around a line")


class Script(Section):
    """One writing system."""

    code: Annotated[str, Field(pattern="^[A-Z][a-z]{3}$", description="ISO 15924")]
    languages: tuple[str, ...] = Field(min_length=1)
    characters: tuple[str, ...] = Field(min_length=1)
    capitals: tuple[str, ...] = Field((), description="letters for plain signs, as characters; none where they join")
    fonts: tuple[str, ...] = Field(min_length=1)
    sentences: tuple[str, ...] = Field(min_length=1)
    judges: dict[str, JudgeEntry] = Field({}, description="engine → how it judges")
    direction: Direction = "left to right"
    vertical: bool = False

    @cached_property
    def repertoire(self) -> str:
        """Its characters, in order of code points, each once."""
        return "".join(sorted({character for entry in self.characters for character in spelled_out(entry)}))

    @cached_property
    def alphabet(self) -> str:
        """Its capitals in order of code points; empty where plain signs cannot be written in it."""
        return "".join(spelled_out(entry) for entry in self.capitals)


class Scripts(Section):
    """The whole file."""

    fonts: dict[str, FontEntry]
    scripts: dict[str, Script]


def spelled_out(entry: str) -> str:
    """The characters of a range of code points ("U+0041-005A"), of one ("U+20AC"), or of a codec ("gb2312/16-55").

    A row of a two-byte set (ISO 2022) has 94 places; those that the codec leaves empty are left out.

    Raises:
        ValueError: it is none of these.
    """
    codec, _, rows = entry.rpartition("/")
    first, _, last = rows.removeprefix("U+").partition("-")
    if not codec:
        return "".join(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    places = [bytes((0xA0 + row, 0xA0 + place)) for row in range(int(first), int(last) + 1) for place in range(1, 95)]
    return "".join(place.decode(codec, errors="ignore") for place in places)


@cache
def known() -> Scripts:
    """The file's content.

    Raises:
        UserError: an entry is not as it must be; it is named.
    """
    try:
        scripts = Scripts.model_validate(yaml.safe_load(PATH.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"{PATH}: {describe(error)}") from error
    for name, script in scripts.scripts.items():
        if unknown := [font for font in script.fonts if font not in scripts.fonts]:
            raise UserError(f"{PATH}: scripts.{name}.fonts: '{unknown[0]}' is not among the fonts of this file")
    return scripts


def script_called(name: str) -> Script:
    """The script of this name.

    Raises:
        UserError: there is none; those that there are are named.
    """
    if name not in known().scripts:
        raise UserError(f"'{name}' is no script that is known here; there are {', '.join(known().scripts)}")
    return known().scripts[name]


@cache
def shipped_font(name: str) -> bytes:
    """A shipped font, unpacked; a damaged file is a UserError that names it."""
    check_sums(known().fonts[name].file(name))
    return lzma.decompress(known().fonts[name].file(name).read_bytes())


@cache
def words_of(language: str) -> tuple[str, ...]:
    """CLDR's words of a language."""
    return tuple((ROOT / "resources" / "words" / "cldr" / f"{language}.txt").read_text(encoding="utf-8").split())

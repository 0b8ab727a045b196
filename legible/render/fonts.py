"""Fonts: discovery, coverage (character map and rasterised), licence, and the manifest."""

import io
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from fontTools.agl import toUnicode
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont, features

from legible import config
from legible.config.inputs import OF_THE_SYSTEM
from legible.errors import UserError
from legible.io import sha256_file, write_json

SUFFIXES = {".ttf", ".otf", ".ttc"}
LARGEST = 64 * 2**20  # bytes of a font file that is opened at all
CHECK_SIZE = 40

# Words for families whose name does not say what they look like; every word is in templates.FONT_WORDS.
FAMILY_WORDS = {
    "STIXGeneral": ("roman",),
    "cmss10": ("light",),
    "cmr10": ("light", "roman"),
    "cmb10": ("bold", "roman"),
    "cmti10": ("italic", "light", "roman"),
    "cmtt10": ("light", "monospaced"),
}


@dataclass(frozen=True)
class Font:
    """One font file (of a collection, the first face).

    `name` is "family style" without "Book" or "Regular"; `characters` the required characters that it really draws;
    `reason` says why it is not usable, empty when it is; `words` describe it in captions.
    """

    path: str
    name: str
    family: str
    style: str
    sha256: str
    license: str
    characters: str
    usable: bool
    reason: str
    words: tuple[str, ...]


def find_fonts(fonts: config.Fonts) -> list[Font]:
    """Inspect every font file in the configured places; sorted by name, then path.

    A broken file is listed as not usable, with the reason. Raises a UserError for a folder that does not exist.
    """
    paths: set[Path] = set()
    folders = [Path(folder) for folder in fonts.folders]
    if fonts.bundled:
        import matplotlib

        folders.append(Path(matplotlib.get_data_path()) / "fonts" / "ttf")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"fonts.folders: {folder} is not a folder")
        named = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
        must_be_fonts(named)
        paths.update(path.resolve() for path in named)
    if fonts.system:
        from matplotlib.font_manager import findSystemFonts

        found = (Path(name) for name in findSystemFonts())
        paths.update(path.resolve() for path in found if path.suffix.lower() in SUFFIXES)
    inspected = [inspect_font(path, fonts.characters) for path in paths]
    return sorted(inspected, key=lambda font: (font.name, font.path))


def must_be_fonts(paths: Iterable[Path]) -> None:
    """A UserError for what is called like a font and is a pipe, a device, or a link to itself, or is too large."""
    for path in paths:
        try:
            real = path.resolve(strict=True)
        except FileNotFoundError:
            continue  # where a link leads nowhere, the font is listed as one that cannot be read
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: a link that cannot be followed; take it out of the folder of fonts") from error
        if not (real.is_file() or real.is_dir()) or real.parts[1:2] in OF_THE_SYSTEM:
            raise UserError(f"{path}: a pipe, a device or the system's; take it out of the folder of fonts")
        if real.stat().st_size > LARGEST:
            raise UserError(f"{path}: more than {LARGEST >> 20} MiB; take it out of the folder of fonts")


def inspect_font(path: Path, characters: str) -> Font:
    """Read one font file and check that it really draws all `characters` (white space has nothing to draw)."""
    wanted = "".join(dict.fromkeys("".join(characters.split())))
    try:
        digest = sha256_file(path)
        face = TTFont(io.BytesIO(path.read_bytes()), fontNumber=0, lazy=True)
        family, style = family_and_style(face, path)
        license_text = license_of(face)
        fixed = bool(face["post"].isFixedPitch) if "post" in face else False
        cmap = face.getBestCmap() or {}
        mapped = "".join(c for c in wanted if ord(c) in cmap and named_like(cmap[ord(c)], c))
        characters_drawn, reason = drawn_characters(path, mapped, set(cmap))
    # A broken font can fail anywhere inside fontTools or FreeType, with any kind of exception.
    except Exception as error:
        reason = f"cannot be read: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
        digest = sha256_file(path) if path.is_file() else ""
        return Font(str(path), path.stem, path.stem, "", digest, "", "", False, reason, ())
    if not reason and (missing := [c for c in wanted if c not in characters_drawn]):
        reason = f"lacks {len(missing)} of {len(wanted)} characters: {''.join(missing)}"
    name = family if not style or family.endswith(style) else f"{family} {style}"
    words = font_words(family, style, fixed)
    return Font(str(path), name, family, style, digest, license_text, characters_drawn, not reason, reason, words)


def family_and_style(face: TTFont, path: Path) -> tuple[str, str]:
    """Typographic family and style (name IDs 16 and 17, else 1 and 2); "Book" and "Regular" become ""."""
    names = face["name"]
    family = names.getDebugName(16) or names.getDebugName(1) or path.stem
    style = names.getDebugName(17) or names.getDebugName(2) or ""
    return family.strip(), "" if style in ("Book", "Regular", "Normal", "Roman") else style.strip()


def license_of(face: TTFont) -> str:
    """Licence string of the name table (name ID 13, else the copyright notice, ID 0), on one line."""
    names = face["name"]
    return " ".join((names.getDebugName(13) or names.getDebugName(0) or "not stated").split())


def font_words(family: str, style: str, fixed: bool) -> tuple[str, ...]:
    """Words that describe a font in a caption, e.g. ("bold", "serif"); ("plain",) when there is nothing to say."""
    lowered = f"{family} {style}".lower()
    words = [word for word in ("bold", "light", "condensed") if word in style.lower()]
    if "italic" in lowered or "oblique" in lowered:
        words.append("italic")
    words += [word for word in FAMILY_WORDS.get(family, ()) if word not in words]
    if "serif" in lowered and "sans" not in lowered:
        words.append("serif")
    if (fixed or "mono" in lowered.split()) and "monospaced" not in words:
        words.append("monospaced")
    return tuple(words) or ("plain",)


def named_like(glyph: str, character: str) -> bool:
    """False when the glyph's name says that it is another character: TeX's symbol fonts map "A" to a parenthesis.

    Only ASCII is judged: beyond it the Adobe glyph list is ambiguous (Delta, Omega, mu), and many names say nothing.
    """
    return not character.isascii() or toUnicode(glyph) in ("", character)


def drawn_characters(path: Path, mapped: str, cmap: set[int]) -> tuple[str, str]:
    """The characters among `mapped` that have ink and differ from .notdef, and what is wrong with the font, or "".

    A character map alone proves nothing: Last Resort maps every character to the same few boxes.
    """
    font = ImageFont.truetype(str(path), CHECK_SIZE, layout_engine=ImageFont.Layout.BASIC)
    unmapped = next((code for code in range(0xE000, 0x110000) if code not in cmap), None)
    missing = None if unmapped is None else raster(font, chr(unmapped))
    drawn: dict[bytes, str] = {}
    covered = ""
    for character in mapped:
        glyph = raster(font, character)
        if glyph is None or glyph == missing:
            continue
        if glyph in drawn:
            return covered, f"draws '{drawn[glyph]}' and '{character}' as the same glyph"
        drawn[glyph] = character
        covered += character
    return covered, ""


def raster(font: ImageFont.FreeTypeFont, character: str) -> bytes | None:
    """The ink of one character with its size in front, or None without ink."""
    canvas = Image.new("L", (4 * CHECK_SIZE, 4 * CHECK_SIZE))
    ImageDraw.Draw(canvas).text((CHECK_SIZE, 2 * CHECK_SIZE), character, fill=255, font=font, anchor="ls")
    box = canvas.getbbox()
    return None if box is None else repr(box).encode() + canvas.crop(box).tobytes()


@lru_cache(maxsize=512)
def load_face(path: str, size: int, ascii_only: bool = True) -> ImageFont.FreeTypeFont:
    """A font at `size` pixels, cached.

    Plain ASCII always takes the basic layout, so that pixels do not depend on which machine has Raqm; all other text
    needs Raqm for its shaping.

    Raises:
        UserError: Raqm is needed and Pillow was built or runs without it.
    """
    if not ascii_only and not features.check("raqm"):
        raise UserError(f"{path}: text beyond ASCII needs Pillow with Raqm (libraqm and FriBiDi); install them")
    engine = ImageFont.Layout.BASIC if ascii_only else ImageFont.Layout.RAQM
    return ImageFont.truetype(path, size, layout_engine=engine)


def check_text(text: str, font: Font) -> None:
    """Raise a UserError when `font` is not known to draw `text` (spaces aside) or its direction is unsupported."""
    if missing := sorted({c for c in text if not c.isspace()} - set(font.characters)):
        raise UserError(
            f"the font '{font.name}' is not known to draw '{''.join(missing)}' (in '{text}'); add the characters to"
            " fonts.characters, or choose another font"
        )
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in text):
        raise UserError(f"'{text}': right-to-left text is not supported")


def select_fonts(fonts: Iterable[Font], names: tuple[str, ...], held_out: tuple[str, ...] = ()) -> list[Font]:
    """The usable fonts called `names`, in that order; without names, every usable one that is not in `held_out`.

    Raises:
        UserError: a name is unknown or not usable, is held out as well, or nothing is left.
    """
    known = list(fonts)
    usable: dict[str, Font] = {}
    for font in known:
        if font.usable:
            usable.setdefault(font.name, font)
    if not names:
        chosen = [font for name, font in usable.items() if name not in held_out]
        if not chosen:
            reasons = "; ".join(f"{font.name}: {font.reason}" for font in known[:3] if font.reason)
            raise UserError(f"fonts: no usable font{f' ({reasons})' if reasons else ''}; add a folder to fonts.folders")
        return chosen
    for name in names:
        if name in held_out:
            raise UserError(f"fonts.train: '{name}' is in fonts.held_out as well; a held-out font is never trained on")
        if name not in usable:
            found = next((font for font in known if font.name == name), None)
            why = f"is not usable ({found.reason})" if found else "was not found"
            some = ", ".join(f"'{usable_name}'" for usable_name in list(usable)[:8]) or "none"
            raise UserError(f"fonts: the font '{name}' {why}; usable fonts are {some}")
    return [usable[name] for name in names]


def write_manifest(path: str | Path, fonts: Iterable[Font]) -> None:
    """Write the fonts as JSON, atomically, sorted by name, then path."""
    write_json(path, [asdict(font) for font in sorted(fonts, key=lambda font: (font.name, font.path))])


def read_manifest(path: str | Path) -> list[Font]:
    """Read what `write_manifest` wrote.

    Raises:
        UserError: no such file, or not such a manifest.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        return [Font(**{**row, "words": tuple(row["words"])}) for row in rows]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such font manifest") from error
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a font manifest; run scripts/inspect_fonts.py again") from error

"""Cut the shipped fonts out of their sources: the characters of the scripts that use them, with all that shaping needs.

A font that no script uses is cut to capitals and digits: the glyph judge learns on it.

The sources are open fonts that `--sources` holds somewhere below it, with a licence text beside each. Where a
font reserves its name, it is refused: a cut-out may not bear it.
"""

import argparse
import io
import json
import lzma
import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTCollection, TTFont
from fontTools.varLib import instancer

from legible.config.scripts import FontEntry, known
from legible.corpus.words import DIGITS, LATIN, letters_of
from legible.errors import UserError, run_cli
from legible.fingerprint import ROOT
from legible.integrity import write_sums
from legible.io import sha256_file, write_json

MANIFEST = ROOT / "resources" / "fonts" / "fonts.json"
RESERVED = re.compile(r"with Reserved Font Name[s]?\s+['\"“]?([\w ]+)", re.IGNORECASE)


def found(sources: Path, file: str) -> Path:
    """The one file of this name below `sources`."""
    paths = sorted(path for path in sources.rglob("*") if path.name == file)
    if not paths:
        raise UserError(f"--sources: no {file} lies below {sources}")
    return paths[0]


def opened(path: Path, face: str | None) -> TTFont:
    """The font, or the face of this name out of a collection."""
    if face is None:
        return TTFont(path)
    for font in TTCollection(str(path), lazy=True).fonts:
        if font["name"].getDebugName(1) == face:
            return font
    raise UserError(f"{path}: no face is called '{face}'")


def cut(path: Path, entry: FontEntry, characters: str) -> tuple[bytes, dict]:
    """The cut-out as bytes, and what is to be known of its source."""
    font = opened(path, entry.face)
    names = {number: font["name"].getDebugName(number) or "" for number in (0, 1, 5, 13)}
    own = names[1].split()[0]
    if any(own in reserved for text in (names[0], names[13]) for reserved in RESERVED.findall(text)):
        raise UserError(f"{path}: its authors reserve the name '{own}', which a cut-out may not bear")
    options = subset.Options(name_IDs=[0, 1, 2, 5, 13, 14], hinting=False, notdef_outline=True)
    options.drop_tables += ["DSIG", "meta"]
    subsetter = subset.Subsetter(options)
    subsetter.populate(text=characters + " \u200c\u200d\u25cc")
    subsetter.subset(font)
    if entry.pin:
        small = io.BytesIO()
        font.save(small)
        font = instancer.instantiateVariableFont(TTFont(small), entry.pin)
    out = io.BytesIO()
    font.recalcTimestamp = False  # the same bytes whenever it is cut
    font.save(out)
    about = {"source": path.name, "sha256": sha256_file(path), "version": names[5], "copyright": names[0]}
    lost = [c for c in characters if ord(c) not in (font.getBestCmap() or {})]
    return out.getvalue(), {**about, "license": entry.license, "without": "".join(lost)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=Path, required=True, help="folder with the fonts somewhere below it")
    parser.add_argument("--only", nargs="*", help="of these fonts in resources/scripts.yaml; default: all")
    args = parser.parse_args()

    unknown = [name for name in args.only or () if name not in known().fonts]
    if unknown:
        raise UserError(f"--only: '{unknown[0]}' is none of the fonts in resources/scripts.yaml")
    manifest: dict[str, dict] = json.loads(MANIFEST.read_text(encoding="utf-8")) if args.only else {}
    for name, entry in known().fonts.items():
        if args.only and name not in args.only:
            continue
        users = [script for script in known().scripts.values() if name in script.fonts]
        characters = "".join(sorted({c for script in users for c in script.repertoire})) or letters_of(LATIN) + DIGITS
        path = found(args.sources, entry.source)
        target = entry.file(name)
        data, manifest[name] = cut(path, entry, characters)
        target.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
        print(json.dumps({"font": name, "bytes": len(data), "packed": target.stat().st_size}), flush=True)
    write_json(MANIFEST, manifest)
    write_sums(MANIFEST.parent)


if __name__ == "__main__":
    run_cli(main)

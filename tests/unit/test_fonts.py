"""Fonts: what a font really draws decides, not what its character map promises."""

import json
import os
import shutil
from pathlib import Path

import matplotlib
import pytest

from legible.config import Fonts
from legible.errors import UserError
from legible.render import fonts as module
from legible.render.fonts import LARGEST, check_text, find_fonts, load_face, read_manifest, select_fonts, write_manifest

BUNDLED = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def bundled():
    return find_fonts(Fonts())


def only(folder, **keys):
    return Fonts(bundled=False, folders=(str(folder),), **keys)


def by_file(fonts, name):
    return next(font for font in fonts if Path(font.path).name == name)


@pytest.mark.parametrize(
    ("file", "name", "words"),
    [
        ("DejaVuSans.ttf", "DejaVu Sans", ("plain",)),
        ("DejaVuSans-Bold.ttf", "DejaVu Sans Bold", ("bold",)),
        ("DejaVuSerif-Bold.ttf", "DejaVu Serif Bold", ("bold", "serif")),
        ("DejaVuSansMono-Bold.ttf", "DejaVu Sans Mono Bold", ("bold", "monospaced")),
        ("STIXGeneralBol.ttf", "STIXGeneral Bold", ("bold", "roman")),
        ("cmss10.ttf", "cmss10", ("light",)),
        ("cmr10.ttf", "cmr10", ("light", "roman")),
    ],
)
def test_names_and_caption_words(bundled, file, name, words):
    font = by_file(bundled, file)
    assert (font.name, font.words, font.usable, font.reason) == (name, words, True, "")
    assert set(font.characters) == set(Fonts().characters)
    assert font.license
    assert len(font.sha256) == 64


def test_last_resort_maps_every_character_and_is_still_rejected(bundled):
    font = by_file(bundled, "LastResortHE-Regular.ttf")
    assert not font.usable
    assert font.reason == "draws 'A' and 'B' as the same glyph"


@pytest.mark.parametrize("file", ["cmex10.ttf", "cmsy10.ttf"])
def test_symbol_fonts_that_map_letters_to_other_glyphs_are_rejected(bundled, file):
    assert not by_file(bundled, file).usable


def test_a_glyph_equal_to_notdef_is_not_covered(tmp_path):
    """A font whose character map points at .notdef: the map claims the letter, the raster shows the box."""
    from fontTools.ttLib import TTFont

    face = TTFont(BUNDLED / "DejaVuSans.ttf")
    for table in face["cmap"].tables:
        if ord("Q") in table.cmap:
            table.cmap[ord("Q")] = ".notdef"
    face.save(tmp_path / "tofu.ttf")
    (font,) = find_fonts(only(tmp_path))
    assert not font.usable
    assert font.reason == "lacks 1 of 36 characters: Q"


def test_missing_characters_are_named():
    fonts = find_fonts(Fonts(characters="AB中"))
    font = by_file(fonts, "cmr10.ttf")
    assert font.reason == "lacks 1 of 3 characters: 中"
    assert font.characters == "AB"


def test_white_space_has_nothing_to_draw():
    (font,) = [f for f in find_fonts(Fonts(characters="A \t\u00a0B")) if f.name == "DejaVu Sans"]
    assert font.usable


@pytest.mark.parametrize("content", [b"", b"no font at all", (BUNDLED / "cmr10.ttf").read_bytes()[:4000]])
def test_a_broken_file_is_reported_and_skipped(tmp_path, content):
    (tmp_path / "broken.ttf").write_bytes(content)
    shutil.copy(BUNDLED / "cmss10.ttf", tmp_path)
    fonts = find_fonts(only(tmp_path))
    assert [font.usable for font in fonts] == [False, True]
    assert fonts[0].reason.startswith("cannot be read")
    assert [font.name for font in select_fonts(fonts, (), ())] == ["cmss10"]


@pytest.mark.parametrize("name", ["pipe", "zero", "status", "loop", "huge"])
def test_what_is_called_like_a_font_and_is_none_is_refused_before_it_is_opened(tmp_path, name):
    """A pipe and a device have no end, and a link to itself is none."""
    odd = tmp_path / f"{name}.ttf"
    if name == "pipe":
        os.mkfifo(odd)
    elif name == "huge":
        with odd.open("wb") as file:
            file.truncate(LARGEST + 1)
    else:
        odd.symlink_to({"zero": "/dev/zero", "status": "/proc/self/status", "loop": odd.name}[name])
    shutil.copy(BUNDLED / "cmss10.ttf", tmp_path)
    with pytest.raises(UserError, match=rf"{name}\.ttf: .*take it out of the folder of fonts"):
        find_fonts(only(tmp_path))


@pytest.mark.parametrize("name", ["dangling", "folder"])
def test_a_font_that_is_not_there_is_skipped(tmp_path, name):
    if name == "folder":
        (tmp_path / "folder.ttf").mkdir()
    else:
        (tmp_path / "dangling.ttf").symlink_to("gone.ttf")
    shutil.copy(BUNDLED / "cmss10.ttf", tmp_path)
    assert [font.usable for font in find_fonts(only(tmp_path))] == [True, False]


def test_no_usable_font(tmp_path):
    (tmp_path / "broken.otf").write_bytes(b"no")
    with pytest.raises(UserError, match="no usable font"):
        select_fonts(find_fonts(only(tmp_path)), (), ())
    with pytest.raises(UserError, match="is not a folder"):
        find_fonts(only(tmp_path / "nowhere"))


def test_select_names_what_is_wrong_and_what_is_allowed(bundled):
    with pytest.raises(UserError, match="'Comic Sans' was not found; usable fonts are 'DejaVu Sans'"):
        select_fonts(bundled, ("Comic Sans",), ())
    with pytest.raises(UserError, match=r"'cmex10' is not usable \(lacks 13 of 36 characters"):
        select_fonts(bundled, ("cmex10",), ())
    with pytest.raises(UserError, match="held-out font is never trained on"):
        select_fonts(bundled, ("cmr10",), ("cmr10",))


def test_selection_keeps_the_order_and_leaves_held_out_fonts_out(bundled):
    assert [font.name for font in select_fonts(bundled, ("cmss10", "DejaVu Sans"), ())] == ["cmss10", "DejaVu Sans"]
    every = {font.name for font in select_fonts(bundled, (), ("cmr10",))}
    assert every == {font.name for font in bundled if font.usable} - {"cmr10"}


def test_manifest_round_trip(tmp_path, bundled):
    path = tmp_path / "manifest.json"
    write_manifest(path, reversed(bundled))
    assert read_manifest(path) == bundled
    first = path.read_bytes()
    write_manifest(path, find_fonts(Fonts()))
    assert path.read_bytes() == first


@pytest.mark.parametrize("content", ["{", json.dumps([{"path": "x"}]), json.dumps([3])])
def test_a_damaged_manifest_is_a_sentence(tmp_path, content):
    path = tmp_path / "manifest.json"
    with pytest.raises(UserError, match="no such font manifest"):
        read_manifest(path)
    path.write_text(content)
    with pytest.raises(UserError, match="not a font manifest"):
        read_manifest(path)


def test_text_beyond_ascii_needs_raqm(monkeypatch):
    monkeypatch.setattr(module.features, "check", lambda name: False)
    path = str(BUNDLED / "DejaVuSans.ttf")
    opened = load_face.__wrapped__  # a face that another test has opened is not asked for again
    assert opened(path, 17, True).getlength("A") > 0
    with pytest.raises(UserError, match="needs Pillow with Raqm"):
        opened(path, 17, False)


def test_text_that_a_font_is_not_known_to_draw(bundled):
    font = by_file(bundled, "DejaVuSans.ttf")
    check_text("OPEN 24", font)
    with pytest.raises(UserError, match="not known to draw 'ä'"):
        check_text("Aä", font)

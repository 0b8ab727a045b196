"""The text engine: what is drawn against HarfBuzz's own raster, and every label against the pixels of what it names."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import uharfbuzz as hb
from bidi.algorithm import get_display
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import get_data_path
from pydantic import ValidationError

from legible.config import Fonts
from legible.config.render import GROUNDS, LAYOUTS, PRESETS, Recipe
from legible.config.scripts import known, script_called, shipped_font, spelled_out
from legible.corpus.templates import PALETTE
from legible.errors import UserError
from legible.nano.glyphs import letter_fonts
from legible.nano.recipe import GlyphRecipe
from legible.render import grounds
from legible.render.captions import looks
from legible.render.compose import draw, drawn_face, letters_of, words_of
from legible.render.faces import Face, open_face
from legible.render.fonts import find_fonts
from legible.render.layout import along, arc, block_of, flat, in_perspective, through
from legible.render.looks import luminances
from legible.render.raster import Outlines, fill, inks, joined, laid, within
from legible.render.shaping import LONGEST, Shaped, Unshapable, bidi_levels, scripts_of, shape, visual_runs
from legible.render.typeset import parts_of, typeset

ROOT = Path(__file__).parents[2]
SCRIPTS = list(known().scripts)
HEIGHT, WIDTH, SIZE = 240, 640, 40.0


def line_of(name: str, seed: int = 0, words: int = 2, font: int = 0, vertical: bool = False) -> Shaped:
    """Some words of a script's first language, in one of its fonts."""
    script, rng = script_called(name), np.random.default_rng(seed)
    listed = words_of(script.languages[0])
    text = " ".join(listed[int(i)] for i in rng.integers(0, len(listed), words))
    face = open_face(script.fonts[font % len(script.fonts)])
    return shape(text, face, script.code, script.languages[0], direction=script.direction, vertical=vertical)


def warps(block, size: float) -> dict:
    """A flat one, a bent one and one in perspective, all within the picture."""
    width, height = block.width * size, block.height * size
    x, y = (WIDTH - width) / 2, (HEIGHT - height) / 2
    bow = arc(width, 0.9)
    bow += (WIDTH / 2, HEIGHT / 2) - bow.mean(0)
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    onto = corners + np.array([[0.08, 0.05], [-0.05, 0.1], [-0.02, -0.02], [0.03, -0.1]]) * (width, height)
    return {
        "flat": (flat(size, x, y), False),
        "turned": (flat(size, x, y, 0.15, (WIDTH / 2, HEIGHT / 2)), False),
        "arc": (along(bow, size, block.height / 2), True),
        "perspective": (in_perspective(flat(size, x, y), corners, onto), True),
    }


def fitting(lines: list[Shaped], **settings) -> tuple:
    block = block_of(lines, **settings)
    return block, min(SIZE, 0.8 * WIDTH / block.width, 0.7 * HEIGHT / block.height)


BLOCKS = [(script, lines) for script in SCRIPTS for lines in ("line", "lines")]
BLOCKS += [(script, "vertical") for script in SCRIPTS if script_called(script).vertical]


@pytest.mark.parametrize(("script", "lines"), BLOCKS)
@pytest.mark.parametrize("kind", ["flat", "turned", "arc", "perspective"])
def test_every_ink_box_is_that_of_the_cluster_drawn_alone(script, lines, kind):
    """Alone: on a whole picture, without the sheet of cells. Id map and coverage agree with both."""
    vertical = lines == "vertical"
    block, size = fitting([line_of(script, seed, vertical=vertical) for seed in range(1 if lines == "line" else 3)])
    warp, bends = warps(block, size)[kind]
    done = typeset(block, warp, size, (HEIGHT, WIDTH), bends=bends)
    outlines = joined([parts for placed in block.lines for parts in parts_of(placed, bends)])
    total, best = np.zeros((HEIGHT, WIDTH), np.int64), np.zeros((HEIGHT, WIDTH), np.int64)
    owner = np.zeros((HEIGHT, WIDTH), np.int64)
    for number, cluster in enumerate(done.clusters):
        one = outlines.between(number, number + 1)
        if not len(one.points):
            assert cluster.ink_box is None
            assert cluster.text.isspace()
            continue
        alone = fill(warp(one.points), one.tags, one.ends, WIDTH, HEIGHT)
        rows, columns = np.flatnonzero(alone.any(1)), np.flatnonzero(alone.any(0))
        assert cluster.ink_box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        total += alone
        wins = alone > best
        best[wins], owner[wins] = alone[wins], number + 1
    coverage, ids = laid(done.inks, (0, 0, WIDTH, HEIGHT))
    np.testing.assert_array_equal(coverage, np.minimum(total, 255))
    np.testing.assert_array_equal(ids, owner)
    whole = fill(warp(outlines.points), outlines.tags, outlines.ends, WIDTH, HEIGHT)
    apart = np.abs(coverage.astype(int) - whole)
    assert (apart > 8).mean() < 0.004  # letters that touch add up, where one outline would unite them


def harfbuzz_raster(line: Shaped, size: float, x: float, y: float) -> np.ndarray:
    """The line's glyphs by HarfBuzz's own rasteriser, uint8 [H, W]; baseline from (x, y), counted downwards."""
    scale = size / line.face.upem
    drawing = hb.RasterDraw()
    drawing.extents = hb.RasterExtents(x_origin=0, y_origin=0, width=WIDTH, height=HEIGHT)
    for glyph, place in zip(line.glyphs.tolist(), line.places, strict=True):
        drawing.transform = (scale, 0, 0, scale, x + place[0] * size, HEIGHT - y + place[1] * size)
        drawing.draw_glyph(line.face.font, glyph)
    image = drawing.render()
    pixels = np.frombuffer(bytes(image.buffer), np.uint8).reshape(image.extents.height, image.extents.stride)
    return pixels[::-1, :WIDTH]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_flat_line_is_what_harfbuzz_draws_itself(script):
    """Joins, marks and conjuncts in their places: IoU at least .98."""
    for font in range(len(script_called(script).fonts)):
        line = line_of(script, seed=font, font=font)
        block, size = fitting([line])
        done = typeset(block, flat(size, 20, 60), size, (HEIGHT, WIDTH), bends=False)
        ours = laid(done.inks, (0, 0, WIDTH, HEIGHT))[0].astype(int)
        theirs = harfbuzz_raster(line, size, 20, 60 + line.face.ascent * size).astype(int)
        assert ours.any()
        assert np.minimum(ours, theirs).sum() / np.maximum(ours, theirs).sum() >= 0.98


def test_arabic_joins_and_is_set_from_the_right():
    face = open_face("noto_sans_arabic")
    joined_up, apart = (shape(text, face, "Arab", "ar", direction="right to left") for text in ("بب", "ب ب"))
    isolated = set(apart.glyphs[[0, -1]]) | set(shape("ب", face, "Arab", "ar").glyphs)
    forms = set(joined_up.glyphs)
    assert len(forms - isolated) == 2  # an initial and a final form; what they share is the dot
    assert joined_up.advance < apart.advance
    assert joined_up.pens[0, 0] > joined_up.pens[1, 0]


HEBREW, LATIN = "אבגדה", "abcde"


@given(
    st.lists(st.sampled_from([*HEBREW, *LATIN, *"123", *" .,:-()"]), min_size=1, max_size=24).map("".join),
    st.sampled_from(["left to right", "right to left"]),
)
@settings(max_examples=400, deadline=None)
def test_runs_stand_in_the_order_of_the_bidirectional_algorithm(text, direction):
    """On the page from the left: python-bidi's display order, but for brackets, which the font mirrors."""
    text = text.strip() or "a"
    seen = ""
    for start, end, level, _ in visual_runs(bidi_levels(text, direction), scripts_of(text, "Latn")):
        seen += text[start:end][::-1] if level % 2 else text[start:end]
    shown = get_display(text, base_dir="R" if direction == "right to left" else "L")
    assert re.sub("[()]", "|", seen) == re.sub("[()]", "|", shown)


def test_digits_in_a_hebrew_line_run_to_the_right():
    line = shape("שקל 123", open_face("rubik"), "Hebr", "he", direction="right to left")
    pens = dict(zip(line.clusters, line.pens[:, 0], strict=True))
    assert pens["1"] < pens["2"] < pens["3"] < pens["ל"] < pens["ק"] < pens["ש"]


@pytest.mark.parametrize(
    ("font", "script", "text", "clusters"),
    [
        ("noto_sans", "Latn", "office", ["o", "f", "f", "i", "c", "e"]),
        ("noto_sans_devanagari", "Deva", "स्वागत", ["स्वा", "ग", "त"]),
        ("noto_sans_devanagari", "Deva", "हिन्दी", ["हि", "न्दी"]),
        ("noto_sans_thai", "Thai", "ที่นี่", ["ที่", "นี่"]),
        ("amiri", "Arab", "لا", ["ل", "ا"]),  # one shape in two glyphs, which HarfBuzz keeps apart
        ("noto_sans", "Latn", "Việt", ["V", "i", "ệ", "t"]),
    ],
)
def test_a_label_is_what_a_reader_takes_for_one_character(font, script, text, clusters):
    way = "right to left" if script == "Arab" else "left to right"
    assert shape(text, open_face(font), script, "und", direction=way).clusters == clusters


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_the_text_and_own_all_glyphs(script, seed):
    line = line_of(script, seed, words=3, font=seed)
    assert "".join(line.clusters) == line.text
    assert set(line.owners) <= set(range(len(line.spans)))
    assert (line.glyphs != 0).all()
    assert (np.diff(line.pens, axis=1) >= 0).all()
    assert line.pens.min() >= -1e-9
    assert line.pens.max() <= line.advance + 1e-9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the line is empty"),
        ("   ", "the line is empty"),
        ("a\nb", r"U\+000A in the line is no character"),
        ("a\x00b", r"U\+0000"),
        ("a\ue000", r"U\+E000"),
        ("\u202eabc", r"U\+202E"),
        ("\ud800", r"U\+D800"),
        ("a\U0010ffff", r"U\+10FFFF"),
        ("\u0301a", r"begins with U\+0301, a mark with nothing to stand on"),
        ("a😀", "the font noto_sans lacks '😀'"),
        ("שלום", "lacks 'שלום'"),
        ("漢字", "lacks '漢字'"),
        ("x" * 10_000, f"has 10000 characters; at most {LONGEST}"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(text, message):
    with pytest.raises(Unshapable, match=message):
        shape(text, open_face("noto_sans"), "Latn", "en")


def test_a_long_line_is_drawn():
    """More points than FreeType takes at once: the clusters are filled in several calls."""
    line = shape("字" * 900, open_face("noto_sans_sc"), "Hans", "zh")
    done = typeset(block_of([line]), flat(10.0, 0, 0), 10.0, (20, 9_100), bends=False)
    boxes = [cluster.ink_box for cluster in done.clusters]
    assert sum(len(line.face.outline(int(glyph)).points) for glyph in line.glyphs) > 32_000
    assert len({(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes}) == 1
    assert [box[0] for box in boxes] == [boxes[0][0] + 10 * n for n in range(900)]


@pytest.mark.parametrize("damage", ["empty", "noise", "half", "text"])
def test_a_broken_font_is_one_sentence(damage, tmp_path):
    data = shipped_font("noto_sans")
    noise = np.random.default_rng(0).integers(0, 256, 5_000, np.uint8).tobytes()
    content = {"empty": b"", "noise": noise, "half": data[: len(data) // 2], "text": b"no font at all"}[damage]
    (tmp_path / "font.ttf").write_bytes(content)
    said = ""
    try:
        face = open_face(str(tmp_path / "font.ttf"))
        typeset(block_of([shape("A", face, "Latn", "en")]), flat(20.0, 0, 0), 20.0, (40, 40), bends=False)
    except (UserError, Unshapable) as error:
        said = str(error)
    assert said or damage == "half"  # its tables may lie in the first half
    assert "\n" not in said


def test_axes_and_fonts_that_are_not_there_are_named():
    with pytest.raises(UserError, match=r"noto_sans: the axis wght has no 950; its axes are wght 400 … 700"):
        open_face("noto_sans", (("wght", 950.0),))
    with pytest.raises(UserError, match="'nowhere' is neither a shipped font nor a font file"):
        open_face("nowhere")
    with pytest.raises(UserError, match="'klingon' is no script that is known here; there are latin, greek"):
        script_called("klingon")


def test_weight_makes_letters_heavier():
    def ink(weight: float) -> int:
        line = shape("HELLO", open_face("noto_sans", (("wght", weight),)), "Latn", "en")
        done = typeset(block_of([line]), flat(40.0, 5, 5), 40.0, (80, 240), bends=False)
        return int(laid(done.inks, (0, 0, 240, 80))[0].sum(dtype=np.int64))

    assert ink(700.0) > 1.2 * ink(400.0)


def test_an_arc_keeps_lengths_and_a_perspective_its_corners():
    path = arc(300.0, 1.2)
    assert np.hypot(*np.diff(path, axis=0).T).sum() == pytest.approx(300.0, rel=1e-4)
    assert path[128, 1] < path[0, 1]  # upwards in the middle
    corners = np.array([[0, 0], [100, 0], [100, 50], [0, 50.0]])
    onto = np.array([[5, 3], [90, 0], [100, 60], [-4, 44.0]])
    np.testing.assert_allclose(in_perspective(lambda p: p, corners, onto)(corners), onto, atol=1e-9)
    straight = along(np.stack([np.linspace(0, 300, 50), np.full(50, 7.0)], 1), 10.0, 1.0)
    np.testing.assert_allclose(
        straight(np.array([[2.0, 1.0], [3.0, 3.0], [40.0, 0.0]])), [[20, 7], [30, 27], [400, -3]]
    )


@pytest.mark.parametrize("align", ["left", "centre", "right", "justified"])
def test_lines_are_aligned_by_their_pens(align):
    lines = [shape(text, open_face("noto_sans"), "Latn", "en") for text in ("a b c", "the widest line of all", "d e")]
    block = block_of(lines, align)
    ends = [(p.origin[0], p.origin[0] + p.line.advance + 2 * p.per_space) for p in block.lines[:1]]
    (left, right), width = ends[0], block.width
    assert block.width == max(line.advance for line in lines)
    expected = {"left": (0, None), "right": (None, width), "justified": (0, width), "centre": (width - right, None)}[
        align
    ]
    for value, wanted in zip((left, right), expected, strict=True):
        assert wanted is None or value == pytest.approx(wanted)
    assert block.lines[2].per_space == 0
    assert [p.origin[1] for p in block.lines] == sorted(p.origin[1] for p in block.lines)


@pytest.mark.parametrize(("script", "first"), [("latin", "left"), ("hebrew", "right")])
def test_columns_begin_where_the_script_does(script, first):
    lines = [line_of(script, seed) for seed in range(4)]
    block = block_of(lines, columns=2)
    middle = {placed.line.text: placed.origin[0] + placed.line.advance / 2 for placed in block.lines}
    one, three = middle[lines[0].text], middle[lines[2].text]
    assert one < three if first == "left" else one > three


SMALL = {"height": 96, "width": 256, "size": (14, 30)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_of_each_layout(layout):
    """Boxes hold the ids' pixels, words hold their clusters' text, and letters stand out."""
    bent = {"curve": ((0, 0), (2, -0.4), (3, 0), (5, 0.3))} if layout == "curve" else {}
    recipe = Recipe(**SMALL, texts=(1, 2), layouts={layout: 1.0}, hidden=0.3, **bent)
    for index in range(4):
        sample = draw(recipe, 5, index)
        assert sample.image.shape == (96, 256, 3)
        assert sample.contrast >= recipe.contrast
        for number, cluster in enumerate(sample.clusters):
            rows, columns = np.nonzero(sample.ids == number + 1)
            if len(rows):
                x0, y0, x1, y1 = cluster.ink_box
                assert x0 <= columns.min()
                assert columns.max() < x1
                assert y0 <= rows.min() <= rows.max() < y1
            assert sample.lines[cluster.line].text[cluster.start : cluster.end] == cluster.text
            assert 0 <= sample.shown[number] <= 1
        for number, word in enumerate(sample.words):
            assert word.text == "".join(c.text for c in sample.clusters if c.word == number)
            assert f"{word.text}" in sample.caption
        assert (sample.ids > 0).sum() == (sample.coverage > 0).sum()


def test_hidden_ink_is_counted():
    recipe = Recipe(**SMALL, texts=(1, 1), layouts={"line": 1.0}, hidden=1.0, scripts={"latin": 1.0})
    shown = np.concatenate([draw(recipe, 1, index).shown for index in range(8)])
    assert ((shown > 0) & (shown < 1)).any()
    assert (shown == 1).any()


def test_contrast_is_wcags():
    colors = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8)
    np.testing.assert_allclose(luminances(colors), [1.0, 0.0, 0.2126], atol=1e-9)


def test_a_picture_depends_on_its_number_alone():
    recipe = Recipe(**SMALL)
    again = [draw(recipe, 3, index) for index in (4, 1)]
    first = [draw(recipe, 3, index) for index in range(5)]
    for sample in again:
        np.testing.assert_array_equal(sample.image, first[sample.index].image)
        np.testing.assert_array_equal(sample.ids, first[sample.index].ids)
        assert sample.caption == first[sample.index].caption
    assert len({sample.image.tobytes() for sample in first}) == 5


def test_what_cannot_be_drawn_well_is_counted_and_in_the_end_said():
    sample = draw(Recipe(**SMALL, contrast=4.5), 0, 0)
    assert isinstance(sample.rejected, Counter)
    nobody = Recipe(**SMALL, scripts={"greek": 1.0}, languages=("th",))
    with pytest.raises(UserError, match=r"picture 0: none of 200 .* none of the languages is written in greek \(200\)"):
        draw(nobody, 0, 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_recipes(preset):
    sample = draw(Recipe.model_validate(PRESETS[preset] | {"height": 128, "width": 192, "size": (12, 30)}), 0, 1)
    assert sample.lines
    if preset == "pure":
        assert len(np.unique(sample.image.reshape(-1, 3)[sample.coverage.ravel() == 0], axis=0)) == 1


def test_a_caption_in_the_texts_own_language():
    recipe = Recipe(**SMALL, scripts={"cyrillic": 1.0}, texts=(1, 1), captions="own")
    sample = draw(recipe, 0, 0)
    assert "«" in sample.caption
    assert "letters" not in sample.caption


# What is known of scripts.


def test_the_shipped_fonts_have_what_their_scripts_need():
    for name, script in known().scripts.items():
        missing = [set(open_face(font).lacks(script.repertoire)) for font in script.fonts]
        assert not set.intersection(*missing), name
        assert not [c for c in missing[0] if not c.isascii()], name  # signs and digits may come with another font
        assert all(letters_of(script.repertoire, open_face(font)) for font in script.fonts)
    packed = sum(path.stat().st_size for path in (ROOT / "resources" / "fonts").glob("*.xz"))
    assert packed <= 3_000_000
    used = {font for script in known().scripts.values() for font in script.fonts}
    assert used <= set(known().fonts)


def test_a_font_of_no_script_is_one_that_the_glyph_judge_learns_on():
    used = {font for script in known().scripts.values() for font in script.fonts}
    others = {font.name for font in letter_fonts() if Path(font.path).stem in set(known().fonts) - used}
    assert len(others) == len(set(known().fonts) - used) > 10
    recipe = GlyphRecipe()
    assert others <= set(recipe.train_fonts)
    assert not set(recipe.train_fonts) & {*recipe.held_out_fonts, *recipe.threshold_fonts}


def test_every_language_has_words_in_its_script():
    for script in known().scripts.values():
        for language in script.languages:
            words = words_of(language)
            assert len(words) > 1_000
            assert set("".join(words)) <= set(script.repertoire) | set("-\u200c\u200d")


def test_repertoires_are_what_their_standards_have():
    assert len([c for c in script_called("hangul").repertoire if "\uac00" <= c <= "\ud7a3"]) == 2_350
    assert len([c for c in script_called("chinese").repertoire if "\u4e00" <= c <= "\u9fff"]) == 3_755
    assert len([c for c in script_called("japanese").repertoire if "\u4e00" <= c <= "\u9fff"]) == 2_965
    assert spelled_out("U+0041-0043") == "ABC"
    assert spelled_out("U+20AC") == "€"


def test_a_drawn_face_is_one_of_the_scripts():
    rng = np.random.default_rng(0)
    faces: list[Face] = [drawn_face(Recipe(), rng, script_called("latin")) for _ in range(40)]
    assert {face.name for face in faces} == set(script_called("latin").fonts)
    assert len({face.axes for face in faces}) > 3


def test_nothing_outside_the_picture_is_kept():
    outlines = Outlines(
        np.array([[-5.0, -5], [10, -5], [10, 10], [-5, 10]]), np.ones(4, np.uint8), np.array([3]), np.array([0, 4])
    )
    (ink,) = inks(outlines)
    assert (ink.x, ink.y, ink.coverage.shape) == (-5, -5, (15, 15))
    where, part = within(ink, (0, 0, 8, 8))
    assert part.shape == (8, 8)
    assert where == (slice(0, 8), slice(0, 8))
    assert within(ink, (20, 20, 30, 30)) is None


def test_an_outline_larger_than_any_picture_is_refused():
    huge = Outlines(np.array([[0.0, 0], [90_000, 0], [0, 9]]), np.ones(3, np.uint8), np.array([2]), np.array([0, 3]))
    with pytest.raises(ValueError, match="larger than any picture"):
        inks(huge)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sheet", "x.png", "--script", "klingon"], "error: recipe: scripts: 'klingon' is not among latin, greek"),
        ([], "error: nothing to write: give --sheet FILE, --output FILE, or both"),
        (["--sheet", "x.png", "--count", "0"], "error: --count: 0 is not above 0"),
        (["--sheet", "x.png", "--height", "3"], "error: recipe: height: it must be 16 or more"),
        (["--sheet", "x.png", "--recipe", "none.yaml"], "error: --recipe: none.yaml cannot be read"),
        (["--output", "x.parquet", "--export", "pdf", "y"], "error: --export: needs --output, and one of coco-text"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, message, tmp_path):
    command = [sys.executable, "-m", "legible.render", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def environment() -> dict:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_curve_runs_through_its_points_and_is_as_long_as_the_line():
    given = [(0.0, 0.0), (1.0, -2.0), (3.0, 1.0), (4.0, 0.0)]
    path = through(given, 100.0, steps=4001)
    assert np.hypot(*np.diff(path, axis=0).T).sum() == pytest.approx(100.0)
    scale = np.hypot(*(path[-1] - path[0])) / np.hypot(4.0, 0.0)
    for x, y in given:
        assert np.hypot(*(path - scale * np.array([x, y])).T).min() < 0.1


@pytest.mark.parametrize(
    "settings",
    [{"layouts": {"curve": 1.0}}, {"layouts": {"curve": 1.0}, "curve": [(0, 0)]},
     {"layouts": {"curve": 1.0}, "curve": [(0, 0), (0, 0)]}],
)  # fmt: skip
def test_a_curve_without_two_points_is_refused(settings):
    with pytest.raises(ValidationError, match="two points or more"):
        Recipe(**settings)


def test_the_users_own_fonts_are_drawn_with_beside_the_scripts(tmp_path):
    source = next(font for font in find_fonts(Fonts()) if font.name == "DejaVu Sans Bold")
    shutil.copyfile(source.path, tmp_path / "mine.ttf")
    recipe = Recipe(**SMALL, scripts={"cyrillic": 1.0}, fonts=(str(tmp_path),), layouts={"line": 1.0})
    names = {draw(recipe, 0, index).lines[0].font for index in range(30)}
    assert str(tmp_path / "mine.ttf") in names
    assert names & set(script_called("cyrillic").fonts)
    with pytest.raises(UserError, match="no font file and no folder with one"):
        draw(Recipe(**SMALL, fonts=(str(tmp_path / "none"),)), 0, 0)


def test_a_users_font_without_a_letter_of_the_script_is_counted(tmp_path):
    symbols = Path(get_data_path()) / "fonts" / "ttf" / "STIXSizOneSymReg.ttf"
    recipe = Recipe(height=64, width=192, scripts={"latin": 1}, strings=1.0, fonts=(str(symbols),), texts=(1, 1))
    rejected = sum((draw(recipe, 0, index).rejected for index in range(6)), Counter())
    assert rejected["a font has no letter of the script"]


def test_the_configuration_and_the_engine_name_the_same_grounds():
    assert tuple(grounds.GROUNDS) == GROUNDS


def test_captions_in_the_texts_own_language_say_how_it_looks():
    """Every language with look words has one for every colour, effect and ground, and the caption holds them."""
    for language, words in looks().items():
        assert any(language in script.languages for script in known().scripts.values())
        assert set(words["colors"]) == set(PALETTE)
        assert set(words["looks"]) == {"outline", "shadow", "glow", "extrusion"}
        assert set(words["grounds"]) == {*GROUNDS, "photograph"}
    recipe = {**SMALL, "texts": (1, 1), "layouts": {"line": 1.0}, "grounds": {"bricks": 1.0}, "outline": 1.0}
    for script, language in (("cyrillic", "ru"), ("arabic", "ar"), ("chinese", "zh"), ("latin", "de")):
        settings = {**recipe, "scripts": {script: 1.0}, "languages": (language,), "captions": "own"}
        captions = [draw(Recipe(**settings), 1, index) for index in range(3)]
        for sample in captions:
            assert sample.lines[0].text in sample.caption
            if language in looks():
                assert looks()[language]["grounds"]["bricks"] in sample.caption
                assert any(color in sample.caption for color in looks()[language]["colors"].values())
    english = draw(Recipe(**recipe, scripts={"cyrillic": 1.0}), 1, 0)
    assert " letters" in english.caption
    assert "brick wall" in english.caption

"""The text engine as the pipeline's own renderer, its curriculum, and plain signs in other alphabets."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from legible.config import Config, Data, Fonts, Kinds, Render
from legible.config.scripts import known
from legible.corpus.prompts import Excluded, Prompt
from legible.corpus.text import characters
from legible.corpus.words import in_capitals, letters_of, load_lists, word_lists
from legible.errors import UserError
from legible.render.dataset import load_table, render_signs, write_dataset
from legible.render.fonts import find_fonts, select_fonts
from legible.render.pictures import draw_pictures, draw_prompt
from legible.seeds import staged_order
from legible.train.data import alphabet_of

NONE = Excluded.of([])
DATA = Data(height=96, width=224)
THREE = Render(
    stages=({"preset": "pure", "share": 1.0}, {"preset": "scenes", "share": 2.0}, {"preset": "templates"}),
    recipe={"scripts": {"latin": 1.0, "hebrew": 1.0, "devanagari": 1.0}, "texts": [1, 1], "size": [14, 40]},
)


@pytest.fixture(scope="module")
def drawn():
    return draw_pictures(THREE, DATA, "train", 40, NONE)[0]


def test_stages_follow_one_another_by_their_shares(drawn):
    assert [sign.stage for sign in drawn] == [0] * 10 + [1] * 20 + [2] * 10
    assert [sign.index for sign in drawn] == list(range(40))


def test_the_bytes_do_not_depend_on_the_workers(drawn):
    again, _ = draw_pictures(THREE, DATA, "train", 40, NONE, workers=3)
    for one, two in zip(drawn, again, strict=True):
        assert np.array_equal(one.image, two.image)
        assert np.array_equal(one.mask, two.mask)
        assert (one.lines, one.characters, one.line_boxes) == (two.lines, two.characters, two.line_boxes)
    other, _ = draw_pictures(THREE, DATA, "test", 4, NONE)
    assert not any(np.array_equal(one.image, two.image) for one, two in zip(drawn, other, strict=False))


def test_regions_are_whole_level_lines_with_a_box_for_each_cluster(drawn):
    for sign in drawn:
        assert len(sign.lines) == len(sign.line_boxes) == len(sign.kinds) >= 1
        assert len(sign.characters) == len(sign.character_boxes)
        assert "".join(sign.characters) == "".join("".join(sign.lines).split())
        for x0, y0, x1, y1 in sign.line_boxes:
            assert sign.mask[y0:y1, x0:x1].any()


def test_targets_are_never_drawn_and_counted():
    recipe = {"scripts": {"latin": 1.0}, "languages": ["en"], "strings": 0.0, "layouts": {"line": 1.0}}
    targets = [Prompt(letter, "p", (letter,)) for letter in "qz"]
    signs, rejected = draw_pictures(Render(recipe=recipe), DATA, "train", 24, Excluded.of([targets]))
    assert not any(letter in line.casefold() for sign in signs for line in sign.lines for letter in "qz")
    assert rejected["excluded"] > 0


def test_rows_say_clusters_and_stage(drawn, tmp_path):
    write_dataset(tmp_path, drawn, drawn[:2], {"train": Counter(), "test": Counter()}, NONE)
    table = load_table(tmp_path / "train.parquet")
    assert table["characters"].tolist() == [list(sign.characters) for sign in drawn]
    assert table["stage"].tolist() == [sign.stage for sign in drawn]


def test_a_prompt_is_drawn_in_the_script_of_its_letters():
    for name, script in known().scripts.items():
        word = next(w for w in script_words(name) if set(w) <= set(script.repertoire))
        sign = draw_prompt(Prompt("a", "p", (word, word)), DATA, Render())
        assert len(sign.line_boxes) == 2
        x0, y0, x1, y1 = (np.array(sign.line_boxes)[:, i] for i in range(4))
        assert min(x0.min(), y0.min()) >= 0
        assert x1.max() <= DATA.width
        assert y1.max() <= DATA.height
        assert "".join(sign.characters) == 2 * word
        inked = np.zeros_like(sign.mask)
        for left, top, right, bottom in sign.line_boxes:
            inked[top:bottom, left:right] = sign.mask[top:bottom, left:right]
        assert np.array_equal(inked, sign.mask)
    with pytest.raises(UserError, match="none of the scripts hebrew has all of its characters"):
        draw_prompt(Prompt("a", "p", ("word",)), DATA, Render(recipe={"scripts": {"hebrew": 1.0}}))
    with pytest.raises(UserError, match="do not fit"):
        draw_prompt(Prompt("a", "p", ("word" * 40,)), DATA, Render())


def script_words(name: str) -> list[str]:
    from legible.config.scripts import words_of

    return [word for word in words_of(known().scripts[name].languages[0]) if len(characters(word)) > 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": {"height": 64}}, "the size is that of `data`"),
        ({"recipe": {"scripts": {"runes": 1.0}}}, "'runes' is not among"),
        (
            {"stages": [{"preset": "scenes", "recipe": {"outline": 2}}]},
            r"stages, entry 1, recipe\.outline: it must be at most 1",
        ),
        ({"stages": []}, "stages"),
        ({"recipe": {"layouts": {}, "letters": 3}}, "letters"),
    ],
)
def test_a_wrong_recipe_stops_with_the_configuration(settings, message):
    with pytest.raises(ValidationError, match=message):
        Config(render=settings)


@pytest.mark.parametrize("script", ["arabic", "runes"])
def test_plain_signs_have_an_alphabet(script):
    with pytest.raises(ValidationError, match=r"plain signs are written in latin, greek, cyrillic; other scripts need"):
        Config(data={"script": script})


def test_an_arm_in_stages_needs_some():
    with pytest.raises(ValidationError, match="two stages or more"):
        Config(training={"order": "stages"})
    with pytest.raises(ValidationError, match="order is stages"):
        Config(training={"order": "stages", "bucket": True}, render=THREE)
    assert Config(training={"order": "stages"}, render=THREE).render.stages[1].share == 2


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 200), st.integers(0, 3))
def test_stages_come_in_order_for_their_share_of_the_training(stages, total, seed):
    order = staged_order(stages, total, seed)
    picked = order(range(total))
    ends = torch.tensor(stages).cumsum(0)
    stage = torch.searchsorted(ends, picked, right=True)
    assert (stage.diff() >= 0).all()
    for number, own in enumerate(stages):
        seen = picked[stage == number]
        assert abs(len(seen) - total * own / sum(stages)) <= 1
        assert len(set(seen[:own].tolist())) == min(len(seen), own)
    assert torch.equal(picked, torch.cat([order(range(i, i + 1)) for i in range(total)]))


def test_an_alphabet_is_of_clusters_and_empty_beyond_a_byte():
    assert alphabet_of([["क्षि", "A"], ["A"]]) == ("A", "क्षि")
    assert alphabet_of([[chr(0x4E00 + i) for i in range(256)]]) == ()


def test_capitals_of_other_alphabets():
    assert letters_of("greek") == "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"
    assert len(letters_of("cyrillic")) == 32
    assert in_capitals("Άγιος", letters_of("greek")) == "ΑΓΙΟΣ"
    assert in_capitals("Йод", letters_of("cyrillic")) == "ЙОД"
    with pytest.raises(UserError, match="letters join or stack"):
        letters_of("arabic")
    common, rare = word_lists("greek")
    assert len(common) > 1000
    assert rare == ()


def test_signs_in_another_alphabet():
    letters = letters_of("greek")
    data = Data(script="greek", kinds=Kinds(word=0.5, rare=0.5, nonword=0.5, digits=0.0))
    fonts = select_fonts(find_fonts(Fonts(characters=letters)), ("DejaVu Sans",), ())
    signs, _ = render_signs(data, fonts, "train", 60, NONE)
    assert {kind for sign in signs for kind in sign.kinds} == {"word", "nonword"}
    assert set("".join(line for sign in signs for line in sign.lines)) <= set(letters)
    assert load_lists(data, "train").letters == letters
    latin = select_fonts(find_fonts(Fonts()), ("cmss10",), ())
    with pytest.raises(UserError, match="cmss10"):
        render_signs(data, latin, "train", 2, NONE)

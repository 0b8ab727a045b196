"""Fresh prompts: whatever was trained on or looked at is found in them."""

import json
import subprocess
import sys
import unicodedata
from itertools import product
from pathlib import Path

import numpy as np

from legible.corpus.fresh import draw_target, drawable, overlaps, trained_words
from legible.corpus.prompts import Prompt, load_prompts
from legible.corpus.words import is_held_out, word_lists

ROOT = Path(__file__).resolve().parents[2]
WORDS = trained_words("latin")


def held_out_string(start: str) -> str:
    """A string that begins so, that the split train never draws and no listed word holds."""
    candidates = (f"{start}{a}{b}" for a in "QXZJ" for b in "QXZJVW")
    return next(text for text in candidates if not drawable(text, WORDS))


def prompt(target: str, number: int = 0) -> Prompt:
    return Prompt(f"p{number}", f'a sign that says "{target}"', (target,))


def test_words_of_the_training_split_and_what_lies_in_them_are_drawable():
    assert set(WORDS) == {word for words in word_lists("latin") for word in words if not is_held_out(word)}
    trained = next(word for word in WORDS if len(word) == 6)
    assert drawable(trained, WORDS) == trained
    inside = next(w[1:4] for w in WORDS if len(w) > 4 and is_held_out(w[1:4]))
    assert inside in drawable(inside, WORDS)
    assert drawable(held_out_string("QZ"), WORDS) == ""


def test_every_kind_of_overlap_is_named():
    fresh, other = held_out_string("QZ"), held_out_string("XJ")
    assert overlaps([prompt(fresh)], {"others": [prompt(other)]}, WORDS) == []
    same = Prompt("p7", prompt(fresh).prompt, ())
    assert overlaps([prompt(fresh)], {"anchor": [same]}, WORDS) == ["the prompt p0 is also in anchor"]
    for known in (fresh, fresh.lower(), f"A{fresh}B", fresh[:2]):
        (found,) = overlaps([prompt(fresh)], {"others": [Prompt("q", "x", (known,))]}, WORDS)
        assert found == f"the target {fresh!r} of p0 overlaps {known.casefold()!r} in others"
    word = next(word for word in WORDS if len(word) == 6)
    (found,) = overlaps([prompt(word, 3)], {}, WORDS)
    assert found == f"the target {word!r} of p3 may be in training text (as {word!r})"


def test_freshness_does_not_hang_on_how_a_text_is_encoded():
    words = trained_words("cyrillic")
    trained = next(word for word in words if "\u0419" in word and len(word) == 6)  # Й, composed
    apart = unicodedata.normalize("NFD", trained)
    assert drawable(apart, words) in (trained, apart)
    hidden = next(text for text in (f"\u0419{a}{b}" for a in "ЩЪЭ" for b in "ЩЪЭЮ") if not drawable(text, words))
    apart = unicodedata.normalize("NFD", hidden)
    (found,) = overlaps([prompt(hidden)], {"others": [Prompt("q", "x", (apart,))]}, words)
    assert found.startswith(f"the target {hidden!r} of p0 overlaps")
    same = Prompt("q", unicodedata.normalize("NFD", prompt(hidden).prompt), ())
    assert overlaps([prompt(hidden)], {"anchor": [same]}, words) == ["the prompt p0 is also in anchor"]


def test_no_target_is_drawn_that_another_one_is_in_another_case_or_encoding():
    taken = ["".join(pair) for pair in product("０１２３４５６７８９", repeat=2)]
    taken.remove("４２")
    assert draw_target(np.random.default_rng(0), "latin", "digits", 2, taken, unseen=False) == "42"


def test_the_shipped_shift_set_is_not_fresh():
    found = overlaps(load_prompts(ROOT / "resources/prompts/shift.jsonl"), {}, WORDS)
    assert any("may be in training text" in clause for clause in found)


def test_the_script_draws_prompts_that_the_check_lets_pass(tmp_path):
    taken = sorted((ROOT / "resources/prompts").glob("*held_out*.jsonl"))
    plan = {"word": {"5": 4}, "rare": {"6": 3}, "nonword": {"5": 4}, "digits": {"5": 3}}
    command = [sys.executable, "scripts/make_prompts.py", "--config", '{"fonts": {}, "data": {}}', "--unseen"]
    command += ["--plan", json.dumps(plan), "--prefix", "fresh", "--seed", "5", "--exclude", *map(str, taken)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "fresh.jsonl")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    drawn = load_prompts(tmp_path / "fresh.jsonl")
    assert len(drawn) == 14
    assert overlaps(drawn, {path.name: load_prompts(path) for path in taken}, WORDS) == []

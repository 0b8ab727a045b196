"""The glyph judge with its shipped weights: it sees damage of kinds and in fonts that it never saw; no loss sees it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from legible.config import CRITICS, HEARD
from legible.corpus.prompts import load_prompts
from legible.errors import UserError
from legible.fingerprint import ROOT, used_files
from legible.nano.glyphs import CLEAN, EXCLUDED, auroc, build_glyphs, clean_signs, excluded_targets, harmless, judged
from legible.nano.recipe import Recipe
from legible.ocr.glyphs import GlyphNet, coverage, open_glyph_judge, picture_logits
from legible.render.damage import DAMAGES
from legible.seeds import stateless_generator

SHIPPED = Path(ROOT, "resources/nano/glyph_judge")
shipped = pytest.mark.skipif(not SHIPPED.is_dir(), reason="the glyph judge's weights are not shipped yet")
RECIPE = Recipe().glyph_judge
COUNT = 120  # signs


@pytest.fixture(scope="module")
def judge():
    return open_glyph_judge(SHIPPED)


@pytest.fixture(scope="module")
def signs():
    """In held-out fonts, other ones than the provenance's numbers were measured on."""
    return clean_signs(RECIPE, RECIPE.held_out_fonts, "test", COUNT, 20_000)


@shipped
def test_unseen_damage_in_unseen_fonts_is_told_from_well_formed_letters(judge, signs):
    clean = judged(judge, build_glyphs(signs, (), (0.0,), 5))
    damaged = build_glyphs(signs, RECIPE.held_out_kinds, (0.5, 1.0), 5)
    found = judged(judge, damaged)[damaged.malformed.numpy()]
    assert len(found) > 0.9 * COUNT
    assert auroc(found, clean) > 0.9
    assert (clean >= judge.threshold).mean() <= 0.25  # .12 were measured, nearly all in monospaced fonts
    assert (found >= judge.threshold).mean() > 0.5


@shipped
def test_what_was_held_out_was_held_out():
    kinds, fonts = set(RECIPE.kinds), set(RECIPE.train_fonts)
    assert not kinds & set(RECIPE.held_out_kinds)
    assert kinds | set(RECIPE.held_out_kinds) == set(DAMAGES)
    assert not fonts & set(RECIPE.held_out_fonts)
    assert not fonts & set(RECIPE.threshold_fonts)
    assert not set(RECIPE.threshold_fonts) & set(RECIPE.held_out_fonts)
    recorded = json.loads((SHIPPED / "provenance_glyph_judge.json").read_text())["recipe"]["part"]
    assert recorded == json.loads(json.dumps(Recipe().as_dict()["glyph_judge"]))
    excluded = excluded_targets()
    for name in EXCLUDED:
        for prompt in load_prompts(Path(ROOT, f"resources/prompts/{name}.jsonl")):
            assert excluded.hit(prompt.targets[0])


def test_no_training_can_hear_it():
    modules = [entry.module for entry in (*HEARD.values(), *CRITICS.values())]
    scripts = [Path(ROOT, "scripts", f"{name}.py") for name in ("train_arm", "score_rewards", "measure_gradients")]
    for script in scripts:
        assert Path(ROOT, "legible/ocr/glyphs.py") not in used_files(script, modules)
    assert Path(ROOT, "legible/ocr/glyphs.py") in used_files(Path(ROOT, "scripts/judge_glyphs.py"))


@shipped
def test_the_weights_are_small_and_have_their_threshold(judge):
    assert (SHIPPED / "glyph_judge.safetensors").stat().st_size <= 3e6
    assert 0 < judge.threshold < 1
    assert judge.size == (32, 64)
    measured = json.loads((SHIPPED / "provenance_glyph_judge.json").read_text())["measured"]
    assert measured["threshold"] == pytest.approx(judge.threshold)


def test_coverage_does_not_depend_on_the_colours():
    mask = torch.zeros(32, 64)
    mask[10:22, 20:40] = torch.linspace(0, 1, 20)
    for ink, ground in (((1, 1, 1), (-1, -1, -1)), ((-0.9, 0.1, 0.4), (0.9, 0.8, -1)), ((-1, -1, -1), (1, 1, 0))):
        ink, ground = torch.tensor(ink).float()[:, None, None], torch.tensor(ground).float()[:, None, None]
        found = coverage((ground + (ink - ground) * mask)[None])[0, 0]
        assert (found - mask).abs().max() < 0.2  # the ink's colour is a mean over the darkest pixels
        assert found[0, 0] == 0


def test_a_ground_without_letters_is_not_stretched():
    faint = 0.02 * torch.randn((1, 3, 32, 64), generator=torch.Generator().manual_seed(0))
    assert coverage(faint).abs().max() < 0.5


@shipped
def test_probabilities_do_not_depend_on_the_batch(judge, signs):
    pictures = [Image.fromarray(sign.image) for sign in signs[:5]]
    together, alone = judge.probabilities(pictures), [judge.probabilities([picture])[0] for picture in pictures]
    assert together == pytest.approx(alone, abs=1e-4)
    assert judge.probabilities([]) == []


@shipped
def test_other_sizes_and_damaged_files_are_refused(judge, tmp_path):
    with pytest.raises(UserError, match=r"32 × 64 pixels only, got 64 × 64; set glyph_judge: null"):
        judge.probabilities([Image.new("RGB", (64, 64))])
    with pytest.raises(UserError, match="the glyph judge is missing or damaged"):
        open_glyph_judge(tmp_path)
    content = bytearray((SHIPPED / "glyph_judge.safetensors").read_bytes())
    content[-9] ^= 1
    (tmp_path / "glyph_judge.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="checksum"):
        open_glyph_judge(tmp_path)


@shipped
def test_columns_point_at_the_damaged_letter(judge, signs):
    glyphs = build_glyphs(signs, ("speckled", "extra_stroke"), (1.0,), 7)
    damaged = glyphs.malformed
    with torch.no_grad():
        columns, _ = judge.network(coverage(glyphs.images[damaged].float() / 127.5 - 1))
    hit = glyphs.bad[damaged].gather(1, columns.argmax(1, keepdim=True))
    assert hit.float().mean() > 0.7


def test_the_pictures_of_a_sign_differ_in_one_letter_only(signs):
    glyphs = build_glyphs(signs[:20], tuple(DAMAGES), (0.5, 1.0), 3)
    assert glyphs.kinds[0] == CLEAN
    assert not glyphs.bad[~glyphs.malformed].any()
    for index in glyphs.malformed.nonzero().flatten().tolist():
        assert glyphs.texts[index] == glyphs.texts[index - 1]
        changed = (glyphs.images[index] != glyphs.images[index - 1]).any(0).any(0).nonzero().flatten()
        where = glyphs.bad[index].nonzero().flatten()
        assert changed.min() >= 2 * where.min() - 4
        assert changed.max() <= 2 * where.max() + 6


def test_harmless_changes_keep_the_letters_where_they_are():
    ink = torch.zeros(16, 1, 32, 64)
    ink[:, :, 10:22, 28:36] = 1
    changed = harmless(ink, stateless_generator(1, 2))
    assert changed.shape == ink.shape
    assert not torch.equal(changed, ink)
    columns = (changed.clamp(0, 1).mean((1, 2)) * torch.arange(64)).sum(1) / changed.clamp(0, 1).mean((1, 2)).sum(1)
    assert (columns - 31.5).abs().max() < 4
    assert torch.equal(changed, harmless(ink, stateless_generator(1, 2)))


def test_auroc_by_hand():
    assert auroc(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1
    assert auroc(np.array([0.5]), np.array([0.5, 0.1])) == 0.75
    assert auroc(np.array([0.0]), np.array([1.0])) == 0


def test_a_pictures_logit_is_at_least_its_worst_columns():
    columns, letters = GlyphNet((8, 8))(torch.randn(3, 1, 32, 64))
    assert columns.shape == (3, 32)
    assert letters.shape == (3, 36, 32)
    assert (picture_logits(columns) >= columns.amax(1)).all()

"""Programmatic preference: what is worse is worse in one thing, scores are learnt, the published formats hold them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from legible.config import Aesthetic, Hps, PickScore, Reward
from legible.corpus.prompts import Excluded, load_prompts
from legible.corpus.templates import PALETTE
from legible.losses.auxiliary import open_critics
from legible.models.stable_diffusion import nano
from legible.nano import preference
from legible.nano.parts import caption_tokenizer
from legible.nano.pool import HELD_OUT
from legible.nano.preference import Pairs, build_pairs
from legible.nano.recipe import PreferenceRecipe, Recipe
from legible.rewards.reward import build_rewards

RECIPE = PreferenceRecipe(seed=5, spoiled=0.4, steps=60, batch=16, learning_rate=2e-3, pairs=90)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return build_pairs(Recipe(), RECIPE, "train", RECIPE.pairs, Excluded.of([load_prompts(Path(HELD_OUT), None)]))


def test_every_pair_differs_and_a_third_are_scenes(pairs):
    assert pairs.better.shape == pairs.worse.shape == (90, 3, 32, 64)
    assert (pairs.better != pairs.worse).flatten(1).any(1).all()
    assert sum('"' not in caption for caption in pairs.captions) == 30
    counts = {kind: pairs.kinds.count(kind) for kind in set(pairs.kinds)}
    assert {"string", "colour", "ground", *preference.SPOILED} <= counts.keys()
    assert 0.2 < sum(counts[kind] for kind in preference.SPOILED) / 90 < 0.6


def test_one_thing_only_is_wrong(pairs):
    for caption, better, worse, kind in zip(pairs.captions, pairs.better, pairs.worse, pairs.kinds, strict=True):
        if '"' not in caption or kind in preference.SPOILED:
            continue
        ground = worse[:, 0, 0].tolist() == better[:, 0, 0].tolist()
        assert ground == (kind != "ground")
        colors = [{tuple(c) for c in image.flatten(1).T.tolist()} & set(PALETTE.values()) for image in (better, worse)]
        assert (colors[0] == colors[1]) == (kind == "string")


def test_they_do_not_depend_on_how_many_there_are_and_tests_have_other_captions(pairs):
    again = build_pairs(Recipe(), RECIPE, "train", 90, Excluded.of([load_prompts(Path(HELD_OUT), None)]))
    assert torch.equal(again.worse, pairs.worse)
    held_out = build_pairs(Recipe(), RECIPE, "test", 30, Excluded.of([]))
    assert not set(held_out.captions) & set(pairs.captions)


@pytest.mark.parametrize("kind", preference.SPOILED)
def test_spoiled_pictures_lose_what_their_name_says(kind):
    rng = np.random.default_rng(0)
    image = np.zeros((32, 64, 3), np.uint8)
    image[8:24, 16:48] = 255
    worse = preference.spoiled(image, kind, rng).astype(float)
    edges = [np.abs(np.diff(x.astype(float), axis=1)).max() for x in (image, worse)]
    spread = [x.std() for x in (image.astype(float), worse)]
    colours = [len(np.unique(x.reshape(-1, 3), axis=0)) for x in (image, worse)]
    if kind == "blurred":
        assert edges[1] < 0.6 * edges[0]
    elif kind == "faded":
        assert spread[1] < 0.55 * spread[0]
    else:
        assert colours[1] > 50


def tiny_clip():
    torch.manual_seed(0)
    tokenizer = caption_tokenizer(nano.CAPTION_TOKENS)
    return nano.build_clip(nano.TINY, tokenizer).eval(), tokenizer


def test_the_better_picture_learns_to_score_higher(pairs, tmp_path):
    model, tokenizer = tiny_clip()
    score = preference.pickscore_of(model, tokenizer)
    ground = [place for place, kind in enumerate(pairs.kinds) if kind in ("ground", "faded", "speckled")]
    own = Pairs([pairs.captions[p] for p in ground], pairs.better[ground], pairs.worse[ground], ["x"] * len(ground))
    before = preference.measure(score, own)
    preference.train_preference(RECIPE, model, score, own, "key", tmp_path, "pickscore")
    after = preference.measure(score, own)
    assert after["pairs"] == len(ground)
    assert after["right"] == after["right_x"] > max(before["right"], 0.8)


@torch.no_grad()
def test_the_published_formats_score_as_what_was_trained(tmp_path):
    model, tokenizer = tiny_clip()
    model.save_pretrained(tmp_path / "caption_clip")
    tokenizer.save_pretrained(tmp_path / "caption_clip")
    head = preference.aesthetic_head(nano.TINY.projection)
    preference.save_aesthetic(head, tmp_path / "caption_clip" / "aesthetic.safetensors")
    preference.save_open_clip(model, tokenizer, tmp_path / "hps")
    folder = str(tmp_path / "caption_clip")
    sections = {
        "aesthetic": Aesthetic(path=folder, head="aesthetic.safetensors"),
        "pickscore": PickScore(path=folder),
        "hps": Hps(path=str(tmp_path / "hps"), weights="open_clip_model.safetensors", model="local"),
    }
    critics = open_critics(list(sections), sections, tmp_path, torch.device("cpu"))
    rewards = build_rewards(Reward(weights=dict.fromkeys(sections, 1.0)), critics, None)
    images = torch.rand((3, 3, 32, 64), generator=torch.Generator().manual_seed(0)) * 2 - 1
    captions = ["two red circles on white", 'a sign that says "OPEN" in red letters on white', "red dots on blue"]
    scale = model.logit_scale.exp()
    expected = {
        "aesthetic": preference.aesthetic_of(model, head)(images, captions),
        "pickscore": preference.pickscore_of(model, tokenizer)(images, captions),
        "hps": preference.hps_of(model, tokenizer)(images, captions) / scale,
    }
    for name, values in expected.items():
        torch.testing.assert_close(rewards[name](images, captions), values, rtol=1e-4, atol=1e-5)
        assert values.std() > 0
    assert AutoTokenizer.from_pretrained(tmp_path / "hps")(captions[0]).input_ids == tokenizer(captions[0]).input_ids

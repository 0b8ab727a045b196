"""The caption CLIP, and the Stable Diffusion whose text encoder is its text tower."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPModel, CLIPTextModel

from legible.config import Model
from legible.corpus.scenes import Scene, draw_scene
from legible.corpus.templates import TEMPLATES
from legible.models.family import ROLES, open_model
from legible.models.stable_diffusion import nano
from legible.nano.caption_clip import altered
from legible.nano.parts import caption_tokenizer
from legible.nano.recipe import tiny
from legible.nano.vae import build_vae, without_shift
from legible.rewards.features import clip_pixels, image_features, text_features

SIGN = TEMPLATES[0].format(quoted='"QWXZ79"', style="bold dark red", background="dark green")


@pytest.fixture(scope="module")
def tokenizer():
    return caption_tokenizer(nano.CAPTION_TOKENS)


@pytest.fixture(scope="module")
def clip(tokenizer) -> CLIPModel:
    torch.manual_seed(3)
    return nano.build_clip(nano.TINY, tokenizer).eval()


def shifted_vae():
    torch.manual_seed(4)
    vae = build_vae(tiny().vae).eval()
    vae.register_to_config(scaling_factor=0.7, shift_factor=0.12)
    return vae


@given(st.integers(0, 2**32))
def test_an_altered_caption_says_something_else(seed):
    rng = np.random.default_rng(seed)
    for caption in (SIGN, draw_scene(rng).caption):
        other = altered(caption, rng)
        assert other != caption
        assert ('"' in other) == ('"' in caption)


def test_every_thing_of_a_caption_is_altered_now_and_then():
    others = {altered("two red circles on dark green", np.random.default_rng(seed)) for seed in range(200)}
    assert {len(other.split()) for other in others} <= {5, 6, 7}
    for start in ("three ", "two "):
        assert any(other.startswith(start) for other in others)
    assert any("squares" in other for other in others)
    assert any(other.startswith("two blue circles") for other in others)
    assert any(other.endswith("on white") for other in others)
    assert not any("dark dark" in other or other.endswith("dark white") for other in others)


def test_the_whole_caption_fits_and_only_known_words_are_whole(tokenizer):
    for caption in (SIGN, Scene("shapes", "dark green", "dark blue", 3, "cross").caption):
        ids = tokenizer(caption).input_ids
        assert len(ids) <= nano.CAPTION_TOKENS
        assert tokenizer.unk_token_id not in ids
        assert ids[-1] == tokenizer.eos_token_id
    words = ["three", "dark", "green", "crosses", "on", "dark", "blue"]
    assert tokenizer.tokenize(" ".join(words)) == words
    assert tokenizer("", padding="max_length").input_ids[0] == tokenizer.eos_token_id


def test_what_clip_sees_is_what_its_own_processor_makes_of_a_picture():
    # transformers' CLIPImageProcessor rounds to whole levels in between: bicubic by PIL, then mean and deviation.
    from PIL import Image
    from transformers import CLIPImageProcessor

    array = np.random.default_rng(1).integers(90, 160, (32, 64, 3), np.uint8)  # no overshoot is cut off
    processor = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False, crop_size=None)
    expected = processor(Image.fromarray(array), return_tensors="pt").pixel_values
    pixels = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 127.5 - 1
    found = clip_pixels(pixels, 64)
    assert (found - expected).abs().max() < 0.03


def test_features_are_those_of_transformers_own_clip(clip, tokenizer):
    pixels = torch.rand((3, 3, 32, 64), generator=torch.Generator().manual_seed(2)) * 2 - 1
    captions = [SIGN, "two red circles on white", "a plain blue ground"]
    ids = tokenizer(captions, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        whole = clip(input_ids=ids, pixel_values=clip_pixels(pixels, 32))
        assert torch.allclose(image_features(clip, pixels), whole.image_embeds, atol=1e-6)
        assert torch.allclose(text_features(clip, tokenizer, captions), whole.text_embeds, atol=1e-6)
        # Pooled where the end token stands: what is padded behind it does not count.
        short = tokenizer(captions[1], return_tensors="pt").input_ids
        pooled = [clip.text_model(input_ids=tokens).pooler_output[-1] for tokens in (short, ids[:2])]
        assert torch.allclose(*pooled, atol=1e-5)


def test_a_shift_moves_into_the_convolutions():
    vae = shifted_vae()
    folded = without_shift(vae)
    assert folded.config.shift_factor is None
    assert vae.config.shift_factor == 0.12  # the given one stays as it is
    pixels = torch.rand((2, 3, 32, 64), generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        z = vae.encode(pixels).latent_dist.mode()
        assert torch.allclose(folded.encode(pixels).latent_dist.mode(), z - 0.12, atol=1e-5)
        assert torch.allclose(folded.decode(z - 0.12).sample, vae.decode(z).sample, atol=1e-5)


def test_the_saved_folders_open_with_plain_diffusers_and_transformers(clip, tokenizer, tmp_path):
    clip.save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    tower = CLIPTextModel.from_pretrained(tmp_path / "clip")
    torch.manual_seed(5)
    model = nano.build(nano.TINY, without_shift(shifted_vae()), tokenizer)
    model.text_encoder.load_state_dict(tower.state_dict())
    nano.save(model, tmp_path / "sd")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd", safety_checker=None)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "sd" / "tokenizer")
    assert loaded(SIGN, padding="max_length").input_ids == tokenizer(SIGN, padding="max_length").input_ids
    with torch.no_grad():
        ids = tokenizer([SIGN], padding="max_length", return_tensors="pt").input_ids
        expected = clip.text_model(input_ids=ids).last_hidden_state
    opened = open_model(Model(family="stable_diffusion", path=str(tmp_path / "sd"), max_sequence_length=32), ROLES)
    assert torch.allclose(opened.encode_prompts([SIGN]).stacked("captions"), expected, atol=1e-5)
    noise = torch.randn((1, *opened.latent_shape(32, 64)), generator=torch.Generator().manual_seed(1))
    mine = opened.sample(opened.encode_prompts([SIGN]), noise, 4, 2.0, opened.encode_prompts([""]))
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        SIGN, latents=noise, height=32, width=64, num_inference_steps=4, guidance_scale=2.0, output_type="np"
    )
    assert np.array_equal(mine.numpy()[0], (theirs.images[0] * 255).round().astype(np.uint8))


def test_the_last_level_of_noise_hides_the_ground(tokenizer):
    model = nano.build(nano.TINY, shifted_vae(), tokenizer)
    alpha, sigma = model.process.scales(torch.tensor([999]))
    positions = 8 * 16  # a ground's colour is a mean over so many cells
    assert (alpha / sigma).square() * positions < 0.1
    grid = model.level_grid(10)
    assert grid[0] == 999
    assert len(grid) == 10

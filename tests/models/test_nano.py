"""The nano recipe in miniature: every part trains through its script, resumes bit for bit, opens with real loaders."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rapidfuzz.distance import Levenshtein
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPModel, CLIPTextModel

from legible.config import CaptionClip, Clip, EasyOcr, Fonts, Model, Reward
from legible.corpus.prompts import Excluded, load_prompts
from legible.corpus.templates import PALETTE, TEMPLATES, vocabulary
from legible.corpus.words import DIGITS, letters_of
from legible.losses.regions import crop_regions
from legible.models.caption_clip import open_critic
from legible.models.clip import open_clip_model
from legible.models.family import ROLES, open_model
from legible.models.zimage.model import templated
from legible.models.zimage.nano import CAPTION_TOKENS
from legible.nano import caption_clip, clip, denoiser, judge, preference, recognizer, vae
from legible.nano.parts import BEFORE, FOLDERS, PARTS, caption_tokenizer
from legible.nano.pool import Pool, build_pool, held_out_pool, ink_boxes, retrieval_pool, with_scenes
from legible.nano.recipe import Recipe, tiny
from legible.nano.tokenizer import build_tokenizer
from legible.ocr import open_engine
from legible.render.fonts import find_fonts
from legible.render.scene import draw_scenes
from legible.rewards import caption
from legible.rewards.features import image_features, text_features
from legible.train.checkpoint import load_checkpoint
from legible.train.log import RunLog

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "resources" / "nano"
TEXT = st.text(clip.ALPHABET, min_size=1, max_size=8)


def train_nano(arguments: list[str]) -> None:
    """scripts/train_nano.py in this process: importing torch and its friends again takes ten seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.syspath_prepend(str(ROOT / "scripts"))
        patch.setattr(sys, "argv", ["train_nano.py", *arguments])
        from train_nano import main

        main()


def tiny_part(part: str, folder: Path) -> None:
    names = ["--tiny", "--threads", "1", "--output", str(folder / "models"), "--work", str(folder / "work")]
    train_nano([part, *names, "--provenance", str(folder / f"{part}.json")])


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """All parts, trained in miniature by the real script."""
    folder = tmp_path_factory.mktemp("nano")
    for part in PARTS:
        tiny_part(part, folder)
    return folder


@pytest.fixture(scope="module")
def pool(built) -> Pool:
    return build_pool(tiny(), load_prompts(ROOT / "resources" / "prompts" / "held_out.jsonl"), built / "work")


def test_every_part_leaves_its_provenance_and_curve(built):
    for part in PARTS:
        provenance = json.loads((built / f"{part}.json").read_text())
        assert provenance["measured"]
        assert all(isinstance(value, int | float) for value in provenance["measured"].values())
        assert provenance["recipe"]["pool"] == 64
        assert len(provenance["code"]) == 16
        assert {"versions", "machine"} <= provenance.keys()
        folder = FOLDERS.get(part, part)
        assert json.loads((built / "models" / folder / f"provenance_{part}.json").read_text()) == provenance
        rows = [json.loads(line) for line in (built / "work" / f"{part}.jsonl").read_text().splitlines()]
        recipe = tiny()
        steps = (vars(recipe) | recipe.recognizers | recipe.preferences)[part].steps
        assert [row["step"] for row in rows] == list(range(steps))
        assert all(np.isfinite(row["loss"]) for row in rows)


def test_the_measurements_are_what_they_say(built):
    measured = {part: json.loads((built / f"{part}.json").read_text())["measured"] for part in PARTS}
    prompts = len(load_prompts(ROOT / "resources" / "prompts" / "held_out.jsonl"))
    assert measured["vae"]["render_cer"] < 0.05  # our own renders are readable, whatever the models can do
    assert measured["vae"]["round_trip_cer"] > 0.5  # six steps are not enough
    assert measured["denoiser"]["held_out_cer"] > 0.5
    assert measured["denoiser"]["signs"] == prompts
    assert measured["unet"]["held_out_cer"] > 0.5
    for part in ("scenery", "shapes"):
        assert measured[part]["pictures_without_text"] == 6
        assert 0 <= measured[part]["right_all"] < 0.2  # after four steps
    assert measured["caption_clip"]["candidates"] == 256 + 128
    assert 0 <= measured["caption_clip"]["top1_signs"] < 0.2
    assert measured["clip"]["candidates"] == 256
    assert 0 <= measured["clip"]["top1_among_strings"] < 0.2
    assert measured["recognizer_crnn"]["cer"] > 0.5


def test_a_part_goes_on_from_the_one_before_it(built):
    """Four steps leave weights close to where they began; a model that began anew would be elsewhere."""
    weights = "transformer/diffusion_pytorch_model.safetensors"
    signs, scenery = (load_file(built / "work" / part / weights) for part in BEFORE.values())
    shipped = load_file(built / "models" / "zimage" / weights)
    for earlier, later in ((signs, scenery), (scenery, shipped)):
        moved = max((later[name] - earlier[name]).abs().max().item() for name in later)
        assert 0 < moved < 0.02


def test_what_nano_draws_badly_it_sees_more_often(pool):
    seen = with_scenes(pool.first(8), tiny(), "train", 400, rephrased=True, shares=Recipe().mixture.shares)
    assert (seen.texts[:8], len(seen.images)) == (pool.texts[:8], 408)
    rings = sum("ring" in caption for caption in seen.captions[8:]) / 400
    evenly = sum("ring" in caption for caption in with_scenes(pool.first(8), tiny(), "train", 400).captions[8:]) / 400
    assert evenly < 0.15 < 0.2 < rings < 0.3  # a sixth of a half; two fifths of .62


def test_the_parts_open_with_the_real_loaders(built, tmp_path):
    models = built / "models"
    model = open_model(Model(path=str(models / "zimage")), ROLES)
    assert model.latent_shape(32, 64) == (12, 8, 16)
    assert model.vae.config.scaling_factor != 0.18215  # measured, not the class's default
    with torch.no_grad():
        latents = model.encode_images(tiny_pixels(built))
    assert 0.5 < latents.std() < 2
    captions = model.encode_prompts(['a sign that says "OPEN" in bold white letters on dark green'])
    noise = torch.randn((1, 12, 8, 16), generator=torch.Generator().manual_seed(0))
    assert model.sample(captions, noise, 8, 0.0).shape == (1, 32, 64, 3)
    opened = open_clip_model(Clip(path=str(models / "clip")), torch.device("cpu"))
    assert opened.size == (32, 64)
    for name in ("recognizer_crnn", "recognizer_conv"):
        network = recognizer.open_network(models / name)
        assert network(torch.zeros(2, 1, 32, 64)).shape[0::2] == (2, 37)
        engine = open_engine("easyocr", EasyOcr(network=str(models / name)), tmp_path)
        assert isinstance(engine.read(judge.to_images(tiny_pixels(built)[:1])[0]), list)


def tiny_pixels(built: Path) -> torch.Tensor:
    with np.load(next((built / "work").glob("pool-*.npz"))) as stored:
        return torch.from_numpy(stored["images"]).float() / 127.5 - 1


def test_the_clip_around_the_unets_text_encoder_leaves_it_alone(built):
    """So that the encoder can be tuned under the constraint of TextCraftor's Eq. 8."""
    models = built / "models"
    encoder = CLIPTextModel.from_pretrained(models / "stable_diffusion" / "text_encoder").state_dict()
    own = CLIPModel.from_pretrained(models / "stable_diffusion_clip")
    assert own.text_model.state_dict().keys() == encoder.keys()
    assert all(torch.equal(value, encoder[name]) for name, value in own.text_model.state_dict().items())
    critic = open_critic(CaptionClip(path=str(models / "stable_diffusion_clip")), models, torch.device("cpu"))
    model = open_model(Model(family="stable_diffusion", path=str(models / "stable_diffusion")), ROLES)
    reward = caption.build({"caption_clip": critic}, Reward(weights={"caption": 1.0}), model.text_encoder)
    prompts = ['a sign that says "OPEN" in bold white letters on dark green', "two red circles on gray"]
    assert reward(tiny_pixels(built)[:2], prompts).shape == (2,)


def test_a_finished_part_is_not_trained_again(built, tmp_path):
    shutil.copytree(built, tmp_path / "again")
    curve = tmp_path / "again" / "work" / "recognizer_conv.jsonl"
    before = [json.loads(line) for line in curve.read_text().splitlines()]
    tiny_part("recognizer_conv", tmp_path / "again")
    assert [json.loads(line) for line in curve.read_text().splitlines()] == before  # times included
    for file in ("recognizer_conv.safetensors", "recognizer_conv.yaml", "recognizer_conv.py"):
        path = Path("models") / "recognizer_conv" / file
        assert (tmp_path / "again" / path).read_bytes() == (built / path).read_bytes()
    one, other = (json.loads((folder / "recognizer_conv.json").read_text()) for folder in (built, tmp_path / "again"))
    assert one["measured"] == other["measured"]


class Killed(BaseException):
    """Stands for a kill."""


STEPS = 252  # one checkpoint on the way


def train_long(part: str, pool: Pool, work: Path) -> dict[str, torch.Tensor]:
    """`STEPS` steps of one part; its weights."""
    recipe, held_out = tiny(), pool.first(8)
    work.mkdir(exist_ok=True)
    if part == "vae":
        return vae.train_vae(replace(recipe.vae, steps=STEPS, batch=2), pool, 0, "key", work).state_dict()
    if part == "clip":
        clip.train_clip(replace(recipe.clip, steps=STEPS, batch=4), pool, held_out, 0, "key", work, work / "model")
        return open_clip.create_model(f"local-dir:{work / 'model'}").state_dict()
    if part in ("denoiser", "unet"):
        latents = torch.randn((len(pool.texts), 12, 8, 16), generator=torch.Generator().manual_seed(1))
        changed = replace(getattr(recipe, part), steps=STEPS, batch=2)
        build = denoiser.builder(changed.family)
        tokenizer = build_tokenizer(vocabulary()) if part == "denoiser" else caption_tokenizer(build.CAPTION_TOKENS)
        torch.manual_seed(0)
        model = build.build(build.TINY, vae.build_vae(recipe.vae), tokenizer)
        model = denoiser.train_denoiser(changed, model, pool, latents, 0, "key", work, lambda _: 1.0, name=part)
        return denoiser.parts_of(model).state_dict()
    if part == "caption_clip":
        build = denoiser.builder(recipe.unet.family)
        tokenizer = caption_tokenizer(build.CAPTION_TOKENS)
        torch.manual_seed(0)
        model, changed = build.build_clip(build.TINY, tokenizer), replace(recipe.caption_clip, steps=STEPS, batch=4)
        return caption_clip.train_caption_clip(changed, model, tokenizer, pool, 0, "key", work).state_dict()
    if part in recipe.preferences:
        tokenizer = caption_tokenizer(denoiser.builder(recipe.unet.family).CAPTION_TOKENS)
        torch.manual_seed(0)
        model = denoiser.builder(recipe.unet.family).build_clip(denoiser.builder(recipe.unet.family).TINY, tokenizer)
        pairs = preference.Pairs(pool.captions, pool.images, pool.images.flip(-1), ["string"] * len(pool.captions))
        changed = replace(recipe.preferences[part], steps=STEPS, batch=4)
        score = preference.pickscore_of(model, tokenizer)
        preference.train_preference(changed, model, score, pairs, "key", work, part)
        return model.state_dict()
    (work / part).mkdir(exist_ok=True)
    shutil.copy(SHIPPED / part / f"{part}.py", work / part)
    changed = replace(recipe.recognizers[part], steps=STEPS, batch=2, script="latin")  # as the pool's signs
    recognizer.train_recognizer(part, changed, pool, held_out, "key", work, work / part)
    return recognizer.open_network(work / part).state_dict()


# The denoiser's loop is the UNet's, too, and that of the parts after it; both CLIPs on captions have one loop, and so
# have the twins of rewards.
@pytest.mark.parametrize(
    "part",
    [part for part in PARTS if part not in (*BEFORE, "glyph_judge", "unet", "unet_clip", "aesthetic", "hps")],
)
def test_an_interrupted_part_ends_like_an_unbroken_one(pool, tmp_path, monkeypatch, part):
    whole = train_long(part, pool, tmp_path / "whole")
    write = RunLog.write

    def killed(self, **values):
        if values["step"] == STEPS - 1:
            raise Killed
        write(self, **values)

    with monkeypatch.context() as patch:
        patch.setattr(RunLog, "write", killed)
        with pytest.raises(Killed):
            train_long(part, pool, tmp_path / "broken")
    checkpoint = tmp_path / "broken" / f"{part}.ckpt"
    assert 0 < load_checkpoint(checkpoint, json.loads(checkpoint.read_text())["key"])["step"] < STEPS
    resumed = train_long(part, pool, tmp_path / "broken")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_an_unknown_part_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        tiny_part("transfromer", tmp_path)
    assert caught.value.code == 2
    assert "invalid choice: 'transfromer'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_pool_holds_no_evaluation_target_and_is_rendered_once(built, pool, monkeypatch):
    prompts = load_prompts(ROOT / "resources" / "prompts" / "held_out.jsonl")
    excluded = Excluded.of([prompts])
    assert len(pool.images) == len(pool.texts) == len(pool.captions) == 64
    assert pool.images.shape[1:] == (3, 32, 64)
    assert not any(excluded.hit(text) for text in pool.texts)
    assert all(f'"{text}"' in caption for text, caption in zip(pool.texts, pool.captions, strict=True))
    pixels = pool.pixels(torch.arange(64))
    assert pixels.min() >= -1
    assert pixels.max() <= 1
    monkeypatch.setattr("legible.nano.pool.render_signs", None)
    again = build_pool(tiny(), prompts, built / "work")
    assert torch.equal(again.images, pool.images)
    assert again.captions == pool.captions


def test_captions_with_six_characters_fit_into_32_tokens():
    tokenizer = build_tokenizer(vocabulary())
    styles = {font.words for font in find_fonts(Fonts()) if font.usable}
    captions = [
        template.format(quoted='"QWXZ79"', style=" ".join((*words, color)), background="dark green")
        for template in TEMPLATES
        for words in styles
        for color in PALETTE
    ]
    ids = tokenizer(templated(tokenizer, captions)).input_ids
    assert max(map(len, ids)) <= CAPTION_TOKENS
    assert not any(tokenizer.unk_token_id in row for row in ids)


@given(TEXT)
def test_the_target_is_spelled_character_by_character_and_the_rest_word_by_word(target):
    tokenizer = build_tokenizer(vocabulary())
    tokens = tokenizer.tokenize(f'a sign that says "{target}" in dark green letters on white')
    assert tokens == [
        "a", "sign", "that", "says", '"', *target, '"', "in", "dark", "green", "letters", "on", "white",
    ]  # fmt: skip


def test_words_fall_apart_where_they_are_no_words():
    tokenizer = build_tokenizer(vocabulary())
    assert tokenizer.tokenize('"and" band red1') == ['"', "and", '"', *"band", *"red1"]
    assert tokenizer.tokenize("Signs") == list("Signs")
    assert tokenizer.convert_tokens_to_ids(tokenizer.tokenize("é")) == [tokenizer.unk_token_id]


def test_the_tokenizer_comes_back_through_autotokenizer(tmp_path):
    for end_token in (False, True):
        tokenizer = build_tokenizer(vocabulary(), end_token)
        tokenizer.save_pretrained(tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        captions = ['a sign that says "OPEN" in bold white letters on dark green', "X", ""]
        assert loaded(captions).input_ids == tokenizer(captions).input_ids
        assert templated(loaded, captions) == templated(tokenizer, captions)
        assert (loaded("X").input_ids[-1] == loaded.convert_tokens_to_ids("<|endoftext|>")) == end_token


def test_the_chat_template_is_z_images():
    text = templated(build_tokenizer(vocabulary()), ["a sign"])[0]
    assert text == "<|im_start|>user\na sign<|im_end|><|im_start|>assistant\n"


@given(TEXT, st.integers(0, 2**32))
def test_distractors_are_one_edit_away(text, seed):
    other = clip.one_edit_away(text, np.random.default_rng(seed))
    assert other != text
    assert set(other) <= set(clip.ALPHABET)
    swapped = len(other) == len(text) and sorted(other) == sorted(text)
    assert Levenshtein.distance(text, other) <= (2 if swapped else 1)


def test_degraded_images_are_repeatable_and_in_range(pool):
    pixels = pool.pixels(torch.arange(8))
    one, two, other = (clip.degraded(pixels, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == pixels.shape
    assert one.abs().max() <= 1
    assert torch.equal(pixels, pool.pixels(torch.arange(8)))  # the pool itself stays clean


def test_greedy_decoding_by_hand():
    path = [0, 1, 1, 0, 1, 2, 2, 0, 36, 0]
    logits = torch.nn.functional.one_hot(torch.tensor([path, [0] * 10]), 37).float()
    assert recognizer.greedy(logits, clip.ALPHABET) == ["AAB9", ""]


def test_the_judge_reads_renders_and_not_noise(pool, tmp_path):
    pixels, texts = pool.pixels(torch.arange(24)), pool.texts[:24]
    assert judge.read_cer(judge.to_images(pixels), texts, tmp_path) < 0.1
    assert judge.read_cer(judge.to_images(torch.zeros_like(pixels)), texts, tmp_path) == 1
    assert judge.read_cer(judge.to_images(pixels.roll(1, 0)), texts, tmp_path) > 0.6
    back = np.stack([np.asarray(image) for image in judge.to_images(pixels)]).transpose(0, 3, 1, 2)
    assert np.array_equal(back, pool.images[:24].numpy())


def test_signs_are_taken_for_text_and_pictures_without_are_not(pool, tmp_path):
    scenes = [Image.fromarray(picture.image) for picture in draw_scenes(5, "test", 16, 32, 64)]
    signs = judge.to_images(pool.pixels(torch.arange(16)))
    assert sum(judge.shows_text(scenes, tmp_path)) <= 1
    assert sum(judge.shows_text(signs, tmp_path)) >= 15


def test_the_shipped_recipe_and_its_miniature_share_everything_but_size():
    full, small = Recipe().as_dict(), tiny().as_dict()
    assert full.keys() == small.keys()
    assert {key for key in full if full[key] == small[key]} >= {"seed", "fonts", "data"}
    assert Recipe().recognizers["recognizer_crnn"].seed != Recipe().recognizers["recognizer_conv"].seed
    json.dumps(full)


def shipped(path: str) -> Path:
    if not (SHIPPED / path).exists():
        pytest.skip(f"resources/nano/{path} is not there yet")
    return (SHIPPED / path).parent


def test_the_shipped_pipeline_opens_and_draws():
    model = open_model(Model(path=str(shipped("zimage/model_index.json"))), ROLES)
    prompts = load_prompts(ROOT / "resources" / "prompts" / "held_out.jsonl", 4)
    shape = model.latent_shape(32, 64)
    noise = torch.randn((4, *shape), generator=torch.Generator().manual_seed(0))
    images = model.sample(model.encode_prompts([p.prompt for p in prompts]), noise, 8, 0.0)
    # The background is what the caption says it is: in the corners, where no letter stands.
    for image, prompt in zip(images, prompts, strict=True):
        corners = torch.stack([image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]]).float().mean(0)
        nearest = min(PALETTE, key=lambda name: (corners - torch.tensor(PALETTE[name])).abs().sum().item())
        assert (torch.tensor(PALETTE[nearest]) - torch.tensor(PALETTE[prompt.background])).abs().max() < 80


def test_the_shipped_stable_diffusion_opens_with_plain_diffusers_and_draws_grounds_and_shapes():
    folder = shipped("stable_diffusion/model_index.json")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    pictures = [p for p in draw_scenes(99, "test", 80, 32, 64) if p.scene.kind in ("shapes", "plain")][:16]
    drawn = pipeline(
        [p.scene.caption for p in pictures], height=32, width=64, num_inference_steps=10, guidance_scale=2.0,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).images  # fmt: skip
    right = 0
    for image, picture in zip(drawn, pictures, strict=True):
        corner = np.median(image[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0) * 255
        right += np.abs(corner - np.array(PALETTE[picture.scene.background])).max() < 60
    assert right >= 10  # of 16; 12 on an AMD EPYC


def test_the_shipped_stable_diffusion_spells_and_not_too_well(tmp_path, monkeypatch):
    """A base that spells perfectly, or not at all, shows nothing of what a loss does."""
    monkeypatch.chdir(ROOT)
    folder = shipped("stable_diffusion/model_index.json")
    model = open_model(Model(family="stable_diffusion", path=str(folder), max_sequence_length=32), ROLES)
    signs, recipe = held_out_pool(Recipe()), Recipe().unet
    images = judge.sample_signs(
        model, signs.captions[:64], (32, 64), recipe.sampling_steps, guidance_scale=recipe.guidance_scale
    )
    assert 0.05 < judge.read_cer(images, signs.texts[:64], tmp_path) < 0.45


@torch.no_grad()
def test_the_shipped_caption_clip_knows_colours_counts_and_shapes():
    folder = shipped("caption_clip/config.json")
    opened = open_critic(CaptionClip(path=str(folder)), Path("unused"), torch.device("cpu"))
    pictures = draw_scenes(98, "test", 32, 32, 64)
    pixels = torch.from_numpy(np.stack([p.image for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1
    captions, rng = [p.scene.caption for p in pictures], np.random.default_rng(0)
    seen = image_features(opened.model, pixels)
    said = text_features(opened.model, opened.tokenizer, captions)
    wrong = text_features(opened.model, opened.tokenizer, [caption_clip.altered(caption, rng) for caption in captions])
    assert ((seen * said).sum(1) > (seen * wrong).sum(1)).float().mean() > 0.9


def test_the_shipped_clip_tells_strings_apart(pool):
    opened = open_clip_model(Clip(path=str(shipped("clip/open_clip_model.safetensors"))), torch.device("cpu"))
    everything = torch.arange(64)
    with torch.no_grad():
        seen = opened.model.encode_image(pool.regions(everything, torch.full((64,), 2.0)), normalize=True)
        read = opened.model.encode_text(opened.tokenize(pool.texts[:64]), normalize=True)
    assert ((seen @ read.T).argmax(1) == everything).float().mean() > 0.7


def test_regions_are_cut_as_the_losses_cut_them(pool):
    everything = torch.arange(16)
    boxes = ink_boxes(pool.images[everything])
    for image, (x0, y0, x1, y1) in zip(pool.images[:16], boxes.tolist(), strict=True):
        ink = (image != image[:, :1, :1]).any(0)
        assert ink[y0:y1, x0:x1].sum() == ink.sum()
        assert ink[y0].any() and ink[y1 - 1].any() and ink[:, x0].any() and ink[:, x1 - 1].any()  # noqa: PT018
    cut = crop_regions(pool.pixels(everything), everything, boxes.float(), (32, 64), 3.0)
    assert torch.allclose(pool.regions(everything, torch.full((16,), 3.0)), cut)
    mixed = pool.regions(everything, torch.arange(16).float())
    assert torch.allclose(mixed[3], cut[3])
    assert mixed.abs().max() <= 1 + 1e-5


def test_strings_for_retrieval_are_all_different(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = retrieval_pool(Recipe(), 200)
    assert len(found.images) == len(found.captions) == len(found.texts) == len(set(found.texts)) == 200
    assert found.texts[:160] == held_out_pool(Recipe()).texts


def test_the_learning_rate_restarts_where_the_recipe_says():
    recipe = replace(Recipe().denoiser, steps=70, restarts=(38,), warmup=4, decay=8, learning_rate=1.0)
    rates = [denoiser.learning_rate(recipe, step) for step in range(70)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[30:39] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 1.0]
    assert rates[62] == 1.0
    assert rates[69] == 0.125


@pytest.mark.parametrize("name", list(Recipe().recognizers))
def test_the_shipped_recognizers_read(tmp_path, name):
    folder = shipped(f"{name}/{name}.safetensors")
    network, own = recognizer.open_network(folder), Recipe().recognizers[name]
    pool = held_out_pool(Recipe().written_in(own.script))
    first = pool.first(32)
    characters = letters_of(own.script) + DIGITS
    assert recognizer.measure(network, characters, first, 2.0 if own.margin else None)["cer"] < 0.1  # regions, or signs
    engine = open_engine("easyocr", EasyOcr(network=str(folder)), tmp_path)
    read = [
        "".join(part.text for part in engine.read(image)) for image in judge.to_images(pool.pixels(torch.arange(16)))
    ]
    assert sum(a == b for a, b in zip(read, pool.texts, strict=False)) > 10


@pytest.mark.parametrize("name", [n for n, recipe in Recipe().recognizers.items() if recipe.architecture])
def test_a_readers_source_is_that_of_its_architecture(name):
    """EasyOCR wants the source under the network's own name."""
    own = Recipe().recognizers[name].architecture
    assert (SHIPPED / name / f"{name}.py").read_bytes() == (SHIPPED / own / f"{own}.py").read_bytes()


def test_the_shipped_models_are_small_and_say_where_they_come_from():
    for path in ("zimage/model_index.json", *(f"{n}/{n}.safetensors" for n in ("recognizer_crnn", "recognizer_conv"))):
        shipped(path)
    shipped("clip/open_clip_model.safetensors")
    sizes = {
        folder.name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in SHIPPED.iterdir()
    }
    rest = sizes.pop("stable_diffusion") + sizes.pop("caption_clip") + sizes.pop("stable_diffusion_clip")
    twins = sizes.pop("pickscore") + sizes.pop("hps")
    assert sizes.pop("cyrillic_conv") + sizes.pop("cyrillic_crnn") <= 4 * 2**20
    assert sum(sizes.values()) <= 40 * 2**20
    assert rest <= 42 * 2**20
    assert twins <= 12 * 2**20
    for part in PARTS:
        folder = FOLDERS.get(part, part)
        provenance = json.loads((SHIPPED / folder / f"provenance_{part}.json").read_text())
        assert provenance["measured"]
        assert provenance["recipe"]["seed"] == Recipe().seed

"""The parts of nano: each trained, saved below one folder, and measured."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import AutoTokenizer, CLIPModel, CLIPTextModel, PreTrainedTokenizerFast

from legible.config import Model
from legible.corpus.prompts import Excluded, load_prompts
from legible.corpus.scenes import scene_words
from legible.corpus.templates import vocabulary
from legible.io import write_text
from legible.metrics.attributes import ATTRIBUTES, SUMMARIES, by_picture
from legible.models.family import Family, open_model
from legible.nano import caption_clip, clip, denoiser, glyphs, judge, preference, recognizer, vae
from legible.nano.letters import add_letters, further_letters, with_words
from legible.nano.pool import HELD_OUT, Pool, build_pool, held_out_pool, prompts_of, retrieval_pool, with_scenes
from legible.nano.recipe import DenoiserRecipe, Recipe
from legible.nano.tokenizer import build_tokenizer

NO_TEXT = "resources/prompts/no_text.jsonl"
PARTS = (
    "vae",
    "denoiser",
    "scenery",
    "shapes",
    "caption_clip",
    *Recipe().preferences,
    "unet",
    "unet_clip",
    "clip",
    *Recipe().recognizers,
    "glyph_judge",
)
FOLDERS = {  # of the parts that have none of their own name
    "aesthetic": "caption_clip",
    "vae": Recipe().denoiser.family,
    "denoiser": Recipe().denoiser.family,
    "scenery": Recipe().denoiser.family,
    "shapes": Recipe().denoiser.family,
    "unet": Recipe().unet.family,
    "unet_clip": f"{Recipe().unet.family}_clip",
}
BEFORE = {"scenery": "denoiser", "shapes": "scenery"}  # the part whose model goes on as this one


def train_part(part: str, recipe: Recipe, key: str, work: Path, output: Path, compiled: bool, small: bool) -> dict:
    """Train `part` into its folder below `output` and return what was measured."""
    if part in recipe.preferences:
        return train_preference(part, recipe, key, work, output)
    if part == "glyph_judge":
        autoencoder = AutoencoderKL.from_pretrained(output / recipe.denoiser.family / "vae").eval()
        size = (recipe.data.height, recipe.data.width)
        return glyphs.train_glyph_judge(recipe.glyph_judge, autoencoder, size, recipe.seed, key, work, output / part)
    recipe = recipe.of(part)
    held_out = held_out_pool(recipe)
    pool = build_pool(recipe, load_prompts(prompts_of(recipe.data.script), None), work)
    if part == "vae":
        return train_vae(recipe, pool, held_out, key, work, output)
    if part == "clip":
        return clip.train_clip(recipe.clip, pool, retrieval_pool(recipe), recipe.seed, key, work, output / "clip")
    if part in recipe.recognizers:
        network = recipe.recognizers[part]
        kind = network.architecture or part
        source = Path(f"resources/nano/{kind}/{kind}.py")  # the architecture is source code, not a result
        write_text(output / part / f"{part}.py", source.read_text(encoding="utf-8"))
        return recognizer.train_recognizer(part, network, pool, held_out, key, work, output / part)
    if part in ("caption_clip", "unet_clip"):
        return train_caption_clip(part, recipe, pool, key, work, output, small)
    return train_denoiser(part, recipe, pool, held_out, key, work, output, compiled, small)


def train_vae(recipe: Recipe, pool: Pool, held_out: Pool, key: str, work: Path, output: Path) -> dict:
    """The autoencoder, which every family's nano shares."""
    model = vae.train_vae(recipe.vae, pool, recipe.seed, key, work)
    with torch.no_grad():
        pixels = held_out.pixels(torch.arange(len(held_out.images)))
        decoded = model.decode(model.encode(pixels).latent_dist.mode()).sample
    model.save_pretrained(output / recipe.denoiser.family / "vae")
    return {
        "render_cer": judge.read_cer(judge.to_images(pixels), held_out.texts, work),
        "round_trip_cer": judge.read_cer(judge.to_images(decoded), held_out.texts, work),
        "psnr_db": float(10 * torch.log10(4 / (decoded.clamp(-1, 1) - pixels).square().mean())),
    }


def caption_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Of captions of signs and of pictures without text, padded to `length` tokens."""
    tokenizer = build_tokenizer([*vocabulary(), *scene_words()], end_token=True)
    tokenizer.model_max_length = length
    return tokenizer


def train_caption_clip(part: str, recipe: Recipe, pool: Pool, key: str, work: Path, output: Path, small: bool) -> dict:
    """CLIP on captions; `unet_clip` grows around the UNet's own text encoder, which stays as it is (LiT, Zhai 2022)."""
    build = denoiser.builder(recipe.unet.family)  # the text encoder of this family is the CLIP's text tower
    pool, tokenizer = with_scenes(pool, recipe, "train", recipe.scenes), caption_tokenizer(build.CAPTION_TOKENS)
    torch.manual_seed(recipe.seed)
    model, folder = build.build_clip(build.TINY if small else build.SIZES, tokenizer), output / FOLDERS.get(part, part)
    if part == "unet_clip":
        encoder = CLIPTextModel.from_pretrained(output / recipe.unet.family / "text_encoder")
        model.text_model.load_state_dict(encoder.state_dict())
        model.text_model.requires_grad_(False)
    model = caption_clip.train_caption_clip(getattr(recipe, part), model, tokenizer, pool, recipe.seed, key, work, part)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    held_out = with_scenes(retrieval_pool(recipe), recipe, "test", 128)
    return caption_clip.measure(model, tokenizer, held_out)


def train_preference(part: str, recipe: Recipe, key: str, work: Path, output: Path) -> dict:
    """A twin of a published reward on top of the caption CLIP, or grown out of it, in the published format."""
    settings = recipe.preferences[part]
    excluded = Excluded.of([load_prompts(HELD_OUT, None)])
    pairs = preference.build_pairs(recipe, settings, "train", settings.pairs, excluded)
    held_out = preference.build_pairs(recipe, settings, "test", min(settings.pairs, 1024), Excluded.of([]))
    model = CLIPModel.from_pretrained(output / "caption_clip").eval()
    tokenizer = AutoTokenizer.from_pretrained(output / "caption_clip")
    torch.manual_seed(settings.seed)
    if part == "aesthetic":
        model.requires_grad_(False)
        head = preference.aesthetic_head(model.config.projection_dim)
        score = preference.aesthetic_of(model, head)
        preference.train_preference(settings, head, score, pairs, key, work, part)
        preference.save_aesthetic(head, output / "caption_clip" / "aesthetic.safetensors")
        return preference.measure(score, held_out)
    score = (preference.hps_of if part == "hps" else preference.pickscore_of)(model, tokenizer)
    preference.train_preference(settings, model, score, pairs, key, work, part)
    if part == "hps":
        preference.save_open_clip(model, tokenizer, output / part)
    else:
        model.save_pretrained(output / part)
        tokenizer.save_pretrained(output / part)
    return preference.measure(score, held_out)


def train_denoiser(
    part: str, recipe: Recipe, pool: Pool, held_out: Pool, key: str, work: Path, output: Path,
    compiled: bool, small: bool,
) -> dict:  # fmt: skip
    """The denoiser and its text encoder, or the denoiser anew; a part with one before it goes on from there."""
    settings: DenoiserRecipe = getattr(recipe, part)
    family = settings.family
    autoencoder = AutoencoderKL.from_pretrained(output / recipe.denoiser.family / "vae").eval()
    build = denoiser.builder(family)
    sizes, tokens = build.TINY if small else build.SIZES, build.CAPTION_TOKENS
    torch.manual_seed(recipe.seed)
    if part == "unet":
        autoencoder = vae.without_shift(autoencoder)
        model = build.build(sizes, autoencoder, caption_tokenizer(tokens))
    elif part in BEFORE:
        section = Model(path=str(work / BEFORE[part]), family=family, max_sequence_length=tokens, device="cpu")
        model = open_model(section, ("denoiser", "autoencoder", "text", "scheduler"), torch.get_num_threads())
        model = with_words(model, scene_words(), recipe.seed)
        denoiser.parts_of(model).requires_grad_(True)
    else:
        model = build.build(sizes, autoencoder, build_tokenizer(vocabulary()))
    if part == "unet":
        pool = with_scenes(pool, recipe, "train", recipe.scenes)
    elif part == "scenery":
        pool = with_scenes(pool, recipe, "train", len(pool.texts), rephrased=True)
    elif part == "shapes":
        seen = recipe.mixture
        pool = with_scenes(pool.first(seen.signs), recipe, "train", seen.scenes, rephrased=True, shares=seen.shares)
    shift = autoencoder.config.shift_factor or 0.0
    latents = (vae.encode_pool(autoencoder, pool) - shift) * autoencoder.config.scaling_factor

    def cer(model: Family, count: int = 64) -> float:
        images = judge.sample_signs(
            model, held_out.captions[:count], (recipe.data.height, recipe.data.width), settings.sampling_steps,
            guidance_scale=settings.guidance_scale,
        )  # fmt: skip
        return judge.read_cer(images, held_out.texts[:count], work)

    model = denoiser.train_denoiser(
        settings, model, pool, latents, recipe.seed, key, work, cer, compiled=compiled, name=part
    )
    if part == "denoiser":
        add_letters(model.tokenizer, model.text_encoder, further_letters(), recipe.seed)
    # What another part goes on from is no model to ship: it is found among the work.
    build.save(model, work / part if part in BEFORE.values() else output / family)
    measured = {"held_out_cer": cer(model, len(held_out.texts)), "signs": len(held_out.texts)}
    return measured | (measure_scenery(model, recipe, settings, work) if part in BEFORE else {})


def measure_scenery(model: Family, recipe: Recipe, settings: DenoiserRecipe, work: Path) -> dict:
    """Pictures without text: on prompts of unseen scenes and sentences, is there text, and is there what they name?"""
    prompts = load_prompts(NO_TEXT, recipe.without_text, text=False)
    size = recipe.data.height, recipe.data.width
    images = judge.sample_signs(model, [prompt.prompt for prompt in prompts], size, settings.sampling_steps)
    ids = [prompt.id for prompt in prompts]
    found = by_picture(np.stack([np.asarray(image) for image in images]), ids, {p.id: p for p in prompts})
    right = {f"right_{attribute}": float(found[attribute].mean()) for attribute in (*SUMMARIES, *ATTRIBUTES)}
    return {
        "pictures_without_text": len(images),
        "of_these_with_text": float(np.mean(judge.shows_text(images, work))),
    } | right

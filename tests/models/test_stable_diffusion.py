"""Stable Diffusion's conventions, held against diffusers' own classes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from safetensors.torch import load_file, save_file
from training import model_of

from legible.errors import UserError
from legible.models.family import ROLES, embed_prompts, empty_model, open_model
from legible.models.sampler import trajectory
from legible.models.stable_diffusion import SPEC
from legible.models.stable_diffusion.model import StableDiffusion

COMPONENTS = SPEC.folders("denoiser", "autoencoder", "text", "scheduler")
PROMPTS = ['a sign that says "OPEN" in red letters on white', "black"]
SHAPE = (4, 8, 16)
SCHEDULERS = {
    "ddim": (DDIMScheduler, {}),
    "ddim, v": (DDIMScheduler, {"prediction_type": "v_prediction"}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "pndm with Runge-Kutta, v": (PNDMScheduler, {"skip_prk_steps": False, "prediction_type": "v_prediction"}),
    "dpm": (DPMSolverMultistepScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler between timesteps, v": (
        EulerDiscreteScheduler,
        {"timestep_spacing": "linspace", "prediction_type": "v_prediction"},
    ),
    "euler, karras": (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "ddim, outdated": (DDIMScheduler, {"clip_sample": True, "steps_offset": 0}),  # the pipeline corrects both
}


pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of outdated settings, and of diffusers' own names


@pytest.fixture
def folder(stable_diffusion) -> Path:
    return stable_diffusion


@pytest.fixture
def opened(folder) -> StableDiffusion:
    """All parts, opened anew: a test may change them."""
    return open_model(model_of(folder), ROLES)


@pytest.fixture(scope="module", params=SCHEDULERS)
def scheduled(request, stable_diffusion, tmp_path_factory) -> Path:
    """The model with each scheduler."""
    kind, settings = SCHEDULERS[request.param]
    copy = tmp_path_factory.mktemp("scheduled") / "model"
    shutil.copytree(stable_diffusion, copy)
    scheduler = kind.from_config(DDIMScheduler.load_config(stable_diffusion, subfolder="scheduler") | settings)
    shutil.rmtree(copy / "scheduler")
    scheduler.save_pretrained(copy / "scheduler")
    rewrite(copy / "model_index.json", scheduler=["diffusers", kind.__name__])
    return copy


def changed(folder: Path, copy: Path, part: str, **settings) -> Path:
    """A copy of the model with other settings in a component's configuration."""
    shutil.copytree(folder, copy)
    (file,) = (copy / part).glob("*config.json")
    rewrite(file, **settings)
    return copy


def rewrite(file: Path, **settings) -> None:
    """Change settings in a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def noise_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def official(folder: Path) -> StableDiffusionPipeline:
    """The folder as diffusers itself opens it."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pictures(pipeline: StableDiffusionPipeline, prompts: list[str], **settings) -> torch.Tensor:
    given = {"latents": noise_of(len(prompts)), "num_inference_steps": 5, "output_type": "np"} | settings
    images = pipeline(prompt=list(prompts), height=32, width=64, **given).images
    return torch.from_numpy((images * 255).round().astype("uint8"))


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_images_are_those_of_the_pipeline(scheduled, guidance):
    expected = pictures(official(scheduled), PROMPTS, guidance_scale=guidance)
    model = open_model(model_of(scheduled), ROLES)
    # The pipeline encodes as many empty prompts as prompts; on some processors the last bit depends on a batch's size.
    empty = model.encode_prompts([""] * 2).pick([0]) if guidance > 1 else None
    found = model.sample(model.encode_prompts(PROMPTS), noise_of(2), 5, guidance, empty)
    assert torch.equal(found, expected)
    assert found.float().std() > 10


@torch.no_grad()
@pytest.mark.parametrize("name", SPEC.schedulers)
def test_with_another_scheduler_images_are_those_of_the_pipeline_with_it(folder, opened, name):
    pipeline = official(folder)
    kind = {"ddim": DDIMScheduler, "dpm": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}
    pipeline.scheduler = kind.get(name, PNDMScheduler).from_config(pipeline.scheduler.config)
    expected = pictures(pipeline, PROMPTS, guidance_scale=1.0)
    found = opened.with_scheduler(name).sample(opened.encode_prompts(PROMPTS), noise_of(2), 5, 1.0)
    assert torch.equal(found, expected)
    assert (name == "ddim") == torch.equal(found, opened.sample(opened.encode_prompts(PROMPTS), noise_of(2), 5, 1.0))


@torch.no_grad()
def test_the_trajectory_is_what_the_network_sees_and_says_in_the_pipeline(scheduled, monkeypatch):
    pipeline, calls = official(scheduled), []
    forward = pipeline.unet.forward

    def recorded(latents, time, **named):
        output = forward(latents, time, **named)
        calls.append((latents, output[0], time))
        return output

    monkeypatch.setattr(pipeline.unet, "forward", recorded)
    pictures(pipeline, PROMPTS, guidance_scale=1.0)
    model = open_model(model_of(scheduled), ROLES)
    points, predictions, levels = trajectory(model, model.encode_prompts(PROMPTS), noise_of(2), 5)
    assert torch.equal(points, torch.stack([latents for latents, _, _ in calls]))
    assert torch.equal(predictions, torch.stack([output for _, output, _ in calls]))
    assert torch.equal(levels, torch.stack([time for _, _, time in calls]))
    assert torch.equal(levels, model.level_grid(5))
    assert points.std() < 20  # variance preserving: an Euler sampler's own latents begin at 14


@torch.no_grad()
def test_guidance_calls_the_network_on_both_halves_and_only_above_one(opened, monkeypatch):
    sizes, forward = [], opened.unet.forward

    def counted(latents, *rest, **named):
        sizes.append(len(latents))
        return forward(latents, *rest, **named)

    monkeypatch.setattr(opened.unet, "forward", counted)
    captions, empty = opened.encode_prompts(PROMPTS), opened.encode_prompts([""])
    images = [opened.sample(captions, noise_of(2), 2, scale, empty) for scale in (0.0, 1.0, 7.5)]
    assert sizes == [2, 2, 2, 2, 4, 4]
    assert torch.equal(images[0], images[1])
    assert (images[2].int() - images[1].int()).abs().max() > 5


@torch.no_grad()
def test_guidance_of_w_goes_w_times_from_the_empty_prompt_to_the_caption(opened):
    captions, empty = opened.encode_prompts(PROMPTS[:1]), opened.encode_prompts([""])
    sampler = opened.scheduler_at(1)
    time = sampler.timesteps.expand(1)
    said, unsaid = (opened.predict(noise_of(1), time, given) for given in (captions, empty))
    guided = sampler.step(unsaid + 3.0 * (said - unsaid), time[0], noise_of(1)).prev_sample
    pixels = (opened.decode(guided) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    found = opened.sample(captions, noise_of(1), 1, 3.0, empty)
    assert (found.int() - (pixels * 255).round().int()).abs().max() <= 1


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_encodes_them(folder, opened):
    found = opened.encode_prompts(PROMPTS)
    expected = official(folder).encode_prompt(list(PROMPTS), "cpu", 1, False)[0]
    assert found.lengths() == [77, 77]
    assert torch.equal(found.stacked("captions"), expected)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    assert torch.equal(embed_prompts(model_of(folder), PROMPTS).stacked("captions"), expected)
    alone = opened.encode_prompts(PROMPTS, batch=1).stacked("captions")
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)


def test_a_prompt_that_would_be_cut_is_refused(folder, opened):
    fits, long = "a" * 62, "a" * 63  # one token a letter, and the two ends
    assert len(opened.encode_prompts([fits])) == 1
    with pytest.raises(UserError, match=r"prompt 'aaa.*: 65 tokens, but model\.max_sequence_length is 64 and this"):
        opened.encode_prompts([fits, long])
    roomy = open_model(model_of(folder, max_sequence_length=512), ("text",))
    assert len(roomy.encode_prompts([long, "a" * 75])) == 2
    with pytest.raises(UserError, match=r"78 tokens, .* this text encoder reads 77; shorten the prompt"):
        roomy.encode_prompts(["a" * 76])


@torch.no_grad()
def test_images_are_encoded_and_decoded_with_scale_and_without_shift(opened):
    pixels = torch.rand((2, 3, 32, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean = opened.vae.encode(pixels).latent_dist.mean
    for shift in (None, 0.3):  # the pipeline knows none, whatever the configuration says
        opened.vae.register_to_config(shift_factor=shift)
        latents = opened.encode_images(pixels)
        assert latents.shape == (2, *SHAPE)
        torch.testing.assert_close(latents, mean * 0.7, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(opened.decode(latents), opened.vae.decode(mean).sample, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_images_do_not_depend_on_the_batch_size(opened):
    captions, noise, empty = opened.encode_prompts(PROMPTS * 2), noise_of(4), opened.encode_prompts([""])
    whole = opened.sample(captions, noise, 3, 5.0, empty)
    assert torch.equal(whole, opened.sample(captions, noise, 3, 5.0, empty))
    parts = [opened.sample(captions.pick([i]), noise[i : i + 1], 3, 5.0, empty) for i in range(4)]
    assert (torch.cat(parts).int() - whole.int()).abs().max() <= 1


@torch.no_grad()
def test_bfloat16_images_are_those_of_the_pipeline(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    expected = pictures(pipeline, PROMPTS, guidance_scale=4.0, latents=noise_of(2).bfloat16())
    model = open_model(model_of(folder, dtype="bfloat16"), ROLES)
    found = model.sample(model.encode_prompts(PROMPTS), noise_of(2), 5, 4.0, model.encode_prompts([""]))
    assert torch.equal(found, expected)


def test_lengths_that_do_not_match_are_refused(opened):
    captions = opened.encode_prompts(PROMPTS)
    for latents, levels in ((3, 3), (2, 1)):
        with pytest.raises(ValueError, match="do not match"):
            opened.predict(noise_of(latents), torch.full((levels,), 5), captions)


def test_the_latent_grid(opened):
    assert opened.latent_shape(32, 64) == SHAPE
    assert opened.pixels_per_latent == 4
    with pytest.raises(UserError, match=r"data\.height: 36 is not divisible by 8"):
        opened.latent_shape(36, 64)
    with pytest.raises(UserError, match=r"data\.width: 60 is not divisible by 8"):
        opened.latent_shape(32, 60)


def test_more_steps_than_timesteps_are_refused(opened):
    with pytest.raises(UserError, match=r"generation\.steps: 1001, but this model has 1000 timesteps"):
        opened.level_grid(1001)
    with pytest.raises(UserError, match=r"generation\.steps: 1001"):
        opened.sample(opened.encode_prompts(PROMPTS), noise_of(2), 1001, 1.0)


def test_opened_parts_are_frozen_and_only_those_asked_for(folder):
    model = open_model(model_of(folder), ("denoiser", "autoencoder"))
    assert model.text_encoder is model.tokenizer is model.scheduler is None
    assert not model.unet.training
    assert not any(p.requires_grad for part in (model.unet, model.vae) for p in part.parameters())
    half = open_model(model_of(folder, dtype="bfloat16"), ("denoiser", "text"))
    assert {p.dtype for part in (half.unet, half.text_encoder) for p in part.parameters()} == {torch.bfloat16}


def test_the_empty_model_has_shapes_and_no_memory(folder, opened):
    empty = empty_model(model_of(folder))
    for part in ("denoiser", "text_encoder", "vae"):
        assert all(p.is_meta for p in empty.module(part).parameters())
        shapes = {name: p.shape for name, p in empty.module(part).named_parameters()}
        assert shapes == {name: p.shape for name, p in opened.module(part).named_parameters()}
    assert empty.latent_shape(32, 64) == SHAPE
    assert torch.equal(empty.level_grid(4), opened.level_grid(4))
    captions = empty.example_conditioning(3)
    assert captions.lengths() == [77] * 3
    answer = empty.predict(torch.empty((3, *SHAPE), device="meta"), torch.zeros(3, dtype=torch.long), captions)
    assert answer.is_meta
    assert answer.shape == (3, *SHAPE)


def test_blocks_hold_every_weight_of_the_default_modules_once(opened):
    inside = [id(p) for block in opened.blocks() for p in block.parameters()]
    wanted = {id(p) for name, p in opened.unet.named_parameters() if name.startswith(opened.spec.blocks)}
    assert len(inside) == len(set(inside))
    assert set(inside) == wanted
    used = []
    hooks = [block.register_forward_hook(lambda block, *_: used.append(block)) for block in opened.blocks()]
    opened.predict(noise_of(1), torch.tensor([500]), opened.encode_prompts(PROMPTS[:1]))
    assert used == opened.blocks()
    for hook in hooks:
        hook.remove()


def test_few_bits_are_for_attention_and_feed_forward_layers(opened):
    layers = opened.quantized_layers()
    assert {name.split(".", 1)[0] for name in layers} == set(opened.spec.blocks)
    kinds = {name.split("transformer_blocks.0.")[1] for name in layers}
    attention = {f"attn{i}.{name}" for i in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    assert kinds == attention | {"ff.net.0.proj", "ff.net.2"}


def test_only_the_native_attention_can_be_had(opened):
    opened.use_attention("native", ragged=True)
    with pytest.raises(UserError, match=r"training\.attention: _native_math cannot be set in a UNet; choose native"):
        opened.use_attention("_native_math", ragged=False)


def as_published(folder: Path, copy: Path) -> Path:
    """The model laid out as Stable Diffusion 1.5 was published: older names of weights, files and settings."""
    shutil.copytree(folder, copy)
    encoder, vae = copy / "text_encoder" / "model.safetensors", copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights = {f"text_model.{name}": value for name, value in load_file(encoder).items()}
    save_file(weights | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, encoder, {"format": "pt"})
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(vae)
    for new, old in older.items():
        weights = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): v for name, v in weights.items()}
    assert "encoder.mid_block.attentions.0.query.weight" in weights
    save_file(weights, vae, {"format": "pt"})
    words = json.loads((copy / "tokenizer" / "tokenizer.json").read_text())["model"]
    (copy / "tokenizer" / "tokenizer.json").unlink()
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(words["vocab"]))
    (copy / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, words["merges"]), ""]))
    rewrite(copy / "text_encoder" / "config.json", bos_token_id=0, eos_token_id=2)
    rewrite(copy / "unet" / "config.json", _diffusers_version="0.6.0")
    return copy


@torch.no_grad()
def test_published_weights_open_as_new_ones_do(folder, opened, tmp_path):
    old = as_published(folder, tmp_path / "old")
    model = open_model(model_of(old), ROLES)
    captions = model.encode_prompts([*PROMPTS, ""])
    assert torch.equal(captions.stacked("captions"), opened.encode_prompts([*PROMPTS, ""]).stacked("captions"))
    images = model.sample(captions.pick([0, 1]), noise_of(2), 5, 7.5, captions.pick([2]))
    assert torch.equal(images, pictures(official(old), PROMPTS, guidance_scale=7.5))
    assert torch.equal(images, pictures(official(folder), PROMPTS, guidance_scale=7.5))


@pytest.mark.parametrize("missing", COMPONENTS)
def test_a_missing_component_is_named(folder, tmp_path, missing):
    shutil.copytree(folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / missing)
    with pytest.raises(UserError, match=f"component folder `{missing}` is missing; needed are unet, vae, text_encoder"):
        open_model(model_of(folder).model_copy(update={"path": str(tmp_path / "model")}), ROLES)


@pytest.mark.parametrize(
    ("part", "settings", "said"),
    [
        (
            "scheduler", {"_class_name": "DDPMScheduler"},
            r"`scheduler` cannot be loaded \(its class is DDPMScheduler; allowed are DDIMScheduler, DPMSolver",
        ),
        ("scheduler", {"_class_name": None}, "its class is None; allowed are DDIMScheduler"),
        ("scheduler", {"prediction_type": "sample"}, "prediction_type is sample; allowed are epsilon and v_prediction"),
        ("scheduler", {"rescale_betas_zero_snr": True}, "pure noise .* needs v_prediction"),
        (
            "scheduler", {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "its timestep_type is continuous; discrete is needed",
        ),
        ("unet", {"_class_name": "UNet2DModel"}, "is that of UNet2DModel, UNet2DConditionModel is needed"),
        ("tokenizer", {"model_max_length": 512}, "`tokenizer` has model_max_length 512, but the text encoder reads 77"),
    ],
)  # fmt: skip
def test_what_works_in_another_way_is_one_sentence(folder, tmp_path, part, settings, said):
    copy = changed(folder, tmp_path / "model", part, **settings)
    with pytest.raises(UserError, match=said) as caught:
        open_model(model_of(copy), ROLES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"in_channels": 9}, r"more than latents, a timestep and captions \(in_channels is 9\); choose a plain"),
        ({"time_cond_proj_dim": 16}, "time_cond_proj_dim is 16"),
        (
            {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
            | {"projection_class_embeddings_input_dim": 8},
            "addition_embed_type is text_time",
        ),
    ],
)  # fmt: skip
def test_a_unet_with_further_inputs_is_refused(folder, tmp_path, settings, said):
    """Inpainting, LCM, SDXL: already when the run is planned."""
    with pytest.raises(UserError, match=said):
        empty_model(model_of(changed(folder, tmp_path / "model", "unet", **settings)))


def test_the_other_family_is_named(folder, zimage, folders):
    with pytest.raises(UserError, match=r"model\.family: zimage needs a ZImagePipeline, but .* of StableDiffusionPipe"):
        open_model(model_of(folder).model_copy(update={"family": "zimage"}), ("scheduler",))
    with pytest.raises(UserError, match=r"model\.family: stable_diffusion needs a StableDiffusionPipeline"):
        open_model(model_of(folders.zimage).model_copy(update={"family": "stable_diffusion"}), ("scheduler",))


def test_pickled_weights_are_not_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    weights = open_model(model_of(folder), ("denoiser",)).unet.state_dict()
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(weights, tmp_path / "model" / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="component `unet` cannot be loaded"):
        open_model(model_of(tmp_path / "model"), ("denoiser",))

"""The conventions of the families without a nano, held against diffusers' own classes on tiny random weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline, QwenImagePipeline
from tiny_families import BUILDERS
from training import model_of

from legible.config import Model, SigmaSampling
from legible.errors import UserError
from legible.models.family import ROLES, Family, embed_prompts, empty_model, open_model
from legible.models.packing import packed, unpacked
from legible.models.rollout import Words, roll_out
from legible.models.sampler import trajectory

PROMPTS = ['a sign that says "OPEN" in red letters on white', "black"]
PACKED = ("flux", "flux_schnell", "qwen_image")
STEPS = 4


@pytest.fixture(scope="module", params=BUILDERS)
def name(request) -> str:
    return request.param


@pytest.fixture
def folder(name, family_folders) -> Path:
    return family_folders(name)


@pytest.fixture
def opened(folder) -> Family:
    """All parts, opened anew: a test may change them."""
    return open_model(model_of(folder), ROLES)


def noise_of(model: Family, count: int = 2) -> torch.Tensor:
    shape = model.latent_shape(32, 64)
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(0))


def official(folder: Path, **settings) -> DiffusionPipeline:
    """The folder as diffusers itself opens it."""
    pipeline = DiffusionPipeline.from_pretrained(folder, **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def asked(name: str, longest: int, guidance: float) -> dict:
    """How a person asks this pipeline for captions of so many tokens and for guidance."""
    if name == "sdxl":
        return {"guidance_scale": guidance}
    given = {"max_sequence_length": longest}
    if name == "sd3":
        return given | {"guidance_scale": guidance}
    told = {} if name == "qwen_image" else {"guidance_scale": 3.5}
    return given | told | {"true_cfg_scale": guidance} | ({"negative_prompt": [""] * 2} if guidance > 1 else {})


def pictures(pipeline: DiffusionPipeline, name: str, model: Family, guidance: float) -> torch.Tensor:
    noise = noise_of(model).to(pipeline.dtype)
    images = pipeline(
        prompt=list(PROMPTS), height=32, width=64, num_inference_steps=STEPS, output_type="np",
        latents=packed(noise) if name in PACKED else noise, **asked(name, model.max_sequence_length, guidance),
    ).images  # fmt: skip
    return torch.from_numpy((images * 255).round().astype("uint8"))


def sampled(model: Family, guidance: float) -> torch.Tensor:
    """As a stage samples; a batch's size decides on last bits, so as many empty prompts are encoded as prompts."""
    empty = model.encode_prompts([""] * 2).pick([0]) if guidance > 1 else None
    return model.sample(model.encode_prompts(PROMPTS), noise_of(model), STEPS, guidance, empty)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_images_are_those_of_the_pipeline(name, folder, opened, guidance):
    found = sampled(opened, guidance)
    assert torch.equal(found, pictures(official(folder), name, opened, guidance))
    assert found.float().std() > 10
    assert (found[0].int() - found[1].int()).abs().float().mean() > 5


@torch.no_grad()
def test_bfloat16_images_are_those_of_the_pipeline(name, folder):
    model = open_model(model_of(folder, dtype="bfloat16"), ROLES)
    expected = pictures(official(folder, torch_dtype=torch.bfloat16), name, model, 4.0)
    assert torch.equal(sampled(model, 4.0), expected)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_steps_one_at_a_time_lead_to_the_same_images(opened, guidance):
    """Levels, sign, packing, time and guidance: all that training by rewards goes through."""
    words = Words(opened.encode_prompts(PROMPTS), opened.encode_prompts([""]))
    latents = roll_out(opened, noise_of(opened), STEPS, STEPS, words, words, guidance)
    pixels = (opened.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert ((pixels * 255).round().int() - sampled(opened, guidance).int()).abs().max() <= 1


@torch.no_grad()
def test_the_trajectory_is_what_the_network_sees_and_says_in_the_pipeline(name, folder, opened, monkeypatch):
    pipeline, calls = official(folder), []
    network = pipeline.unet if name == "sdxl" else pipeline.transformer
    forward = network.forward

    def recorded(*given, **named):
        output = forward(*given, **named)
        calls.append((given[0] if given else named["hidden_states"], output[0]))
        return output

    monkeypatch.setattr(network, "forward", recorded)
    pictures(pipeline, name, opened, 1.0)
    shape = opened.latent_shape(32, 64)
    points, predictions, levels = trajectory(opened, opened.encode_prompts(PROMPTS), noise_of(opened), STEPS)
    cells = (lambda values: unpacked(values, *shape[1:])) if name in PACKED else (lambda values: values)
    assert torch.equal(points, torch.stack([cells(latents) for latents, _ in calls]))
    assert torch.equal(predictions, torch.stack([cells(output) for _, output in calls]))
    assert torch.equal(levels.float(), opened.level_grid(STEPS, shape).float())


def test_latents_are_packed_as_the_pipelines_pack_them():
    latents = torch.randn((2, 6, 8, 16), generator=torch.Generator().manual_seed(1))
    for kind in (FluxPipeline, QwenImagePipeline):
        assert torch.equal(packed(latents), kind._pack_latents(latents, 2, 6, 8, 16))
    assert torch.equal(unpacked(packed(latents), 8, 16), latents)
    assert torch.equal(unpacked(packed(latents), 8, 16), FluxPipeline._unpack_latents(packed(latents), 32, 64, 4))


@torch.no_grad()
def test_levels_go_by_the_size_of_the_picture_where_the_scheduler_says_so(name, opened):
    small, large = (opened.level_grid(8, (6, *size)) for size in ((8, 16), (64, 64)))
    assert len(small) == len(large) == 8
    assert torch.equal(small, large) == (name in ("sdxl", "sd3", "flux_schnell"))
    if name in ("flux", "qwen_image"):
        assert (large[1:] > small[1:]).sum() >= 6  # larger pictures need more noise


@torch.no_grad()
def test_training_levels_are_shifted_where_the_scheduler_has_one_shift(name, opened):
    if name == "sdxl":
        pytest.skip("timesteps")
    drawn = SigmaSampling(distribution="uniform")
    sigma = opened.process.draw(drawn, torch.ones(1), 20_000, torch.Generator().manual_seed(0))
    half = 0.75 if name == "sd3" else 0.5  # σ = 0.5 becomes 3 · 0.5 / (1 + 2 · 0.5)
    assert abs((sigma > half).float().mean() - 0.5) < 0.02
    assert sigma.min() > 0
    assert sigma.max() <= 1


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_encodes_them(name, folder, opened):
    found, pipeline = opened.encode_prompts(PROMPTS), official(folder)
    given = {} if name == "sdxl" else {"max_sequence_length": opened.max_sequence_length}
    more = {"prompt_2": None, "prompt_3": None} if name == "sd3" else {}
    plain = {"do_classifier_free_guidance": False} if name in ("sdxl", "sd3") else {}
    expected = pipeline.encode_prompt(list(PROMPTS), device="cpu", **more, **given, **plain)
    if name == "qwen_image":
        captions, mask = expected
        rows = [own[: int(count)] for own, count in zip(captions, mask.sum(1), strict=True)]
        assert found.lengths() == [len(row) for row in rows]
        assert all(torch.equal(*pair) for pair in zip(found.tensors["captions"], rows, strict=True))
    else:
        assert torch.equal(found.stacked("captions"), expected[0])
        assert torch.equal(found.stacked("pooled")[:, 0], expected[2 if name in ("sdxl", "sd3") else 1])
    assert embed_prompts(model_of(folder), PROMPTS).equals(found)


@torch.no_grad()
def test_a_prompt_says_the_same_alone_and_among_others(opened):
    captions, noise = opened.encode_prompts([*PROMPTS, PROMPTS[0]]), noise_of(opened, 3)
    levels = opened.level_grid(STEPS, tuple(noise.shape[1:]))[[0, 1, 2]]
    together = opened.predict(noise, levels, captions)
    for row in range(3):
        alone = opened.predict(noise[row : row + 1], levels[row : row + 1], captions.pick([row]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=2e-5, rtol=1e-4)
    heard = opened.predict(noise, levels, captions.pick([1, 1, 1]))
    assert (heard[0] - together[0]).norm() > 0.02 * together[0].norm()


@torch.no_grad()
def test_images_are_encoded_and_decoded_by_mean_and_scale(name, opened):
    pixels = torch.rand((2, 3, 32, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = opened.encode_images(pixels)
    if name == "qwen_image":
        mean = opened.vae.encode(pixels[:, :, None]).latent_dist.mean
        own, std = (
            torch.tensor(v)[:, None, None] for v in (opened.vae.config.latents_mean, opened.vae.config.latents_std)
        )
        expected, decoded = (mean[:, :, 0] - own) / std, opened.vae.decode(mean).sample[:, :, 0]
    else:
        mean = opened.vae.encode(pixels).latent_dist.mean
        expected, decoded = (mean - (0 if name == "sdxl" else 0.12)) * 0.7, opened.vae.decode(mean).sample
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(opened.decode(found), decoded, atol=1e-5, rtol=1e-4)


def test_what_does_not_fit_is_refused(name, folder, opened):
    captions, shape = opened.encode_prompts(PROMPTS), opened.latent_shape(32, 64)
    levels = opened.level_grid(STEPS, shape)
    for latents, count in ((3, 3), (2, 1)):
        with pytest.raises(ValueError, match="do not match"):
            opened.predict(torch.zeros((latents, *shape)), levels[[0] * count], captions)
    with pytest.raises(UserError, match=r"data\.height: 36 is not divisible by 8"):
        opened.latent_shape(36, 64)
    opened.use_attention("native", ragged=True)
    with pytest.raises(UserError, match=r"training\.attention: _native_math .*; choose native"):
        opened.use_attention("_native_math", ragged=False)
    with pytest.raises(UserError, match=r"prompt 'aaa.* tokens.* model\.max_sequence_length is"):
        opened.encode_prompts(["a" * 200])


def test_a_folder_of_another_family_is_refused(name, folder):
    for family in ("zimage", "stable_diffusion", "sdxl", "sd3", "flux", "qwen_image"):
        if family != model_of(folder).family:
            with pytest.raises(UserError, match=rf"model\.family: {family} needs a \w+, but .* is of \w+; set model"):
                open_model(Model(family=family, path=str(folder)), ("denoiser",))


def changed(folder: Path, copy: Path, part: str, **settings) -> Path:
    """A copy of the model with other settings in a component's configuration."""
    shutil.copytree(folder, copy)
    file = copy / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return copy


@pytest.mark.parametrize(
    ("name", "part", "settings", "message"),
    [
        ("flux", "transformer", {"in_channels": 96, "out_channels": 12}, "takes 96 channels and gives 12"),
        ("qwen_image", "transformer", {"zero_cond_t": True}, "has zero_cond_t; choose a plain text-to-image"),
        ("sdxl", "unet", {"addition_embed_type": None}, "addition_embed_type None; Stable Diffusion XL has text_time"),
        ("sdxl", "vae", {"latents_mean": [0.0] * 4}, "has latents_mean, which is not supported"),
    ],
)
def test_relatives_that_work_otherwise_are_refused(family_folders, tmp_path, name, part, settings, message):
    copy = changed(family_folders(name), tmp_path / "model", part, **settings)
    with pytest.raises(UserError, match=message):
        empty_model(model_of(copy))


@torch.no_grad()
def test_without_forced_zeros_the_empty_prompt_is_encoded(family_folders, tmp_path):
    """Both kinds of Stable Diffusion XL, each as its pipeline has it."""
    folder = tmp_path / "model"
    shutil.copytree(family_folders("sdxl"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    assert not open_model(model_of(folder), ROLES).encode_prompts([""]).stacked("captions").any()
    (folder / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    model = open_model(model_of(folder), ROLES)
    assert model.encode_prompts([""]).stacked("captions").any()
    assert torch.equal(sampled(model, 4.0), pictures(official(folder), "sdxl", model, 4.0))


@torch.no_grad()
def test_the_size_that_sdxl_is_told_needs_no_autoencoder(family_folders):
    whole, part = (open_model(model_of(family_folders("sdxl")), roles) for roles in (ROLES, ("denoiser",)))
    captions, noise, time = whole.encode_prompts(PROMPTS), noise_of(whole), torch.tensor([500, 20])
    assert torch.equal(part.predict(noise, time, captions), whole.predict(noise, time, captions))


@torch.no_grad()
def test_flux_dev_hears_its_guidance_and_schnell_does_not(family_folders):
    for name in ("flux", "flux_schnell"):
        models = [open_model(model_of(family_folders(name), distilled_guidance=g), ROLES) for g in (1.0, 3.5)]
        images = [sampled(model, 1.0) for model in models]
        assert torch.equal(*images) == (name == "flux_schnell")


def test_opened_parts_are_frozen_and_only_those_asked_for(name, folder):
    model = open_model(model_of(folder), ("denoiser", "autoencoder"))
    assert model.text_encoder is model.tokenizer is model.scheduler is None
    denoiser = model.module("denoiser")
    assert not denoiser.training
    assert not any(p.requires_grad for part in (denoiser, model.vae) for p in part.parameters())


def test_the_empty_model_has_shapes_and_no_memory(name, folder, opened):
    empty, shape = empty_model(model_of(folder)), opened.latent_shape(32, 64)
    for part in ("denoiser", "vae", *opened.spec.text_encoders):
        assert all(p.is_meta for p in empty.module(part).parameters())
        shapes = {key: p.shape for key, p in empty.module(part).named_parameters()}
        assert shapes == {key: p.shape for key, p in opened.module(part).named_parameters()}
    assert empty.latent_shape(32, 64) == shape
    assert torch.equal(empty.level_grid(4, shape), opened.level_grid(4, shape))
    example, real = empty.example_conditioning(3), opened.encode_prompts(PROMPTS)
    assert example.tensors.keys() == real.tensors.keys()
    assert all(example.tensors[key][0].shape[1:] == real.tensors[key][0].shape[1:] for key in real.tensors)
    assert max(real.lengths()) <= max(example.lengths())
    answer = empty.predict(torch.empty((3, *shape), device="meta"), torch.ones(3), example)
    assert answer.is_meta
    assert answer.shape == (3, *shape)


def test_blocks_hold_every_weight_of_the_default_modules_once(opened):
    denoiser = opened.module("denoiser")
    inside = [id(p) for block in opened.blocks() for p in block.parameters()]
    wanted = {id(p) for key, p in denoiser.named_parameters() if key.startswith(opened.spec.blocks)}
    assert len(inside) == len(set(inside))
    assert set(inside) == wanted
    used: list = []
    hooks = [block.register_forward_hook(lambda block, *_: used.append(block)) for block in opened.blocks()]
    noise = noise_of(opened, 1)
    opened.predict(noise, opened.level_grid(2, tuple(noise.shape[1:]))[:1], opened.encode_prompts(PROMPTS[:1]))
    assert used == opened.blocks()
    for hook in hooks:
        hook.remove()


def test_few_bits_are_for_most_weights_of_the_blocks(opened):
    layers, denoiser = set(opened.quantized_layers()), opened.module("denoiser")
    assert {key.split(".", 1)[0] for key in layers} == set(opened.spec.blocks)
    assert not any("norm" in key or "mod" in key for key in layers)
    few = sum(denoiser.get_submodule(key).weight.numel() for key in layers)
    all_of_them = sum(p.numel() for block in opened.blocks() for p in block.parameters())
    assert few > 0.35 * all_of_them  # in tiny blocks modulations and convolutions weigh more

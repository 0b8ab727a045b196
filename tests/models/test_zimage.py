"""Z-Image's conventions, held against diffusers' own classes."""

import itertools
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, ZImagePipeline
from diffusers.image_processor import VaeImageProcessor
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from legible.config import Model
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.family import ROLES, empty_model, open_model
from legible.models.hub import commit, pinned
from legible.models.zimage.compiled import use_real_rotary
from legible.models.zimage.model import CAPTION, COMPONENTS, ZImage

PROMPTS = [
    'a sign that says "OPEN" in bold white letters on dark green',
    'a label with text "4711" in red letters on white',
    "black",
    'a board that reads "ZEBRAS" in condensed bold roman yellow letters on dark blue',
]
SHAPE = (12, 8, 16)
ROLE_OF = {"transformer": "denoiser", "vae": "autoencoder", "scheduler": "scheduler"}  # of others: text


def noise_of(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def spy(zimage: ZImage, monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Record (latents, time, captions, output) of every forward pass of the transformer."""
    calls = []
    forward = zimage.transformer.forward

    def recorded(latents, time, captions, *arguments, **named):
        output = forward(latents, time, captions, *arguments, **named)
        calls.append((latents, time, captions, output[0]))
        return output

    monkeypatch.setattr(zimage.transformer, "forward", recorded)
    return calls


def embeddings(conditioning: Conditioning) -> list[torch.Tensor]:
    """Its one kind of tensor."""
    (rows,) = conditioning.tensors.values()
    return rows


def official(zimage: ZImage, captions: Conditioning, noise: torch.Tensor, **named) -> torch.Tensor:
    """Latents, or with output_type="np" images, of ZImagePipeline itself."""
    pipeline = zimage.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    settings = {"output_type": "latent", "guidance_scale": 0.0, "num_inference_steps": 8} | named
    return pipeline(prompt_embeds=list(embeddings(captions)), latents=noise, height=32, width=64, **settings).images


@torch.no_grad()
def test_the_network_receives_one_minus_sigma_and_its_output_is_minus_v(zimage, monkeypatch):
    captions, sigma = zimage.encode_prompts(PROMPTS[:3]), torch.tensor([1.0, 0.5, 0.3])
    calls = spy(zimage, monkeypatch)
    velocity = zimage.predict(noise_of(3), sigma, captions)
    (latents, time, given, output), *more = calls
    assert not more
    assert [tuple(latent.shape) for latent in latents] == [(12, 1, 8, 16)] * 3
    torch.testing.assert_close(time, torch.tensor([0.0, 0.5, 0.7]))
    assert time.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(given, embeddings(captions), strict=True))
    assert torch.equal(velocity, -torch.stack(list(output)).squeeze(2))
    assert velocity.abs().mean() > 0.1  # the tiny network does answer


@torch.no_grad()
def test_the_answer_depends_on_caption_noise_and_sigma(zimage):
    captions, noise, sigma = zimage.encode_prompts(PROMPTS[:1]), noise_of(1), torch.tensor([0.5])
    base = zimage.predict(noise, sigma, captions)
    for other in (
        zimage.predict(noise, sigma, zimage.encode_prompts(PROMPTS[1:2])),
        zimage.predict(noise_of(1, 1), sigma, captions),
        zimage.predict(noise, torch.tensor([0.6]), captions),
    ):
        assert (other - base).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("prompts", [PROMPTS[:1], PROMPTS, PROMPTS[2:3] * 2])
def test_prompts_are_encoded_as_the_pipeline_encodes_them(zimage, prompts):
    given = list(prompts)
    found = zimage.encode_prompts(given)
    assert given == prompts  # the pipeline would write its chat template into the list
    expected = zimage.pipeline().encode_prompt(list(prompts), "cpu", False, max_sequence_length=64)[0]
    assert len(found) == len(prompts)
    assert all(torch.equal(a, b) for a, b in zip(embeddings(found), expected, strict=True))
    again = zimage.encode_prompts(given)
    assert all(torch.equal(a, b) for a, b in zip(embeddings(found), embeddings(again), strict=True))


@torch.no_grad()
def test_a_prompt_is_encoded_the_same_alone_in_a_batch_and_over_several_batches(zimage):
    whole = embeddings(zimage.encode_prompts(PROMPTS))
    assert len({len(embedding) for embedding in whole}) == len(PROMPTS)
    for batch in (1, 3):
        for a, b in zip(embeddings(zimage.encode_prompts(PROMPTS, batch=batch)), whole, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    lengths = [len(zimage.tokenizer(zimage.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)).input_ids)
        for prompt in PROMPTS]  # fmt: skip
    assert [len(embedding) for embedding in whole] == lengths


def test_the_sigma_grid_is_the_samplers(zimage):
    grid = zimage.level_grid(8)
    expected = torch.tensor([1, 21 / 22, 0.9, 5 / 6, 0.75, 9 / 14, 0.5, 0.3])
    torch.testing.assert_close(grid, expected, atol=1e-6, rtol=0)
    assert grid.dtype == torch.float32
    captions = zimage.encode_prompts(PROMPTS[:1])
    for steps in (1, 4, 8):
        official(zimage, captions, noise_of(1), num_inference_steps=steps)
        torch.testing.assert_close(zimage.level_grid(steps), zimage.scheduler.sigmas[:-1].float(), atol=1e-7, rtol=0)


@torch.no_grad()
def test_an_euler_loop_of_our_own_predictions_is_the_pipeline(zimage):
    captions, latents = zimage.encode_prompts(PROMPTS[:2]), noise_of(2)
    expected = official(zimage, captions, latents.clone())
    levels = [*zimage.level_grid(8).tolist(), 0.0]
    for now, after in itertools.pairwise(levels):
        velocity = zimage.predict(latents, torch.full((2,), now), captions)
        if after == 0.0:
            last = zimage.process.predicted_clean(latents, velocity, torch.full((2,), now))
            torch.testing.assert_close(last, latents - 0.3 * velocity, atol=1e-6, rtol=0)
        latents = latents + (after - now) * velocity
    torch.testing.assert_close(latents, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 8])
def test_without_guidance_one_forward_pass_a_step(zimage, monkeypatch, steps):
    captions = zimage.encode_prompts(PROMPTS)
    calls = spy(zimage, monkeypatch)
    zimage.sample(captions, noise_of(4), steps, 0.0)
    assert [len(latents) for latents, *_ in calls] == [4] * steps
    torch.testing.assert_close(torch.stack([time[0] for _, time, *_ in calls]), 1 - zimage.level_grid(steps))


@torch.no_grad()
def test_guidance_is_the_pipelines_own(zimage, monkeypatch):
    captions, empty = zimage.encode_prompts(PROMPTS[:2]), zimage.encode_prompts([""])
    plain = official(zimage, captions, noise_of(2), num_inference_steps=2, output_type="np")
    guided = official(
        zimage, captions, noise_of(2), num_inference_steps=2, guidance_scale=3.0, output_type="np",
        negative_prompt_embeds=embeddings(empty) * 2,
    )  # fmt: skip
    calls = spy(zimage, monkeypatch)
    images = zimage.sample(captions, noise_of(2), 2, 3.0, empty)
    assert [len(latents) for latents, *_ in calls] == [4, 4]
    assert torch.equal(images, torch.from_numpy((guided * 255).round().astype("uint8")))
    assert abs(guided - plain).max() > 1e-3


@torch.no_grad()
def test_images_are_encoded_and_decoded_with_scale_and_shift(zimage):
    pixels = torch.rand((2, 3, 32, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = zimage.encode_images(pixels)
    mean = zimage.vae.encode(pixels).latent_dist.mean
    assert latents.shape == (2, *SHAPE)
    torch.testing.assert_close(latents, (mean - 0.12) * 0.7, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(zimage.decode(latents), zimage.vae.decode(mean).sample, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoded_images_are_those_of_the_pipeline(zimage):
    captions, noise = zimage.encode_prompts(PROMPTS[:2]), noise_of(2)
    latents = official(zimage, captions, noise)
    expected = official(zimage, captions, noise, output_type="np")
    ours = VaeImageProcessor.pt_to_numpy((zimage.decode(latents) / 2 + 0.5).clamp(0, 1))
    assert abs(ours - expected).max() < 1e-6
    images = zimage.sample(captions, noise, 8, 0.0)
    assert images.shape == (2, 32, 64, 3)
    assert torch.equal(images, torch.from_numpy((expected * 255).round().astype("uint8")))


@torch.no_grad()
def test_a_batch_of_captions_of_different_lengths_equals_single_samples(zimage):
    captions, noise, sigma = zimage.encode_prompts(PROMPTS), noise_of(4), torch.tensor([0.3, 0.5, 0.9, 1.0])
    batch = zimage.predict(noise, sigma, captions)
    for i in range(4):
        single = zimage.predict(noise[i : i + 1], sigma[i : i + 1], captions.pick([i]))
        torch.testing.assert_close(batch[i : i + 1], single, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotation_in_real_arithmetic_changes_nothing(folders, dtype):
    """What is compiled in place of the complex rotation gives the same velocity and gradient, masked or not."""
    found = []
    for real in (False, True):
        model = open_model(Model(path=str(folders.zimage), dtype=dtype), ROLES)
        captions = model.encode_prompts([PROMPTS[2], PROMPTS[3] + " and" * 16])
        assert [length > 32 for length in captions.lengths()] == [False, True]  # a batch of both is masked
        model.transformer.requires_grad_(True)
        if real:
            model.transformer.set_attention_backend("_native_math")
            use_real_rotary(model.transformer)
            assert {b.attention.processor._attention_backend for b in model.transformer.layers} == {"_native_math"}
        velocity = model.predict(noise_of(2), torch.tensor([0.3, 0.9]), captions)
        velocity.square().mean().backward()
        found.append((velocity.detach(), model.transformer.layers[0].attention.to_q.weight.grad.float()))
    for one, two in zip(*found, strict=True):
        assert one.abs().max() > 0
        assert (one - two).norm() / one.norm() < {"float32": 1e-5, "bfloat16": 3e-2}[dtype]


@torch.no_grad()
def test_captions_keep_their_own_length_because_padding_changes_the_picture(zimage):
    """Pad tokens are attended, and the picture's positions begin after them (huggingface/diffusers issue 12893)."""
    captions, sigma = zimage.encode_prompts(PROMPTS[:1]), torch.tensor([0.5])
    (caption,) = embeddings(captions)
    assert len(caption) < 32
    longer = Conditioning({CAPTION: [torch.cat([caption, caption[-1:].expand(40 - len(caption), -1)])]})
    native = zimage.predict(noise_of(1), sigma, captions)
    padded = zimage.predict(noise_of(1), sigma, longer)
    assert (padded - native).norm() / native.norm() > 1e-3


def test_half_precision_is_not_offered(zimage):
    """In float16 the DiT's activations overflow (6.6e4); bfloat16 and float32 do not."""
    with pytest.raises(ValidationError, match=r"dtype"):
        Model(dtype="float16")


def test_lengths_that_do_not_match_are_refused(zimage):
    captions = zimage.encode_prompts(PROMPTS)
    for count, sigmas, given in ((3, 3, captions), (4, 4, captions.pick(range(3))), (4, 1, captions)):
        with pytest.raises(ValueError, match="do not match"):
            zimage.predict(noise_of(count), torch.full((sigmas,), 0.5), given)


@torch.no_grad()
def test_images_do_not_depend_on_the_batch_size(zimage):
    captions, noise = zimage.encode_prompts(PROMPTS), noise_of(4)
    whole = zimage.sample(captions, noise, 4, 0.0)
    assert torch.equal(whole, zimage.sample(captions, noise, 4, 0.0))
    for size in (1, 3):
        parts = [
            zimage.sample(captions.pick(range(i, min(i + size, 4))), noise[i : i + size], 4, 0.0)
            for i in range(0, 4, size)
        ]
        assert (torch.cat(parts).int() - whole.int()).abs().max() <= 1
    assert (whole[0].int() - whole[1].int()).abs().max() > 1


def test_the_latent_grid(zimage):
    assert zimage.latent_shape(32, 64) == SHAPE
    with pytest.raises(UserError, match=r"data\.height: 36 is not divisible by 8"):
        zimage.latent_shape(36, 64)
    with pytest.raises(UserError, match=r"data\.width: 60 is not divisible by 8"):
        zimage.latent_shape(32, 60)


def test_opened_parts_are_frozen_and_only_those_asked_for(folders):
    model = open_model(Model(path=str(folders.zimage)), ("denoiser", "autoencoder"))
    assert model.text_encoder is None
    assert model.tokenizer is None
    assert not model.transformer.training
    assert not any(p.requires_grad for part in (model.transformer, model.vae) for p in part.parameters())
    assert {p.dtype for p in model.transformer.parameters()} == {torch.float32}
    half = open_model(Model(path=str(folders.zimage), dtype="bfloat16"), ("denoiser",))
    assert {p.dtype for p in half.transformer.parameters()} == {torch.bfloat16}


@torch.no_grad()
def test_the_folder_is_a_pipeline_of_diffusers(folders, zimage):
    pipeline = ZImagePipeline.from_pretrained(folders.zimage)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        prompt=PROMPTS[0], height=32, width=64, num_inference_steps=8, guidance_scale=0.0, latents=noise_of(1),
        output_type="np", max_sequence_length=64,
    ).images  # fmt: skip
    ours = zimage.sample(zimage.encode_prompts(PROMPTS[:1]), noise_of(1), 8, 0.0)
    assert torch.equal(ours, torch.from_numpy((image * 255).round().astype("uint8")))


@pytest.mark.parametrize("missing", COMPONENTS)
def test_a_missing_component_is_named(folders, tmp_path, missing):
    shutil.copytree(folders.zimage, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / missing)
    with pytest.raises(UserError, match=f"component folder `{missing}` is missing; needed are transformer, vae"):
        open_model(Model(path=str(tmp_path / "model")), (ROLE_OF.get(missing, "text"),))


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("transformer", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ],
)
def test_truncated_weights_are_one_sentence(folders, tmp_path, part, file):
    shutil.copytree(folders.zimage, tmp_path / "model")
    weights = tmp_path / "model" / part / file
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"component `{part}` cannot be loaded") as caught:
        open_model(Model(path=str(tmp_path / "model")), (ROLE_OF.get(part, "text"),))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("transformer", "its configuration is that of FluxTransformer2DModel, ZImageTransformer2DModel is needed"),
        ("vae", "its configuration is that of AutoencoderTiny, AutoencoderKL is needed"),
    ],
)
def test_another_architecture_is_named(folders, tmp_path, part, said):
    shutil.copytree(folders.zimage, tmp_path / "model")
    config = tmp_path / "model" / part / "config.json"
    config.write_text(config.read_text().replace("ZImageTransformer2DModel", "FluxTransformer2DModel")
                      .replace("AutoencoderKL", "AutoencoderTiny"))  # fmt: skip
    with pytest.raises(UserError, match=f"component `{part}` cannot be loaded .{said}"):
        open_model(Model(path=str(tmp_path / "model")), (ROLE_OF.get(part, "text"),))


@pytest.mark.parametrize(
    ("part", "file", "dropped"),
    [
        ("transformer", "diffusion_pytorch_model.safetensors", "layers.0.attention.to_q.weight"),
        ("vae", "diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"),
        ("text_encoder", "model.safetensors", "layers.0.self_attn.q_proj.weight"),
    ],
)
@pytest.mark.parametrize("how", ["absent", "of another size"])
def test_weights_of_another_model_are_not_replaced_by_random_ones(folders, tmp_path, part, file, dropped, how):
    shutil.copytree(folders.zimage, tmp_path / "model")
    weights = load_file(tmp_path / "model" / part / file)
    weights[dropped if how == "of another size" else "other"] = weights.pop(dropped)[:-1].contiguous()
    save_file(weights, tmp_path / "model" / part / file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"component `{part}` cannot be loaded") as caught:
        open_model(Model(path=str(tmp_path / "model")), (ROLE_OF.get(part, "text"),))
    assert dropped in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("opening", [lambda model: open_model(model, ("scheduler",)), empty_model])
@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            '{"_class_name": "StableDiffusionPipeline"}',
            r"model\.family: zimage needs a ZImagePipeline, but .*model_index\.json is of StableDiffusionPipeline; set "
            r"model\.family or model\.path",
        ),
        ("{}", r"model\.family: zimage needs a ZImagePipeline, but .*model_index\.json is of None"),
        ("[1]", r"model_index\.json: not a JSON object"),
        ('{"_class', r"model_index\.json: not a JSON object"),
    ],
)
def test_a_folder_of_another_pipeline_is_refused(folders, tmp_path, opening, written, said):
    shutil.copytree(folders.zimage, tmp_path / "model")
    model = Model(path=str(tmp_path / "model"))
    opening(model)
    (tmp_path / "model" / "model_index.json").write_text(written)
    with pytest.raises(UserError, match=said) as caught:
        opening(model)
    assert "\n" not in str(caught.value)
    (tmp_path / "model" / "model_index.json").unlink()  # components alone are as good
    opening(model)


def test_pickled_weights_are_not_read(folders, tmp_path):
    shutil.copytree(folders.zimage, tmp_path / "model")
    vae = AutoencoderKL.from_pretrained(folders.zimage / "vae")
    (tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(vae.state_dict(), tmp_path / "model" / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match="component `vae` cannot be loaded"):
        open_model(Model(path=str(tmp_path / "model")), ("autoencoder",))


def test_neither_full_weights_nor_lora(folders, tmp_path):
    with pytest.raises(UserError, match="neither a folder of a component nor pytorch_lora_weights"):
        open_model(Model(path=str(folders.zimage)), ("denoiser",), weights=tmp_path)


def test_a_prompt_that_would_be_cut_is_refused(zimage):
    from legible.errors import UserError

    fits = 'a sign that says "OPEN" in bold white letters on dark green'
    with pytest.raises(UserError, match=r"prompt 'a sign that says .*: \d+ tokens .* model\.max_sequence_length is 64"):
        zimage.encode_prompts([fits, f'a sign that says "{"A" * 64}"'])
    assert len(zimage.encode_prompts([fits])) == 1


@pytest.fixture
def hub(folders, tmp_path, monkeypatch) -> str:
    """The hub's cache on this machine, with the tiny model at a commit that `main` means, and no network."""
    cache = tmp_path / "hub" / "models--someone--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("a" * 40)
    shutil.copytree(folders.zimage, cache / "snapshots" / ("a" * 40))
    for module in ("huggingface_hub.constants", "diffusers.utils.hub_utils", "diffusers.configuration_utils"):
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.setattr(f"{module}.{name}", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit.cache_clear()
    yield "someone/tiny"
    commit.cache_clear()


def test_a_hub_id_is_resolved_to_its_commit_and_said(hub, capsys):
    model = pinned(Model(path=hub))
    assert model.revision == "a" * 40
    said = capsys.readouterr().err
    assert said == f"warning: model.revision is not pinned; {hub} at main is {'a' * 40} now, set model.revision to it\n"
    pinned(model)
    assert capsys.readouterr().err == ""


def test_a_folder_needs_no_revision(folders, capsys):
    assert pinned(Model(path=str(folders.zimage))).revision is None
    assert capsys.readouterr().err == ""


def test_without_hub_and_folder_both_ways_out_are_named(hub):
    with pytest.raises(
        UserError, match=r"someone/other is no folder, .* local folder .* or run `hf download someone/other`"
    ):
        open_model(Model(path="someone/other"), ("autoencoder",))

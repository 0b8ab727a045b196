"""Z-Image's conventions, held against diffusers' own classes."""

import itertools

import pytest
import torch
from diffusers import ZImagePipeline
from diffusers.image_processor import VaeImageProcessor
from pydantic import ValidationError

from legible.config import Model
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.family import ROLES, open_model
from legible.models.zimage.compiled import use_real_rotary
from legible.models.zimage.model import CAPTION, ZImage

PROMPTS = [
    'a sign that says "OPEN" in bold white letters on dark green',
    'a label with text "4711" in red letters on white',
    "black",
    'a board that reads "ZEBRAS" in condensed bold roman yellow letters on dark blue',
]
SHAPE = (12, 8, 16)


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


def test_a_prompt_that_would_be_cut_is_refused(zimage):
    fits = 'a sign that says "OPEN" in bold white letters on dark green'
    with pytest.raises(UserError, match=r"prompt 'a sign that says .*: \d+ tokens .* model\.max_sequence_length is 64"):
        zimage.encode_prompts([fits, f'a sign that says "{"A" * 64}"'])
    assert len(zimage.encode_prompts([fits])) == 1

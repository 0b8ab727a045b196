"""Sampling with gradients: the pipeline's own pictures, and the gradients of Algorithm 1, on both kinds of families."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training import model_of

from legible.models import rollout
from legible.models.family import ROLES, Family, open_model
from legible.models.rollout import Words, guided_prediction, roll_out

PROMPTS = ['a sign that says "OPEN" in red letters on white', "black"]
FAMILIES = {"stable_diffusion": 3.0, "zimage": 1.5}  # guidance with which they are sampled here


@pytest.fixture(params=FAMILIES)
def case(request, folders, stable_diffusion) -> tuple[Family, float]:
    """An opened tiny model, frozen but for its text encoder, and a guidance scale."""
    path = folders.zimage if request.param == "zimage" else stable_diffusion
    model = open_model(model_of(path), ROLES)
    encoder_of(model).requires_grad_(True)
    return model, FAMILIES[request.param]


def encoder_of(model: Family) -> torch.nn.Module:
    return model.module(model.spec.text_encoders[0])


def said(model: Family, gradient: bool) -> Words:
    """What prompts and empty prompt say, through the text encoder as it is now."""
    return Words(model.encode_prompts(PROMPTS, gradient), model.encode_prompts([""], gradient))


def noise_of(model: Family, count: int = 2, seed: int = 0) -> Tensor:
    shape = model.latent_shape(32, 64)
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))


def score(model: Family, latents: Tensor) -> Tensor:
    """A smooth number that depends on every pixel differently."""
    pixels = model.decode(latents)
    return (pixels * torch.linspace(-1, 1, pixels.numel()).view_as(pixels)).sum() + 0.1 * pixels.square().sum()


def gradients(model: Family, guidance: float, steps: int, last: int, *, words=None, roll=roll_out, **options):
    """Of the score by the text encoder's weights."""
    before = said(model, gradient=False)
    latents = roll(model, noise_of(model), steps, last, before, words or said(model, True), guidance, **options)
    loss = score(model, latents)
    weights = [p for p in encoder_of(model).parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return loss.detach(), torch.cat([g.flatten() for g in found if g is not None])


@pytest.mark.parametrize("steps", [5, 25])
@pytest.mark.parametrize("more", [0.0, 1.0, 6.5])
def test_pictures_are_those_of_the_pipeline(case, steps, more):
    model, _ = case
    guidance = model.spec.guidance_off + more
    with torch.no_grad():
        words = said(model, gradient=False)
        expected = model.sample(words.prompts, noise_of(model), steps, guidance, words.empty)
        latents = roll_out(model, noise_of(model), steps, 2, words, words, guidance)
        pixels = (model.decode(latents) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert ((pixels * 255).round() - expected.float()).abs().max() <= 1
    assert expected.float().std() > 10


@pytest.mark.parametrize("last", [1, 3, 5])
def test_checkpointing_changes_no_bit_of_the_gradient(case, last):
    model, guidance = case
    (one, plain), (two, kept) = (gradients(model, guidance, 5, last, checkpointed=c) for c in (False, True))
    assert torch.equal(one, two)
    assert torch.equal(plain, kept)
    assert plain.norm() > 0


def reference(model: Family, noise: Tensor, steps: int, last: int, words: Words, guidance: float) -> Tensor:
    """The same chain written plainly, all of it with gradients, z detached before the last steps."""
    sampler = model.sampler(steps)
    latents = sampler.begin(noise)
    for place, level in enumerate(sampler.levels):
        if place == len(sampler.levels) - last:
            latents = latents.detach()
        shown = sampler.seen(latents, place)
        levels = level.expand(len(noise))
        asked = model.predict(shown, levels, words.prompts)
        without = model.predict(shown, levels, type(words.empty)({k: v * 2 for k, v in words.empty.tensors.items()}))
        factor = guidance + 1 - model.spec.guidance_off
        latents = sampler.step(latents, without + factor * (asked - without), place)
    return latents


@pytest.mark.parametrize("last", [1, 2, 4])
def test_gradients_are_those_of_ordinary_autograd_with_z_detached_before_the_last_steps(case, last):
    model, guidance = case
    before = said(model, gradient=False)  # the same weights: only the gradient differs
    _, found = gradients(model, guidance, 4, last)
    words = said(model, gradient=True)
    loss = score(model, reference(model, noise_of(model), 4, last, words, guidance))
    weights = [p for p in encoder_of(model).parameters() if p.requires_grad]
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, allow_unused=True) if g is not None])
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    if last < 4:  # … which is not the whole chain's gradient
        whole = score(model, reference(model, noise_of(model), 4, 4, said(model, True), guidance))
        other = torch.autograd.grad(whole, weights, allow_unused=True)
        other = torch.cat([g.flatten() for g in other if g is not None])
        assert (other - expected).norm() > 0.01 * other.norm()
    del before


def test_the_first_steps_hear_the_original_encoder(case):
    """With other words before, the picture changes, and the gradient does not reach them."""
    model, guidance = case
    words = said(model, gradient=True)
    others = Words(model.encode_prompts(["white", "a board"]), model.encode_prompts([""]))
    noise = noise_of(model)
    one, two = (roll_out(model, noise, 4, 2, before, words, guidance) for before in (words, others))
    assert not torch.allclose(one, two, atol=1e-3)
    all_last = roll_out(model, noise, 4, 4, others, words, guidance)
    assert torch.allclose(all_last, roll_out(model, noise, 4, 4, words, words, guidance))


def test_both_branches_of_guidance_carry_gradient(case):
    model, guidance = case
    _, both = gradients(model, guidance, 3, 2)
    silent = Words(model.encode_prompts(PROMPTS, gradient=True), model.encode_prompts([""]))
    _, one = gradients(model, guidance, 3, 2, words=silent)
    assert (both - one).norm() > 0.01 * both.norm()
    assert torch.nn.functional.cosine_similarity(both, one, dim=0) > 0


def test_the_gradient_of_guidance_by_finite_differences(stable_diffusion):
    """In float64, along one direction in the space of embeddings, of prompt and empty prompt together."""
    model = open_model(model_of(stable_diffusion), ROLES)
    for part in (model.unet, model.vae, model.text_encoder):
        part.double()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", lambda self: self)  # the library computes losses in float32
        asked = model.encode_prompts(PROMPTS[:1]).stacked("captions").double()
        empty = model.encode_prompts([""]).stacked("captions").double()
        noise = noise_of(model, 1).double()
        directions = [torch.randn(asked.shape, generator=torch.Generator().manual_seed(s)).double() for s in (1, 2)]

        def loss(step: Tensor) -> Tensor:
            moved = [
                {"captions": [(given + step * way)[0]]} for given, way in zip((asked, empty), directions, strict=True)
            ]
            words = Words(*(type(model.encode_prompts(["black"]))(tensors) for tensors in moved))
            return score(model, roll_out(model, noise, 3, 3, words, words, 3.0))

        step = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (found,) = torch.autograd.grad(loss(step), step)
        width = 1e-5
        with torch.no_grad():
            expected = (loss(torch.tensor(width).double()) - loss(torch.tensor(-width).double())) / (2 * width)
    assert abs(found - expected) < 1e-4 * abs(expected)


def saved_bytes(model: Family, guidance: float, steps: int, last: int, checkpointed: bool) -> int:
    """Of all tensors that a roll-out keeps for its backward pass, weights aside."""
    weights = {
        p.data_ptr() for part in ("denoiser", *model.spec.text_encoders) for p in model.module(part).parameters()
    }
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    words = said(model, gradient=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        latents = roll_out(model, noise_of(model), steps, last, words, words, guidance, checkpointed)
    assert latents.requires_grad
    return sum(kept.values())


def test_what_is_kept_grows_with_neither_steps_nor_gradient_steps(case):
    model, guidance = case
    sizes = [saved_bytes(model, guidance, steps, last, True) for steps, last in ((5, 1), (5, 5), (10, 5))]
    plain = [saved_bytes(model, guidance, 5, last, False) for last in (1, 5)]
    few = noise_of(model).nbytes * 2 * 12  # latents of each step, which are all that may be added
    assert max(sizes) - min(sizes) <= few
    assert plain[1] > 4 * plain[0]
    assert plain[1] > 10 * max(sizes)


def test_what_is_frozen_gets_no_gradient(case):
    model, guidance = case
    words = said(model, gradient=True)
    score(model, roll_out(model, noise_of(model), 3, 2, words, words, guidance)).backward()
    assert all(p.grad is None for p in model.module("denoiser").parameters())
    assert all(p.grad is None for p in model.vae.parameters())
    assert any(p.grad is not None for p in encoder_of(model).parameters())


def test_the_late_binding_fault_would_be_caught(case):
    """Mutation: a closure over the loop's variable, which computes every step again at the last level."""
    source = inspect.getsource(rollout)
    faulty = source.replace(
        "prediction = checkpoint(call, shown, levels[place], use_reentrant=False)",
        "prediction = checkpoint(lambda z: call(z, levels[place]), shown, use_reentrant=False)",
    )
    assert faulty != source
    namespace = {"__name__": "faulty"}
    exec(compile(faulty, str(Path(rollout.__file__)), "exec"), namespace)
    model, guidance = case
    (one, right), (two, wrong) = (
        gradients(model, guidance, 4, 3, roll=roll) for roll in (roll_out, namespace["roll_out"])
    )
    assert torch.equal(one, two)  # the loss does not show it
    assert not torch.equal(right, wrong)
    assert (right - wrong).norm() > 0.01 * right.norm()


@torch.no_grad()
def test_without_guidance_the_network_is_called_for_the_prompts_only(case):
    model, _ = case
    words, noise = said(model, gradient=False), noise_of(model)
    level = model.sampler(4).levels[1]
    found = guided_prediction(model, noise, level, Words(words.prompts), model.spec.guidance_off)
    assert torch.equal(found, model.predict(noise, level.expand(2), words.prompts))

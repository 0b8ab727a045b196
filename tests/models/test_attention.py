"""Attention backends: the same predictions, and none is trained with whose backward pass is missing or wrong."""

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from training import equal, settings, small_data

from legible.config import Model
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.family import open_model
from legible.models.zimage.model import CAPTION, ZImage
from legible.seeds import stateless_generator
from legible.train.adapters import select_parameters
from legible.train.step import micro_step


@pytest.fixture(autouse=True)
def native_afterwards():
    """`set_attention_backend` also changes diffusers' default for the whole process."""
    with attention_backend("native"):
        yield


@pytest.fixture(params=["float32", "bfloat16"])
def model(request, folders) -> ZImage:
    opened = open_model(Model(path=str(folders.zimage), dtype=request.param), ("denoiser", "scheduler", "autoencoder"))
    select_parameters(opened, settings(method="lora"), 0)
    return opened


def gradients(model: ZImage, folders) -> dict[str, torch.Tensor]:
    """Of one training step on samples whose captions have different lengths."""
    data, training = small_data(folders.zimage), settings()
    generators, grid = [stateless_generator(0, sample) for sample in range(4)], model.level_grid(8)
    losses = micro_step(model, data, torch.arange(4), None, training, grid, None, generators, [False] * 4)
    losses.diffusion.backward()
    found = {n: p.grad.clone() for n, p in model.transformer.named_parameters() if p.requires_grad and "lora_B" in n}
    model.transformer.zero_grad()
    return found


@pytest.mark.parametrize("ragged", [False, True])
def test_plain_math_is_a_backend_like_the_native_one(model, folders, ragged):
    before = gradients(model, folders)
    model.use_attention("native", ragged)
    assert equal(gradients(model, folders), before)
    model.use_attention("_native_math", ragged)
    assert model.transformer.layers[0].attention.processor._attention_backend == AttentionBackendName._NATIVE_MATH
    after = gradients(model, folders)
    assert before
    for name, gradient in before.items():
        assert (after[name] - gradient).norm() < 0.03 * gradient.norm()
    assert all(p.grad is None for p in model.transformer.parameters())  # the check leaves none behind


def test_a_backend_without_masks_serves_single_samples_only(model):
    with pytest.raises(UserError, match=r"attention: _native_flash cannot mask attention, .*set batch_size .* to 1 or"):
        model.use_attention("_native_flash", ragged=True)
    assert model.transformer.layers[0].attention.processor._attention_backend is None
    model.use_attention("_native_flash", ragged=False)
    assert model.transformer.layers[0].attention.processor._attention_backend == AttentionBackendName._NATIVE_FLASH


@pytest.mark.parametrize(("batch", "lengths", "masks"), [(1, [20], 0), (2, [20, 30], 0), (2, [20, 40], 1)])
def test_the_mask_is_none_unless_padded_lengths_differ(zimage, monkeypatch, batch, lengths, masks):
    seen = []
    original = attention_dispatch.dispatch_attention_fn

    def spied(*tensors, **named):
        seen.append(named["attn_mask"])
        return original(*tensors, **named)

    monkeypatch.setattr("diffusers.models.transformers.transformer_z_image.dispatch_attention_fn", spied)
    width = zimage.transformer.config.cap_feat_dim
    captions = Conditioning({CAPTION: [torch.randn(length, width) for length in lengths]})
    with torch.no_grad():
        zimage.predict(torch.randn(batch, 12, 8, 16), torch.full((batch,), 0.5), captions)
    assert len(seen) == 3  # one layer, two refiners
    assert any(mask is not None for mask in seen) == bool(masks)
    for mask in seen:
        assert mask is None or (mask.dtype == torch.bool and mask.shape[:3] == (batch, 1, 1))


def wrong(how: str):
    """A backend as diffusers keeps them, that is fine forward and not backward."""

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, _parallel_config=None):
        if how == "none":
            query, key, value = query.detach(), key.detach(), value.detach()
        if how == "keys":
            key = key.detach()
        query, key, value = (x.permute(0, 2, 1, 3) for x in (query, key, value))
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask).permute(0, 2, 1, 3)
        if how == "nan":
            output.register_hook(lambda gradient: gradient * float("nan"))
        return output

    return attend


@pytest.mark.parametrize("how", ["none", "keys", "nan"])
def test_a_missing_or_wrong_gradient_is_refused_before_training(model, monkeypatch, how):
    registry = attention_dispatch._AttentionBackendRegistry
    name = AttentionBackendName._NATIVE_EFFICIENT
    monkeypatch.setitem(registry._backends, name, wrong(how))
    arguments = set(wrong(how).__code__.co_varnames[: wrong(how).__code__.co_argcount])
    monkeypatch.setitem(registry._supported_arg_names, name, arguments)
    with pytest.raises(UserError) as caught:
        model.use_attention("_native_efficient", ragged=False)
    said = str(caught.value)
    assert said.startswith("training.attention: _native_efficient has no usable backward pass on this device")
    assert said.endswith("; choose native")
    assert "\n" not in said
    assert model.transformer.layers[0].attention.processor._attention_backend is None
    monkeypatch.setitem(registry._backends, name, wrong("not at all"))
    model.use_attention("_native_efficient", ragged=True)


def test_flex_is_refused_on_the_cpu_where_it_has_no_backward_pass(model):
    with pytest.raises(
        UserError, match=r"attention: flex has no usable backward pass on this device .*; choose native"
    ):
        model.use_attention("flex", ragged=False)


@pytest.mark.parametrize("backend", ["flash2", "", "flash_hub", "sage_hub"])
def test_an_unknown_backend_is_told_the_known_ones(model, backend):
    with pytest.raises(UserError, match=rf"attention: `{backend}` is no such backend; allowed are .*flex.* native,"):
        model.use_attention(backend, ragged=False)


def test_a_backend_whose_package_is_missing_is_refused(model):
    with pytest.raises(UserError, match=r"attention: xformers has no usable backward pass on this device \(.*xformers"):
        model.use_attention("xformers", ragged=False)


def test_a_batch_can_be_ragged():
    assert not settings(batch_size=1).ragged
    assert settings(batch_size=2).ragged
    assert settings(batch_size=1, anchor={"weight": 1.0, "batch_size": 2}).ragged
    assert not settings(batch_size=1, anchor={"weight": 0.0, "batch_size": 2}).ragged

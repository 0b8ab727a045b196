"""A quantised base under LoRA: close to the base, frozen, small, and what is saved fits the unquantised model."""

import sys
import warnings

import pytest
import torch
from diffusers import ZImagePipeline
from training import Killed, equal, killed_at, metrics, run, settings, small_data

from legible.config import Model, validate
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.family import ROLES, open_model
from legible.models.quantization import quantized_bytes
from legible.models.zimage.model import CAPTION, ZImage
from legible.seeds import stateless_generator
from legible.train.adapters import select_parameters
from legible.train.data import TrainingData

NANO = Model(path="resources/nano/zimage")
LIBRARIES = {"int8": "torchao", "nf4": "bitsandbytes"}
# Relative error (2-norm) of the velocity, measured on nano: 0.0046 and 0.06.
TOLERANCE = {"int8": 0.008, "nf4": 0.1}


@pytest.fixture(params=["int8", "nf4"])
def kind(request) -> str:
    pytest.importorskip(LIBRARIES[request.param])
    return request.param


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


def opened(model: Model, quantization: str = "none") -> ZImage:
    return open_model(model, ("denoiser", "scheduler"), quantization=quantization)


def velocity(model: ZImage) -> torch.Tensor:
    generator, config = stateless_generator(4), model.transformer.config
    noisy = torch.randn((2, config.in_channels, 8, 16), generator=generator)
    captions = [torch.randn((20, config.cap_feat_dim), generator=generator) for _ in range(2)]
    return model.predict(noisy, torch.tensor([0.5, 0.9]), Conditioning({CAPTION: captions}))


def frozen_bits(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What the frozen weights are stored as: bytes and scales, or numbers."""
    stored = {}
    for name, parameter in transformer.named_parameters():
        if hasattr(parameter, "qdata"):
            stored |= {f"{name}.int8": parameter.qdata, f"{name}.scale": parameter.scale}
        elif hasattr(parameter, "quant_state"):
            stored |= {f"{name}.nf4": parameter.data, f"{name}.scale": parameter.quant_state.absmax}
        elif not parameter.requires_grad:
            stored[name] = parameter
    return stored


def kept_bytes(model: ZImage) -> int:
    """What one forward pass keeps for its backward pass, without the model's own weights."""
    own = {p.untyped_storage().data_ptr() for p in model.transformer.parameters() if type(p) is torch.nn.Parameter}
    kept: dict[int, torch.Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        velocity(model)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@torch.no_grad()
def test_the_quantised_base_predicts_what_the_base_predicts(kind):
    base, small = velocity(opened(NANO)), velocity(opened(NANO, kind))
    error = (small - base).norm() / base.norm()
    assert 0 < error < TOLERANCE[kind]


def test_only_attention_and_feed_forward_of_the_blocks_are_quantised_and_their_bytes_fall(kind):
    base = opened(NANO)
    whole, small, names = base.transformer, opened(NANO, kind).transformer, base.quantized_layers()
    layers = len(whole.layers) + len(whole.noise_refiner) + len(whole.context_refiner)
    assert len(names) == 7 * layers
    values, expected = quantized_bytes(whole, names, kind)
    assert values == sum(whole.get_submodule(name).weight.numel() for name in names)
    held = 0
    for name, module in small.named_modules():
        if name in names:
            weight = module.weight
            if kind == "int8":
                tensors = [weight.qdata, weight.scale, weight.zero_point]
            else:
                tensors = [weight.data, weight.quant_state.absmax, weight.quant_state.state2.absmax]
            held += sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
    assert held == pytest.approx(expected, rel=0.01)
    assert held < {"int8": 0.27, "nf4": 0.14}[kind] * 4 * values
    rest = {name: p for name, p in whole.named_parameters() if name.removesuffix(".weight") not in names}
    assert equal(dict(rest), {name: p for name, p in small.named_parameters() if name in rest})


def test_the_backward_pass_keeps_no_copy_of_the_weights(kind):
    training = settings(method="lora")
    kept = {}
    for quantization in ("none", kind):
        model = opened(NANO, quantization)
        select_parameters(model, training, 0)
        kept[quantization] = kept_bytes(model)
    assert kept[kind] <= 1.02 * kept["none"]


def test_gradients_are_those_of_the_dequantised_weights(kind, monkeypatch):
    if kind == "nf4":  # as on the CPUs for which bitsandbytes would pack weights
        monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    small = opened(NANO, kind)
    plain = opened(NANO)
    for name in plain.quantized_layers():
        layer = small.transformer.get_submodule(name)
        if kind == "int8":
            weight = layer.weight.dequantize()
        else:
            from bitsandbytes.functional import dequantize_4bit

            weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        plain.transformer.get_submodule(name).weight.data = weight
    gradients = []
    for model in (small, plain):
        chosen = select_parameters(model, settings(method="lora"), 0)
        with torch.no_grad():
            for name, parameter in chosen.items():
                if "lora_B" in name:  # zero, A would get no gradient
                    parameter.normal_(std=0.02, generator=stateless_generator(7))
        velocity(model).square().mean().backward()
        gradients.append({name: parameter.grad for name, parameter in chosen.items()})
    for name, gradient in gradients[1].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_trains_on_it_resumes_and_fits_the_unquantised_model(kind, dtype, folders, data, tmp_path, monkeypatch):
    training = settings(method="lora", quantization=kind, learning_rate=2.0e-2, steps=8, sigma={"distribution": "grid"})
    seen = []
    original = torch.nn.utils.clip_grad_norm_

    def spied(parameters, *arguments):
        seen.append([parameter.grad.clone() for parameter in parameters])
        return original(parameters, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", spied)
        unbroken = run(folders.zimage, data, training, tmp_path / "whole", output=tmp_path / "weights", dtype=dtype)
    assert len(seen) == 8
    assert all(torch.isfinite(gradient).all() for step in seen for gradient in step)
    assert all(gradient.abs().max() > 0 for gradient in seen[-1])
    rows = metrics(tmp_path / "whole")
    assert rows[-1]["loss_total"] < 0.95 * rows[0]["loss_total"]
    with monkeypatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, tmp_path / "cut", dtype=dtype)
    assert equal(run(folders.zimage, data, training, tmp_path / "cut", dtype=dtype), unbroken)
    assert metrics(tmp_path / "cut") == rows

    # What was saved, through diffusers on the unquantised base: it does there what it did on the quantised one.
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["pytorch_lora_weights.safetensors"]
    pipeline = ZImagePipeline.from_pretrained(folders.zimage)
    base = opened(Model(path=str(folders.zimage)))
    with torch.no_grad():
        before = velocity(base)
        pipeline.load_lora_weights(tmp_path / "weights", weight_name="pytorch_lora_weights.safetensors")
        sampled = open_model(Model(path=str(folders.zimage)), ROLES, weights=tmp_path / "weights")
        theirs = velocity(ZImage(sampled.device, 64, transformer=pipeline.transformer))
        after = velocity(sampled)
    assert torch.equal(after, theirs)
    small = opened(Model(path=str(folders.zimage)), kind)
    with torch.no_grad():
        start = velocity(small)
        chosen = select_parameters(small, training, 0)
        for name, parameter in chosen.items():
            parameter.copy_(unbroken[name])
        moved = velocity(small) - start
    cosine = torch.nn.functional.cosine_similarity((after - before).flatten(), moved.flatten(), dim=0)
    assert cosine > 0.9


def test_the_frozen_weights_are_bit_identical_after_training(kind, folders, data, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "training.select_parameters", lambda model, *rest: trained.append(model) or select_parameters(model, *rest)
    )
    training = settings(method="lora", quantization=kind, learning_rate=1.0e-2)
    weights = run(folders.zimage, data, training, tmp_path)
    fresh = opened(Model(path=str(folders.zimage)), kind)
    started = select_parameters(fresh, training, 0)
    assert any(name.endswith(f".{kind}") for name in frozen_bits(fresh.transformer))
    assert equal(frozen_bits(trained[0].transformer), frozen_bits(fresh.transformer))
    assert not any(torch.equal(weights[name], parameter) for name, parameter in started.items())


def test_without_the_library_the_way_out_is_named(monkeypatch, folders):
    for kind, library in LIBRARIES.items():
        for module in [library, "torchao.quantization", "bitsandbytes.nn"]:
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UserError, match=f"quantization: {kind} needs {library}; install it with") as caught:
            opened(Model(path=str(folders.zimage)), kind)
        assert "\n" not in str(caught.value)


def test_only_adapters_are_trained_on_it():
    arms = {"diffusion_only": {}, "small": {"quantization": "int8"}}
    with pytest.raises(UserError, match=r"arms\.small\.quantization: int8 needs method lora"):
        validate({"arms": arms}, "x")
    assert validate({"arms": arms, "training": {"method": "lora"}}, "x").arm("small").quantization == "int8"


def test_nothing_is_said_about_merging(kind, folders):
    if kind == "nf4":
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = opened(Model(path=str(folders.zimage)), kind)
        select_parameters(model, settings(method="lora"), 0)
    assert not [warning for warning in said if "Torchao" in str(warning.message)]

"""Training Z-Image's text encoder, alone or with the transformer: the gradient reaches it, and what is saved opens."""

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from training import Killed, equal, killed_at, metrics, model_of, run, settings, small_data
from transformers import AutoModel

from legible.errors import UserError
from legible.models.family import ROLES, embed_prompts, open_model
from legible.models.zimage.model import CAPTION, ZImage
from legible.seeds import stateless_generator
from legible.train.adapters import save_weights, select_parameters
from legible.train.data import TrainingData
from legible.train.step import dropped_prompts, micro_step

LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 6.0}}
PARTS = {"text encoder": ["text_encoder"], "both": ["denoiser", "text_encoder"]}
METHODS = {"full": {}, "lora": LORA}
PROMPTS = ['a sign that says "OPEN" in red letters on white', "black"]


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


def losses_of(model: ZImage, data: TrainingData, training, dropped=(False,) * 4):
    """Of one forward pass over the first four samples."""
    generators, grid = [stateless_generator(0, sample) for sample in range(4)], model.level_grid(8)
    return micro_step(model, data, torch.arange(4), None, training, grid, None, generators, list(dropped))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", PARTS)
def test_the_gradient_reaches_every_layer_that_the_transformer_hears(folders, data, parts, method):
    training = settings(parts=PARTS[parts], **METHODS[method])
    model = open_model(model_of(folders.zimage), ROLES)
    chosen = select_parameters(model, training, 0)
    assert {name.startswith("text_encoder.") for name in chosen} == ({True} if parts != "both" else {True, False})
    losses_of(model, data, training).diffusion.backward()
    own = {name: p for name, p in chosen.items() if name.startswith("text_encoder.")}
    # Z-Image reads hidden_states[-2]: the last layer and the norm after it are never heard.
    last = len(model.text_encoder.layers) - 1
    unheard = (f"text_encoder.layers.{last}.", "text_encoder.norm.")
    for name, parameter in own.items():
        if name.startswith(unheard):
            assert parameter.grad is None, name
        else:  # a LoRA's B is zero at the start and passes nothing on to A
            assert (parameter.grad.abs().max() > 0) == (".lora_A." not in name), name
    assert sum(name.startswith(unheard) for name in own) > 0
    assert all(p.grad is None for name, p in model.text_encoder.named_parameters() if f"text_encoder.{name}" not in own)
    assert all((p.grad is None) == (parts != "both") for n, p in model.transformer.named_parameters() if n in chosen)


def test_encoding_anew_gives_the_loss_of_the_cache(folders, data):
    """… and a dropped caption is the empty prompt either way."""
    model = open_model(model_of(folders.zimage), ROLES)
    for dropped in ((False,) * 4, (False, True, False, True)):
        cached, anew = (
            losses_of(model, data, settings(**parts), dropped).per_sample for parts in ({}, {"parts": ["text_encoder"]})
        )
        torch.testing.assert_close(anew, cached, rtol=1e-4, atol=0)
    whole = losses_of(model, data, settings()).per_sample
    assert ((cached - whole).abs() > 1e-4 * whole).tolist() == [False, True, False, True]


def our_images(folder, weights=None) -> torch.Tensor:
    """As scripts/generate_images.py makes them: text encoder and transformer are never open together."""
    captions = embed_prompts(model_of(folder), PROMPTS, weights=weights)
    model = open_model(model_of(folder), ("denoiser", "autoencoder", "scheduler"), weights=weights)
    noise = torch.randn((2, 12, 8, 16), generator=torch.Generator().manual_seed(2))
    return model.sample(captions, noise, 4, 0.0)


def put_by_hand(model: ZImage, trained: dict[str, torch.Tensor], scale: float) -> ZImage:
    """The trained weights, or W + scale · B · A, put into a fresh model."""
    with torch.no_grad():
        for name, value in trained.items():
            part = "text_encoder" if name.startswith("text_encoder.") else "denoiser"
            network, place = model.module(part), name.removeprefix("text_encoder.")
            if ".lora_A." in name:
                weight = network.get_submodule(place.split(".lora_A.")[0]).weight
                weight += scale * trained[name.replace("lora_A", "lora_B")] @ value
            elif ".lora_B." not in name:
                network.get_parameter(place).copy_(value)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", PARTS)
def test_what_is_saved_draws_what_was_trained(folders, data, tmp_path, parts, method):
    training = settings(steps=4, learning_rate=2.0e-2, parts=PARTS[parts], **METHODS[method])
    trained = run(folders.zimage, data, training, tmp_path / "work", output=tmp_path / "weights")
    names = {
        ("text encoder", "full"): {"text_encoder"},
        ("both", "full"): {"text_encoder", "transformer"},
        ("text encoder", "lora"): {"text_encoder_lora"},
        ("both", "lora"): {"text_encoder_lora", "pytorch_lora_weights.safetensors"},
    }
    assert {path.name for path in (tmp_path / "weights").iterdir()} == names[parts, method]
    assert not list((tmp_path / "weights").rglob("*.bin"))

    reference = put_by_hand(open_model(model_of(folders.zimage), ROLES), trained, 6.0 / 2)
    noise = torch.randn((2, 12, 8, 16), generator=torch.Generator().manual_seed(2))
    expected = reference.sample(reference.encode_prompts(PROMPTS), noise, 4, 0.0)
    base = our_images(folders.zimage)
    assert (expected.int() - base.int()).abs().max() > 5
    assert (our_images(folders.zimage, tmp_path / "weights").int() - expected.int()).abs().max() <= 1

    # Every part opens alone, frozen, and the text encoder in plain transformers and peft too.
    text = open_model(model_of(folders.zimage), ("text",), weights=tmp_path / "weights")
    assert not any(p.requires_grad for p in text.text_encoder.parameters())
    plain = AutoModel.from_pretrained(
        folders.zimage / "text_encoder" if method == "lora" else tmp_path / "weights" / "text_encoder"
    )
    if method == "lora":
        plain = PeftModel.from_pretrained(plain, tmp_path / "weights" / "text_encoder_lora")
    theirs = ZImage(text.device, 64, text_encoder=plain.eval(), tokenizer=text.tokenizer).encode_prompts(PROMPTS)
    for one, two in zip(theirs.tensors[CAPTION], text.encode_prompts(PROMPTS).tensors[CAPTION], strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("damage", ["missing", "truncated", "another model's", "pickled"])
def test_damaged_adapters_are_one_sentence(folders, tmp_path, damage):
    training = settings(parts=PARTS["text encoder"], **LORA)
    model = open_model(model_of(folders.zimage), ROLES)
    weights = {name: p.detach().clone() for name, p in select_parameters(model, training, 0).items()}
    save_weights(model, weights, training, tmp_path)
    folder = tmp_path / "text_encoder_lora"
    file = folder / "adapter_model.safetensors"
    stored = load_file(file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "another model's":
        save_file({name.replace("layers.0", "layers.9"): value for name, value in stored.items()}, file)
    else:
        file.unlink()
        if damage == "pickled":
            torch.save(stored, folder / "adapter_model.bin")
    with pytest.raises(UserError, match="text_encoder_lora: no adapters of this text encoder") as caught:
        open_model(model_of(folders.zimage), ("text",), weights=tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_without_the_text_encoder_leave_it_as_it_is(folders, data, tmp_path):
    run(folders.zimage, data, settings(steps=1), tmp_path / "work", output=tmp_path / "weights")
    tuned, base = (
        open_model(model_of(folders.zimage), ("text",), weights=weights).text_encoder.state_dict()
        for weights in (tmp_path / "weights", None)
    )
    assert equal(tuned, base)


@pytest.mark.parametrize("method", METHODS)
def test_it_resumes_bit_for_bit_with_dropped_captions(folders, data, tmp_path, method):
    training = settings(steps=4, parts=PARTS["both"], prompt_dropout=0.5, **METHODS[method])
    whole = run(folders.zimage, data, training, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, tmp_path / "cut")
    assert equal(run(folders.zimage, data, training, tmp_path / "cut"), whole)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_a_part_that_the_family_does_not_have_is_refused(folders):
    model = open_model(model_of(folders.zimage), ROLES)
    with pytest.raises(UserError, match=r"training\.parts: `text_encoder_2` is no part .* denoiser, text_encoder"):
        select_parameters(model, settings(parts=["text_encoder_2"]), 0)


def test_bfloat16_trains_it_in_float32_weights(folders, data, tmp_path):
    training = settings(steps=2, parts=PARTS["text encoder"], learning_rate=1.0e-5, warmup=0)
    trained = run(folders.zimage, data, training, tmp_path / "work", dtype="bfloat16", output=tmp_path / "weights")
    assert {value.dtype for value in trained.values()} == {torch.float32}
    stored = load_file(tmp_path / "weights" / "text_encoder" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    start = select_parameters(open_model(model_of(folders.zimage, dtype="bfloat16"), ROLES), training, 0)
    moved = [(trained[name] != value).float().mean().item() for name, value in start.items() if value.ndim > 1]
    assert sum(share > 0.5 for share in moved) >= len(moved) // 2  # the last layer, and words that no caption has, rest


# Dropped captions


def test_the_share_of_dropped_captions_is_the_configured_one():
    for share in (0.0, 0.1, 0.5, 1.0):
        training = settings(prompt_dropout=share)
        drops = [drop for step in range(250) for drop in dropped_prompts(training, 3, step, range(16))]
        assert len(drops) == 4000
        assert abs(sum(drops) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5 + 1e-12


def test_whether_a_caption_is_dropped_depends_on_seed_step_and_place_only():
    training = settings(prompt_dropout=0.5)
    whole = dropped_prompts(training, 0, 7, range(32))
    torch.manual_seed(1)
    parts = [dropped_prompts(training, 0, 7, range(start, start + 8)) for start in (24, 0, 16, 8)]
    assert [*parts[1], *parts[3], *parts[2], *parts[0]] == whole
    assert dropped_prompts(training, 1, 7, range(32)) != whole
    assert dropped_prompts(training, 0, 8, range(32)) != whole
    # Who is dropped at a lower share is dropped at a higher one.
    less = dropped_prompts(settings(prompt_dropout=0.2), 0, 7, range(32))
    assert all(more for more, drop in zip(whole, less, strict=True) if drop)


def test_dropping_nobody_changes_nothing_and_dropping_changes_the_captions_only(folders, data, tmp_path):
    runs = {
        name: run(folders.zimage, data, settings(prompt_dropout=share), tmp_path / name)
        for name, share in {"plain": 0.0, "nobody": 1.0e-12, "half": 0.5}.items()
    }
    assert equal(runs["nobody"], runs["plain"])
    assert metrics(tmp_path / "nobody") == metrics(tmp_path / "plain")
    assert not equal(runs["half"], runs["plain"])
    rows = [metrics(tmp_path / name) for name in ("half", "plain")]
    assert [row["sigma_mean"] for row in rows[0]] == [row["sigma_mean"] for row in rows[1]]
    assert rows[0][0]["loss_diffusion"] != rows[1][0]["loss_diffusion"]

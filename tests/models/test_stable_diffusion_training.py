"""Training Stable Diffusion: the loss of diffusers' example trainer, every auxiliary loss, anchors and resuming."""

import pytest
import torch
import torch.nn.functional as F
from training import Killed, equal, killed_at, metrics, model_of, run, settings, small_data

from legible.config import LOSSES, Clip, Reader, Training, critics_of, validate
from legible.errors import UserError
from legible.losses.auxiliary import open_aux_loss, open_critics
from legible.losses.view import AuxLoss
from legible.models.family import ROLES, open_model
from legible.models.sampler import trajectory
from legible.models.segmenter import build_segmenter, save_segmenter
from legible.models.stable_diffusion.model import StableDiffusion
from legible.train.adapters import select_parameters
from legible.train.anchor import Trajectories, anchor_loss, open_reference, save_trajectories
from legible.train.data import TrainingData
from legible.train.step import Losses, micro_step

BOTH = {"parts": ["denoiser", "text_encoder"]}
LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 6.0}}
UNIFORM = {"sigma": {"distribution": "uniform"}}


@pytest.fixture
def folder(stable_diffusion):
    return stable_diffusion


@pytest.fixture(scope="module")
def data(stable_diffusion) -> TrainingData:
    return small_data(stable_diffusion)


def reference_loss(
    model: StableDiffusion, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, captions: list[str]
) -> torch.Tensor:
    """As huggingface/diffusers: examples/text_to_image/train_text_to_image.py computes it (no SNR weights)."""
    scheduler = model.scheduler
    ids = model.tokenizer(captions, max_length=77, padding="max_length", truncation=True, return_tensors="pt").input_ids
    states = model.text_encoder(ids, return_dict=False)[0]
    noisy = scheduler.add_noise(latents, noise, timesteps)
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
    prediction = model.unet(noisy, timesteps, states, return_dict=False)[0]
    return F.mse_loss(prediction.float(), target.float(), reduction="mean")


def gradients(loss: torch.Tensor, parameters: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(parameters.values()))])


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(50 + sample) for sample in range(4)]


def draws(data: TrainingData) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and timesteps of four samples, as the example trainer draws them."""
    drawn = generators()
    noise = torch.stack([torch.randn(data.latents.shape[1:], generator=generator) for generator in drawn])
    return noise, torch.cat([torch.randint(0, 1000, (1,), generator=generator) for generator in drawn])


def step_losses(
    model: StableDiffusion, data: TrainingData, training: Training, aux: AuxLoss | None = None, dropped=(False,) * 4
) -> Losses:
    """Of one forward pass over the first four samples."""
    return micro_step(
        model, data, torch.arange(4), None, training, model.level_grid(8), aux, generators(), list(dropped)
    )


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("variant", [{}, LORA, BOTH, BOTH | LORA], ids=["full", "lora", "both full", "both lora"])
def test_loss_and_gradient_equal_those_of_the_example_trainer(folder, data, variant, prediction):
    training = settings(**variant, **UNIFORM)
    model = open_model(model_of(folder), ROLES)
    model.scheduler.register_to_config(prediction_type=prediction)
    parameters = select_parameters(model, training, 0)
    with torch.no_grad():  # B is zero at the start: A would have no gradient
        for name, parameter in parameters.items():
            if ".lora_B." in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    ours = step_losses(model, data, training)
    theirs = reference_loss(model, data.latents[:4], *draws(data), list(data.captions[:4]))
    torch.testing.assert_close(ours.diffusion, theirs, rtol=1e-6, atol=0)
    left, right = gradients(ours.diffusion, parameters), gradients(theirs, parameters)
    assert left.norm() > 1e-3
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6 * right.abs().max().item())
    assert (training.parts == ("denoiser",)) == (not any(name.startswith("text_encoder.") for name in parameters))


def test_a_dropped_caption_is_the_empty_prompt(folder, data):
    """Cached or encoded anew, as training a model that is sampled with guidance needs it."""
    model, dropped = open_model(model_of(folder), ROLES), [False, True, False, True]
    captions = ["" if drop else caption for drop, caption in zip(dropped, data.captions[:4], strict=True)]
    expected = reference_loss(model, data.latents[:4], *draws(data), captions)
    for variant in ({}, BOTH):
        found = step_losses(model, data, settings(**variant, **UNIFORM), dropped=dropped)
        torch.testing.assert_close(found.diffusion, expected, rtol=1e-5, atol=0)


def loss_of(folders, data: TrainingData, training: Training, work) -> AuxLoss:
    """The arm's auxiliary loss with tiny critics."""
    work.mkdir(parents=True, exist_ok=True)
    segmenter = work / "segmenter.safetensors"
    save_segmenter(segmenter, build_segmenter(4, len(data.alphabet), 8, 0), data.alphabet)
    reader = Reader(network=str(folders.recognizer))
    sections = {"clip": Clip(path=str(folders.clip)), "reader": reader, "segmenter": segmenter}
    critics = open_critics(critics_of(training.heard), sections, work / "reader", torch.device("cpu"))
    return open_aux_loss(training.aux, critics, data.texts)


@pytest.fixture(scope="module")
def control(stable_diffusion, data, tmp_path_factory) -> dict[str, torch.Tensor]:
    return run(stable_diffusion, data, settings(steps=2), tmp_path_factory.mktemp("control"))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_auxiliary_loss_trains_it(folders, folder, data, control, tmp_path, loss):
    training = settings(steps=2, aux={"loss": loss, "lambda": 1.0, "every": 1, "measure_every": 1})
    aux = loss_of(folders, data, training, tmp_path / "critics")
    trained = run(folder, data, training, tmp_path / "work", aux)
    rows = metrics(tmp_path / "work")
    assert all(row["loss_aux"] > 0 and row["grad_norm_aux"] > 0 for row in rows)
    assert not equal(trained, control)


@pytest.mark.parametrize("region", ["image", "crop"])
def test_losses_on_pixels_reach_the_text_encoder(folders, folder, data, tmp_path, region):
    """Through reader, decoder and UNet; windows of latents are decoded by themselves."""
    aux = {"loss": "ctc", "lambda": 1.0, "every": 1, "region": region, "measure_every": 1}
    training = settings(steps=2, parts=["text_encoder"], aux=aux)
    trained = run(folder, data, training, tmp_path / "work", loss_of(folders, data, training, tmp_path / "critics"))
    assert all(name.startswith("text_encoder.") for name in trained)
    assert all(row["grad_norm_aux"] > 0 for row in metrics(tmp_path / "work"))


VARIANTS = {
    "full": {"ema": 0.9},
    "lora": LORA,
    "full of both, with dropout": BOTH | {"prompt_dropout": 0.5},
    "lora of both, with dropout": BOTH | LORA | {"prompt_dropout": 0.5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_training_equals_an_unbroken_one_bit_for_bit(folders, folder, data, tmp_path, variant):
    training = settings(steps=4, aux={"loss": "clip_region", "lambda": 0.3, "every": 2}, **VARIANTS[variant])
    aux = loss_of(folders, data, training, tmp_path / "critics")
    whole = run(folder, data, training, tmp_path / "whole", aux)
    for count in (4, 1):  # the pass that does not come back, in the first and second attempt
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, count)
            with pytest.raises(Killed):
                run(folder, data, training, tmp_path / "cut", aux)
    assert equal(run(folder, data, training, tmp_path / "cut", aux), whole)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert any(name.startswith("text_encoder.") for name in whole) == ("both" in variant)


@pytest.mark.parametrize("variant", [{}, LORA, BOTH, BOTH | LORA], ids=["full", "lora", "both full", "both lora"])
def test_a_bfloat16_model_trains_in_float32_weights(folder, data, tmp_path, variant):
    trained = run(folder, data, settings(steps=2, **variant), tmp_path, dtype="bfloat16")
    assert {value.dtype for value in trained.values()} == {torch.float32}
    model = open_model(model_of(folder, dtype="bfloat16"), ROLES)
    start = select_parameters(model, settings(steps=2, **variant), 0)
    moved = [(value - start[name]).abs().max().item() for name, value in trained.items()]
    assert sum(size > 0 for size in moved) > 0.9 * len(moved) / (2 if "method" in variant else 1)
    assert all(row["grad_norm"] > 0 for row in metrics(tmp_path))


def test_what_is_computed_again_has_the_same_gradient(folders, folder, data, tmp_path):
    training = settings(aux={"loss": "clip_region", "lambda": 0.3, "every": 1}, **BOTH)
    aux, found = loss_of(folders, data, training, tmp_path), []
    for parts in ((), ("denoiser", "decoder")):
        model = open_model(model_of(folder), ROLES)
        parameters = select_parameters(model, training, 0)
        model.save_memory(parts)
        assert model.unet.is_gradient_checkpointing == ("denoiser" in parts)
        losses = step_losses(model, data, training, aux)
        found.append(gradients(losses.diffusion + losses.aux, parameters))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6 * found[0].abs().max().item())


def test_compiled_blocks_keep_the_names_of_their_weights(folder):
    model = open_model(model_of(folder), ("denoiser",))
    before = list(model.unet.state_dict())
    model.compile_blocks()  # at the first call, which this test leaves out
    blocks = [m for name, m in model.unet.named_modules() if name.endswith("transformer_blocks.0")]
    assert len(blocks) == 4
    assert all(block._compiled_call_impl is not None for block in blocks)
    assert list(model.unet.state_dict()) == before


def test_the_recorded_anchor_holds_the_base(folder, data, tmp_path):
    model = open_model(model_of(folder), ROLES)
    captions = model.encode_prompts(["black", "a red sign"])
    noise = torch.randn((2, *data.latents.shape[1:]), generator=torch.Generator().manual_seed(3))
    file = tmp_path / "anchor.safetensors"
    points, predictions, levels = trajectory(model, captions, noise, 4)
    save_trajectories(file, Trajectories(points, predictions, levels, captions))
    training = settings(learning_rate=1.0e-2, anchor={"weight": 30.0, "batch_size": 4})
    reference = open_reference(training, file, data, model.level_grid(4))
    assert anchor_loss(model, reference, training.anchor, 0, 0).item() < 1e-9
    runs = {
        "free": run(folder, data, settings(learning_rate=1.0e-2), tmp_path / "free"),
        "held": run(folder, data, training, tmp_path / "held", paths=reference),
    }
    assert metrics(tmp_path / "held")[-1]["loss_anchor"] > 0
    drift = {}
    for name, weights in runs.items():
        with torch.no_grad():
            for key, parameter in model.unet.named_parameters():
                parameter.copy_(weights.get(key, parameter))
        drift[name] = sum(anchor_loss(model, reference, training.anchor, 9, step).item() for step in range(4))
    assert drift["held"] < 0.8 * drift["free"]


def test_the_live_anchor_asks_the_model_under_the_adapters(folder, data, tmp_path):
    anchor = {"weight": 5.0, "batch_size": 4, "reference": "adapter_off"}
    training = settings(steps=4, learning_rate=1.0e-2, anchor=anchor, **LORA)
    grid = open_model(model_of(folder), ("scheduler",)).level_grid(8)
    run(folder, data, training, tmp_path, paths=open_reference(training, None, data, grid))
    rows = metrics(tmp_path)
    assert rows[0]["loss_anchor"] < 1e-10  # 0, but for kernels that differ without gradient
    assert rows[-1]["loss_anchor"] > 1e-6


def test_an_anchor_without_a_trained_denoiser_is_refused():
    arms = {"diffusion_only": {}, "text": {"parts": ["text_encoder"], "anchor": {"weight": 1.0}}}
    with pytest.raises(UserError, match=r"arms\.text\.anchor: .* add denoiser to parts or set anchor\.weight: 0"):
        validate({"arms": arms}, "x")


@pytest.mark.parametrize(("kind", "library"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_base_in_few_bits_trains_adapters(folder, data, tmp_path, kind, library):
    pytest.importorskip(library)
    training = settings(steps=2, learning_rate=1.0e-2, quantization=kind, **LORA)
    run(folder, data, training, tmp_path / "work", output=tmp_path / "weights")
    plain = open_model(model_of(folder), ROLES)
    noisy, captions = data.latents[:2], data.conditioning.pick([0, 1])
    few = open_model(model_of(folder), ROLES, quantization=kind)
    expected = plain.predict(noisy, torch.tensor([100, 700]), captions)
    found = few.predict(noisy, torch.tensor([100, 700]), captions)
    assert 0 < (found - expected).norm() < 0.1 * expected.norm()
    tuned = open_model(model_of(folder), ROLES, weights=tmp_path / "weights")
    assert not torch.equal(tuned.predict(noisy, torch.tensor([100, 700]), captions), expected)

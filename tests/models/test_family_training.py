"""Training the families without a nano: the loss of diffusers' example trainers, losses, rewards, resuming, files."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DiffusionPipeline, FluxPipeline, QwenImagePipeline
from safetensors.torch import load_file
from tiny_families import BUILDERS
from tiny_models import ROOT
from training import Killed, equal, killed_at, metrics, model_of, run, settings, small_data

from legible.config import LOSSES, Clip, Reader, Training, critics_of
from legible.losses.auxiliary import open_aux_loss, open_critics
from legible.losses.view import AuxLoss
from legible.models.family import ROLES, Family, open_model
from legible.models.qwen_image import model as qwen_image
from legible.models.reader import open_reader
from legible.models.sampler import trajectory
from legible.models.segmenter import build_segmenter, save_segmenter
from legible.rewards.reward import build_rewards
from legible.train.adapters import save_weights, select_parameters
from legible.train.anchor import Trajectories, anchor_loss, open_reference, save_trajectories
from legible.train.data import TrainingData, save_training_data
from legible.train.loop import train
from legible.train.preflight import plan
from legible.train.reward import tuned_encoder
from legible.train.session import Place, Task
from legible.train.step import Losses, micro_step

LORA = {"method": "lora", "lora": {"rank": 2, "alpha": 6.0}}
PROMPTS = ['a sign that says "OPEN" in red letters on white', "black"]
SPOKEN = {  # the text encoders that are trained here: each of them somewhere
    "sdxl": ["text_encoder", "text_encoder_2"],
    "sd3": ["text_encoder", "text_encoder_2", "text_encoder_3"],
    "flux": ["text_encoder", "text_encoder_2"],
    "qwen_image": ["text_encoder"],
}


@pytest.fixture(scope="module", params=SPOKEN)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name, family_folders) -> Path:
    return family_folders(name)


@pytest.fixture(scope="module")
def data(folder) -> TrainingData:
    return small_data(folder)


def variants(name: str) -> dict[str, dict]:
    both = {"parts": ["denoiser", *SPOKEN[name]]}
    return {"full": {}, "lora": LORA, "all parts": both, "lora of all parts": both | LORA}


VARIANTS = list(variants("sdxl"))


def said_by_the_pipeline(model: Family, captions: list[str]) -> tuple[torch.Tensor, ...]:
    """What the pipeline's text encoders say, with gradients."""
    pipeline, name = model.pipeline(), model.spec.pipeline
    if name == "StableDiffusionXLPipeline":
        captions, _, pooled, _ = pipeline.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
        return captions, pooled
    longest = {"max_sequence_length": model.max_sequence_length}
    if name == "StableDiffusion3Pipeline":
        captions, _, pooled, _ = pipeline.encode_prompt(
            captions, None, None, do_classifier_free_guidance=False, device=torch.device("cpu"), **longest
        )
        return captions, pooled
    return pipeline.encode_prompt(captions, device=torch.device("cpu"), **longest)


def reference_loss(
    model: Family, clean: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor, captions: list[str]
) -> torch.Tensor:
    """As huggingface/diffusers computes it.

    examples/text_to_image/train_text_to_image_sdxl.py, examples/dreambooth/train_dreambooth_sd3.py,
    train_dreambooth_flux.py and train_dreambooth_lora_qwen_image.py, all without weights; that of Stable Diffusion 3
    with --precondition_outputs 0 (its default multiplies the loss by σ²).
    """
    count, channels, height, width = clean.shape
    if model.spec.denoiser == "unet":
        states, pooled = said_by_the_pipeline(model, captions)
        noisy = DDPMScheduler.from_config(model.scheduler.config).add_noise(clean, noise, levels)
        size = [4 * height, 4 * width]
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[*size, 0, 0, *size]] * count, dtype=torch.float32)}
        output = model.unet(noisy, levels, states, added_cond_kwargs=added, return_dict=False)[0]
        return F.mse_loss(output, noise)
    sigma, timesteps = levels[:, None, None, None], levels * 1000
    noisy = (1.0 - sigma) * clean + sigma * noise
    states, *more = said_by_the_pipeline(model, captions)
    if model.spec.pipeline == "StableDiffusion3Pipeline":
        output = model.transformer(
            hidden_states=noisy, timestep=timesteps, encoder_hidden_states=states, pooled_projections=more[0],
            return_dict=False,
        )[0]  # fmt: skip
    elif model.spec.pipeline == "FluxPipeline":
        output = model.transformer(
            hidden_states=FluxPipeline._pack_latents(noisy, count, channels, height, width),
            timestep=timesteps / 1000, guidance=torch.tensor([3.5]).expand(count), pooled_projections=more[0],
            encoder_hidden_states=states, txt_ids=more[1],
            img_ids=FluxPipeline._prepare_latent_image_ids(count, height // 2, width // 2, "cpu", torch.float32),
            return_dict=False,
        )[0]  # fmt: skip
        output = FluxPipeline._unpack_latents(output, 4 * height, 4 * width, 4)
    else:
        output = model.transformer(
            hidden_states=QwenImagePipeline._pack_latents(noisy, count, channels, height, width),
            encoder_hidden_states=states, encoder_hidden_states_mask=more[0], timestep=timesteps / 1000,
            img_shapes=[(1, height // 2, width // 2)] * count, return_dict=False,
        )[0]  # fmt: skip
        output = QwenImagePipeline._unpack_latents(output, 4 * height, 4 * width, 4)[:, :, 0]
    return ((output.float() - (noise - clean)) ** 2).reshape(count, -1).mean(1).mean()


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(50 + sample) for sample in range(4)]


def step_losses(model: Family, data: TrainingData, training: Training, aux: AuxLoss | None = None) -> Losses:
    """Of one forward pass over the first four samples."""
    grid = model.level_grid(8, tuple(data.latents.shape[1:]))
    return micro_step(model, data, torch.arange(4), None, training, grid, aux, generators(), [False] * 4)


def gradients(loss: torch.Tensor, parameters: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    """Of all parameters; the last layers of a text encoder, or of one stream, may not be listened to."""
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    pairs = zip(found, parameters.values(), strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradient_equal_those_of_the_example_trainer(name, folder, data, variant):
    training = settings(**variants(name)[variant], sigma={"distribution": "uniform"})
    model = open_model(model_of(folder), ROLES)
    parameters = select_parameters(model, training, 0)
    with torch.no_grad():  # B is zero at the start: A would have no gradient
        for key, parameter in parameters.items():
            if ".lora_B." in key:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    ours, drawn = step_losses(model, data, training), generators()
    noise = torch.stack([torch.randn(data.latents.shape[1:], generator=generator) for generator in drawn])
    grid = model.level_grid(8, tuple(data.latents.shape[1:]))
    levels = torch.cat([model.process.draw(training.sigma, grid, 1, generator) for generator in drawn])
    theirs = reference_loss(model, data.latents[:4], noise, levels, list(data.captions[:4]))
    torch.testing.assert_close(ours.diffusion, theirs, rtol=1e-5, atol=0)
    left, right = gradients(ours.diffusion, parameters), gradients(theirs, parameters)
    assert left.norm() > 1e-3
    torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5 * right.abs().max().item())
    for part in training.parts:
        own = {key: p for key, p in parameters.items() if part == "denoiser" or key.startswith(f"{part}.")}
        assert own
        assert gradients(step_losses(model, data, training).diffusion, own).norm() > 0


def critics(folders, data: TrainingData, training: Training, work: Path) -> AuxLoss:
    """The arm's auxiliary loss with tiny critics."""
    work.mkdir(parents=True, exist_ok=True)
    segmenter = work / "segmenter.safetensors"
    save_segmenter(segmenter, build_segmenter(data.latents.shape[1], len(data.alphabet), 8, 0), data.alphabet)
    reader = Reader(network=str(folders.recognizer))
    sections = {"clip": Clip(path=str(folders.clip)), "reader": reader, "segmenter": segmenter}
    opened = open_critics(critics_of(training.heard), sections, work / "reader", torch.device("cpu"))
    return open_aux_loss(training.aux, opened, data.texts)


@pytest.fixture(scope="module")
def control(folder, data, tmp_path_factory) -> dict[str, torch.Tensor]:
    return run(folder, data, settings(steps=2), tmp_path_factory.mktemp("control"))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_auxiliary_loss_trains_it(folders, folder, data, control, tmp_path, loss):
    training = settings(steps=2, aux={"loss": loss, "lambda": 1.0, "every": 1, "measure_every": 1})
    trained = run(folder, data, training, tmp_path / "work", critics(folders, data, training, tmp_path / "critics"))
    assert all(row["loss_aux"] > 0 and row["grad_norm_aux"] > 0 for row in metrics(tmp_path / "work"))
    assert not equal(trained, control)


@pytest.mark.parametrize("method", ["prompt", "direct"])
@pytest.mark.parametrize("part", ["denoiser", "text_encoder"])
def test_a_reward_through_the_sampler_trains_it(folders, folder, data, tmp_path, part, method):
    reward = {"weights": {"reading": 1.0}, "steps": 3, "last": 2, "guidance_scale": 2.0, "method": method}
    training = settings(steps=2, parts=[part], reward=reward)
    model = open_model(model_of(folder), ROLES)
    others = [n for n in ("denoiser", "text_encoder") if n != part]
    before = {n: [p.clone() for p in model.module(n).parameters()] for n in others}
    parameters = select_parameters(model, training, 0)
    start = {key: p.detach().clone() for key, p in parameters.items()}
    reader = open_reader(Reader(network=str(folders.recognizer)), tmp_path, torch.device("cpu"))
    rewards = build_rewards(training.reward, {"reader": reader}, tuned_encoder(model, training))
    grid = model.level_grid(8, tuple(data.latents.shape[1:]))
    train(Task(model, parameters, data, training, grid, None, None, 0, rewards), Place(tmp_path / "w", "key", "test"))
    assert all(row["grad_norm"] > 0 for row in metrics(tmp_path / "w"))
    assert any(not torch.equal(p, start[key]) for key, p in parameters.items())
    for n, values in before.items():
        assert all(torch.equal(*pair) for pair in zip(model.module(n).parameters(), values, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_training_equals_an_unbroken_one_bit_for_bit(folders, name, folder, data, tmp_path, variant):
    chosen = variants(name)[variant] | ({"prompt_dropout": 0.5} if "all" in variant else {"ema": 0.9})
    training = settings(steps=4, aux={"loss": "clip_region", "lambda": 0.3, "every": 2}, **chosen)
    aux = critics(folders, data, training, tmp_path / "critics")
    whole = run(folder, data, training, tmp_path / "whole", aux)
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(Killed):
            run(folder, data, training, tmp_path / "cut", aux)
    assert equal(run(folder, data, training, tmp_path / "cut", aux), whole)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_captions_of_different_lengths_train_masked_and_less_padded_in_buckets(family_folders, tmp_path, monkeypatch):
    """Qwen-Image's, the only ones that differ here. Buckets go by multiples of 32 tokens: some padding is left."""
    folder, original = family_folders("qwen_image"), qwen_image.padded
    data = small_data(folder, long=(1, 4, 7, 10))
    padding = {}
    for bucket in (True, False):
        seen: list[int] = []

        def recorded(captions, seen=seen):
            together, mask = original(captions)
            own = [len(caption) for caption in captions]
            assert (mask is None) == (len(set(own)) == 1)
            seen.append(len(own) * together.shape[1] - sum(own))
            return together, mask

        monkeypatch.setattr(qwen_image, "padded", recorded)
        run(folder, data, settings(bucket=bucket, batch_size=2, accumulation=2), tmp_path / str(bucket))
        assert len(seen) == 12
        padding[bucket] = sum(seen)
    assert 0 < padding[True] < padding[False]


@pytest.mark.parametrize("variant", [*VARIANTS, "last encoder", "lora of the last encoder"])
def test_a_bfloat16_model_trains_in_float32_weights(name, folder, data, tmp_path, variant):
    last = {"parts": SPOKEN[name][-1:]}
    chosen = variants(name) | {"last encoder": last, "lora of the last encoder": last | LORA}
    training = settings(steps=2, **chosen[variant])
    trained = run(folder, data, training, tmp_path, dtype="bfloat16")
    assert {value.dtype for value in trained.values()} == {torch.float32}
    start = select_parameters(open_model(model_of(folder, dtype="bfloat16"), ROLES), training, 0)
    moved = [not torch.equal(value, start[key]) for key, value in trained.items()]
    assert sum(moved) > 0.3 * len(moved)  # some layers are not listened to, and of adapters only one half moves first
    assert all(row["grad_norm"] > 0 for row in metrics(tmp_path))


def test_what_is_computed_again_has_the_same_gradient(folders, name, folder, data, tmp_path):
    training = settings(aux={"loss": "clip_region", "lambda": 0.3, "every": 1}, **variants(name)["all parts"])
    aux, found = critics(folders, data, training, tmp_path), []
    for parts in ((), ("denoiser", "decoder")):
        model = open_model(model_of(folder), ROLES)
        parameters = select_parameters(model, training, 0)
        model.save_memory(parts)
        assert model.module("denoiser").is_gradient_checkpointing == ("denoiser" in parts)
        losses = step_losses(model, data, training, aux)
        found.append(gradients(losses.diffusion + losses.aux, parameters))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5 * found[0].abs().max().item())


def test_compiled_blocks_keep_the_names_of_their_weights(folder):
    model = open_model(model_of(folder), ("denoiser",))
    denoiser = model.module("denoiser")
    before = list(denoiser.state_dict())
    model.compile_blocks()  # at the first call, which this test leaves out
    assert any(getattr(module, "_compiled_call_impl", None) is not None for module in denoiser.modules())
    assert list(denoiser.state_dict()) == before


def test_anchors_hold_the_base(folder, data, tmp_path):
    model = open_model(model_of(folder), ROLES)
    captions, shape = model.encode_prompts(PROMPTS), tuple(data.latents.shape[1:])
    noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(3))
    points, predictions, levels = trajectory(model, captions, noise, 4)
    save_trajectories(tmp_path / "anchor.safetensors", Trajectories(points, predictions, levels, captions))
    training = settings(learning_rate=1.0e-2, anchor={"weight": 30.0, "batch_size": 4})
    reference = open_reference(training, tmp_path / "anchor.safetensors", data, model.level_grid(4, shape))
    assert anchor_loss(model, reference, training.anchor, 0, 0).item() < 1e-8
    runs = {
        "free": run(folder, data, settings(learning_rate=1.0e-2), tmp_path / "free"),
        "held": run(folder, data, training, tmp_path / "held", paths=reference),
    }
    drift = {}
    for key, weights in runs.items():
        with torch.no_grad():
            for own, parameter in model.module("denoiser").named_parameters():
                parameter.copy_(weights.get(own, parameter))
        drift[key] = sum(anchor_loss(model, reference, training.anchor, 9, step).item() for step in range(4))
    assert drift["held"] < 0.8 * drift["free"]
    live = settings(steps=3, learning_rate=1.0e-2, anchor={"weight": 5.0, "reference": "adapter_off"}, **LORA)
    run(folder, data, live, tmp_path / "live", paths=open_reference(live, None, data, model.level_grid(8, shape)))
    rows = metrics(tmp_path / "live")
    assert rows[0]["loss_anchor"] < 1e-9 < rows[-1]["loss_anchor"]


def official_images(name: str, pipeline: DiffusionPipeline, model: Family) -> torch.Tensor:
    """Without guidance, prompts as words."""
    pipeline.set_progress_bar_config(disable=True)
    shape = model.latent_shape(32, 64)
    noise = torch.randn((2, *shape), generator=torch.Generator().manual_seed(2))
    packs = {"flux": FluxPipeline, "qwen_image": QwenImagePipeline}
    noise = packs[name]._pack_latents(noise, 2, *shape) if name in packs else noise
    longest = {} if name == "sdxl" else {"max_sequence_length": model.max_sequence_length}
    off = {"true_cfg_scale": 1.0} if name in packs else {"guidance_scale": 1.0}
    images = pipeline(
        prompt=list(PROMPTS), height=32, width=64, num_inference_steps=4, latents=noise, output_type="np", **longest,
        **off,
    ).images  # fmt: skip
    return torch.from_numpy((images * 255).round().astype("uint8"))


def our_images(folder: Path, weights: Path | None = None) -> torch.Tensor:
    model = open_model(model_of(folder), ROLES, weights=weights)
    noise = torch.randn((2, *model.latent_shape(32, 64)), generator=torch.Generator().manual_seed(2))
    return model.sample(model.encode_prompts(PROMPTS), noise, 4, 1.0)


def tuned(folder: Path, training: Training, output: Path) -> Family:
    """A model whose chosen weights have all moved, and its weights as a run saves them."""
    model = open_model(model_of(folder), ROLES)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in select_parameters(model, training, 0).values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    save_weights(model, {}, training, output)
    return model


@torch.no_grad()
def test_full_weights_give_the_same_images_through_diffusers(name, folder, tmp_path):
    parts = ["denoiser", *SPOKEN[name]]
    model = tuned(folder, settings(parts=parts), tmp_path)
    names = {model.spec.folder(part) for part in parts}
    assert {path.name for path in tmp_path.iterdir()} == names
    kinds = {own: type(getattr(model, own)) for own in names}
    pipeline = DiffusionPipeline.from_pretrained(
        folder, **{own: kind.from_pretrained(tmp_path / own) for own, kind in kinds.items()}
    )
    expected = official_images(name, pipeline, model)
    assert torch.equal(our_images(folder, tmp_path), expected)
    assert (our_images(folder).int() - expected.int()).abs().max() > 5


@torch.no_grad()
@pytest.mark.parametrize("which", ["denoiser", "all"])
def test_lora_weights_give_the_same_images_through_diffusers(name, folder, tmp_path, which):
    """Where the pipeline's file has no place for a text encoder's adapters, peft puts them on."""
    parts = ["denoiser", *(SPOKEN[name] if which == "all" else ())]
    expected = official_images(
        name, tuned(folder, settings(parts=parts, **LORA), tmp_path).pipeline(), open_model(model_of(folder), ROLES)
    )
    assert (our_images(folder, tmp_path).int() - expected.int()).abs().max() <= 1
    assert (our_images(folder).int() - expected.int()).abs().max() > 5
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    for beside in tmp_path.glob("*_lora"):
        getattr(pipeline, beside.name.removesuffix("_lora")).load_adapter(str(beside))
    found = official_images(name, pipeline, open_model(model_of(folder), ROLES))
    assert (found.int() - expected.int()).abs().max() <= 1


def test_a_file_of_all_parts_puts_on_whichever_is_there(name, folder, tmp_path):
    parts = ["denoiser", *SPOKEN[name]]
    tuned(folder, settings(parts=parts, **LORA), tmp_path)
    whole = open_model(model_of(folder), ROLES, weights=tmp_path)
    for roles in (("text",), ("denoiser", "autoencoder", "scheduler"), ("autoencoder",)):
        opened = open_model(model_of(folder), roles, weights=tmp_path)
        for part in parts:
            if (network := opened.module(part)) is None:
                continue
            expected = dict(whole.module(part).named_parameters())
            adapters = {key: p for key, p in network.named_parameters() if "lora_" in key}
            assert adapters
            assert len(adapters) == sum("lora_" in key for key in expected)
            assert all(torch.equal(p, expected[key]) for key, p in adapters.items())
            assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_preflight_counts_true_weights(name, folder, data, method):
    training = settings(method=method, parts=["denoiser", "text_encoder"], aux={"loss": "ctc", "lambda": 1.0})
    phases = {phase.name: dict(phase.parts) for phase in plan(model_of(folder), training, *data.latents.shape[2:])}
    model = open_model(model_of(folder), ROLES)
    sizes = {
        n: sum(p.numel() for p in model.module(n).parameters()) * 4 for n in ("denoiser", *model.spec.text_encoders)
    }
    assert phases["captions"] == {n: sizes[n] for n in model.spec.text_encoders}
    assert phases["sampling"]["denoiser"] == sizes["denoiser"]
    trained = sum(p.numel() for p in select_parameters(model, training, 0).values()) * 4
    assert phases["training"]["trained weights, float32"] == trained
    assert phases["training"]["activations"] > 0
    assert phases["training"]["activations of the decoder"] > 0


@pytest.mark.parametrize(("kind", "library"), [("int8", "torchao"), ("nf4", "bitsandbytes")])
def test_a_base_in_few_bits_trains_adapters(folder, data, tmp_path, kind, library):
    pytest.importorskip(library)
    run(folder, data, settings(steps=2, quantization=kind, **LORA), tmp_path / "work", output=tmp_path / "weights")
    plain, few = (open_model(model_of(folder), ROLES, quantization=q) for q in ("none", kind))
    levels = plain.level_grid(8, tuple(data.latents.shape[1:]))[[1, 6]]
    noisy, captions = data.latents[:2], data.conditioning.pick([0, 1])
    expected, found = (model.predict(noisy, levels, captions) for model in (plain, few))
    assert 0 < (found - expected).norm() < 0.2 * expected.norm()


def training_arguments(folder: Path, cache: Path, output: Path, **training) -> list[object]:
    """What scripts/train_arm.py is called with."""
    chosen = settings(**training).model_dump(mode="json", by_alias=True)
    config = {"model": model_of(folder).model_dump(), "clip": {}, "reader": {}, "generation": {"steps": 3}}
    return [
        "--config", json.dumps(config | {"training": chosen}), "--arm", "arm", "--seed", 1, "--cache", cache,
        "--checkpoints", output / "checkpoints", "--output-dir", output,
    ]  # fmt: skip


@pytest.mark.parametrize("family", SPOKEN)
def test_two_processes_equal_one_with_twice_the_batch(family, family_folders, tmp_path, monkeypatch):
    """Sharded by blocks(): FSDP2 must find every trained weight in one of them."""
    monkeypatch.chdir(ROOT)
    folder = family_folders(family)
    save_training_data(tmp_path / "train.safetensors", small_data(folder))
    place = (folder, tmp_path / "train.safetensors")
    main = runpy.run_path("scripts/train_arm.py")["main"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train_arm", *map(str, training_arguments(*place, tmp_path / "1", steps=3))])
        main()
    arguments = training_arguments(*place, tmp_path / "2", steps=3, processes=2, parallel="shard")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*launcher, "scripts/train_arm.py", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    part = "unet" if family == "sdxl" else "transformer"
    one, two = (load_file(tmp_path / n / "weights" / part / "diffusion_pytorch_model.safetensors") for n in ("1", "2"))
    assert one.keys() == two.keys()
    # AdamW divides by the gradient's own size, so weights whose gradient is rounding noise may differ by a step.
    apart = torch.cat([(one[key] - two[key]).abs().flatten() for key in one])
    assert (apart < 2e-5).float().mean() > 0.99
    assert apart.max() < 6e-3


def test_every_family_is_built_and_tested():
    assert {name.removesuffix("_schnell") for name in BUILDERS} == set(SPOKEN)

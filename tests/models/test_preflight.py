"""The pre-flight: its sums are those of real models, nothing is loaded for them, and what does not fit is told."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from training import model_of, settings

from legible.config import Config, Model
from legible.errors import UserError
from legible.io import write_json
from legible.models.conditioning import Conditioning
from legible.models.family import empty_model, open_model
from legible.models.zimage.model import CAPTION
from legible.train.adapters import select_parameters
from legible.train.preflight import (
    GIB,
    check_memory,
    count,
    describe,
    imagined,
    kept_by,
    kept_by_the_decoder,
    kept_by_the_denoiser,
    of_many,
    plan,
    settle_checkpointing,
)

ROOT = Path(__file__).resolve().parents[2]
# Z-Image-Turbo's own configurations, as far as they decide sizes.
TURBO = yaml.safe_load((ROOT / "benchmarks" / "models.yaml").read_text(encoding="utf-8"))["full"]["components"]
ARCHITECTURES = yaml.safe_load((ROOT / "benchmarks" / "architectures.yaml").read_text(encoding="utf-8"))
LORA = {"method": "lora", "lora": {"rank": 32}}
CTC = {"loss": "ctc", "lambda": 1.0, "measure_every": 0}


def folder_of(path: Path, components: dict[str, dict]) -> Model:
    """A folder with configurations and not a single weight."""
    for part, values in components.items():
        write_json(path / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), values)
    return Model(path=str(path), dtype="bfloat16", max_sequence_length=64)


@pytest.fixture(scope="module")
def turbo(tmp_path_factory) -> Model:
    """The real model."""
    return folder_of(tmp_path_factory.mktemp("turbo"), TURBO)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory) -> Model:
    """The real model with fewer layers: quicker to imagine."""
    few = TURBO["transformer"] | {"n_layers": 2, "n_refiner_layers": 1}
    return folder_of(tmp_path_factory.mktemp("shallow"), TURBO | {"transformer": few})


def parts(model: Model, phase: str = "training", **override) -> dict[str, float]:
    """GiB of each part of a phase, for a batch of one at 512²."""
    phases = plan(model, settings(**{"batch_size": 1} | override), 64, 64)
    return {name: size / GIB for name, size in next(p for p in phases if p.name == phase).parts}


def test_the_real_models_size_is_counted(turbo):
    assert count(empty_model(turbo).module("denoiser")) == 6_154_908_736
    assert parts(turbo, "sampling")["denoiser"] == pytest.approx(11.46, abs=0.01)
    assert parts(turbo, "captions") == {"text_encoder": pytest.approx(7.49, abs=0.01)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_sizes_of_other_families_are_those_that_are_noted(name, tmp_path):
    entry = ARCHITECTURES[name]
    model = folder_of(tmp_path, entry["components"]).model_copy(update={"family": entry["family"]})
    opened = empty_model(model)
    assert count(opened.module("denoiser")) == entry["parameters"]
    assert opened.latent_shape(*entry["size"])[1:] == tuple(side // 8 for side in entry["size"])


def test_activations_are_those_that_others_measured(turbo):
    full = parts(turbo, weights="bfloat16", optimizer="adamw_8bit", aux=CTC)
    assert full["activations"] == pytest.approx(12, rel=0.08)  # "12 GiB"; here every layer in its true size: 11.1
    assert full["activations of the decoder"] == pytest.approx(2.85, rel=0.07)
    moved = sum(size for name, size in full.items() if name.split(",")[0] in WEIGHTS)
    assert moved == pytest.approx(34.4, rel=0.02)
    lora = parts(turbo, **LORA, weights="bfloat16")
    assert lora["activations"] == pytest.approx(9, rel=0.1)
    assert lora["frozen weights"] == pytest.approx(11.46, abs=0.01)
    again = parts(turbo, **LORA, weights="bfloat16", gradient_checkpointing=["denoiser"])
    assert again["activations"] == pytest.approx(0.6, abs=0.1)


WEIGHTS = ("trained weights", "their gradients", "moments")


def test_a_crop_of_the_picture_keeps_what_others_measured(turbo):
    with imagined(empty_model(turbo), ["vae"]) as shapes:
        assert kept_by_the_decoder(shapes, 16, 64, 1).plain / GIB == pytest.approx(0.70, rel=0.07)


def test_every_setting_has_its_place(shallow):
    double = parts(shallow, ema=0.9, aux={"loss": "glyph_mask", "lambda": 1.0})
    trained = double["trained weights, float32"]
    assert double["moments, adamw"] == pytest.approx(2 * trained)
    assert double["averaged weights"] == double["gradient of the auxiliary loss"] == pytest.approx(trained)
    assert double["copies in bfloat16"] == pytest.approx(trained / 2)
    assert parts(shallow, optimizer="adamw_8bit")["moments, adamw_8bit"] == pytest.approx(trained / 2, rel=0.02)
    assert parts(shallow, batch_size=2)["activations"] == pytest.approx(2 * parts(shallow)["activations"], rel=0.01)


def test_a_quantised_base_takes_its_bytes_and_lora_fits_into_twelve_gib(turbo):
    small = LORA | {"gradient_checkpointing": ["denoiser", "decoder"]}
    plain = parts(turbo, **small)
    for kind, byte in (("int8", 1.0), ("nf4", 0.5 + 1 / 64)):
        found = parts(turbo, **small, quantization=kind)
        changed = 34 * (4 * 3840**2 + 3 * 3840 * 10240)  # attention and feed-forward of 30 + 2 + 2 blocks
        assert found[f"frozen weights, {kind}"] * GIB == pytest.approx(changed * byte, rel=2e-3)
        assert plain["frozen weights"] - found["frozen weights"] == pytest.approx(2 * changed / GIB)
        assert {name: size for name, size in found.items() if "frozen" not in name} == {
            name: size for name, size in plain.items() if "frozen" not in name
        }
        assert sum(found.values()) < 0.9 * 12 < sum(plain.values())
    training = settings(batch_size=1, **small)
    assert "training.quantization: int8 or nf4" in describe(plan(turbo, training, 64, 64), 4 * GIB, training)


def test_the_anchors_points_count_where_they_are_more_than_a_batch(shallow):
    two, eight = (
        parts(shallow, batch_size=2, anchor={"weight": w, "batch_size": 8})["activations"] for w in (0.0, 1.0)
    )
    assert eight == pytest.approx(4 * two, rel=0.01)
    assert parts(shallow, batch_size=8, anchor={"weight": 1.0, "batch_size": 2})["activations"] == eight


def test_a_reward_is_sampled_one_step_at_a_time_with_both_branches_of_guidance(shallow):
    """… and decoded: of T and K steps one is computed again, so memory depends on neither."""
    plain = parts(shallow, batch_size=2)
    assert "decoder" not in plain

    def rewarded(**reward) -> dict[str, float]:
        return parts(shallow, batch_size=2, reward={"weights": {"reading": 1.0}, "steps": 8, **reward})

    off, guided = rewarded(last=2), rewarded(last=2, guidance_scale=2.0)
    assert off["activations"] == plain["activations"]
    assert guided["activations"] == pytest.approx(2 * plain["activations"], rel=0.01)
    assert off["activations of the decoder"] > 0
    assert rewarded(last=8) == off


def test_methods_by_the_values_of_rewards_keep_what_they_train_on_and_decode_without_a_gradient(shallow):
    """… and of the weights what they compare with: the base, or the old policy."""

    def rewarded(method: str, **reward) -> dict[str, float]:
        reward = {"weights": {"reading": 1.0}, "steps": 4, "group": 2, "method": method} | reward
        return parts(shallow, batch_size=1, reward=reward)

    plain = {count: parts(shallow, batch_size=count)["activations"] for count in (1, 2, 6)}
    assert rewarded("best_of_n")["activations"] == plain[1]
    assert rewarded("dpo", guidance_scale=2.0)["activations"] == plain[2]
    assert rewarded("nft", levels=3)["activations"] == plain[6]
    assert rewarded("grpo")["activations"] == plain[6]  # two pictures, three noisy steps of each
    assert rewarded("grpo", grpo={"train_steps": 1})["activations"] == plain[2]
    for method in ("grpo", "nft", "dpo", "best_of_n"):
        found = rewarded(method)
        assert found["decoder"] > 0
        assert "activations of the decoder" not in found
        kept = found.get("weights of the base, or the old policy's", 0)
        assert kept == (0 if method == "best_of_n" else found["trained weights, float32"])
    assert "weights of the base, or the old policy's" not in rewarded("grpo", grpo={"kl": 0.0})


def test_nanos_activations_are_what_its_forward_pass_keeps():
    nano = Model(path=str(ROOT / "resources/nano/zimage"), max_sequence_length=32)
    model, batch, generator = open_model(nano, ("denoiser",)), 8, torch.Generator().manual_seed(0)
    select_parameters(model, settings(), 0)
    width = model.transformer.config.cap_feat_dim
    noisy = torch.randn(batch, model.transformer.config.in_channels, 8, 16, generator=generator)
    captions = Conditioning({CAPTION: [torch.randn(32, width, generator=generator) for _ in range(batch)]})
    levels = torch.full((batch,), 0.5)

    def planned(*twice: str) -> float:
        training = settings(batch_size=batch, gradient_checkpointing=twice)
        phases = {phase.name: dict(phase.parts) for phase in plan(nano, training, 8, 16)}
        return phases["training"]["activations"]

    kept = kept_by(lambda: model.predict(noisy, levels, captions), model.transformer, []).plain
    assert planned() == pytest.approx(kept, rel=0.001)
    model.save_memory(("denoiser",))
    again = kept_by(lambda: model.predict(noisy, levels, captions), model.transformer, []).plain
    # And the largest block, which is computed again; its refiners are smaller than its layers.
    assert again < planned("denoiser") < again + kept / len(model.transformer.layers)


def test_a_batch_is_counted_as_if_it_were_imagined(stable_diffusion, folders):
    for model in (model_of(stable_diffusion), Model(path=str(folders.zimage))):
        opened = empty_model(model)
        select_parameters(opened, settings(method="lora"), 0)
        with imagined(opened, ["denoiser", "vae"]) as shapes:
            for kept in (
                partial(kept_by_the_denoiser, shapes, 8, 8, False),
                partial(kept_by_the_decoder, shapes, 8, 8),
            ):
                assert of_many(7, kept) == kept(7)


def test_what_does_not_fit_is_told_with_the_ways_out(turbo):
    training = settings(batch_size=1)
    phases = plan(turbo, training, 64, 64)
    said = describe(phases, 80 * GIB, training)
    assert said.count("DOES NOT FIT") == 1
    assert said.splitlines()[-1].startswith("to need less: training.optimizer: adamw_8bit; ")
    assert said.splitlines()[-1].endswith("training.method: lora")
    assert "DOES NOT FIT" not in describe(phases, 200 * GIB, training)
    small = settings(
        batch_size=1, method="lora", optimizer="adamw_8bit", quantization="nf4",
        gradient_checkpointing=["denoiser", "decoder"],
    )  # fmt: skip
    assert (
        describe(plan(turbo, small, 64, 64), GIB, small).splitlines()[-1] == "to need less: a device with more memory"
    )


def test_the_script_prints_every_arm_and_fails_when_one_does_not_fit(tmp_path):
    raw = json.loads(Config().model_dump_json(by_alias=True))
    for batch, status in ((4, 0), (65536, 2)):
        raw["training"]["batch_size"] = batch
        write_json(tmp_path / "config.yaml", raw)
        command = [sys.executable, "scripts/preflight.py", "--config", str(tmp_path / "config.yaml")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert [line for line in done.stdout.splitlines() if line in {"diffusion_only:", "clip_region:", "ctc:"}]
        assert ("will not fit into this device's memory" in done.stderr) == bool(status)


def test_an_unreadable_configuration_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"the configuration of `transformer` cannot be read"):
        plan(Model(path=str(tmp_path)), settings(), 8, 16)


def test_a_run_that_does_not_fit_is_refused_before_anything_is_loaded(turbo, capsys):
    training = settings(batch_size=1, **LORA, weights="bfloat16", gradient_checkpointing=["denoiser"])
    phases = plan(turbo, training, 64, 64)
    check_memory(phases, 24 * GIB, training)
    with pytest.raises(
        UserError, match=r"training needs about 1[23]\.\d GiB, but 8\.0 GiB are free .* to need less: "
    ) as caught:
        check_memory(phases, 8 * GIB, training)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out.count("DOES NOT FIT") >= 1


def test_what_several_processes_share(turbo):
    shared = {"weights": "bfloat16", "accumulation": 8, "aux": CTC}
    one = parts(turbo, **shared)
    four = parts(turbo, **shared, processes=4)
    for name in ("trained weights, bfloat16", "their gradients", "moments, adamw"):
        assert four[name] == pytest.approx(one[name] / 4)
    assert four["activations"] == one["activations"]  # two forward passes each instead of eight
    assert four["copies in bfloat16"] == pytest.approx(one["trained weights, bfloat16"] * 2 / 34, rel=0.01)
    assert parts(turbo, **shared, processes=4, parallel="replicate") == one
    assert parts(turbo, batch_size=4, processes=4)["activations"] == parts(turbo)["activations"]  # a sample each


@pytest.mark.parametrize(
    ("gib", "expected"),
    [(40, ()), (27.5, ("decoder",)), (18, ("denoiser", "decoder")), (4, ("denoiser", "decoder"))],
)
def test_as_little_is_computed_twice_as_fits(turbo, gib, expected):
    training = settings(batch_size=1, gradient_checkpointing=["auto"], **LORA, aux=CTC)
    assert settle_checkpointing(turbo, training, 64, 64, gib * GIB).gradient_checkpointing == expected
    chosen = settings(batch_size=1, gradient_checkpointing=["denoiser"], **LORA, aux=CTC)
    assert settle_checkpointing(turbo, chosen, 64, 64, gib * GIB) == chosen

"""What is trained and how it is saved: full weights and LoRA as diffusers itself loads them."""

import json

import pytest
import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from peft import LoraConfig
from safetensors.torch import load_file
from training import run, settings, small_data

from legible.config import Model
from legible.errors import UserError
from legible.models.family import ROLES, open_model
from legible.models.zimage.model import ZImage
from legible.train.adapters import described, save_weights, select_parameters
from legible.train.checkpoint import load_checkpoint
from legible.train.data import TrainingData

PROMPTS = ['a sign that says "OPEN" in red letters on white', 'a label with text "42" in bold black letters on white']


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


def noise() -> torch.Tensor:
    return torch.randn((2, 12, 8, 16), generator=torch.Generator().manual_seed(2))


def official_images(pipeline: ZImagePipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        prompt=list(PROMPTS), height=32, width=64, num_inference_steps=4, guidance_scale=0.0, latents=noise(),
        output_type="np", max_sequence_length=64,
    ).images  # fmt: skip
    return torch.from_numpy((images * 255).round().astype("uint8"))


def our_images(model: ZImage) -> torch.Tensor:
    return model.sample(model.encode_prompts(PROMPTS), noise(), 4, 0.0)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (2, 16.0)])
def test_lora_weights_give_the_same_image_through_diffusers(folders, data, tmp_path, rank, alpha):
    training = settings(method="lora", lora={"rank": rank, "alpha": alpha}, learning_rate=2.0e-2)
    model = open_model(Model(path=str(folders.zimage)), ROLES)
    base = our_images(model)
    trained = run(folders.zimage, data, training, tmp_path / "work", output=tmp_path / "weights")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["pytorch_lora_weights.safetensors"]

    # The reference: the same adapters put into a fresh model by hand, W + alpha / rank · B · A.
    by_hand = open_model(Model(path=str(folders.zimage)), ROLES)
    with torch.no_grad():
        for name, matrix in trained.items():
            if ".lora_A." in name:
                layer = by_hand.transformer.get_submodule(name.split(".lora_A.")[0])
                layer.weight += alpha / rank * trained[name.replace("lora_A", "lora_B")] @ matrix
    expected = our_images(by_hand)
    assert (expected.int() - base.int()).abs().max() > 5

    pipeline = ZImagePipeline.from_pretrained(folders.zimage)
    pipeline.load_lora_weights(tmp_path / "weights", weight_name="pytorch_lora_weights.safetensors")
    assert (official_images(pipeline).int() - expected.int()).abs().max() <= 1
    ours = open_model(Model(path=str(folders.zimage)), ROLES, weights=tmp_path / "weights")
    assert (our_images(ours).int() - expected.int()).abs().max() <= 1


def test_full_weights_load_into_diffusers_class(folders, data, tmp_path):
    trained = run(
        folders.zimage, data, settings(learning_rate=5.0e-3), tmp_path / "work", output=tmp_path / "weights"
    )  # fmt: skip
    loaded = ZImageTransformer2DModel.from_pretrained(tmp_path / "weights" / "transformer")
    stored = dict(loaded.named_parameters())
    start = dict(open_model(Model(path=str(folders.zimage)), ("denoiser",)).transformer.named_parameters())
    for name, value in stored.items():
        assert torch.equal(value, trained.get(name, start[name]))
    pipeline = ZImagePipeline.from_pretrained(folders.zimage, transformer=loaded)
    model = open_model(Model(path=str(folders.zimage)), ROLES)
    base = our_images(model)
    finetuned = open_model(Model(path=str(folders.zimage)), ROLES, weights=tmp_path / "weights")
    # A level of 255: on some processors the last bit depends on how captions are batched.
    assert (official_images(pipeline).int() - our_images(finetuned).int()).abs().max() <= 1
    assert (our_images(finetuned).int() - base.int()).abs().max() > 5


def test_averaged_weights_are_what_is_saved(folders, data, tmp_path):
    weights = run(folders.zimage, data, settings(ema=0.9), tmp_path / "work", output=tmp_path / "weights")
    stored = load_file(tmp_path / "weights" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in weights.items())
    checkpoint = load_checkpoint(tmp_path / "work" / "checkpoint.json", "key")
    assert any(not torch.equal(checkpoint["parameters"][name], value) for name, value in weights.items())


@pytest.mark.parametrize("modules", [("layers",), ("layers", "context_refiner"), ("cap_embedder",)])
def test_only_the_chosen_modules_are_trained(folders, data, tmp_path, modules):
    run(folders.zimage, data, settings(modules=modules), tmp_path / "work", output=tmp_path / "weights")
    stored = load_file(tmp_path / "weights" / "transformer" / "diffusion_pytorch_model.safetensors")
    start = open_model(Model(path=str(folders.zimage)), ("denoiser",)).transformer.state_dict()
    assert stored.keys() == start.keys()
    changed = {name for name, value in stored.items() if not torch.equal(value, start[name])}
    assert changed
    assert all(name.startswith(modules) for name in changed)
    assert {name.split(".")[0] for name in changed} == set(modules)


def test_lora_trains_exactly_its_targets(folders):
    model = open_model(Model(path=str(folders.zimage)), ("denoiser",))
    training = settings(method="lora", lora={"rank": 3, "targets": ["to_q", "feed_forward.w2"]})
    chosen = select_parameters(model, training, 0)
    assert {name for name, p in model.transformer.named_parameters() if p.requires_grad} == set(chosen)
    places = {name.split(".lora_")[0] for name in chosen}
    linear = {name for name, module in model.transformer.named_modules() if name.endswith(("to_q", "feed_forward.w2"))}
    assert places == linear
    assert len(chosen) == 2 * len(places)
    for name, parameter in chosen.items():
        assert 3 in parameter.shape
        assert (parameter.abs().max() == 0) == (".lora_B." in name)


@pytest.mark.parametrize("parts", [("denoiser",), ("denoiser", "text_encoder")])
def test_saved_adapters_are_the_same_bytes_each_time(folders, tmp_path, parts):
    training = settings(method="lora", parts=parts)
    model = open_model(Model(path=str(folders.zimage)), ROLES)
    weights = {name: p.detach().clone() for name, p in select_parameters(model, training, 0).items()}
    contents = []
    for turn in range(6):  # two entries of metadata are written in one order or the other, by chance
        save_weights(model, weights, training, tmp_path / str(turn))
        files = sorted(path for path in (tmp_path / str(turn)).rglob("*") if path.is_file())
        contents.append({str(path.relative_to(tmp_path / str(turn))): path.read_bytes() for path in files})
    assert len(contents[0]) == (1 if len(parts) == 1 else 3)
    assert all(content == contents[0] for content in contents)


def test_peft_keeps_targets_in_a_set_whose_order_changes_from_one_process_to_the_next():
    targets = ["to_v", "to_q", "to_out.0", "to_k"]
    assert described(LoraConfig(target_modules=targets))["target_modules"] == sorted(targets)
    json.dumps(described(LoraConfig(target_modules=targets)))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"method": "lora", "lora": {"targets": ["ff.net.0"]}}, r"lora\.targets: `ff\.net\.0` matches no module"),
        ({"method": "lora", "lora": {"targets": ["to_q", "o_q"]}}, r"`o_q` matches no module"),
        ({"method": "lora", "lora": {"targets": ["feed_forward"]}}, "linear layers are needed"),
        ({"modules": ["layers", "blocks"]}, r"training\.modules: `blocks` matches no parameter"),
    ],
)
def test_what_matches_nothing_is_refused(zimage, override, message):
    with pytest.raises(UserError, match=message) as caught:
        select_parameters(zimage, settings(**override), 0)
    assert "\n" not in str(caught.value)

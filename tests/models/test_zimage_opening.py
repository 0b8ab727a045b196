"""Opening Z-Image: only what is asked for, from a folder or the hub; what is missing, damaged or foreign is named."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from legible.config import Model
from legible.errors import UserError
from legible.models.family import empty_model, open_model
from legible.models.hub import commit, pinned
from legible.models.zimage.model import COMPONENTS

ROLE_OF = {"transformer": "denoiser", "vae": "autoencoder", "scheduler": "scheduler"}  # of others: text


def test_opened_parts_are_frozen_and_only_those_asked_for(folders):
    model = open_model(Model(path=str(folders.zimage)), ("denoiser", "autoencoder"))
    assert model.text_encoder is None
    assert model.tokenizer is None
    assert not model.transformer.training
    assert not any(p.requires_grad for part in (model.transformer, model.vae) for p in part.parameters())
    assert {p.dtype for p in model.transformer.parameters()} == {torch.float32}
    half = open_model(Model(path=str(folders.zimage), dtype="bfloat16"), ("denoiser",))
    assert {p.dtype for p in half.transformer.parameters()} == {torch.bfloat16}


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

"""A published text encoder: random weights under the names that TextCraftor's file has, read as the real one is."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import Tensor
from training import equal, model_of
from transformers import CLIPTextConfig, CLIPTextModel

from legible.errors import UserError
from legible.io import read_jsonl, write_jsonl
from legible.models.family import open_model
from legible.models.published_encoder import encoder_weights, read_published

ROOT = Path(__file__).resolve().parents[2]
NAME = "tc_text_e_0_iter_10000.pth"
NORM = "module.text_model.final_layer_norm.bias"
POSITIONS = "module.text_model.embeddings.position_ids"


@pytest.fixture
def tuned(stable_diffusion) -> CLIPTextModel:
    """An encoder of the tiny model's architecture with other weights."""
    encoder = CLIPTextModel.from_pretrained(stable_diffusion / "text_encoder")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return encoder


def published(encoder: CLIPTextModel) -> dict[str, Tensor]:
    """Its weights under the names of the published file."""
    state = {f"module.text_model.{name.removeprefix('text_model.')}": v for name, v in encoder.state_dict().items()}
    return state | {POSITIONS: torch.arange(77)[None]}


@pytest.fixture
def file(tuned, tmp_path) -> Path:
    torch.save(published(tuned), tmp_path / NAME)
    return tmp_path / NAME


@pytest.fixture
def script(monkeypatch):
    """A script's main, with arguments."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))

    def call(name: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        __import__(name).main()

    return call


def test_the_weights_folder_is_the_tuned_encoder_for_every_reader(stable_diffusion, tuned, file, script, tmp_path):
    output = tmp_path / "deep" / "weights"
    hashed = hashlib.sha256(file.read_bytes()).hexdigest()
    script("import_encoder", "--file", file, "--model", stable_diffusion, "--output", output, "--sha256", hashed)
    assert [path.name for path in output.iterdir()] == ["text_encoder"]
    assert [path.name for path in output.parent.iterdir()] == ["weights"]
    plain = CLIPTextModel.from_pretrained(output / "text_encoder", use_safetensors=True)
    assert equal(plain.state_dict(), tuned.state_dict())
    opened = open_model(model_of(stable_diffusion), ("text",), weights=output).text_encoder
    assert equal(opened.state_dict(), tuned.state_dict())
    base = open_model(model_of(stable_diffusion), ("text",)).text_encoder
    assert not equal(opened.state_dict(), base.state_dict())

    prompts = tmp_path / "prompts.jsonl"
    write_jsonl(prompts, [{"id": "p-0", "prompt": "the black in red", "targets": []}])
    generation = {"steps": 2, "guidance_scale": 5.0, "seeds": [0]}
    config = json.dumps({"model": model_of(stable_diffusion).model_dump(), "generation": generation, "data": {}})
    for name, weights in {"base": [], "tuned": ["--weights", output]}.items():
        place = tmp_path / name
        script(
            "generate_images", "--config", config, "--prompts", prompts, "--no-text", "--model-name", name,
            "--output-dir", place, *weights,
        )  # fmt: skip
    one, two = (read_jsonl(tmp_path / name / "manifest.jsonl")[0]["sha256"] for name in ("base", "tuned"))
    assert one != two


@pytest.mark.parametrize("prefix", ["", "text_model.", "module.", "module.text_model."])
@pytest.mark.parametrize("installed", ["", "text_model."])
def test_names_are_those_of_the_installed_transformers(prefix, installed):
    """Version 5 has dropped `text_model.`; files and other versions have it."""
    expected = {f"{installed}{name}": torch.zeros(3) for name in ("encoder.layers.0.a", "final_layer_norm.bias")}
    found = {f"{prefix}encoder.layers.0.a": torch.ones(3), f"{prefix}final_layer_norm.bias": torch.full((3,), 2.0)}
    weights = encoder_weights(found, expected, "file")
    assert weights.keys() == expected.keys()
    assert weights[f"{installed}encoder.layers.0.a"][0] == 1
    assert weights[f"{installed}final_layer_norm.bias"][0] == 2


def test_of_stable_diffusion_1_5_there_are_196_tensors():
    """CLIP-L's text tower: 16 in each of 12 layers, two tables and a norm."""
    with init_empty_weights():
        network = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
        )
    expected = dict(network.named_parameters())
    assert len(expected) == 196
    assert sum(value.numel() for value in expected.values()) == 123_060_480
    assert len(encoder_weights(published(network), expected, "file")) == 196


def without(state: dict[str, Tensor]) -> None:
    del state[NORM]


def with_another(state: dict[str, Tensor]) -> None:
    state["module.text_projection.weight"] = torch.zeros(32, 32)


def with_a_layer_more(state: dict[str, Tensor]) -> None:
    state["module.text_model.encoder.layers.2.layer_norm1.bias"] = torch.zeros(32)


def with_one_of_another_shape(state: dict[str, Tensor]) -> None:
    state[NORM] = torch.zeros(33)


def with_one_transposed(state: dict[str, Tensor]) -> None:
    name = "module.text_model.embeddings.token_embedding.weight"
    state[name] = state[name].T.contiguous()


def with_one_twice(state: dict[str, Tensor]) -> None:
    state[NORM.removeprefix("module.")] = state[NORM].clone()


def with_a_number(state: dict[str, Tensor]) -> None:
    state[NORM] = 3


def with_a_number_for_a_name(state: dict[str, Tensor]) -> None:
    state[3] = torch.zeros(3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without, r"1 tensors are missing, such as `final_layer_norm\.bias`; exactly the 36 tensors"),
        (with_another, r"`module\.text_projection\.weight` is no tensor of a text encoder like this model's; exactly"),
        (with_a_layer_more, r"`module\.text_model\.encoder\.layers\.2\.layer_norm1\.bias` is no tensor"),
        (with_one_of_another_shape, r"final_layer_norm\.bias` is \[33\], but \[32\] in this model's"),
        (with_one_transposed, r"token_embedding\.weight` is \[32, 85\], but \[85, 32\]"),
        (with_one_twice, r"`text_model\.final_layer_norm\.bias` is there twice"),
        (with_a_number, r"final_layer_norm\.bias` is int, but \[32\]"),
        (with_a_number_for_a_name, "`3` is no tensor"),
    ],
)  # fmt: skip
def test_what_is_not_exactly_this_encoder_is_refused(stable_diffusion, tuned, script, tmp_path, damage, message):
    state = published(tuned)
    damage(state)
    torch.save(state, tmp_path / NAME)
    with pytest.raises(UserError, match=f"{NAME}: .*{message}") as caught:
        script(
            "import_encoder", "--file", tmp_path / NAME, "--model", stable_diffusion, "--output", tmp_path / "weights"
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "weights").exists()


def test_another_file_is_refused(file, tmp_path):
    assert POSITIONS in read_published(file, hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(UserError, match=rf"encoder\.sha256: .*{NAME} has .*, which is another file than 0000"):
        read_published(file, "0" * 64)
    with pytest.raises(UserError, match=r"nowhere\.pth: there is no such file"):
        read_published(tmp_path / "nowhere.pth")
    (tmp_path / "cut.pth").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.pth: these weights cannot be read"):
        read_published(tmp_path / "cut.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth: names with tensors \(a state dict\) are expected"):
        read_published(tmp_path / "list.pth")


def test_a_file_of_safetensors_is_the_same(tuned, tmp_path):
    save_file({name: value.contiguous() for name, value in published(tuned).items()}, tmp_path / "e.safetensors")
    assert equal(read_published(tmp_path / "e.safetensors"), published(tuned))


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({NORM: Evil()}, tmp_path / NAME)
    with pytest.raises(UserError, match="these weights cannot be read"):
        read_published(tmp_path / NAME)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / NAME, weights_only=False)  # it is there, and runs where it may
    assert (tmp_path / "ran").exists()


def test_a_folder_that_is_there_is_left_as_it_is(stable_diffusion, file, script, tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--output: .*weights is already there; name a new folder"):
        script("import_encoder", "--file", file, "--model", stable_diffusion, "--output", tmp_path / "weights")
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["mine.txt"]


def test_a_model_of_another_family_is_refused(folders, file, script, tmp_path):
    with pytest.raises(UserError, match=r"stable_diffusion needs a StableDiffusionPipeline"):
        script("import_encoder", "--file", file, "--model", folders.zimage, "--output", tmp_path / "weights")

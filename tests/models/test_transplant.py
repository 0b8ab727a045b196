"""A tuned text encoder in other pipelines: it alone is another one, and plain diffusers opens what is saved."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tiny_models import clip_tokenizer
from torch import nn
from training import equal, model_of, settings
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from legible.errors import UserError
from legible.models.family import open_model
from legible.models.transplant import (
    PIPELINES,
    Pipeline,
    TunedEncoder,
    open_pipeline,
    open_tuned,
    save_transplanted,
    transplanted,
)
from legible.train.adapters import save_weights, select_parameters

ROOT = Path(__file__).resolve().parents[2]
PROMPT = 'the "OPEN" in red'
KINDS = [kind.__name__ for kind in PIPELINES]
XL, CONTROL, INPAINT = KINDS[1:]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers' own names


def louder(unet: nn.Module) -> nn.Module:
    """An untrained network that hears the captions."""
    with torch.no_grad():
        for name, layer in unet.named_modules():
            if name.endswith("attn2.to_out.0"):
                layer.weight *= 4.0
    return unet.eval()


def build_unet(channels: int = 4, captions: int = 32, **more: object) -> UNet2DConditionModel:
    return louder(
        UNet2DConditionModel(
            sample_size=16, in_channels=channels, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=captions, attention_head_dim=4,
            norm_num_groups=8, **more,
        )
    )  # fmt: skip


def build_xl(parts: dict) -> StableDiffusionXLPipeline:
    """Two encoders beside one another; the pooled vector of the second one and six sizes are added to the time."""
    tokenizer = clip_tokenizer()
    second = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            projection_dim=16, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    unet = build_unet(
        captions=32 + 24, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    parts = parts | {"unet": unet, "scheduler": scheduler}
    return StableDiffusionXLPipeline(
        **parts, text_encoder_2=second.eval(), tokenizer_2=tokenizer, add_watermarker=False
    )  # fmt: skip


def build_control(parts: dict) -> StableDiffusionControlNetPipeline:
    """Its own zero convolutions would keep it from saying anything."""
    control = ControlNetModel.from_unet(parts["unet"], conditioning_embedding_out_channels=(8, 16, 32))
    with torch.no_grad():
        for layer in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            layer.weight.normal_(std=0.2)
    return StableDiffusionControlNetPipeline(
        **parts, controlnet=control.eval(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def build_inpaint(parts: dict) -> StableDiffusionInpaintPipeline:
    return StableDiffusionInpaintPipeline(
        **parts | {"unet": build_unet(9)}, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


@pytest.fixture(scope="module")
def places(stable_diffusion, tmp_path_factory) -> dict[str, Path]:
    """The folder of a pipeline of each kind, all with the text encoder of the tiny Stable Diffusion."""
    root = tmp_path_factory.mktemp("pipelines")
    opened = StableDiffusionPipeline.from_pretrained(stable_diffusion)
    parts = {name: getattr(opened, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    torch.manual_seed(3)
    for name, build in {XL: build_xl, CONTROL: build_control, INPAINT: build_inpaint}.items():
        build(parts).save_pretrained(root / name)
    return {KINDS[0]: stable_diffusion} | {name: root / name for name in KINDS[1:]}


@pytest.fixture(params=KINDS)
def place(request, places) -> Path:
    return places[request.param]


@pytest.fixture(scope="module")
def weights(stable_diffusion, tmp_path_factory) -> Path:
    """Weights as a run leaves them, of a text encoder that says something else, with the run.json beside them."""
    encoder = CLIPTextModel.from_pretrained(stable_diffusion / "text_encoder")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    run = tmp_path_factory.mktemp("run")
    encoder.save_pretrained(run / "weights" / "text_encoder")
    (run / "run.json").write_text(json.dumps({"model": {"path": str(stable_diffusion), "revision": None}}))
    return run / "weights"


def state_of(part: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in part.state_dict().items()}


def networks(pipeline: Pipeline) -> dict[str, nn.Module]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def grey(seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 16), dtype=np.uint8)
    return Image.fromarray(cells).resize((64, 32), Image.NEAREST).convert("RGB")


def given(pipeline: Pipeline) -> dict[str, Image.Image]:
    """The pictures that it needs: a random one, and a mask of its right half."""
    mask = Image.fromarray(np.repeat([[0, 255]], 32, axis=0).astype(np.uint8).repeat(32, axis=1))
    return {name: {"image": grey(0), "mask_image": mask}[name] for name in PIPELINES[type(pipeline)]}


def drawn(pipeline: Pipeline) -> np.ndarray:
    """[H, W, 3] in 0 … 255, of one prompt and one noise."""
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        PROMPT, height=32, width=64, num_inference_steps=3, guidance_scale=5.0,
        generator=torch.Generator().manual_seed(0), **given(pipeline),
    ).images[0]  # fmt: skip
    return np.asarray(image).astype(int)


def test_the_text_encoder_is_the_tuned_one_and_all_else_stays(place, stable_diffusion, weights):
    pipeline = open_pipeline(place)
    assert type(pipeline) is type(DiffusionPipeline.from_pretrained(place))
    before, picture = {name: state_of(part) for name, part in networks(pipeline).items()}, drawn(pipeline)
    tuned = open_tuned(model_of(stable_diffusion), weights)
    changed = transplanted(pipeline, tuned)
    assert type(changed) is type(pipeline)
    assert changed.components.keys() == pipeline.components.keys()
    for name, state in before.items():
        assert equal(state_of(networks(changed)[name]), state) == (name != "text_encoder"), name
        assert equal(state_of(networks(pipeline)[name]), state), name
    assert equal(changed.text_encoder.state_dict(), tuned.network.state_dict())
    assert all(part is pipeline.components[name] for name, part in changed.components.items() if name != "text_encoder")
    assert picture.std() > 10
    assert np.abs(drawn(changed) - picture).max() > 5
    assert np.array_equal(drawn(pipeline), picture)


def test_pictures_are_those_of_diffusers_with_that_encoder(place, stable_diffusion, weights):
    encoder = CLIPTextModel.from_pretrained(weights / "text_encoder")
    expected = drawn(DiffusionPipeline.from_pretrained(place, text_encoder=encoder))
    changed = transplanted(open_pipeline(place), open_tuned(model_of(stable_diffusion), weights))
    assert np.array_equal(drawn(changed), expected)


def test_the_bases_own_encoder_changes_no_picture(place, stable_diffusion):
    pipeline = open_pipeline(place)
    changed = transplanted(pipeline, open_tuned(model_of(stable_diffusion), None))
    assert changed.text_encoder is not pipeline.text_encoder
    assert np.array_equal(drawn(changed), drawn(pipeline))


def test_the_saved_folder_is_the_pipeline_for_plain_diffusers(place, stable_diffusion, weights, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(place, source)
    (source / "all_in_one.safetensors").write_bytes(b"the original encoder, too")
    changed = transplanted(open_pipeline(source), open_tuned(model_of(stable_diffusion), weights))
    save_transplanted(source, changed, tmp_path / "saved")
    reopened = DiffusionPipeline.from_pretrained(tmp_path / "saved", use_safetensors=True)
    assert type(reopened) is type(changed)
    assert np.array_equal(drawn(reopened), drawn(changed))
    assert np.abs(drawn(reopened) - drawn(open_pipeline(place))).max() > 5
    assert {path.name for path in tmp_path.iterdir()} == {"source", "saved"}
    files = {path.relative_to(tmp_path / "saved") for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert files == {path.relative_to(place) for path in place.rglob("*") if path.is_file()}
    other = {file for file in files if (tmp_path / "saved" / file).read_bytes() != (place / file).read_bytes()}
    assert other == {Path("text_encoder/model.safetensors")}


def test_a_folder_in_float16_is_drawn_in_float32_and_stays_in_float16(places, stable_diffusion, weights, tmp_path):
    """But for the tuned encoder, which is written as it was tuned."""
    DiffusionPipeline.from_pretrained(places[XL]).to(torch.float16).save_pretrained(tmp_path / "half")
    pipeline = open_pipeline(tmp_path / "half")
    assert {p.dtype for part in networks(pipeline).values() for p in part.parameters()} == {torch.float32}
    changed = transplanted(pipeline, open_tuned(model_of(stable_diffusion), weights))
    save_transplanted(tmp_path / "half", changed, tmp_path / "saved")
    own = CLIPTextModel.from_pretrained(tmp_path / "saved" / "text_encoder", dtype=torch.float32)
    assert equal(own.state_dict(), state_of(CLIPTextModel.from_pretrained(weights / "text_encoder")))
    file = Path("unet/diffusion_pytorch_model.safetensors")
    assert (tmp_path / "saved" / file).read_bytes() == (tmp_path / "half" / file).read_bytes()
    reopened = DiffusionPipeline.from_pretrained(tmp_path / "saved").to(torch.float32)
    assert np.array_equal(drawn(reopened), drawn(changed))


def last_layer(network: CLIPTextModel) -> list[nn.Parameter]:
    return [*network.encoder.layers[-1].parameters(), *network.final_layer_norm.parameters()]


def test_sdxl_does_not_hear_the_last_layer(places, stable_diffusion):
    """It reads hidden_states[-2]: tuning of the last layer is lost there, and only there."""
    tuned = open_tuned(model_of(stable_diffusion), None)
    with torch.no_grad():
        for parameter in last_layer(tuned.network):
            parameter += 0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    for name, folder in places.items():
        pipeline = open_pipeline(folder)
        assert np.array_equal(drawn(transplanted(pipeline, tuned)), drawn(pipeline)) == (name == XL), name


def test_adapters_are_merged(places, stable_diffusion, tmp_path):
    """W + alpha / rank · B·A, and the pictures that diffusers draws with the LoRA on top."""
    training = settings(parts=["text_encoder"], method="lora", lora={"rank": 2, "alpha": 6.0})
    model = open_model(model_of(stable_diffusion), ("text",))
    chosen, generator = select_parameters(model, training, 0), torch.Generator().manual_seed(4)
    trained = {name: 0.2 * torch.randn(value.shape, generator=generator) for name, value in chosen.items()}
    save_weights(model, trained, training, tmp_path)
    tuned = open_tuned(model_of(stable_diffusion), tmp_path)
    expected = state_of(CLIPTextModel.from_pretrained(stable_diffusion / "text_encoder"))
    for name, matrix in trained.items():
        if ".lora_A." in name:
            weight = expected[name.removeprefix("text_encoder.").split(".lora_A.")[0] + ".weight"]
            weight += 3.0 * trained[name.replace("lora_A", "lora_B")] @ matrix
    found = tuned.network.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-5)
    for folder in places.values():
        pipeline, theirs = open_pipeline(folder), open_pipeline(folder)
        before = drawn(pipeline)
        pictures = drawn(transplanted(pipeline, tuned))
        assert np.abs(pictures - before).max() > 5
        theirs.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
        assert np.abs(pictures - drawn(theirs)).max() <= 1


def test_the_encoder_takes_the_precision_of_its_place(places, stable_diffusion, weights):
    tuned = open_tuned(model_of(stable_diffusion), weights)
    changed = transplanted(open_pipeline(places[XL]).to(torch.bfloat16), tuned)
    assert {p.dtype for p in changed.text_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in tuned.network.parameters()} == {torch.float32}
    assert not changed.text_encoder.training


def test_a_run_that_tuned_no_text_encoder_is_refused(stable_diffusion, tmp_path):
    for method in ("full", "lora"):
        model = open_model(model_of(stable_diffusion), ("denoiser",))
        training = settings(method=method)
        save_weights(model, {n: p.data for n, p in select_parameters(model, training, 0).items()}, training, tmp_path)
        with pytest.raises(UserError, match=r"no text encoder was tuned in this run; training\.parts must name text_e"):
            open_tuned(model_of(stable_diffusion), tmp_path)
        shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match="neither a folder of a component nor"):
        open_tuned(model_of(stable_diffusion), tmp_path)


def test_another_family_has_no_encoder_for_them(folders):
    with pytest.raises(UserError, match=r"model\.family: zimage has no text encoder for other pipelines"):
        open_tuned(model_of(folders.zimage), None)


def altered(tuned: TunedEncoder, tokenizer=None, **settings: object) -> TunedEncoder:
    """An encoder of other settings, or with another tokenizer."""
    config = CLIPTextConfig.from_dict(tuned.network.config.to_dict() | settings)
    return TunedEncoder(CLIPTextModel(config), tokenizer or tuned.tokenizer, "runs/reading/seed0/weights")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 64}, r"`embeddings\.token_embedding\.weight` is \[85, 32\], there \[85, 64\]"),
        ({"vocab_size": 90}, r"`embeddings\.token_embedding\.weight` is \[85, 32\], there \[90, 32\]"),
        ({"max_position_embeddings": 60}, r"`embeddings\.position_embedding\.weight` is \[77, 32\], there \[60, 32\]"),
        ({"num_hidden_layers": 1}, r"`encoder\.layers\.1\..*` is \[.*\], there missing"),
        ({"num_hidden_layers": 3}, r"`encoder\.layers\.2\..*` is missing, there \["),
        ({"hidden_act": "gelu"}, "has hidden_act quick_gelu, that of runs/reading/seed0/weights gelu"),
        ({"num_attention_heads": 8}, "has num_attention_heads 4, that of runs/reading/seed0/weights 8"),
    ],
)
def test_another_encoder_is_refused(place, stable_diffusion, settings, message):
    tuned, pipeline = altered(open_tuned(model_of(stable_diffusion), None), **settings), open_pipeline(place)
    with pytest.raises(UserError, match=f"{type(pipeline).__name__}: its `text_encoder` .*{message}") as caught:
        transplanted(pipeline, tuned)
    assert "\n" not in str(caught.value)


def test_another_vocabulary_is_refused(place, stable_diffusion):
    tuned, pipeline = open_tuned(model_of(stable_diffusion), None), open_pipeline(place)
    transplanted(pipeline, tuned)  # the same one is not
    numbers = clip_tokenizer().get_vocab()
    numbers["a"], numbers["b"] = numbers["b"], numbers["a"]
    permuted = CLIPTokenizer(vocab=numbers, merges=[("t", "h"), ("th", "e</w>"), ("i", "n</w>")], model_max_length=77)
    padded, short = clip_tokenizer(), clip_tokenizer()
    padded.pad_token, short.model_max_length = "a", 76
    for tokenizer in (permuted, padded, short):
        with pytest.raises(
            UserError, match="its `tokenizer` has another vocabulary, padding or length than that of ru"
        ):
            transplanted(pipeline, altered(tuned, tokenizer))


def test_other_pipelines_are_refused(folders, places, stable_diffusion, tmp_path):
    tuned = open_tuned(model_of(stable_diffusion), None)
    with pytest.raises(UserError, match="StableDiffusionImg2ImgPipeline: no pipeline for a tuned text encoder; allow"):
        transplanted(StableDiffusionImg2ImgPipeline.from_pretrained(stable_diffusion), tuned)
    refiner = open_pipeline(places[XL])
    refiner.text_encoder = None  # SDXL's refiner has only the second one
    with pytest.raises(UserError, match="its `text_encoder` is a NoneType, a CLIPTextModel is needed"):
        transplanted(refiner, tuned)
    with pytest.raises(UserError, match=f"it is of ZImagePipeline, no pipeline .* allowed are {', '.join(KINDS)}"):
        open_pipeline(folders.zimage)
    with pytest.raises(UserError, match=r"model_index\.json: a pipeline folder of diffusers is needed"):
        open_pipeline(stable_diffusion / "unet")
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(UserError, match=r"model_index\.json: not a JSON object"):
        open_pipeline(tmp_path)
    shutil.copytree(places[CONTROL], tmp_path / "damaged")
    file = tmp_path / "damaged" / "controlnet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="damaged: this pipeline cannot be opened") as caught:
        open_pipeline(tmp_path / "damaged")
    assert "\n" not in str(caught.value)


def test_nothing_is_overwritten_and_nothing_half_is_left(places, stable_diffusion, weights, tmp_path, monkeypatch):
    changed = transplanted(open_pipeline(stable_diffusion), open_tuned(model_of(stable_diffusion), weights))
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there: it is already there; name a new folder"):
        save_transplanted(stable_diffusion, changed, tmp_path / "there")

    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(changed.text_encoder, "save_pretrained", full)
    with pytest.raises(UserError, match="new: the disk is full"):
        save_transplanted(stable_diffusion, changed, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.fixture
def script(monkeypatch):
    """The script's main, with arguments."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import transplant_encoder

    def call(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["transplant_encoder.py", *map(str, arguments)])
        transplant_encoder.main()

    return call


def pictures_for(folder: Path, pipeline: Pipeline) -> list[object]:
    """The script's arguments with the pictures that the pipeline needs, written into a folder."""
    options = {"image": "--image", "mask_image": "--mask"}
    for name, picture in given(pipeline).items():
        picture.save(folder / f"{name}.png")
    return [word for name in given(pipeline) for word in (options[name], folder / f"{name}.png")]


def test_the_script_draws_both_beside_one_another(place, weights, script, tmp_path):
    pipeline = open_pipeline(place)
    script(
        "--pipeline", place, "--weights", weights, "--output", tmp_path / "saved", "--prompt", PROMPT, "--picture",
        tmp_path / "both.png", "--steps", 3, "--guidance-scale", 5.0, "--seed", 7, *pictures_for(tmp_path, pipeline),
    )  # fmt: skip
    page = np.asarray(Image.open(tmp_path / "both.png"))
    halves = np.split(page, 2, axis=1)
    assert np.abs(halves[0].astype(int) - halves[1]).max() > 5
    for half, folder in zip(halves, (place, tmp_path / "saved"), strict=True):
        plain, pictures = DiffusionPipeline.from_pretrained(folder), given(pipeline)
        sizes = {"width": 64, "height": 32} if pictures else {}
        expected = plain(
            PROMPT, num_inference_steps=3, guidance_scale=5.0, generator=torch.Generator().manual_seed(7), **pictures,
            **sizes,
        ).images[0]  # fmt: skip
        assert np.array_equal(half, np.asarray(expected))


def test_the_script_takes_the_base_and_any_model(places, stable_diffusion, weights, script, tmp_path):
    model = ("--pipeline", places[XL], "--model", stable_diffusion)
    script(*model, "--weights", "base", "--output", tmp_path / "base")
    shutil.copytree(weights, tmp_path / "alone")  # without a run.json
    script(*model, "--weights", tmp_path / "alone", "--output", tmp_path / "tuned")
    one, two, own = (open_pipeline(folder) for folder in (tmp_path / "base", tmp_path / "tuned", places[XL]))
    assert equal(one.text_encoder.state_dict(), own.text_encoder.state_dict())
    assert equal(two.text_encoder.state_dict(), state_of(CLIPTextModel.from_pretrained(weights / "text_encoder")))


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        (XL, ["--prompt", "a"], "--prompt and --picture: one needs the other"),
        (XL, ["--weights", "base"], "--model: it is needed with --weights base"),
        (XL, ["--weights", "{alone}"], "--model: it is needed, as no run.json beside .*alone names the model"),
        (XL, ["--output", "{alone}"], "--output: .*alone is already there"),
        (XL, ["--image", "{image}"], "--image: a StableDiffusionXLPipeline takes no such picture"),
        (CONTROL, [], "--image: a StableDiffusionControlNetPipeline needs such picture"),
        (CONTROL, ["--image", "{nowhere}"], "--image: .*nowhere is no picture"),
        (CONTROL, ["--image", "{odd}"], "--image: .*odd has 60 × 32 pixels; multiples of 8"),
        (INPAINT, ["--image", "{image}"], "--mask: a StableDiffusionInpaintPipeline needs such picture"),
        (
            INPAINT,
            ["--image", "{image}", "--mask", "{small}"],
            "--mask: .*small has 32 × 32 pixels; .* of a mask those",
        ),
    ],
)
def test_what_the_script_cannot_do_is_one_sentence(places, weights, script, tmp_path, kind, more, message):
    files = {name: tmp_path / name for name in ("alone", "image", "odd", "small", "nowhere")}
    files["alone"].mkdir()
    for name, width in {"image": 64, "odd": 60, "small": 32}.items():
        grey(0).resize((width, 32)).save(files[name], format="PNG")
    drawing = [] if "--prompt" in more else ["--prompt", "a", "--picture", tmp_path / "both.png"]
    common = ["--pipeline", places[kind], "--weights", weights, "--output", tmp_path / "saved", *drawing]
    with pytest.raises(UserError, match=message) as caught:
        script(*common, *(word.format(**files) for word in more))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "saved").exists()
    assert not (tmp_path / "both.png").exists()

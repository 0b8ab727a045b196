"""A training's key: whatever decides its weights changes it, and nothing else does. No model is opened for it."""

import shutil
from pathlib import Path

import pytest

from legible import fingerprint, provenance
from legible.config import LOSSES, Clip, Generation, Model, Reader, Training
from legible.models.spec import spec_of
from legible.train.key import run_key, used_files

ROOT = Path(__file__).resolve().parents[2]
SPEC = spec_of("zimage")
COMPONENTS = SPEC.folders("denoiser", "autoencoder", "text", "scheduler")
DECODING = [name for name, loss in LOSSES.items() if loss.decodes]
BOTH = {"parts": ["denoiser", "text_encoder"]}


@pytest.fixture
def places(tmp_path) -> Path:
    """A folder with files where models lie, each with other content."""
    for folder in (*(f"model/{name}" for name in COMPONENTS), "clip", "reader", "downloads"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("config.json", "weights.safetensors"):
            (tmp_path / folder / name).write_text(f"{folder} {name}")
    for name in ("segmenter", "anchor", "assistant"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    return tmp_path


def config_of(places: Path, training: dict, **sections) -> dict:
    given = {
        "model": Model(path=str(places / "model")),
        "clip": Clip(path=str(places / "clip")),
        "reader": Reader(network=str(places / "reader")),
        "generation": Generation(),
    }
    return given | sections | {"training": Training.model_validate(training)}


def heard(loss: str | dict) -> dict:
    """The training section of an arm with this loss."""
    return {"aux": {"loss": loss, "lambda": 1.0, "every": 1}}


def key(places: Path, training: dict, seed: int = 0, data: str = "data", code: str | None = "code", **sections) -> str:
    """As scripts/train_arm.py asks for it: segmenter and anchor are given where the arm needs them.

    With `code` None, that of the project counts.
    """
    config = config_of(places, training, **sections)
    losses = config["training"].aux.weights
    segmenter = places / "segmenter.safetensors" if "char_segmentation" in losses else None
    anchor = places / "anchor.safetensors" if config["training"].anchor.weight else None
    decisive = provenance.decides_training(config["model"], config["training"]) if code is None else {"code": code}
    return run_key(config, seed, data, used_files(config, segmenter, anchor), decisive)


def changes(places: Path, file: str, training: dict, **sections) -> bool:
    """Whether other bytes in a file mean another key; afterwards the file is as it was."""
    path = places / file
    before, content = key(places, training, **sections), path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    after = key(places, training, **sections)
    path.write_bytes(content)
    assert key(places, training, **sections) == before
    return after != before


@pytest.mark.parametrize("loss", ["none", *LOSSES])
@pytest.mark.parametrize("critic", ["clip", "reader", "segmenter"])
def test_a_changed_critic_is_another_run_of_the_arms_that_look_with_it_and_of_no_other(places, loss, critic):
    """The finding: a recogniser with noise in its weights came back with the old weights, bit for bit."""
    training = {} if loss == "none" else heard(loss)
    file = "segmenter.safetensors" if critic == "segmenter" else f"{critic}/weights.safetensors"
    looks = loss != "none" and critic in LOSSES[loss].opens
    assert changes(places, file, training) == looks


def test_every_critic_of_a_sum_counts(places):
    training = heard({"clip_region": 1.0, "ctc": 0.5, "char_segmentation": 0.1})
    for file in ("clip/weights.safetensors", "clip/config.json", "reader/config.json", "segmenter.safetensors"):
        assert changes(places, file, training)


@pytest.mark.parametrize("loss", ["none", *LOSSES])
def test_a_changed_autoencoder_is_another_run_where_pixels_are_decoded(places, loss):
    training = {} if loss == "none" else heard(loss)
    assert changes(places, "model/vae/weights.safetensors", training) == (loss in DECODING)


@pytest.mark.parametrize("part", ["text_encoder", "tokenizer"])
def test_a_changed_text_encoder_is_another_run_where_it_is_trained(places, part):
    assert not changes(places, f"model/{part}/weights.safetensors", heard("ctc"))  # the cache's key holds it
    assert changes(places, f"model/{part}/weights.safetensors", BOTH)


@pytest.mark.parametrize(
    "file", ["transformer/weights.safetensors", "transformer/config.json", "scheduler/config.json"]
)
def test_a_changed_denoiser_or_scheduler_is_another_run(places, file):
    assert changes(places, f"model/{file}", {})


def test_anchor_and_assistant_count_by_their_bytes(places):
    assert changes(places, "anchor.safetensors", {"anchor": {"weight": 1.0}})
    assert changes(places, "assistant.safetensors", {"assistant_lora": str(places / "assistant.safetensors")})
    assert not changes(places, "anchor.safetensors", {})


def test_easyocrs_own_networks_count_where_they_are_read(places):
    standard = Reader(network="standard", models=str(places / "downloads"))
    assert changes(places, "downloads/weights.safetensors", heard("ctc"), reader=standard)
    assert not changes(places, "downloads/weights.safetensors", heard("ctc"))
    assert not changes(places, "downloads/weights.safetensors", heard("clip_region"), reader=standard)


@pytest.mark.parametrize(
    "training", [{}, heard("ctc"), heard("clip_region"), BOTH], ids=["none", "ctc", "clip", "text"]
)
def test_where_models_lie_and_where_they_compute_does_not_count(places, tmp_path_factory, training):
    expected, moved = key(places, training), tmp_path_factory.mktemp("moved") / "elsewhere"
    for device in ("cpu", "auto", "cuda"):
        assert key(places, training, model=Model(path=str(places / "model"), device=device)) == expected
    shutil.copytree(places, moved)
    assert key(moved, training) == expected
    downloads = [Reader(network="standard", models=str(folder / "downloads")) for folder in (places, moved)]
    assert key(places, training, reader=downloads[0]) == key(moved, training, reader=downloads[1])


def test_a_hub_id_counts_by_its_commit_and_not_by_the_device(places):
    hub = {"path": "someone/model", "revision": "a" * 40}
    expected = key(places, {}, model=Model(**hub))
    assert key(places, {}, model=Model(**hub, device="cpu")) == expected
    assert key(places, {}, model=Model(**hub | {"revision": "b" * 40})) != expected
    assert key(places, {}, model=Model(**hub | {"path": "other/model"})) != expected
    clips = [Clip(path="someone/clip", revision=letter * 40) for letter in "ab"]
    assert key(places, heard("clip_region"), clip=clips[0]) != key(places, heard("clip_region"), clip=clips[1])
    assert key(places, heard("ctc"), clip=clips[0]) == key(places, heard("ctc"), clip=clips[1])


@pytest.fixture
def project(tmp_path_factory, monkeypatch) -> Path:
    """A copy of the project's code, which keys are made from and which may be edited."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("legible", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for module in (fingerprint, provenance):
        monkeypatch.setattr(module, "ROOT", folder)
    forget_code()
    yield folder
    forget_code()


def forget_code() -> None:
    """Every job is a process of its own; here what was read before has to be forgotten."""
    for function in (fingerprint.module_file, fingerprint._read, fingerprint._fingerprint):
        function.cache_clear()


CLIP, READER = {"clip_region", "clip_contrastive"}, {"ctc", "recognizer_feature", "self_reading"}
ALL = {"none", *LOSSES}


@pytest.mark.parametrize(
    ("module", "arms"),
    [
        *((loss.module.removeprefix("legible."), {name}) for name, loss in LOSSES.items()),
        ("losses.distractors", {"clip_contrastive"}),
        ("losses.clip_features", CLIP),
        ("models.clip", CLIP),
        ("models.reader", READER),
        ("models.recognizer", READER),
        ("models.segmenter", {"char_segmentation"}),
        ("losses.view", ALL),
        ("train.step", ALL),
        ("models.zimage.model", ALL),
        ("models.stable_diffusion.model", set()),
        ("train.preflight", set()),
        ("nano.denoiser", set()),
    ],
)
def test_changed_code_is_another_run_of_the_arms_that_use_it_and_of_no_other(places, project, module, arms):
    def keys() -> dict[str, str]:
        forget_code()
        return {loss: key(places, {} if loss == "none" else heard(loss), code=None) for loss in sorted(ALL)}

    before, path = keys(), project / "legible" / f"{module.replace('.', '/')}.py"
    path.write_text(path.read_text(encoding="utf-8") + "\nCHANGED = 1\n", encoding="utf-8")
    after = keys()
    assert {loss for loss in before if after[loss] != before[loss]} == arms
    assert len(set(before.values())) == len(before)
    path.write_text(path.read_text(encoding="utf-8").replace("\nCHANGED = 1\n", "\n# reworded\n"), encoding="utf-8")
    assert keys() == before


def test_values_seed_data_and_code_count(places):
    training = heard("ctc")
    model = {"path": str(places / "model")}
    keys = [
        key(places, training),
        key(places, training, seed=1),
        key(places, training, data="other"),
        key(places, training, code="other"),
        key(places, training | {"learning_rate": 1.0e-5}),
        key(places, training, generation=Generation(steps=4)),
        key(places, training, model=Model(**model, dtype="bfloat16")),
        key(places, training, reader=Reader(network=str(places / "reader"), aspect=3.0)),
    ]
    assert len(set(keys)) == len(keys)
    # … of what the arm uses.
    assert key(places, training, clip=Clip(path=str(places / "clip"), distractors=3)) == keys[0]


def test_what_was_used_is_listed_by_its_hashes(places):
    files = used_files(config_of(places, heard("ctc") | BOTH), None, places / "anchor.safetensors")
    assert set(files) == {"model", "reader", "anchor"}
    assert set(files["reader"]) == {"config.json", "weights.safetensors"}
    assert {name.partition("/")[0] for name in files["model"]} == set(COMPONENTS)
    assert len({*files["reader"].values(), *files["model"].values(), files["anchor"]}) == 2 + 2 * len(COMPONENTS) + 1

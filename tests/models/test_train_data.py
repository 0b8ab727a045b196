"""The cache that training reads: a round trip, its regions, and what a damaged file says."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training import same_conditioning, small_data

from legible.config import Data, Fonts, Model
from legible.corpus.prompts import Excluded
from legible.errors import UserError
from legible.models.family import ROLES, open_model
from legible.models.zimage.model import CAPTION
from legible.render.dataset import load_images, load_table, render_signs, write_dataset
from legible.render.fonts import find_fonts, select_fonts
from legible.train.data import TrainingData, load_training_data, save_training_data

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


def test_the_cache_comes_back_as_it_was(data, tmp_path):
    texts = ("Ä „quoted“\n", *data.texts[1:])
    save_training_data(tmp_path / "cache.safetensors", replace(data, texts=texts))
    found = load_training_data(tmp_path / "cache.safetensors")
    assert found.texts == texts
    assert found.key == "small"
    for field in fields(TrainingData):
        one, two = getattr(found, field.name), getattr(data, field.name)
        if field.name in ("conditioning", "empty"):
            assert same_conditioning(one, two)
        elif field.name not in ("texts", "key"):
            assert torch.equal(one, two) if isinstance(two, torch.Tensor) else one == two
    save_training_data(tmp_path / "again.safetensors", replace(data, texts=texts))
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "cache.safetensors").read_bytes()


def test_captions_are_cut_at_their_own_length(data, zimage):
    for sample in (1, 4):  # in a batch of all, a short one is padded
        (expected,) = zimage.encode_prompts([data.captions[sample]]).tensors[CAPTION]
        torch.testing.assert_close(data.conditioning.tensors[CAPTION][sample], expected, atol=1e-5, rtol=0)
    assert len(set(data.conditioning.lengths())) > 1
    assert len(data.conditioning) == len(data.captions) == len(data.latents) == 12


@given(st.lists(st.integers(0, 11), max_size=9))
def test_regions_of_picked_samples(data, picked):
    positions, boxes, texts = data.regions(torch.tensor(picked, dtype=torch.long))
    expected = [
        (position, data.boxes[region].tolist(), data.texts[region])
        for position, sample in enumerate(picked)
        for region in range(len(data.texts))
        if data.owners[region] == sample
    ]
    assert list(zip(positions.tolist(), boxes.tolist(), texts, strict=True)) == expected
    assert boxes.shape == (len(expected), 4)


@given(share=st.floats(0, 0.999))
def test_a_truncated_cache_is_refused(data, tmp_path, share):
    path = tmp_path / "cache.safetensors"
    save_training_data(path, data)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"cache\.safetensors: the cache is missing or damaged .*delete it"):
        load_training_data(path)


@given(content=st.binary(max_size=300))
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "cache.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="the cache is missing or damaged"):
        load_training_data(tmp_path / "cache.safetensors")


def test_a_missing_or_foreign_cache_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="the cache is missing or damaged"):
        load_training_data(tmp_path / "none.safetensors")
    with pytest.raises(UserError, match="the cache is missing or damaged"):
        load_training_data(folders.zimage / "vae" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Ten signs, some of them with two lines."""
    folder = tmp_path_factory.mktemp("data")
    data = Data(length=(2, 3), lines=(1, 2), font_size=(10, 12))
    fonts = select_fonts(find_fonts(Fonts()), ("DejaVu Sans Bold",))
    signs, rejected = render_signs(data, fonts, "train", 10, Excluded.of([]))
    write_dataset(folder, signs, signs[:1], {"train": rejected, "test": rejected}, Excluded.of([]))
    return folder / "train.parquet"


def encode_command(folders, dataset: Path, folder: Path, model: Path | None = None) -> list[str]:
    config = json.dumps({"model": {"path": str(model or folders.zimage)}})
    return [
        sys.executable, "scripts/encode_dataset.py", "--config", config, "--dataset", str(dataset),
        "--store", str(folder / "store"), "--output", str(folder / "cache" / "train.safetensors"),
    ]  # fmt: skip


def test_encoding_is_what_the_model_says_and_happens_once(folders, dataset, tmp_path):
    first = subprocess.run(encode_command(folders, dataset, tmp_path), cwd=ROOT, capture_output=True, check=True)
    assert b"already computed" not in first.stdout
    output = tmp_path / "cache" / "train.safetensors"
    data = load_training_data(output)
    table, images = load_table(dataset), torch.from_numpy(load_images(dataset))
    model = open_model(Model(path=str(folders.zimage)), ROLES)
    expected = model.encode_images(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    torch.testing.assert_close(data.latents, expected, atol=1e-5, rtol=1e-5)
    assert data.captions == tuple(table["caption"])
    for found, prompts in ((data.conditioning, data.captions), (data.empty, [""])):
        encoded = model.encode_prompts(list(prompts))
        assert found.lengths() == encoded.lengths()
        for one, two in zip(found.tensors[CAPTION], encoded.tensors[CAPTION], strict=True):
            torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    lines = [(i, line) for i, text in enumerate(table["text"]) for line in text.split("\n")]
    assert len(lines) > len(table)
    assert list(zip(data.owners.tolist(), data.texts, strict=True)) == lines
    assert data.boxes.tolist() == [list(map(float, box)) for boxes in table["line_boxes"] for box in boxes]

    # Another experiment with the same content reads the store, but shares no file with the first one.
    before = output.read_bytes()
    output.rename(tmp_path / "other.safetensors")
    second = subprocess.run(encode_command(folders, dataset, tmp_path), cwd=ROOT, capture_output=True, check=True)
    assert b"already computed" in second.stdout
    assert output.read_bytes() == before
    assert output.stat().st_ino != next((tmp_path / "store").iterdir()).stat().st_ino


def test_the_key_of_the_cache_holds_everything_that_decides_it(folders, dataset, tmp_path):
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from encode_dataset import content_key
    finally:
        sys.path.remove(str(ROOT / "scripts"))

    shutil.copytree(folders.zimage, tmp_path / "model")
    keys = [content_key(dataset, {"model": Model(path=str(tmp_path / "model"))})]
    assert keys == [content_key(dataset, {"model": Model(path=str(folders.zimage))})]  # the path itself does not count
    for part in ("vae", "text_encoder", "tokenizer"):
        for file in sorted((tmp_path / "model" / part).glob("*.json")):
            file.write_text(file.read_text() + "\n")
            keys.append(content_key(dataset, {"model": Model(path=str(tmp_path / "model"))}))
    assert len(keys) >= 5
    keys.append(content_key(dataset, {"model": Model(path=str(tmp_path / "model"), dtype="bfloat16")}))
    keys.append(content_key(dataset, {"model": Model(path=str(tmp_path / "model"), max_sequence_length=32)}))
    keys.append(content_key(dataset.parent / "test.parquet", {"model": Model(path=str(tmp_path / "model"))}))
    assert len(set(keys)) == len(keys)

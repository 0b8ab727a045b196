"""One bit that turned over in a file is named when the file is opened, and never computed with: kind by kind."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import ROOT
from training import model_of, settings, small_data

from legible.config import Clip, Reader
from legible.corpus.prompts import Excluded
from legible.errors import UserError
from legible.integrity import write_sums
from legible.io import file_hashes, write_json
from legible.models.clip import open_clip_model
from legible.models.family import open_model
from legible.models.opening import LORA
from legible.models.reader import open_reader
from legible.models.segmenter import build_segmenter, load_segmenter, save_segmenter
from legible.ocr.glyphs import open_glyph_judge
from legible.render.dataset import load_table, write_dataset
from legible.train.adapters import keep_weights, select_parameters
from legible.train.anchor import Trajectories, load_trajectories, save_trajectories
from legible.train.data import load_training_data, save_training_data

CPU = torch.device("cpu")
Case = tuple[Path, Callable]  # the file, and what opens it


def encoded_data(folders, tmp_path) -> Case:
    save_training_data(tmp_path / "train.safetensors", small_data(folders.zimage))
    return tmp_path / "train.safetensors", lambda: load_training_data(tmp_path / "train.safetensors")


def anchor(folders, tmp_path) -> Case:
    data, path = small_data(folders.zimage), tmp_path / "anchor.safetensors"
    points = data.latents[None]
    save_trajectories(path, Trajectories(points, points + 1, torch.ones(1), data.conditioning))
    return path, lambda: load_trajectories(path)


def segmenter(folders, tmp_path) -> Case:
    path = tmp_path / "segmenter.safetensors"
    save_segmenter(path, build_segmenter(12, 3, 16, 0), "ABC")
    return path, lambda: load_segmenter(path, CPU)


def glyph_judge(folders, tmp_path) -> Case:
    copy = shipped(ROOT / "resources" / "nano" / "glyph_judge", tmp_path)
    return copy / "glyph_judge.safetensors", lambda: open_glyph_judge(copy)


def dataset(folders, tmp_path) -> Case:
    write_dataset(tmp_path, [], [], {}, Excluded.of([]))
    return tmp_path / "train.parquet", lambda: load_table(tmp_path / "train.parquet")


def shipped(folder: Path, tmp_path: Path) -> Path:
    """A copy of a model's folder below a folder with a list of checksums, as resources/nano/ is one."""
    copy = tmp_path / "models" / folder.name
    shutil.copytree(folder, copy)
    write_sums(copy.parent)
    return copy


def denoiser(folders, tmp_path) -> Case:
    copy = shipped(folders.zimage, tmp_path)
    file = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    return file, lambda: open_model(model_of(copy), ("denoiser",))


def scheduler(folders, tmp_path) -> Case:
    copy = shipped(folders.zimage, tmp_path)
    return copy / "scheduler" / "scheduler_config.json", lambda: open_model(model_of(copy), ("scheduler",))


def reader(folders, tmp_path) -> Case:
    copy = shipped(folders.recognizer, tmp_path)
    file = copy / f"{copy.name}.safetensors"
    return file, lambda: open_reader(Reader(network=str(copy)), tmp_path / "cache", CPU)


def clip(folders, tmp_path) -> Case:
    copy = shipped(folders.clip, tmp_path)
    return copy / "open_clip_model.safetensors", lambda: open_clip_model(Clip(path=str(copy)), CPU)


def tuned(folders, tmp_path: Path, name: str, **training) -> tuple[Path, Callable]:
    """Weights as a run leaves them, with their hashes in run.json."""
    run, chosen = tmp_path / "seed0", settings(**training)
    model = open_model(model_of(folders.zimage), ("denoiser",))
    select_parameters(model, chosen, 0)
    keep_weights(model, {}, chosen, run / name)
    write_json(run / "run.json", {"weights": file_hashes(run, "weights", "snapshots", deep=True)})
    return run / name, lambda: open_model(model_of(folders.zimage), ("denoiser",), weights=run / name)


def final_weights(folders, tmp_path) -> Case:
    folder, opened = tuned(folders, tmp_path, "weights")
    return folder / "transformer" / "diffusion_pytorch_model.safetensors", opened


def lora(folders, tmp_path) -> Case:
    folder, opened = tuned(folders, tmp_path, "weights", method="lora", lora={"rank": 2})
    return folder / LORA, opened


def snapshot(folders, tmp_path) -> Case:
    folder, opened = tuned(folders, tmp_path, "snapshots/step2")
    return folder / "transformer" / "diffusion_pytorch_model.safetensors", opened


KINDS = [encoded_data, anchor, segmenter, glyph_judge, dataset, denoiser, scheduler, reader, clip, final_weights, lora]
KINDS += [snapshot]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_one_flipped_bit_is_named(kind, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, opened = kind(folders, tmp_path)
    opened()  # whole, it is taken
    whole = file.read_bytes()
    for share in (0.0, 0.3, 0.999):  # in its head, in its middle, at its end
        content = bytearray(whole)
        content[int(share * len(whole))] ^= 4
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{file.name}: .*damaged.*(delete|restore)") as caught:
            opened()
        assert "\n" not in str(caught.value)
    file.write_bytes(whole)
    opened()


def test_weights_may_be_read_by_whomever_the_umask_lets(folders, tmp_path):
    """safetensors closes its files to everyone else."""
    file, _ = final_weights(folders, tmp_path)
    (tmp_path / "usual").touch()
    assert {path.stat().st_mode for path in file.parent.iterdir()} == {(tmp_path / "usual").stat().st_mode}

"""Which model a benchmark measures, at which size and in which precision: the options that all scripts share.

The models are described in models.yaml.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from measure import about, flop, matmul_peak
from subjects import Subject, open_subject, write_configs

from legible.config import Model, merge
from legible.errors import UserError
from legible.models.family import empty_model
from legible.models.opening import DTYPES
from legible.train.preflight import imagined

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "benchmarks" / "models.yaml"
GRID = 64  # pixels: sizes are multiples of it, which every latent grid divides


@dataclass(frozen=True)
class Setting:
    """What one run of a script measures on."""

    name: str  # in models.yaml
    model: Model  # its folder holds configurations and, where there is a CLIP, weights
    clip: Path | None  # folder of the CLIP; None = model and CLIP get random weights
    size: tuple[int, int]  # height and width of the pictures, in pixels
    batch: int  # samples of a micro-step
    threads: int
    training: dict[str, Any]  # keys of the training section
    full_training: dict[str, Any]  # further ones where all weights are trained
    whole: tuple[str, Model] | None = None  # the model (name, configurations) of which this one is a part


def models() -> dict[str, dict]:
    """The entries of models.yaml, with what parts take over from the whole."""
    found = yaml.safe_load(MODELS.read_text(encoding="utf-8"))
    return {
        name: merge(found[entry["part_of"]], entry) if "part_of" in entry else entry for name, entry in found.items()
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `setting_of` reads."""
    parser.add_argument("--model", choices=tuple(models()), required=True, help="see benchmarks/models.yaml")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for benchmarks/write_performance.py")
    parser.add_argument("--size", type=int, help="pixels in height and width (default: the model's)")
    parser.add_argument("--batch", type=int, help="samples of a micro-step (default: the model's)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of the weights (default: the model's)")
    parser.add_argument("--steps", type=int, default=5, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")


def setting_of(arguments: argparse.Namespace, folder: Path) -> Setting:
    """The setting that the command line asks for; configurations are written to `folder`.

    Raises:
        UserError: an option has no sense, or does not go with the model.
    """
    for option in ("batch", "steps", "warmup", "threads"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            raise UserError(f"--{option}: {value} is not allowed; it must be 1 or more")
    torch.set_num_threads(arguments.threads)
    described = models()
    entry = described[arguments.model]
    shipped, size = "path" in entry, entry["size"]
    if arguments.size is not None:
        if shipped:
            raise UserError(f"--size: {arguments.model} is measured as it is shipped; leave the option out")
        if arguments.size % GRID or arguments.size < GRID:
            raise UserError(f"--size: {arguments.size} is not allowed; it must be a multiple of {GRID}")
        size = [arguments.size] * 2

    def model_of(name: str) -> Model:
        given = described[name]
        place = ROOT / given["path"] if "path" in given else write_configs(folder / name, given["components"])
        return Model(family=given["family"], path=str(place), dtype=arguments.dtype or given["dtype"])

    return Setting(
        name=arguments.model,
        model=model_of(arguments.model),
        clip=ROOT / entry["clip"] if shipped else None,
        size=tuple(size),
        batch=arguments.batch or entry["batch"],
        threads=arguments.threads,
        training=entry["training"],
        full_training=entry["full_training"],
        whole=(entry["part_of"], model_of(entry["part_of"])) if "part_of" in entry else None,
    )


def subject_of(setting: Setting, count: int) -> Subject:
    """A fresh model with `count` samples."""
    return open_subject(setting.model, setting.clip, count, setting.size)


def latent_size(setting: Setting) -> tuple[int, int]:
    """Height and width of the latents."""
    return empty_model(setting.model).latent_shape(*setting.size)[1:]


def denoiser_flop(model: Model, size: tuple[int, int]) -> int:
    """Floating-point operations of the denoiser for one picture of `size`; counted, nothing is computed."""
    with imagined(empty_model(model), ["denoiser"]) as shapes, torch.no_grad():
        noisy, sigma = torch.zeros((1, *shapes.latent_shape(*size))), torch.full((1,), 0.5)
        conditioning = shapes.example_conditioning(1)
        return flop(lambda: shapes.predict(noisy, shapes.process.levels(sigma), conditioning))


def scale_of(setting: Setting) -> dict[str, Any] | None:
    """How much more the denoiser of the whole model computes than that of this part of it; None for a whole one."""
    if setting.whole is None:
        return None
    name, whole = setting.whole
    return {"to": name, "denoiser": denoiser_flop(whole, setting.size) / denoiser_flop(setting.model, setting.size)}


def result_of(benchmark: str, setting: Setting, arguments: argparse.Namespace, device: torch.device) -> dict:
    """A result file without its cases: what is measured, on what, and how fast matrix products are there."""
    dtype = DTYPES[setting.model.dtype]
    return {
        "benchmark": benchmark,
        "model": setting.name,
        "scale": scale_of(setting),
        "size": setting.size,
        "dtype": setting.model.dtype,
        "batch": setting.batch,
        "warmup": arguments.warmup,
        "matmul_peak": matmul_peak(dtype, device, 8192 if device.type == "cuda" else 2048),
        **about(device, setting.threads),
        "cases": [],
    }

"""Which model a benchmark measures, at which size and in which precision: the options that all scripts share."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import about, matmul_peak
from subjects import ROOT, TRANSFORMER, Subject, open_random, open_shipped, write_configs

from legible.errors import UserError
from legible.models.opening import DTYPES


@dataclass(frozen=True)
class Setting:
    """What one run of a script measures on."""

    model: str  # nano, slice or full
    folder: Path  # configurations (and, for nano, weights)
    clip: Path | None  # folder of the CLIP; None = one of ViT-B/32's size with random weights
    size: tuple[int, int]  # height and width of the pictures, in pixels
    dtype: str
    batch: int  # samples of a micro-step
    threads: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `setting_of` reads."""
    parser.add_argument("--model", choices=("nano", "slice", "full"), required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for benchmarks/write_performance.py")
    parser.add_argument("--layers", type=int, help="layers of the slice (default 4)")
    parser.add_argument("--size", type=int, help="pixels in height and width (default 512; nano: 32 × 64)")
    parser.add_argument("--batch", type=int, help="samples of a micro-step (default 1; nano: 32)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="of the weights (default bfloat16; nano: float32)")
    parser.add_argument("--steps", type=int, default=5, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")


def setting_of(arguments: argparse.Namespace, folder: Path) -> Setting:
    """The setting that the command line asks for; configurations are written to `folder`.

    Raises:
        UserError: an option has no sense, or does not go with the model.
    """
    for option in ("layers", "batch", "steps", "warmup", "threads"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            raise UserError(f"--{option}: {value} is not allowed; it must be 1 or more")
    torch.set_num_threads(arguments.threads)
    if arguments.model == "nano":
        if arguments.layers is not None or arguments.size is not None:
            raise UserError("--layers and --size: nano is measured as it is shipped; they go with slice and full")
        shipped, dtype = ROOT / "resources" / "nano", arguments.dtype or "float32"
        places = (shipped / "zimage", shipped / "clip")
        return Setting("nano", *places, (32, 64), dtype, arguments.batch or 32, arguments.threads)
    if arguments.model == "full" and arguments.layers is not None:
        raise UserError("--layers: the full model has 30; use --model slice for fewer")
    size = 512 if arguments.size is None else arguments.size
    if size % 16 or size < 64:
        raise UserError(f"--size: {size} is not allowed; it must be a multiple of 16 from 64 on, the model's grid")
    layers, refiners = (TRANSFORMER["n_layers"], 2) if arguments.model == "full" else (arguments.layers or 4, 1)
    write_configs(folder, layers, refiners)
    dtype = arguments.dtype or "bfloat16"
    return Setting(arguments.model, folder, None, (size, size), dtype, arguments.batch or 1, arguments.threads)


def open_subject(setting: Setting, device: torch.device, count: int) -> Subject:
    """A fresh model with `count` samples."""
    if setting.clip is not None:
        where = (setting.folder, setting.clip, setting.dtype, setting.threads)
        return open_shipped(*where, count, setting.size)
    return open_random(setting.folder, setting.dtype, device, count, setting.size)


def result_of(benchmark: str, setting: Setting, arguments: argparse.Namespace, device: torch.device) -> dict:
    """A result file without its cases: what is measured, on what, and how fast matrix products are there."""
    return {
        "benchmark": benchmark,
        "model": setting.model,
        "size": setting.size,
        "dtype": setting.dtype,
        "batch": setting.batch,
        "warmup": arguments.warmup,
        "matmul_peak": matmul_peak(DTYPES[setting.dtype], device, 8192 if device.type == "cuda" else 2048),
        **about(device, setting.threads),
        "cases": [],
    }

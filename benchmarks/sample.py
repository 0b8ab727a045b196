"""Time, arithmetic and memory of sampling, next to diffusers' own pipeline, eager, with its defaults.

python benchmarks/sample.py --model nano|slice|full --output FILE.json

A case is a number of images per batch, with `+compile` for compiled blocks. Every round runs all of it one after the
other: 8 steps and the decoder through Legible (`model.sample`) and through the pipeline, one step of the denoiser
alone, and the decoder alone. Caption embeddings are at hand on both sides.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measure import attempt, default_device, flop, interleaved, peak_memory, plain
from reference import recipe_of
from setting import Setting, add_options, result_of, setting_of, subject_of
from subjects import Subject
from torch import Tensor

from legible.errors import UserError, run_cli
from legible.io import write_json
from legible.models.conditioning import Conditioning

STEPS = 8
CASES = ("1", "1+compile", "4", "4+compile")


def parts_of(case: str) -> tuple[int, bool]:
    """(images per batch, compiled?) of a case such as 4+compile.

    Raises:
        UserError: it is none.
    """
    number, *rest = case.split("+")
    if not number.isdigit() or int(number) < 1 or rest not in ([], ["compile"]):
        raise UserError(
            f"--cases: {case!r} is no case; allowed is a number of images, with +compile if wanted (4+compile)"
        )
    return int(number), bool(rest)


def kinds_of(subject: Subject, captions: Conditioning, noise: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed; captions and noise [B, C, h, w] are on the device."""
    model, recipe = subject.model, recipe_of(subject.family)
    levels = model.process.levels(torch.full((len(noise),), 0.5, device=model.device))
    return {
        "ours": lambda: model.sample(captions, noise, STEPS, model.spec.guidance_off),
        "reference": lambda: recipe.pictures(model, captions, noise, STEPS),
        "one step": torch.no_grad()(lambda: model.predict(noise, levels, captions)),
        "decode": torch.no_grad()(lambda: model.decode(noise)),
    }


def measure_case(setting: Setting, case: str, warmup: int, rounds: int, device: torch.device) -> dict:
    """Everything about one case, as JSON."""
    batch, compiled = parts_of(case)
    subject = subject_of(setting, batch)
    model, shape = subject.model, subject.data.latents.shape
    captions = subject.data.conditioning.to(device, model.module("denoiser").dtype)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(device)
    if compiled:
        model.compile_blocks()
    runs = kinds_of(subject, captions, noise)
    operations = {name: flop(run) for name, run in runs.items()}
    times = interleaved(runs, warmup, rounds, device)
    memory = dict.fromkeys(runs)
    if device.type == "cuda":
        memory = {
            name: dict(zip(("allocated", "reserved"), peak_memory(run, device), strict=True))
            for name, run in runs.items()
        }
    kinds = {name: {**plain(times[name]), "flop": operations[name], "memory": memory[name]} for name in runs}
    return {"batch": batch, "compile": compiled, "kinds": kinds}


def main() -> None:
    """Measure every case; the file is written anew after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--cases", default=",".join(CASES), help="images per batch, with +compile if wanted")
    arguments, device = parser.parse_args(), default_device()
    with tempfile.TemporaryDirectory() as folder:
        setting, names = setting_of(arguments, Path(folder)), arguments.cases.split(",")
        for case in names:
            parts_of(case)
        result = result_of("sample", setting, arguments, device)
        for case in names:
            print(f"{setting.name}, images per batch: {case} …", flush=True)
            run = partial(measure_case, setting, case, arguments.warmup, arguments.steps, device)
            found = attempt(case, run)
            for name, kind in found.get("kinds", {}).items():
                print(f"  {name:<16} {kind['median']:.4f} s ({kind['low']:.4f} … {kind['high']:.4f})", flush=True)
            print(f"  {found['status']}", flush=True)
            result["cases"].append(found)
            write_json(arguments.output, result)


if __name__ == "__main__":
    run_cli(main)

"""Time, arithmetic and memory of Legible's real training step, interleaved with diffusers' example trainer's recipe.

python benchmarks/train_step.py --model nano|slice|full --output FILE.json

A case is `lora` (`lora+int8`, `lora+nf4`: on a quantised base) or `full`, with `+checkpointing` and `+compile` as
wanted. In every round each case runs six kinds of micro-step (forward and backward pass), one after the other, on the
same model and samples: ours and the reference without an auxiliary loss; ours with clip_region, decoding the crop or
the whole picture; the reference with it; and the reference's denoiser alone, without the encoder of its pictures (ours
without an auxiliary loss is nothing but the denoiser). Then one optimiser step is taken, which is the same for both.
`reference.py` says what the reference does.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from measure import GIB, attempt, default_device, flop, interleaved, peak_memory, plain
from reference import recipe_of, reference_loss, text_loss
from setting import Setting, add_options, latent_size, result_of, setting_of, subject_of
from subjects import Subject
from torch import Tensor

from legible.config import Training, merge
from legible.errors import UserError, run_cli
from legible.io import write_json
from legible.losses.clip_region import clip_region_loss
from legible.models.conditioning import Conditioning
from legible.models.opening import DTYPES
from legible.models.quantization import quantize
from legible.seeds import stateless_generator
from legible.train.adapters import select_parameters
from legible.train.optimizer import build_optimizer, take_step
from legible.train.preflight import free_bytes, kept_by, plain_tensors, plan
from legible.train.step import forward_pass, micro_step

LAMBDA = 0.2
CASES = tuple(
    method + rest
    for method in ("lora", "lora+int8", "lora+nf4", "full")
    for rest in ("", "+checkpointing", "+compile", "+checkpointing+compile")
)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the reference's loss against ours


def training_of(setting: Setting, case: str) -> Training:
    """The training section of a case, with the model's own keys.

    Raises:
        UserError: there is no such case.
    """
    if case not in CASES:
        raise UserError(f"--cases: there is no case {case!r}; allowed are {', '.join(CASES)}")
    method, *rest = case.split("+")
    given = {
        "method": method,
        "batch_size": setting.batch,
        "threads": setting.threads,
        "gradient_checkpointing": ["denoiser", "decoder"] if "checkpointing" in rest else [],
        "compile": "compile" in rest,
        "quantization": next((kind for kind in ("int8", "nf4") if kind in rest), "none"),
        "aux": {"loss": "clip_region", "lambda": LAMBDA},
    }
    own = merge(setting.training, setting.full_training) if method == "full" else setting.training
    return Training.model_validate(merge(given, own))


def batch_of(subject: Subject, training: Training, step: int) -> Tensor:
    """The samples [B] of micro-step number `step`."""
    first = step * training.batch_size
    return torch.arange(first, first + training.batch_size) % len(subject.data.latents)


def our_loss(subject: Subject, training: Training, grid: Tensor, region: str | None, step: int) -> Tensor:
    """The total loss of one micro-step of Legible; `region` crop, image or None (without the auxiliary loss)."""
    picked = batch_of(subject, training, step)
    aux = None
    if region is not None:
        training = training.model_copy(update={"aux": training.aux.model_copy(update={"region": region})})
        aux = partial(clip_distance, subject, training.aux.margin)
    generators = [stateless_generator(0, 2, step, sample) for sample in range(training.batch_size)]
    losses = micro_step(
        subject.model, subject.data, picked, None, training, grid, aux, generators, [False] * len(picked)
    )
    return losses.diffusion if losses.aux is None else losses.diffusion + training.aux.lambda_aux * losses.aux


def clip_distance(subject: Subject, margin: float, view) -> Tensor:
    """The clip_region loss [B] of a View, as legible.losses.auxiliary opens it, on this subject's CLIP."""
    return view.per_sample(clip_region_loss(subject.clip, view.images, view.owners, view.boxes, view.texts, margin))


def side(subject: Subject, kind: str) -> AbstractContextManager:
    """In what a kind of micro-step runs, its backward pass too: the reference's eager, as diffusers runs it."""
    runs_it = recipe_of(subject.family).as_diffusers_runs_it
    return runs_it(subject.model) if kind.startswith("reference") else nullcontext()


def captions_of(subject: Subject) -> Conditioning:
    """Those of all samples, on the device and in the denoiser's type."""
    return subject.data.conditioning.to(subject.model.device, subject.model.module("denoiser").dtype)


def disagreement(subject: Subject, training: Training) -> float:
    """Largest relative difference of the two sides' losses on the same samples, noise and noise levels."""
    model, picked, recipe = subject.model, batch_of(subject, training, 0), recipe_of(subject.family)
    captions = captions_of(subject).pick(picked.tolist())
    with torch.no_grad(), side(subject, "reference"):
        latents = recipe.encoded(model, subject.pixels[picked])
        noise, places = torch.randn_like(latents), recipe.drawn(model, len(picked))
        loss, clean = recipe.predicted(model, latents, noise, places, captions)
        levels = recipe.levels(model, places)
        ours, view = forward_pass(model, subject.data, picked, None, training.aux, noise.float(), levels, captions)
        text = clip_distance(subject, training.aux.margin, view(torch.arange(len(picked)))).sum() / len(picked)
        pairs = [(ours.mean(), loss), (text, text_loss(subject, clean, picked, training.aux.margin))]
    return max(abs(a.item() - b.item()) / max(abs(b.item()), 1e-12) for a, b in pairs)


def micro_steps(subject: Subject, training: Training) -> dict[str, Callable[[int], Tensor]]:
    """The six kinds of micro-step: number of the step → total loss."""
    grid = subject.model.level_grid(8, tuple(subject.data.latents.shape[1:]))
    margin, kept = training.aux.margin, captions_of(subject)

    def reference(weight: float, encodes: bool, step: int) -> Tensor:
        loss = reference_loss(subject, batch_of(subject, training, step), kept, weight, margin, encodes)
        loss.item()  # its progress bar shows the loss of every micro-step
        return loss

    return {
        "ours": partial(our_loss, subject, training, grid, None),
        "reference": partial(reference, 0.0, True),
        "ours, aux crop": partial(our_loss, subject, training, grid, "crop"),
        "ours, aux image": partial(our_loss, subject, training, grid, "image"),
        "reference, aux": partial(reference, LAMBDA, True),
        "reference, denoiser": partial(reference, 0.0, False),
    }


def measure_case(setting: Setting, case: str, warmup: int, rounds: int, device: torch.device) -> dict:
    """Everything about one case, as JSON.

    Raises:
        RuntimeError: ours and the reference do not compute the same losses; the comparison would be worth nothing.
    """
    training = training_of(setting, case)
    subject = subject_of(setting, 2 * setting.batch)
    model, denoiser = subject.model, subject.model.module("denoiser")
    if training.quantization != "none":
        quantize(denoiser, model.quantized_layers(), training.quantization, device)
    trained = list(select_parameters(model, training, 0).values())
    model.save_memory(training.gradient_checkpointing)
    if training.compile:
        model.compile_blocks()
    weights = [part for parameter in denoiser.parameters() for part in plain_tensors(parameter)]
    optimizer = build_optimizer(trained, training)
    apart = disagreement(subject, training)
    if apart > TOLERANCE[DTYPES[setting.model.dtype]]:
        raise RuntimeError(f"{case}: the losses of both sides differ by {apart:.1e}, relatively")
    count = itertools.count()

    def whole(kind: str) -> None:
        with side(subject, kind):
            (losses[kind](next(count)) / training.accumulation).backward()

    def optimizer_step() -> None:
        torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm).item()
        take_step(optimizer, training.learning_rate, 0, next(count))
        optimizer.zero_grad(set_to_none=True)

    losses = micro_steps(subject, training)
    runs = {kind: partial(whole, kind) for kind in losses}
    operations = {name: flop(run) for name, run in runs.items()}
    optimizer_step()
    print("  operations are counted, both sides agree; timing …", flush=True)
    times = interleaved(runs | {"optimiser step": optimizer_step}, warmup, rounds, device)
    memory = {}
    for name, run in runs.items():
        if device.type == "cuda":
            memory[name] = dict(zip(("allocated", "reserved"), peak_memory(run, device), strict=True))
        else:
            with side(subject, name):
                memory[name] = {"saved": kept_by(partial(losses[name], next(count)), denoiser, []).plain}
    if device.type == "cuda":
        peak = peak_memory(optimizer_step, device)
        memory["optimiser step"] = dict(zip(("allocated", "reserved"), peak, strict=True))
    return {
        "training": training.model_dump(mode="json", by_alias=True),
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "trained": sum(p.numel() for p in trained),
        "weight_bytes": sum(part.nbytes for part in weights),
        "loss_difference": apart,
        "kinds": {
            name: {**plain(took), "flop": operations.get(name), "memory": memory.get(name)}
            for name, took in times.items()
        },
    }


def try_case(setting: Setting, case: str, warmup: int, rounds: int, device: torch.device) -> dict:
    """`measure_case`, or why it was not measured: too much is planned, or the memory was not enough after all."""
    phases = plan(setting.model, training_of(setting, case), *latent_size(setting))
    planned = next(phase.total for phase in phases if phase.name == "training")
    if planned > (free := free_bytes()):
        status = f"skipped: {planned / GIB:.1f} GiB planned, {free / GIB:.1f} GiB free"
        return {"case": case, "status": status, "planned": planned}
    run = partial(measure_case, setting, case, warmup, rounds, device)
    return attempt(case, run) | {"planned": planned}


def main() -> None:
    """Measure every case; the file is written anew after each, so that what is measured is never lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--cases", default=",".join(CASES), help=f"comma-separated, of {', '.join(CASES)}")
    arguments, device = parser.parse_args(), default_device()
    with tempfile.TemporaryDirectory() as folder:
        setting, names = setting_of(arguments, Path(folder)), arguments.cases.split(",")
        for case in names:  # a misspelt one is refused before hours are spent on the others
            training_of(setting, case)
        result = result_of("train_step", setting, arguments, device)
        for case in names:
            print(f"{setting.name} {case} …", flush=True)
            found = try_case(setting, case, arguments.warmup, arguments.steps, device)
            for name, kind in found.get("kinds", {}).items():
                print(f"  {name:<16} {kind['median']:.4f} s ({kind['low']:.4f} … {kind['high']:.4f})", flush=True)
            print(f"  {found['status']}", flush=True)
            result["cases"].append(found)
            write_json(arguments.output, result)


if __name__ == "__main__":
    run_cli(main)

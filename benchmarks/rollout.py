"""Memory and time of fine-tuning through the sampler (Algorithm 1 of TextCraftor): checkpointed beside the plain chain.

python benchmarks/rollout.py [--model FOLDER --family FAMILY] --output FILE.json

A cell is a number T of the sampler's steps (`--steps`) and a number K ≤ T of last steps with a gradient (`--last`). In
each, one micro-step that trains the text encoder runs both ways on the same model, prompts and noise: the last K calls
of the network computed again in the backward pass (`legible.models.rollout.roll_out` as it trains), and all their
activations kept. Forward pass: captions encoded, T steps, pictures decoded (computed again in both, as in training).
The loss is the mean square of the pixels: it asks for no reader and no CLIP, and fits every model and size. Both ways
alternate in every repetition; times are the fastest of them. Before anything is timed, both gradients must agree.

Beside the JSON file lie a CSV file (a row for each cell and way) and a PNG figure of the same name.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from measure import GIB, about, attempt, default_device, interleaved, peak_memory, plain
from subjects import WORDS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from legible.config import FigureStyle, Model
from legible.errors import UserError, run_cli
from legible.figures.style import MARKERS, PALE, house_style, light_grid, log_scale, new_figure
from legible.io import atomic_path, write_json, write_text
from legible.models.family import ROLES, Family, open_model
from legible.models.opening import DTYPES
from legible.models.rollout import Words, guided_prediction, roll_out
from legible.train.preflight import free_bytes, kept_by, part_names

STEPS, LAST = "5,10,25,50", "1,2,5,10"
CHAINS = ("plain", "checkpointed")
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # of the plain chain's gradient norm against the other's
MIB = 2**20


@dataclass(frozen=True)
class Tuning:
    """A model whose text encoder is trained, and B prompts with the noise that their pictures begin from."""

    model: Family
    weights: list[nn.Parameter]  # those that are trained
    networks: nn.ModuleList  # all of the model
    prompts: list[str]
    noise: Tensor  # [B, C, h, w], standard normal
    guidance_scale: float
    before: Words  # what the prompts say in the steps without a gradient

    @property
    def device(self) -> torch.device:
        """Where it all runs."""
        return self.model.device


def words_of(model: Family, prompts: list[str], guidance_scale: float, gradient: bool) -> Words:
    """What the prompts say, and the empty one where guidance is on."""
    guided = guidance_scale > model.spec.guidance_off
    empty = model.encode_prompts([""], gradient) if guided else None
    return Words(model.encode_prompts(prompts, gradient), empty)


def open_tuning(described: Model, size: tuple[int, int], batch: int, guidance_scale: float | None) -> Tuning:
    """The model with `batch` prompts for pictures of `size` (height, width in pixels).

    Args:
        guidance_scale: None = the one at which the family's guidance is off.

    Raises:
        UserError: the model cannot be opened, or the size does not fit its grid.
    """
    model = open_model(described, ROLES, torch.get_num_threads())
    scale = model.spec.guidance_off if guidance_scale is None else guidance_scale
    encoder = model.module(model.spec.text_encoders[0]).requires_grad_(True)
    prompts = [f'a sign that says "{WORDS[i % len(WORDS)]}" in red letters on white' for i in range(batch)]
    noise = torch.randn((batch, *model.latent_shape(*size)), generator=torch.Generator().manual_seed(0))
    return Tuning(
        model=model,
        weights=list(encoder.parameters()),
        networks=nn.ModuleList(model.module(name) for name in part_names(model.spec)),
        prompts=prompts,
        noise=noise.to(model.device),
        guidance_scale=scale,
        before=words_of(model, prompts, scale, gradient=False),
    )


def loss_of(tuning: Tuning, steps: int, last: int, chain: str) -> Tensor:
    """The forward pass of one micro-step with a chain of CHAINS: the mean square of the pixels."""
    model, scale = tuning.model, tuning.guidance_scale
    words = words_of(model, tuning.prompts, scale, gradient=True)
    latents = roll_out(model, tuning.noise, steps, last, tuning.before, words, scale, chain == "checkpointed")
    return checkpoint(model.decode, latents, use_reentrant=False).square().mean()


def gradient_norm(tuning: Tuning, loss: Callable[[], Tensor]) -> float:
    """The norm of the trained weights' gradient, after a forward and a backward pass."""
    found = torch.autograd.grad(loss(), tuning.weights, allow_unused=True)  # the last layers may not be listened to
    return torch.stack([part.float().norm() for part in found if part is not None]).norm().item()


def bytes_of_one_step(tuning: Tuning) -> int:
    """What one step's call of the network keeps for its backward pass.

    The plain chain holds it for K steps at once, the checkpointed one in its backward pass for one step at a time.
    """
    model = tuning.model
    words = words_of(model, tuning.prompts, tuning.guidance_scale, gradient=True)
    latents, level = tuning.noise.clone().requires_grad_(), model.sampler(8, tuple(tuning.noise.shape[1:])).levels[0]
    run = partial(guided_prediction, model, latents, level, words, tuning.guidance_scale)
    return kept_by(run, tuning.networks, []).plain


def first_pass(tuning: Tuning, steps: int, last: int, chain: str) -> dict:
    """Memory in bytes and the gradient's norm of one micro-step; the pass is a warm-up of the timed ones too."""
    loss = partial(loss_of, tuning, steps, last, chain)
    saved, norm = kept_by(loss, tuning.networks, []).plain, []

    def run() -> None:
        norm.append(gradient_norm(tuning, loss))

    found = {"saved": saved}
    if tuning.device.type == "cuda":
        found |= dict(zip(("allocated", "reserved"), peak_memory(run, tuning.device), strict=True))
    else:
        run()
    return found | {"gradient_norm": norm[0]}


def try_chain(tuning: Tuning, steps: int, last: int, chain: str, one_step: int) -> dict:
    """`first_pass`, or why there is none: its steps alone need too much, or the memory was not enough after all."""
    planned, free = one_step * (last if chain == "plain" else 1), free_bytes()
    if planned > free:
        status = f"skipped: {planned / GIB:.1f} GiB planned, {free / GIB:.1f} GiB free"
        return {"case": chain, "status": status}
    return attempt(chain, partial(first_pass, tuning, steps, last, chain))


def passes(tuning: Tuning, steps: int, last: int, chain: str) -> dict[str, Callable[[], object]]:
    """Forward and backward pass, to be called in turn: what the one keeps is gone after the other."""
    kept: list[Tensor] = []
    return {
        f"{chain}, forward": lambda: kept.append(loss_of(tuning, steps, last, chain)),
        f"{chain}, backward": lambda: torch.autograd.grad(kept.pop(), tuning.weights, allow_unused=True),
    }


def disagreement(chains: dict[str, dict]) -> float:
    """The relative difference of both gradients' norms; 0 where only one fitted."""
    norms = [chain["gradient_norm"] for chain in chains.values() if chain["status"] == "measured"]
    return (max(norms) - min(norms)) / max(*norms, 1e-12) if len(norms) == 2 else 0.0


def measure_cell(tuning: Tuning, steps: int, last: int, repeats: int, one_step: int) -> dict:
    """Memory and times of both chains, as JSON.

    Raises:
        RuntimeError: the two gradients differ; the comparison would be worth nothing.
    """
    chains = {chain: try_chain(tuning, steps, last, chain, one_step) for chain in CHAINS}
    apart = disagreement(chains)
    if not apart <= TOLERANCE[tuning.model.module("denoiser").dtype]:  # NaN is no agreement either
        raise RuntimeError(f"T={steps}, K={last}: the gradients' norms differ by {apart:.1e}, relatively")
    fitting = [chain for chain in CHAINS if chains[chain]["status"] == "measured"]
    runs = {name: run for chain in fitting for name, run in passes(tuning, steps, last, chain).items()}
    timing = attempt("times", lambda: {"times": interleaved(runs, 0, repeats, tuning.device)})
    for chain in fitting:
        if timing["status"] == "measured":
            chains[chain] |= {part: plain(timing["times"][f"{chain}, {part}"]) for part in ("forward", "backward")}
        else:
            chains[chain]["status"] = timing["status"]
    return {"case": f"T={steps}, K={last}", "steps": steps, "last": last, "gradient_apart": apart, "chains": chains}


def rows_of(result: dict) -> list[dict]:
    """The rows of the CSV file: bytes, and seconds of the fastest repetition; empty where nothing was measured."""
    rows = []
    for case in result["cases"]:
        for name, chain in case["chains"].items():
            seconds = [chain[part]["low"] if part in chain else None for part in ("forward", "backward")]
            measured = chain["status"] == "measured"
            rows.append(
                {
                    "machine": result["machine"],
                    "model": result["model"],
                    "steps": case["steps"],
                    "last": case["last"],
                    "chain": name,
                    "status": chain["status"],
                    "saved_bytes": chain.get("saved") if measured else None,
                    "peak_allocated_bytes": chain.get("allocated") if measured else None,
                    "peak_reserved_bytes": chain.get("reserved") if measured else None,
                    "forward_s": seconds[0],
                    "backward_s": seconds[1],
                    "total_s": sum(seconds) if measured else None,
                }
            )
    return rows


def plot_lines(axes: Axes, frame: pd.DataFrame, column: str, unit: float, style: FigureStyle) -> None:
    """One line a number of steps T and chain, of `column` in `unit`s against T · K; filled points are plain."""
    for place, (steps, own) in enumerate(frame.groupby("steps")):
        color = style.colors[1 + place % (len(style.colors) - 1)]
        for chain in CHAINS:
            line = own[own["chain"] == chain].dropna(subset=[column]).sort_values("last")
            kept = chain == "plain"
            axes.plot(
                line["steps"] * line["last"], line[column] / unit, color=color, marker=MARKERS[place % len(MARKERS)],
                ms=5, mfc=color if kept else "white", linestyle="-" if kept else (0, (3, 1.5)),
                label=f"T = {steps}, {chain}",
            )  # fmt: skip


@house_style()
def draw(result: dict, style: FigureStyle) -> Figure:
    """Memory (left) and time of a forward and a backward pass (right) against T · K, all axes logarithmic."""
    frame = pd.DataFrame(rows_of(result))
    on_gpu = result["device"] != "cpu"
    figure = new_figure(style)
    left, right = figure.subplots(1, 2)
    plot_lines(left, frame, "peak_allocated_bytes" if on_gpu else "saved_bytes", MIB, style)
    plot_lines(right, frame, "total_s", 1.0, style)
    if not on_gpu:
        left.axhline(result["one_step"] / MIB, color=PALE, linewidth=0.8, linestyle=(0, (1, 1)), zorder=1)
    places = sorted({row["steps"] * row["last"] for row in rows_of(result)})
    ticks = [place for i, place in enumerate(places) if i == 0 or place >= 1.4 * places[i - 1]]
    for axes in (left, right):
        log_scale(axes)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("sampler steps T × steps with a gradient K")
        light_grid(axes, "y")
    if on_gpu:
        left.set_title("memory at the peak, weights included (MiB)", loc="left")
    else:
        left.set_title("kept for the backward pass (MiB); dotted: by one step", loc="left")
    right.set_title("forward and backward pass (s)", loc="left")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(heading(result), x=0.01, ha="left")
    return figure


def heading(result: dict) -> str:
    """What was measured, on which machine, and how many runs did not fit into its memory."""
    height, width = result["size"]
    lost = sum(chain["status"] != "measured" for case in result["cases"] for chain in case["chains"].values())
    said = [
        f"{result['model']}: fine-tuning through the sampler, {result['batch']} pictures of {height} × {width} pixels,"
        f" {result['dtype']}, guidance {result['guidance_scale']:g}",
        f"{result['machine']}; {result['threads']} threads; {result['date']}",
    ]
    return "\n".join(said + ([f"too big for the memory: {lost} (named in the CSV file)"] if lost else []))


def write_figure(result: dict, png: Path) -> None:
    """Draw a result, PNG only; equal results are equal bytes."""
    style = FigureStyle(width=9.0, height=4.6)
    figure = draw(result, style)
    with house_style(), atomic_path(png) as path:
        figure.savefig(path, format="png", dpi=style.dpi, metadata={"Software": None})


def numbers_of(option: str, text: str) -> list[int]:
    """The numbers of a comma-separated option, ascending.

    Raises:
        UserError: one is no number, or less than 1.
    """
    parts = text.split(",")
    if bad := [part for part in parts if not part.strip().isdecimal() or int(part) < 1]:
        raise UserError(f"{option}: {bad[0]!r} is not allowed; give numbers of 1 or more, separated by commas")
    return sorted({int(part) for part in parts})


def cells_of(steps: str, last: str) -> list[tuple[int, int]]:
    """All (T, K) with K ≤ T.

    Raises:
        UserError: an option has no sense, or no cell is left.
    """
    numbers = numbers_of("--last", last)
    cells = [(t, k) for t in numbers_of("--steps", steps) for k in numbers if k <= t]
    if not cells:
        raise UserError(f"--last: {last} is more than --steps ({steps}); no more steps than all can have a gradient")
    return cells


def work(cells: list[tuple[int, int]]) -> int:
    """Roughly how many calls of the network cells take in a repetition; for the time left.

    Both ways call it T times. Back through frozen weights, a step is worth one more call, and two where it is computed
    again.
    """
    return sum(2 * steps + 3 * last for steps, last in cells)


def line_of(cell: dict) -> str:
    """What a cell's progress line says."""
    parts = []
    for name, chain in cell["chains"].items():
        if chain["status"] != "measured":
            parts.append(f"{name} {chain['status']}")
            continue
        memory = chain.get("allocated", chain["saved"]) / MIB
        times = f"{chain['forward']['low']:.3f} + {chain['backward']['low']:.3f} s"
        parts.append(f"{name} {memory:.1f} MiB, {times}")
    return f"{cell['case']}: {'; '.join(parts)}"


def parsed() -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: an option has no sense.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resources/nano/zimage", help="folder in diffusers' format, or a hub id")
    parser.add_argument("--family", choices=get_args(Model.model_fields["family"].annotation), default="zimage")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; CSV and PNG are written beside it")
    parser.add_argument("--steps", default=STEPS, help="T, comma-separated")
    parser.add_argument("--last", default=LAST, help="K, comma-separated; cells with K > T are left out")
    parser.add_argument("--guidance-scale", type=float, help="the pipeline's own (default: guidance is off)")
    parser.add_argument("--batch", type=int, default=16, help="pictures of a micro-step")
    parser.add_argument("--height", type=int, default=32, help="of the pictures, in pixels")
    parser.add_argument("--width", type=int, default=64, help="of the pictures, in pixels")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of the weights")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions; the fastest counts")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    arguments = parser.parse_args()
    for option in ("batch", "height", "width", "repeats", "threads"):
        if (value := getattr(arguments, option)) < 1:
            raise UserError(f"--{option}: {value} is not allowed; it must be 1 or more")
    if arguments.output.suffix != ".json":
        raise UserError(f"--output: {arguments.output} is not allowed; its name must end with .json")
    return arguments


def main() -> None:
    """Measure every cell; JSON and CSV are written anew after each, the figure at the end."""
    arguments, device = parsed(), default_device()
    cells = cells_of(arguments.steps, arguments.last)
    torch.set_num_threads(arguments.threads)
    size = (arguments.height, arguments.width)
    model = Model(family=arguments.family, path=arguments.model, dtype=arguments.dtype)
    tuning = open_tuning(model, size, arguments.batch, arguments.guidance_scale)
    one_step = bytes_of_one_step(tuning)
    result = {
        "benchmark": "rollout",
        "model": arguments.model,
        "family": arguments.family,
        "size": size,
        "dtype": arguments.dtype,
        "batch": arguments.batch,
        "guidance_scale": tuning.guidance_scale,
        "repeats": arguments.repeats,
        "loss": "mean square of the pixels",
        "trained": sum(weight.numel() for weight in tuning.weights),
        "weight_bytes": sum(weight.nbytes for weight in tuning.networks.parameters()),
        "one_step": one_step,
        **about(device, arguments.threads),
        "cases": [],
    }
    began = time.monotonic()
    for done, (steps, last) in enumerate(cells, 1):
        cell = measure_cell(tuning, steps, last, arguments.repeats, one_step)
        result["cases"].append(cell)
        write_json(arguments.output, result)
        write_text(arguments.output.with_suffix(".csv"), pd.DataFrame(rows_of(result)).to_csv(index=False))
        left = (time.monotonic() - began) * work(cells[done:]) / work(cells[:done])
        print(f"{done}/{len(cells)}  {line_of(cell)}; {left:.0f} s left", flush=True)
    write_figure(result, arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    run_cli(main)

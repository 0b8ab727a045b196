"""Turn the result files of train_step.py and sample.py into docs/PERFORMANCE.md.

python benchmarks/write_performance.py [--results docs/performance] [--output docs/PERFORMANCE.md]
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from legible.errors import UserError, run_cli
from legible.io import write_text

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
GPU_COMMAND = "make benchmarks-gpu"
EVERY = 8  # optimiser steps from one auxiliary loss to the next in the study
KEYS = {
    "benchmark",
    "model",
    "size",
    "dtype",
    "device",
    "machine",
    "versions",
    "command",
    "date",
    "matmul_peak",
    "cases",
}

INTRODUCTION = f"""# Performance

Written by `benchmarks/write_performance.py` from `docs/performance/*.json`; do not edit. Every time is the median of
synchronised runs after warm-up. What is compared ran **in one process, in turn, step by step, on the same model and
samples**, so a ratio holds also where a machine is busy; above 1 means that ours is faster.

*Ours* is the real training code (`legible.train.step.micro_step`, `legible.train.optimizer`). The *reference* is the
recipe of diffusers' example trainer (`examples/dreambooth/train_dreambooth_lora_z_image.py`, defaults): eager, pictures
encoded in every micro-step; with an auxiliary loss it decodes the whole picture (the study's way). Both train the same
parameters in the same precision and with the same checkpointing, and before anything is timed both must compute the
same losses from the same noise. A *micro-step* is a forward and a backward pass. Columns "per micro-step" hold a share
of the optimiser step too, which is the same for both. Floating-point operations are those that are executed
(recomputation counts), of matrix products, convolutions and attention; *share* compares them with the fastest large
matrix product of the same run.

Random weights (`slice`, `full`) have the same speed and memory as trained ones; `benchmarks/models.yaml` says what each
model is. The picture has one line of text, 5/8 of its width; *crop* decodes that region only (`aux.region: crop`).

`slice` has a part of `full`'s layers, but the whole autoencoder, where most of what we save lies: its ratios flatter.
*Scaled to full* therefore stands beside them: the time of the denoiser, forward and backward, is multiplied by how many
operations that of `full` has for each one of the slice's, and all else (autoencoder, CLIP, optimiser step) stays as it
was measured. It is an estimate, not a measurement of `full`; with ≈, the reference's denoiser was not timed apart, and
its time is taken to be its share of the operations of the reference's micro-step.

The whole GPU part comes from one command, on a machine with an H200: `{GPU_COMMAND}`.
"""


@dataclass(frozen=True)
class Goal:
    """A figure that was aimed at, and what was found."""

    text: str
    found: str
    verdict: str  # met, not met or not measured


def judged(text: str, value: float | None, limit: float, unit: str, where: str, at_most: bool) -> Goal:
    """A goal with its verdict; `where` names what `value` was found on."""
    if value is None:
        return Goal(text, "–", "not measured")
    met = value <= limit if at_most else value >= limit
    return Goal(text, f"{value:.3g} {unit} ({where})", "met" if met else "not met")


def measured(results: list[dict], benchmark: str, model: str, method: str = "") -> list[dict]:
    """All measured cases of one benchmark on one model, of one method (lora, full) where it is given."""
    cases = [case for r in results if (r["benchmark"], r["model"]) == (benchmark, model) for case in r["cases"]]
    return [case for case in cases if case["status"] == "measured" and case["case"].startswith(method)]


def seconds(case: dict, kind: str) -> float:
    """Median time of one kind of step."""
    return case["kinds"][kind]["median"]


def denoiser_seconds(case: dict, side: str) -> float:
    """Time of a side's denoiser in a micro-step; ours without an auxiliary loss is nothing else.

    The reference encodes its pictures besides; where it was not timed without, the operations divide its time.
    """
    kinds = case["kinds"]
    if side == "ours":
        return seconds(case, "ours")
    if "reference, denoiser" in kinds:
        return seconds(case, "reference, denoiser")
    return seconds(case, "reference") * kinds["ours"]["flop"] / kinds["reference"]["flop"]


def per_micro_step(case: dict, side: str, every: int | None, layers: float = 1.0) -> float:
    """Seconds per micro-step of a side (ours or reference) with its share of the optimiser step.

    Args:
        every: optimiser steps from one auxiliary loss to the next; None = never.
        layers: how many times as long the denoiser would take: 1 = as measured.
    """
    step = seconds(case, "optimiser step") / case["training"]["accumulation"]
    more = (layers - 1) * denoiser_seconds(case, side)
    without = seconds(case, side)
    if every is None:
        return without + more + step
    with_loss = seconds(case, "ours, aux crop" if side == "ours" else "reference, aux")
    return ((every - 1) * without + with_loss) / every + more + step


def ratio(case: dict, every: int | None, layers: float = 1.0) -> float:
    """How many times faster than the reference."""
    return per_micro_step(case, "reference", every, layers) / per_micro_step(case, "ours", every, layers)


def surcharge(case: dict, layers: float = 1.0) -> float:
    """What the auxiliary loss every 8 steps adds to the time of our micro-steps, as a fraction."""
    without = seconds(case, "ours")
    return (seconds(case, "ours, aux crop") - without) / (EVERY * without * layers)


def layers_of(result: dict) -> float:
    """How much more the denoiser of the whole model computes, where this is a part of one; else 1."""
    return result["scale"]["denoiser"] if result.get("scale") else 1.0


def scaled(case: dict, every: int | None, layers: float) -> str:
    """The ratio of the whole model."""
    about = "" if "reference, denoiser" in case["kinds"] else "≈ "
    return f"{about}{ratio(case, every, layers):.2f} ×"


def peak(case: dict, key: str = "allocated") -> float | None:
    """GiB on the GPU at the highest point of our training with the auxiliary loss on crops; None on a CPU."""
    kinds = ("ours", "ours, aux crop", "optimiser step")
    found = [(case["kinds"][kind]["memory"] or {}).get(key) for kind in kinds]
    return None if None in found else max(found) / GIB


def goals(results: list[dict]) -> list[Goal]:
    """All goals; those for the full model count on an H200 only."""
    on_gpu = [result for result in results if "H200" in result["device"]]
    found = []
    for method, label, most_ms, most_gib in (("lora", "LoRA", 60, 18), ("full", "full fine-tuning", 85, 56)):
        cases = measured(on_gpu, "train_step", "full", method)
        cases = [case for case in cases if not quantised(case)]
        best = min(cases, key=lambda case: seconds(case, "ours"), default=None)
        name = best and f"`{best['case']}`, the fastest"
        for text, value, limit, unit in (
            (f"≤ {most_ms} ms per micro-step at 512²", best and 1000 * seconds(best, "ours"), most_ms, "ms"),
            (f"peak ≤ {most_gib} GiB", best and peak(best), most_gib, "GiB"),
            (f"auxiliary loss every {EVERY} steps ≤ 5 % on top", best and 100 * surcharge(best), 5, "%"),
        ):
            found.append(judged(f"H200: {label}, {text}", value, limit, unit, name, True))
    small = [case for case in measured(on_gpu, "train_step", "full", "lora") if quantised(case)]
    best = min(small, key=peak, default=None)
    where = best and f"`{best['case']}`"
    found.append(judged("H200: LoRA on a quantised base, peak ≤ 12 GiB", best and peak(best), 12, "GiB", where, True))
    for model, every in (("nano", EVERY), ("nano", 1), ("slice", EVERY), ("slice", 1)):
        found.append(against_the_reference(results, model, every))
    return found


def against_the_reference(results: list[dict], model: str, every: int) -> Goal:
    """The goal of the auxiliary loss on a CPU; of a slice, what its best case comes to with all layers counts."""
    results = [r for r in results if (r["device"], r["benchmark"], r["model"]) == ("cpu", "train_step", model)]
    cases = [(case, layers_of(result)) for result in results for case in measured([result], "train_step", model)]
    case, layers = max(cases, key=lambda pair: ratio(pair[0], every, pair[1]), default=(None, 1.0))
    often = f"every {every} steps" if every > 1 else "at every step"
    name = case and f"`{case['case']}`, the best case"
    if layers != 1.0:
        name += f"; an estimate for all layers, {ratio(case, every):.3g} × measured"
    text = f"CPU: {model}, auxiliary loss {often}: ≥ 2 × the reference"
    return judged(text, case and ratio(case, every, layers), 2.0, "×", name, False)


def quantised(case: dict) -> bool:
    """Whether the frozen base is kept in fewer bits."""
    return case["training"].get("quantization", "none") != "none"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def time_of(value: float) -> str:
    """Seconds or milliseconds, three digits."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def not_measured(case: dict, columns: int) -> list[str]:
    """A row that says why there are no figures."""
    return [f"`{case['case']}`", case["status"], *[""] * (columns - 2)]


def training_tables(result: dict) -> str:
    """Speed, then arithmetic and memory, of one result of train_step.py."""
    speed, work, layers = [], [], layers_of(result)
    header, whole = ["case"], result["scale"]["to"] if layers != 1.0 else None
    for often in ("no aux, per micro-step", f"aux every {EVERY}", "aux every step"):
        header += [often, "ratio", *([f"scaled to {whole}"] if whole else [])]
    header += [f"aux every {EVERY} adds", *([f"scaled to {whole}"] if whole else [])]
    for case in result["cases"]:
        if case["status"] != "measured":
            speed.append(not_measured(case, len(header)))
            work.append(not_measured(case, 7))
            continue
        cells = [f"`{case['case']}`"]
        for every in (None, EVERY, 1):
            cells += [time_of(per_micro_step(case, "ours", every)), f"{ratio(case, every):.2f} ×"]
            cells += [scaled(case, every, layers)] if whole else []
        added = (surcharge(case), surcharge(case, layers)) if whole else (surcharge(case),)
        speed.append(cells + [f"{100 * share:.1f} %" for share in added])
        for kind, label in (("ours", "without aux"), ("ours, aux crop", "crop"), ("ours, aux image", "whole picture")):
            row = case["kinds"][kind]
            rate = row["flop"] / row["median"]
            share, memory = rate / result["matmul_peak"], memory_of(row)
            names = [f"`{case['case']}`", label, time_of(row["median"])]
            work.append([*names, f"{row['flop'] / 1e12:.3g}", f"{rate / 1e12:.3g}", f"{100 * share:.0f} %", memory])
        row = case["kinds"]["optimiser step"]
        work.append([f"`{case['case']}`", "optimiser step", time_of(row["median"]), "", "", "", memory_of(row)])
    memory = "kept for the backward pass" if result["device"] == "cpu" else "peak allocated / reserved"
    columns = ["case", "ours", "time", "TFLOP", "TFLOP/s", "share", memory]
    return "\n\n".join([table(header, speed), table(columns, work)])


def memory_of(row: dict) -> str:
    """Bytes of one kind of step, as its device tells them."""
    memory = row["memory"] or {}
    if "saved" in memory:
        return f"{memory['saved'] / GIB:.2f} GiB"
    return f"{memory['allocated'] / GIB:.1f} / {memory['reserved'] / GIB:.1f} GiB" if memory else ""


def sampling_table(result: dict) -> str:
    """One result of sample.py."""
    rows = []
    for case in result["cases"]:
        if case["status"] != "measured":
            rows.append(not_measured(case, 8))
            continue
        kinds, ours = case["kinds"], case["kinds"]["ours"]
        rate = ours["flop"] / ours["median"]
        rows.append(
            [
                f"`{case['case']}`",
                time_of(ours["median"] / case["batch"]),
                f"{kinds['reference']['median'] / ours['median']:.2f} ×",
                time_of(kinds["one step"]["median"]),
                time_of(kinds["decode"]["median"]),
                f"{rate / 1e12:.3g}",
                f"{100 * rate / result['matmul_peak']:.0f} %",
                memory_of(ours),
            ]
        )
    header = ["images per batch", "per image", "ratio to diffusers' pipeline", "one step", "decode", "TFLOP/s", "share"]
    return table([*header, "peak allocated / reserved"], rows)


def makefile_commands(makefile: str) -> dict[str, tuple[str, str]]:
    """Result file → (make's target, command) of the Makefile's benchmarks."""
    target, found = "", {}
    for line in makefile.replace("\\\n", " ").splitlines():
        if named := re.match(r"([\w-]+):", line):
            target = named[1]
        elif line.startswith("\t$(MEASURE) "):
            command = " ".join(["python", *line.split()[1:]])
            if output := re.search(r"--output (\S+)", command):
                found[output[1]] = (target, command)
    return found


def made_by(command: str, makefile: dict[str, tuple[str, str]]) -> str:
    """A sentence: which command made a table, and whether it is the Makefile's."""
    for target, ours in makefile.values():
        if command == ours:
            return f"Made by `make {target}`: `{command}`"
    output = re.search(r"--output (\S+)", command)
    target, ours = makefile.get(output[1] if output else "", ("", ""))
    instead = f" `make {target}` now runs `{ours}`." if target else ""
    return f"**Not made by a command of the Makefile**, but by `{command}`.{instead}"


def section(result: dict, makefile: dict[str, tuple[str, str]]) -> str:
    """Heading, machine, command, versions and tables of one result file."""
    titles = {"train_step": "training step", "sample": "sampling, 8 steps"}
    versions = ", ".join(f"{name} {number}" for name, number in sorted(result["versions"].items()))
    height, width = result["size"]
    parts = [
        f"## {result['model']}: {titles[result['benchmark']]}, {height} × {width} pixels, {result['dtype']}",
        f"{result['machine']}; {result['threads']} threads; matrix products at {result['matmul_peak'] / 1e12:.3g}"
        f" TFLOP/s; batch {result['batch']}; {result['date']}.",
        made_by(result["command"], makefile),
        versions,
    ]
    if result.get("scale"):
        whole, layers = result["scale"]["to"], layers_of(result)
        parts.append(f"The denoiser of `{whole}` computes {layers:.2f} times as much; times here are the slice's own.")
    return "\n\n".join([*parts, (training_tables if result["benchmark"] == "train_step" else sampling_table)(result)])


def page(results: list[dict]) -> str:
    """The whole document."""
    makefile = makefile_commands((ROOT / "Makefile").read_text(encoding="utf-8"))
    rows = [[goal.text, goal.found, f"**{goal.verdict}**"] for goal in goals(results)]
    parts = [INTRODUCTION.rstrip(), "## Goals", table(["goal", "found", ""], rows)]
    if all(result["device"] == "cpu" for result in results):
        parts += ["## GPU", f"Not measured yet: this one command fills it, on a machine with an H200: `{GPU_COMMAND}`."]
    return "\n\n".join([*parts, *(section(result, makefile) for result in results)]) + "\n"


def read_results(folder: Path) -> list[dict]:
    """All result files of a folder, the largest model first.

    Raises:
        UserError: the folder is not there, or a file is no result.
    """
    if not folder.is_dir():
        raise UserError(f"--results: {folder} is no folder; give the one that train_step.py and sample.py wrote to")
    order, results = list(yaml.safe_load((ROOT / "benchmarks" / "models.yaml").read_text(encoding="utf-8"))), []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: not valid JSON ({error}); measure it again") from error
        if not isinstance(result, dict) or KEYS - set(result):
            raise UserError(f"{path}: not a result of train_step.py or sample.py; take it out of the folder")
        if result["model"] not in order:
            raise UserError(
                f"{path}: benchmarks/models.yaml has no model {result['model']!r}; take it out of the folder"
            )
        results.append(result)
    return sorted(results, key=lambda result: (order.index(result["model"]), result["benchmark"] != "train_step"))


def main() -> None:
    """Parse, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "performance")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "PERFORMANCE.md")
    arguments = parser.parse_args()
    write_text(arguments.output, page(read_results(arguments.results)))


if __name__ == "__main__":
    run_cli(main)

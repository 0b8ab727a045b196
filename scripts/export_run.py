"""Copy a run's weights into a folder ready to upload: model card, checksums, a LoRA for ComfyUI, and how it was made.

python scripts/export_run.py --results results/mine --arm ctc --seed 0 --output upload/ctc
"""

import argparse
import shutil
from pathlib import Path

from legible.config import load
from legible.errors import UserError, run_cli
from legible.figures.inputs import read_json
from legible.fingerprint import ROOT
from legible.integrity import check_sums, write_sums
from legible.io import write_text
from legible.models.comfyui import export_lora
from legible.models.opening import LORA
from legible.names import CONTROL, Run
from legible.report.card import card, licence_of
from legible.report.experiment import read_experiment

BESIDE = ("run.json", "metrics.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="results/{experiment}")
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--step", type=int, help="of a snapshot; without: the final weights")
    parser.add_argument("--licence", help="of the weights, as hubs write it; without: that of a well-known base")
    parser.add_argument("--base-model", help="hub id of the base, where it was trained from a local folder")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    arguments = parser.parse_args()
    run, results, output = Run(arguments.arm, arguments.seed, arguments.step), arguments.results, arguments.output
    if output.exists():
        raise UserError(f"--output: {output} is already there; name a new folder")
    config, source = load(results / "config.yaml"), results / run.folder
    about, weights = read_json(source / "run.json", "train"), source / run.weights
    if not weights.is_dir():
        raise UserError(f"{weights}: there are no such weights; train the arm, with this step among its snapshots")
    check_sums(weights)
    at_hub = arguments.base_model or (None if Path(about["model"]["path"]).is_dir() else about["model"]["path"])
    licence = arguments.licence or licence_of(at_hub or about["model"]["path"])
    control = read_json(results / Run(CONTROL, arguments.seed).folder / "run.json", "train")["training"]
    scored = (results / "scores" / "summary.csv").is_file()

    partial = output.with_name(f".{output.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(weights, partial, ignore=shutil.ignore_patterns(".snakemake_timestamp"))
        for name in BESIDE:
            shutil.copyfile(source / name, partial / name)
        shutil.copyfile(results / "config.yaml", partial / "config.yaml")
        if licence == "apache-2.0":
            shutil.copyfile(ROOT / "LICENSE", partial / "LICENSE")
        experiment = read_experiment(results, config) if scored else None
        page = card(run, about, weights, config, control, licence, at_hub, experiment)
        write_text(partial / "README.md", page)
        if (weights / LORA).is_file() and not list(weights.glob("*_lora")):
            model = config.model.model_copy(update={"path": str(weights), "device": "cpu"})
            export_lora(model, weights, partial / "comfyui" / f"{config.experiment}-{run}.safetensors")
        write_sums(partial)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{output}: {sum(path.is_file() for path in output.rglob('*'))} files; look at README.md, then upload it")


if __name__ == "__main__":
    run_cli(main)

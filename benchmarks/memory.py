"""What training and sampling take on a GPU, model by model, in their true sizes: the pre-flight's sums, nothing else.

No weights are needed and nothing is computed: the models are built of imagined tensors (legible/train/preflight.py).
A micro-step sees one picture of the size that the model is made for, in bfloat16, with denoiser and decoder computed
twice: LoRA of rank 16 without an auxiliary loss and with `ctc` on the whole picture, on a base in few bits too; or all
weights in bfloat16 with 8-bit moments.
"""

import argparse
import tempfile
from pathlib import Path

import pandas as pd
import yaml
from subjects import write_configs

from legible.config import Model, Training
from legible.errors import run_cli
from legible.io import write_text
from legible.models.family import empty_model
from legible.progress import progress
from legible.train.preflight import GIB, count, plan

ARCHITECTURES = Path(__file__).parent / "architectures.yaml"
AUX = {"loss": "ctc", "lambda": 0.2, "every": 8, "measure_every": 0}
TWICE = {"batch_size": 1, "accumulation": 16, "gradient_checkpointing": ["denoiser", "decoder"]}
LORA = {"method": "lora", "lora": {"rank": 16, "alpha": 16.0}}
METHODS = {
    "lora_without_aux": LORA,
    "lora": LORA | {"aux": AUX},
    "lora_int8": LORA | {"quantization": "int8", "aux": AUX},
    "lora_nf4": LORA | {"quantization": "nf4", "aux": AUX},
    "full": {"weights": "bfloat16", "optimizer": "adamw_8bit", "aux": AUX},
}


def architectures() -> dict[str, dict]:
    """The entries of architectures.yaml."""
    return yaml.safe_load(ARCHITECTURES.read_text(encoding="utf-8"))


def imagined_model(entry: dict, folder: Path) -> Model:
    """A folder with configurations and no weights."""
    place = write_configs(folder, entry["components"])
    return Model(family=entry["family"], path=str(place), dtype="bfloat16", max_sequence_length=entry["tokens"])


def measure(name: str, entry: dict, folder: Path) -> dict:
    """One row: parameters, and GiB of each phase."""
    model = imagined_model(entry, folder)
    opened = empty_model(model)
    size = opened.latent_shape(*entry["size"])[1:]
    row = {
        "model": name,
        "pixels": "x".join(map(str, entry["size"])),
        "denoiser_parameters": count(opened.module("denoiser")),
        "text_parameters": sum(count(opened.module(part)) for part in opened.spec.text_encoders),
    }
    for method, settings in METHODS.items():
        phases = {phase.name: phase.total for phase in plan(model, Training.model_validate(TWICE | settings), *size)}
        row |= {f"{method}_gib": round(phases["training"] / GIB, 1)}
    return row | {f"{phase}_gib": round(phases[phase] / GIB, 1) for phase in ("captions", "sampling")}


def main() -> None:
    """Parse, plan, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=tuple(architectures()), default=list(architectures()))
    parser.add_argument("--output", type=Path, required=True, help="CSV file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        chosen = progress(arguments.models, "memory", total=len(arguments.models))
        rows = [measure(name, architectures()[name], Path(folder) / name) for name in chosen]
    table = pd.DataFrame(rows)
    write_text(arguments.output, table.to_csv(index=False, lineterminator="\n"))
    print(table.to_string(index=False))


if __name__ == "__main__":
    run_cli(main)

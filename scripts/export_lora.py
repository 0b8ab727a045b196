"""Write a run's LoRA as one file for ComfyUI; diffusers takes the run's own file as it is.

python scripts/export_lora.py --weights results/mine/runs/ctc/seed0/weights --family flux --output ctc.safetensors
"""

import argparse
from pathlib import Path
from typing import get_args

from legible.config import Model
from legible.config.model import Family
from legible.errors import run_cli
from legible.models.comfyui import export_lora


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="the weights folder of a run with method: lora")
    parser.add_argument("--family", choices=get_args(Family), required=True, help="of the model that was tuned")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    model = Model(family=arguments.family, path=str(arguments.weights), device="cpu")
    print(f"{arguments.output}: {export_lora(model, arguments.weights, arguments.output)} tensors")


if __name__ == "__main__":
    run_cli(main)

"""Make a weights folder, as a run leaves it, of a text encoder that others published as a torch file.

    python scripts/import_encoder.py --file tc_text_e_0_iter_10000.pth --model models/stable-diffusion-v1-5 \
        --output models/textcraftor

The folder is what `--weights` of generate_images.py, mix_encoders.py and transplant_encoder.py takes.
"""

import argparse
from pathlib import Path

from legible.config import Model, Training
from legible.errors import UserError, run_cli
from legible.models.family import open_model
from legible.models.published_encoder import encoder_weights, read_published
from legible.train.adapters import keep_weights

PART = "text_encoder"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--file", type=Path, required=True, help="a state dict of a CLIPTextModel, .pth or .safetensors"
    )
    parser.add_argument("--model", required=True, help="folder of the Stable Diffusion whose text encoder was tuned")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it may not be there yet")
    parser.add_argument("--sha256", help="what the file must have")
    arguments = parser.parse_args()
    if arguments.output.exists():
        raise UserError(f"--output: {arguments.output} is already there; name a new folder")
    found = read_published(arguments.file, arguments.sha256)
    model = open_model(Model(family="stable_diffusion", path=arguments.model, device="cpu"), ("text",))
    weights = encoder_weights(found, dict(model.module(PART).named_parameters()), str(arguments.file))
    training = Training(parts=(PART,))  # whose weights are such a folder
    keep_weights(model, {f"{PART}.{name}": value for name, value in weights.items()}, training, arguments.output)


if __name__ == "__main__":
    run_cli(main)

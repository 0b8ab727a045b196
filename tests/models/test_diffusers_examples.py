"""The examples of docs/ZIMAGE.md: tuned weights in plain diffusers, without this project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from legible.config import Model, Training
from legible.models.family import open_model
from legible.train.adapters import save_weights, select_parameters

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ZIMAGE.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^```python file=(\S+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))
NANO = Model(path=str(ROOT / "resources" / "nano" / "zimage"))


def picture(script: str, folder: Path) -> bytes:
    """The pixels of what the example draws in `folder`; it must not need this project's code."""
    (folder / "resources").symlink_to(ROOT / "resources")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=True, timeout=600)
    image = Image.open(folder / "open.png")
    assert image.size == (64, 32)
    return image.tobytes()


CASES = [
    ("use_lora.py", "lora", "lora", "denoiser"),
    ("use_full.py", "ctc", "full", "denoiser"),
    ("use_text_encoder.py", "reading", "full", "text_encoder"),
    ("use_text_encoder_lora.py", "reading_lora", "lora", "text_encoder"),
]


def test_every_example_is_run():
    assert EXAMPLES.keys() == {name for name, *_ in CASES}


@pytest.mark.parametrize(("name", "run", "method", "part"), CASES, ids=[name for name, *_ in CASES])
def test_an_example_draws_with_the_tuned_weights(name, run, method, part, tmp_path):
    training = Training.model_validate({"method": method, "parts": [part]})
    drawn = []
    for shift in (0.0, 0.05):  # as they are, and moved: the example must see the difference
        model, folder = open_model(NANO, ("denoiser", "text")), tmp_path / str(shift)
        chosen = select_parameters(model, training, 0)
        with torch.no_grad():
            for parameter in chosen.values():
                parameter += shift
        save_weights(model, {}, training, folder / "results" / "mine" / "runs" / run / "seed0" / "weights")
        drawn.append(picture(EXAMPLES[name], folder))
    assert drawn[0] != drawn[1]

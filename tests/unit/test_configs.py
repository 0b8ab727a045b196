"""The shipped overlays: each is a valid experiment and says how it is run."""

import re
from pathlib import Path

import pytest
import yaml

from legible.config import merge, validate

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_is_a_valid_experiment_and_says_how_it_is_run(path):
    command = re.search(r"--configfile((?: configs/\w+\.yaml)+)", path.read_text(encoding="utf-8"))
    assert command
    assert path.name in command[1]
    merged = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for overlay in command[1].split():  # some are laid over another one
        merged = merge(merged, yaml.safe_load((ROOT / overlay).read_text(encoding="utf-8")))
    config = validate(merged, str(path))
    for name in config.regimes:
        config.regime(name)
    for name in config.arms:
        config.arm(name)

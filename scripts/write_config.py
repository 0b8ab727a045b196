"""Write the merged, validated configuration of an experiment as YAML."""

import argparse

import yaml

from legible.config import raw_sections, validate
from legible.errors import run_cli
from legible.io import write_text


def main() -> None:
    """Parse, validate once more, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="the whole configuration as JSON")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    config = validate(raw_sections(arguments.config), "--config")
    plain = config.model_dump(mode="json", by_alias=True)
    write_text(arguments.output, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    run_cli(main)

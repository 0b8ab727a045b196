"""Draw a picture of each script for the figure of the dataset."""

import argparse
from pathlib import Path

from legible.errors import run_cli
from legible.render.showcase import write_showcase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="Parquet, a row a picture")
    write_showcase(parser.parse_args().output)


if __name__ == "__main__":
    run_cli(main)

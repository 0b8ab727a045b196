"""Write the SHA-256 of every file below a folder into its SHA256SUMS; `sha256sum --check SHA256SUMS` reads it, too.

python scripts/write_checksums.py resources/nano
"""

import argparse
from pathlib import Path

from legible.errors import UserError, run_cli
from legible.integrity import SUMS, write_sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    for folder in parser.parse_args().folder:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder")
        print(f"{folder / SUMS}: {write_sums(folder)} files")


if __name__ == "__main__":
    run_cli(main)

"""Measure what each judge gets wrong on clean lines of each script, and say which may judge what."""

import argparse
import csv
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from legible.config import Ocr
from legible.config.scripts import known, script_called
from legible.errors import UserError, describe, run_cli
from legible.io import atomic_path
from legible.ocr import open_engine
from legible.ocr.calibration import LIMIT, Calibrated, calibrate, fit_for
from legible.progress import progress


def rows_of(names: list[str], sizes: list[int], count: int, cache: Path) -> list[Calibrated]:
    """Every judge of every script; a judge that is not installed is named and left out."""
    rows: list[Calibrated] = []
    todo = [(name, engine, entry) for name in names for engine, entry in script_called(name).judges.items()]
    for name, engine, entry in progress(todo, "calibrate", len(todo), "judge of a script"):
        try:
            section = getattr(Ocr.model_validate({engine: entry.settings}), engine)
            rows += calibrate(open_engine(engine, section, cache), name, sizes, count, entry)
        except ValidationError as error:
            raise UserError(f"resources/scripts.yaml: scripts.{name}.judges: {describe(error)}") from error
        except UserError as error:
            print(f"{name}: {engine} is left out: {error}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scripts", nargs="+", default=list(known().scripts))
    parser.add_argument("--sizes", type=int, nargs="+", default=[24, 40], help="pixels to the em")
    parser.add_argument("--count", type=int, default=30, help="lines of each kind, font and size")
    parser.add_argument("--cache", type=Path, default=Path("results"), help="where engines may write")
    parser.add_argument("--output", required=True, help="CSV")
    args = parser.parse_args()

    rows = rows_of(args.scripts, args.sizes, args.count, args.cache)
    if not rows:
        raise UserError("no judge could be opened")
    with atomic_path(args.output) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(rows[0]), "cer"])
        writer.writeheader()
        writer.writerows(asdict(row) | {"cer": round(row.cer, 4)} for row in rows)
    for name, engine in dict.fromkeys((row.script, row.engine) for row in rows):
        try:
            places = ", ".join(f"{font} {size}" for font, size in fit_for(rows, name, engine))
            print(f"{name}: {engine} may judge {places} (CER of words and phrases at most {LIMIT})")
        except UserError as error:
            print(f"{name}: {error}")


if __name__ == "__main__":
    run_cli(main)

"""Draw the panel of damaged letters and measure which damage each judge overlooks."""

import argparse
from pathlib import Path

import pandas as pd

from legible.config import GLYPH_JUDGE, Ocr, sections
from legible.errors import run_cli
from legible.metrics.files import write_csv
from legible.ocr import open_engine
from legible.ocr.glyphs import open_glyph_judge
from legible.ocr.panel import calls_well_formed, overlooked, panel, reads_target
from legible.progress import progress
from legible.render.fonts import read_manifest, select_fonts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--config", required=True, help="JSON with calibration, data, ocr and perhaps glyph_judge (inline or a file)"
    )
    parser.add_argument("--fonts", required=True, help="font manifest of inspect_fonts.py")
    parser.add_argument("--cache", required=True, type=Path, help="folder for files that engines have to write")
    parser.add_argument("--output", required=True, type=Path, help="CSV: share of pictures that pass, per judge")
    args = parser.parse_args()

    config = sections(args.config, "calibration", "data", "ocr")
    settings, ocr = config["calibration"], config["ocr"]
    fonts = select_fonts(read_manifest(args.fonts), settings.fonts)
    pictures = list(progress(panel(settings, config["data"], fonts), "panel", unit="picture"))
    engines = {name: section for name in Ocr.model_fields if (section := getattr(ocr, name)) is not None}
    tables = []
    for name, section in progress(sorted(engines.items()), "calibrate", unit="judge"):
        sees = reads_target(open_engine(name, section, args.cache / name))
        tables.append(overlooked(pictures, name, sees))
    if judge := config.get("glyph_judge"):
        tables.append(overlooked(pictures, GLYPH_JUDGE, calls_well_formed(open_glyph_judge(judge.path))))
    table = pd.concat(tables, ignore_index=True)
    write_csv(args.output, table)
    shown = table.groupby(["kind", "severity", "judge"])["share"].mean().unstack("judge")
    print(shown.to_string(float_format="%.2f"))


if __name__ == "__main__":
    run_cli(main)

"""Score OCR readings against the targets of their prompts: one row per image and engine, and a summary with intervals.

Model, prompt set and engine are read from the paths: …/images/{model}/{prompt_set}/manifest.jsonl and
…/ocr/{engine}/{model}/{prompt_set}.jsonl.
"""

import argparse
import json
from pathlib import Path

import pandas as pd

from legible.config import raw_sections, sections
from legible.errors import UserError, run_cli
from legible.io import atomic_path, read_jsonl, write_text
from legible.metrics.scores import check_complete, score_images
from legible.metrics.summary import by_training_seed, summarise


def read_config(text: str) -> dict:
    """The sections scoring, arms and seeds; of the arms only the names matter, so a list of them is enough."""
    raw = raw_sections(text)
    if isinstance(raw.get("arms"), list) and all(isinstance(name, str) for name in raw["arms"]):
        raw["arms"] = {name: {} for name in raw["arms"]}
    return sections(json.dumps(raw), "scoring", "arms", "seeds")


def read_rows(path: Path) -> list[dict]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return read_jsonl(path)


def image_key(path: Path) -> tuple[str, str]:
    """(model, prompt set) of a manifest's path."""
    if len(path.parts) < 4 or path.parts[-4] != "images" or path.name != "manifest.jsonl":
        raise UserError(f"{path}: a path ending in images/{{model}}/{{prompt_set}}/manifest.jsonl is needed")
    return path.parts[-3], path.parts[-2]


def reading_key(path: Path) -> tuple[str, str, str]:
    """(engine, model, prompt set) of a readings file's path."""
    if len(path.parts) < 4 or path.parts[-4] != "ocr" or path.suffix != ".jsonl":
        raise UserError(f"{path}: a path ending in ocr/{{engine}}/{{model}}/{{prompt_set}}.jsonl is needed")
    return path.parts[-3], path.parts[-2], path.stem


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with scoring, arms and seeds")
    parser.add_argument("--images", required=True, nargs="+", type=Path, help="manifests of images")
    parser.add_argument("--readings", required=True, nargs="+", type=Path, help="files of scripts/read_images.py")
    parser.add_argument("--output-dir", required=True, type=Path, help="for scores.parquet, summary.csv, seeds.csv")
    args = parser.parse_args()

    config = read_config(args.config)
    manifests = {image_key(path): read_rows(path) for path in args.images}
    readings = {reading_key(path): read_rows(path) for path in args.readings}
    scores = score_images(manifests, readings, config["scoring"])
    check_complete(scores, list(config["arms"]), config["seeds"])
    summary, seeds = summarise(scores, config["scoring"]), by_training_seed(scores)
    with atomic_path(args.output_dir / "scores.parquet") as path:
        scores.to_parquet(path, index=False)
    write_csv(args.output_dir / "summary.csv", summary)
    write_csv(args.output_dir / "seeds.csv", seeds)
    shown = summary[(summary["stratum"] == "all") & (summary["metric"].isin(["cer_micro", "exact"]))]
    print(shown[["prompt_set", "engine", "arm", "metric", "value", "delta_vs_control"]].to_string(index=False))


if __name__ == "__main__":
    run_cli(main)

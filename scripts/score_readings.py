"""Score OCR readings against the targets of their prompts: one row per image and engine, and a summary with intervals.

Model, prompt set and engine are read from the paths: …/images/{model}/{prompt_set} and
…/ocr/{engine}/{model}/{prompt_set}.jsonl.
"""

import argparse
from pathlib import Path

from legible.errors import run_cli
from legible.io import atomic_path
from legible.manifests import manifest_in
from legible.metrics.characters import character_errors
from legible.metrics.files import image_key, read_config, read_rows, reading_key, write_csv
from legible.metrics.scores import check_complete, score_images
from legible.metrics.summary import by_training_seed, summarise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with scoring, arms and seeds")
    parser.add_argument("--images", required=True, nargs="+", type=manifest_in, help="folders of pictures")
    parser.add_argument("--readings", required=True, nargs="+", type=Path, help="files of scripts/read_images.py")
    parser.add_argument("--output-dir", required=True, type=Path, help="for scores.parquet and the tables")
    args = parser.parse_args()

    config = read_config(args.config, "scoring", "arms", "seeds")
    manifests = {image_key(path): read_rows(path) for path in args.images}
    readings = {reading_key(path): read_rows(path) for path in args.readings}
    scores = score_images(manifests, readings, config["scoring"])
    check_complete(scores, list(config["arms"]), config["seeds"])
    summary, seeds = summarise(scores, config["scoring"]), by_training_seed(scores)
    with atomic_path(args.output_dir / "scores.parquet") as path:
        scores.to_parquet(path, index=False)
    write_csv(args.output_dir / "summary.csv", summary)
    write_csv(args.output_dir / "seeds.csv", seeds)
    write_csv(args.output_dir / "characters.csv", character_errors(scores, config["scoring"].normalization))
    shown = summary[(summary["stratum"] == "all") & (summary["metric"].isin(["cer_micro", "exact"]))]
    print(shown[["prompt_set", "engine", "arm", "metric", "value", "delta_vs_control"]].to_string(index=False))


if __name__ == "__main__":
    run_cli(main)

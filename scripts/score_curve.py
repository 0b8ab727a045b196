"""Learning curves: the character error rate of every snapshot of a training, against the control at the same step.

Snapshots are called {arm}-seed{n}-step{k}; a curve begins with the base model (step 0) and ends with the finished run
{arm}-seed{n}. Arms without a snapshot are left out, but for the control. Models are read from the paths, as in
scripts/score_readings.py.
"""

import argparse
from pathlib import Path

from legible.errors import run_cli
from legible.manifests import manifest_in
from legible.metrics.curve import learning_curve, read_times, steps_to_levels
from legible.metrics.files import image_key, read_config, read_rows, reading_key, write_csv
from legible.metrics.timing import read_timing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with scoring, arms and seeds")
    parser.add_argument("--images", required=True, nargs="+", type=manifest_in, help="folders of pictures")
    parser.add_argument("--readings", required=True, nargs="+", type=Path, help="files of scripts/read_images.py")
    parser.add_argument("--runs", required=True, nargs="+", type=Path, help="run.json files; metrics.jsonl beside them")
    parser.add_argument("--timing", type=Path, help="timing.csv: count its seconds per step, not those of the runs")
    parser.add_argument("--output", required=True, type=Path, help="curve.csv")
    parser.add_argument("--levels", nargs="*", type=float, default=[], help="error rates, to say when each is reached")
    parser.add_argument("--reached", type=Path, help="CSV: when; needs --levels")
    args = parser.parse_args()

    config = read_config(args.config, "scoring", "arms", "seeds")
    manifests = {image_key(path): read_rows(path) for path in args.images}
    readings = {reading_key(path): read_rows(path) for path in args.readings}
    times, timing = read_times(args.runs), read_timing(args.timing) if args.timing else None
    arms, seeds = list(config["arms"]), config["seeds"]
    curve = learning_curve(manifests, readings, times, config["scoring"], arms, seeds, timing)
    write_csv(args.output, curve)
    if args.reached:
        write_csv(args.reached, steps_to_levels(curve, args.levels))


if __name__ == "__main__":
    run_cli(main)

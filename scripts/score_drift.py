"""Image drift: how far every arm has moved the images of prompts without text away from the base model's.

The scale is the row `base_other_seed`: the base model's images against its own of the same prompt under the next image
seed. Models are read from the paths: …/images/{model}/{prompt_set}.
"""

import argparse
from pathlib import Path

import torch

from legible.errors import UserError, run_cli
from legible.io import atomic_path
from legible.manifests import manifest_in
from legible.metrics.distances import measure_drift, next_seed
from legible.metrics.drift import by_prompt, drift_table
from legible.metrics.features import clip_features, read_images
from legible.metrics.files import image_key, read_config, write_csv
from legible.models.clip import open_clip_model
from legible.names import BASE, CONTROL, Run
from legible.progress import progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with scoring, clip, arms and seeds")
    parser.add_argument(
        "--images", required=True, nargs="+", type=manifest_in, help="pictures of base and of every run"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help="drift.csv; drift_by_prompt.parquet stands beside it"
    )
    args = parser.parse_args()

    config = read_config(args.config, "scoring", "clip", "arms", "seeds")
    scoring, arms = config["scoring"], list(config["arms"])
    manifests = {image_key(path)[0]: path for path in args.images}
    runs = [Run(arm, seed) for arm in arms for seed in config["seeds"]]
    expected = [BASE, *map(str, runs)]
    prompt_sets = sorted({image_key(path)[1] for path in args.images})
    if len(prompt_sets) > 1 or len(manifests) < len(args.images):
        raise UserError(f"--images: one prompt set and one manifest per model are needed, got {', '.join(prompt_sets)}")
    if CONTROL not in arms:
        raise UserError(f"arms: {CONTROL} is missing: every claim is measured against it")
    if wrong := sorted(set(expected) ^ set(manifests)):
        why = "are missing; generate them first" if wrong[0] in expected else "belong to no configured arm and seed"
        raise UserError(f"--images: images of {wrong[0]} {why}")

    clip = open_clip_model(config["clip"], torch.device("cpu"))
    keys, base = read_images(manifests[BASE])
    base_features, drifts = clip_features(clip, base), {}
    for run in progress(runs, "drift", unit="model"):
        own, images = read_images(manifests[str(run)])
        if own != keys or images.shape != base.shape:
            raise UserError(f"{manifests[str(run)]}: the prompts, image seeds and image size of {BASE} are needed")
        features = clip_features(clip, images)
        drifts[run.arm, run.seed] = measure_drift(images, features, base, base_features, keys)
    unrelated = None
    if len({seed for _, seed in keys}) > 1:
        other = next_seed(keys)
        unrelated = measure_drift(base, base_features, base[other], base_features[other], keys)
    table = drift_table(drifts, unrelated, prompt_sets[0], len(keys), scoring)
    write_csv(args.output, table)
    with atomic_path(args.output.with_name("drift_by_prompt.parquet")) as path:
        by_prompt(drifts, prompt_sets[0]).to_parquet(path, index=False)
    print(table[["arm", "metric", "value", "delta_vs_control"]].to_string(index=False))


if __name__ == "__main__":
    run_cli(main)

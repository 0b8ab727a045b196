"""Image drift: how far every arm has moved the images of prompts without text away from the base model's.

The scale is the row `base_other_seed`: the base model's images against its own of the same prompt under the next image
seed. Models are read from the paths: …/images/{model}/{prompt_set}/manifest.jsonl.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from legible.errors import UserError, run_cli
from legible.io import atomic_path
from legible.metrics.drift import by_prompt, drift_rows, drift_weights, measure_drift
from legible.metrics.files import image_key, open_image, read_config, read_rows, write_csv
from legible.metrics.scores import BASE, CONTROL
from legible.models.clip import OpenedClip, open_clip_model
from legible.progress import progress

BATCH = 64
Key = tuple[str, int]


def read_images(manifest: Path) -> tuple[list[Key], np.ndarray]:
    """(prompt id, image seed), sorted, and the images, uint8 [N, H, W, 3], that a manifest lists."""
    listed = read_rows(manifest)
    rows = {(row["prompt_id"], row["image_seed"]): row for row in listed}
    keys = sorted(rows)
    if len(keys) < len(listed) or not keys:
        raise UserError(f"{manifest}: one image per prompt and image seed is needed, got {len(listed)} rows")
    # A manifest's file name is data: only the folder's own files are read.
    files = [(manifest.parent / Path(rows[key]["file"]).name, rows[key].get("sha256")) for key in keys]
    images = [np.asarray(open_image(*file).convert("RGB")) for file in files]
    if len({image.shape for image in images}) > 1:
        raise UserError(f"{manifest}: images of one size are needed")
    return keys, np.stack(images)


def clip_features(clip: OpenedClip, images: np.ndarray) -> np.ndarray:
    """Features [N, D] of the image tower, not normalised; images uint8 [N, H, W, 3] are resized to its input."""
    height, width = clip.size
    resized = [np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BICUBIC)) for i in images]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        parts = [clip.model.encode_image((part - clip.mean) / clip.std) for part in pixels.split(BATCH)]
    return torch.cat(parts).double().numpy()


def next_seed(keys: list[Key]) -> list[int]:
    """For every image the index of the same prompt's image under the next image seed, cyclically."""
    seeds = sorted({seed for _, seed in keys})
    following = dict(zip(seeds, [*seeds[1:], seeds[0]], strict=True))
    place = {key: number for number, key in enumerate(keys)}
    if missing := [(prompt, following[seed]) for prompt, seed in keys if (prompt, following[seed]) not in place]:
        raise UserError(f"base: the image of {missing[0][0]} under seed {missing[0][1]} is missing; generate it first")
    return [place[prompt, following[seed]] for prompt, seed in keys]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON (inline or a file) with scoring, clip, arms and seeds")
    parser.add_argument("--images", required=True, nargs="+", type=Path, help="manifests of base and of every run")
    parser.add_argument(
        "--output", required=True, type=Path, help="drift.csv; drift_by_prompt.parquet stands beside it"
    )
    args = parser.parse_args()

    config = read_config(args.config, "scoring", "clip", "arms", "seeds")
    scoring, arms = config["scoring"], list(config["arms"])
    manifests = {image_key(path)[0]: path for path in args.images}
    expected = [BASE, *(f"{arm}-seed{seed}" for arm in arms for seed in config["seeds"])]
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
    for model in progress(expected[1:], "drift", unit="model"):
        own, images = read_images(manifests[model])
        if own != keys or images.shape != base.shape:
            raise UserError(f"{manifests[model]}: the prompts, image seeds and image size of {BASE} are needed")
        drifts[model] = measure_drift(images, clip_features(clip, images), base, base_features, keys)

    prompts, image_seeds = ({key[i] for key in keys} for i in (0, 1))
    weights = drift_weights(scoring, prompt_sets[0], len(prompts))
    runs = {arm: [drifts[f"{arm}-seed{seed}"] for seed in config["seeds"]] for arm in arms}
    rows = []
    for arm in arms:
        counts = {"n_images": len(keys) * len(runs[arm]), "n_training_seeds": len(runs[arm])}
        measured = drift_rows(runs[arm], None if arm == CONTROL else runs[CONTROL], weights, scoring.confidence)
        rows += [{"arm": arm} | row | {"n_prompts": len(prompts)} | counts for row in measured]
    if len(image_seeds) > 1:
        other = next_seed(keys)
        unrelated = measure_drift(base, base_features, base[other], base_features[other], keys)
        counts = {"n_prompts": len(prompts), "n_images": len(keys), "n_training_seeds": 0}
        measured = drift_rows([unrelated], None, weights, scoring.confidence)
        rows += [{"arm": "base_other_seed"} | row | counts for row in measured]
    write_csv(args.output, pd.DataFrame(rows))
    trained = {(arm, seed): drifts[f"{arm}-seed{seed}"] for arm in arms for seed in config["seeds"]}
    table = by_prompt(trained, prompt_sets[0])
    with atomic_path(args.output.with_name("drift_by_prompt.parquet")) as path:
        table.to_parquet(path, index=False)
    print(pd.DataFrame(rows)[["arm", "metric", "value", "delta_vs_control"]].to_string(index=False))


if __name__ == "__main__":
    run_cli(main)

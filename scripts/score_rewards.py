"""Score the drawn pictures by rewards, whether or not an arm was trained by them, and by what guards against cheating.

Columns: the configured rewards; `likelihood`, the reader's alone, without the penalty for extra text; `…_unseen`, both
by the EasyOCR judge's network, which no arm listens to; colour entropy, edge density, and the distance to the pictures
of other prompts. Models are read from the paths: …/images/{model}/{prompt_set}.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from legible.config import Reader, Reward, Training, critics_of, sections
from legible.errors import run_cli
from legible.io import atomic_path
from legible.losses.auxiliary import open_critics
from legible.manifests import manifest_in
from legible.metrics.compare import own_control
from legible.metrics.features import BATCH, read_images
from legible.metrics.files import image_key, read_config, read_rows, write_csv
from legible.metrics.pictures import colour_entropy, distance_to_others, edge_density
from legible.metrics.rewards import IDENTITY, reward_table
from legible.names import CONTROL, arm_and_seed
from legible.progress import progress
from legible.rewards.reward import RewardFunction, build_rewards


def open_rewards(text: str, names: list[str], unseen: Reader | None, cache: Path) -> dict[str, RewardFunction]:
    """Every reward by the name of its column."""
    critics = open_critics(critics_of(names), sections(text, *critics_of(names)), cache, torch.device("cpu"))
    settings = Reward(weights=dict.fromkeys(names, 1.0), clip_text="frozen")
    found, alone = build_rewards(settings, critics, None), Reward(weights={"reading": 1.0}, extra_text=0.0)
    if "reading" in names:
        found["likelihood"] = build_rewards(alone, critics, None)["reading"]
        if unseen:
            other = open_critics(["reader"], {"reader": unseen}, cache / "unseen", torch.device("cpu"))
            found["reading_unseen"] = build_rewards(Reward(weights={"reading": 1.0}), other, None)["reading"]
            found["likelihood_unseen"] = build_rewards(alone, other, None)["reading"]
    return found


@torch.no_grad()
def score_manifest(path: Path, rewards: dict[str, RewardFunction]) -> pd.DataFrame:
    """One row a picture of a manifest."""
    model, prompt_set = image_key(path)
    arm, seed = arm_and_seed(model)
    keys, images = read_images(path)
    asked = {row["prompt_id"]: row["prompt"] for row in read_rows(path)}
    prompts = [asked[prompt] for prompt, _ in keys]
    table = pd.DataFrame(keys, columns=["prompt_id", "image_seed"]).assign(
        arm=arm, training_seed=pd.array([seed] * len(keys), dtype="Int64"), prompt_set=prompt_set
    )[IDENTITY]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    for name, reward in rewards.items():
        parts = [reward(pixels[i : i + BATCH], prompts[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
        table[name] = torch.cat(parts).double().numpy()
    table["colour_entropy"], table["edge_density"] = colour_entropy(images), edge_density(images)
    others = np.empty(len(images))
    for image_seed in table["image_seed"].unique():
        own = (table["image_seed"] == image_seed).to_numpy()
        others[own] = distance_to_others(images[own])
    return table.assign(distance_to_others=others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="JSON with scoring and the rewards' own sections")
    parser.add_argument("--trainings", required=True, help="JSON: arm → its training section, without defaults")
    parser.add_argument("--rewards", required=True, nargs="+", help="names of rewards")
    parser.add_argument("--unseen", help="JSON of a reader that no arm listens to, as the section `reader`")
    parser.add_argument(
        "--images", required=True, nargs="+", type=manifest_in, help="pictures of base and of every run"
    )
    parser.add_argument("--cache", required=True, type=Path, help="folder for files that have to be written to open")
    parser.add_argument("--output", required=True, type=Path, help="rewards.csv; rewards_by_picture.parquet beside it")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = read_config(args.config, "scoring")
    unseen = Reader.model_validate_json(args.unseen) if args.unseen else None
    rewards = open_rewards(args.config, args.rewards, unseen, args.cache)
    tables = [score_manifest(path, rewards) for path in progress(args.images, "rewards", unit="image set")]
    pictures = pd.concat(tables, ignore_index=True)
    trainings = {arm: Training.model_validate(own) for arm, own in json.loads(args.trainings).items()}
    trainings = {arm: own.model_dump(mode="json", by_alias=True) for arm, own in trainings.items()}
    controls = {arm: own_control(arm, trainings).name for arm in trainings if arm != CONTROL}
    table = reward_table(pictures, controls, config["scoring"])
    with atomic_path(args.output.with_name("rewards_by_picture.parquet")) as path:
        pictures.to_parquet(path, index=False)
    write_csv(args.output, table)
    print(table[["prompt_set", "arm", "metric", "value", "delta_vs_control", "win_rate"]].to_string(index=False))


if __name__ == "__main__":
    run_cli(main)

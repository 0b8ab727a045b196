"""Fine-tune one arm with one seed; resumes from its checkpoint after any interruption."""

import argparse
import shutil
from contextlib import nullcontext
from pathlib import Path

from legible.config import critics_of, sections
from legible.errors import run_cli
from legible.io import atomic_path, file_hashes, read_jsonl, write_json
from legible.losses.auxiliary import open_aux_loss, open_critics
from legible.models.family import open_model
from legible.models.hub import pinned_sections, sources
from legible.models.opening import choose_device
from legible.names import Run
from legible.provenance import decides_training, environment, peak_memory_bytes
from legible.rewards.reward import build_rewards
from legible.tensors import load_tensors
from legible.train.adapters import keep_weights
from legible.train.anchor import open_reference
from legible.train.budget import Clock
from legible.train.checkpoint import alone_in, stop_requests
from legible.train.data import load_training_data
from legible.train.group import join_group
from legible.train.key import run_key, used_files
from legible.train.log import share_at_bound, steps_of, times
from legible.train.loop import train
from legible.train.optimizer import changed_fraction, sample_weights
from legible.train.preflight import check_memory, free_bytes, plan, settle_checkpointing
from legible.train.prepare import data_from, open_for_training, open_watched, tracking
from legible.train.reward import tuned_encoder
from legible.train.session import Place, Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON: model, clip, reader, training, generation")
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--reader-cache", type=Path, default=Path("results/cache/ocr/reader"), help="the network's")
    parser.add_argument("--segmenter", type=Path, help="latent segmenter of the char_segmentation loss")
    parser.add_argument("--start", type=Path, help="folder of the weights from which it goes on")
    parser.add_argument("--anchor", type=Path, help="trajectories of the base model for the velocity anchor")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder that outlives a failed attempt")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--ends", type=Clock.until, help="when its job is ended, in seconds since 1970; empty: never")
    arguments = parser.parse_args()
    config = pinned_sections(sections(arguments.config, "model", "clip", "reader", "training", "generation"))
    training, watched = config["training"], config.get("validation")
    data, start = load_training_data(arguments.cache), arguments.start
    files = used_files(config, arguments.segmenter, arguments.anchor, start)
    key = run_key(config, arguments.seed, data.key, files, decides_training(config["model"], training, watched))
    folder = arguments.checkpoints / f"{Run(arguments.arm, arguments.seed)}-{key[:12]}"
    label = f"{arguments.arm} seed {arguments.seed}"

    device = choose_device(config["model"])
    with join_group(training, device) as group:
        first, size = group.rank == 0, data.latents.shape[-2:]
        training = group.agree(settle_checkpointing(config["model"], training, *size, free_bytes()))
        if device.type == "cuda":  # on the CPU: `snakemake preflight`
            check_memory(plan(config["model"], training, *size), free_bytes(), training)
        model, parameters, assistant, total = open_for_training(config["model"], training, arguments.seed, group, start)
        data = data_from(config["model"], training, data, start, arguments.seed)
        places = config | {"segmenter": arguments.segmenter}
        critics = open_critics(critics_of(training.heard), places, arguments.reader_cache, model.device)
        aux = open_aux_loss(training.aux, critics, data.texts)
        rewards = build_rewards(training.reward, critics, tuned_encoder(model, training))
        before = sample_weights(list(parameters.values()))
        grid = model.level_grid(config["generation"].steps, tuple(data.latents.shape[1:]))
        if first:
            print(f"{label}: {len(data.latents)} samples, levels {[round(g, 4) for g in grid.tolist()]}", flush=True)
        paths = open_reference(training, arguments.anchor, data, grid)
        validator = open_watched(config, model, training, data, start, arguments.reader_cache.parent, files)
        trackers = tracking(config.get("trackers", ()) if first else (), arguments.output_dir, label)
        with trackers as told, alone_in(folder) if first else nullcontext(), stop_requests() as stopping:
            group.wait()  # until the first one has the folder for itself
            task = Task(model, parameters, data, training, grid, aux, paths, arguments.seed, rewards, validator, told)
            weights = train(task, Place(folder, key, label), stopping, group, arguments.ends)
        # Before `weights` are put in place of them (with EMA they are others).
        changed = changed_fraction(before, list(parameters.values()))
    if not first:
        return
    if group.sharded:  # the other processes hold the rest of it
        model = open_model(config["model"], ("denoiser",))
    (arguments.output_dir / "snapshots").mkdir(parents=True, exist_ok=True)
    keep_weights(model, assistant.removed_from(weights), training, arguments.output_dir / "weights", start)
    for step in training.snapshots:
        snapshot = assistant.removed_from(load_tensors(folder / f"snapshot-{step}.safetensors", "the snapshot")[0])
        place = arguments.output_dir / Run(arguments.arm, arguments.seed, step).weights
        keep_weights(model, snapshot, training, place, start)
    with atomic_path(arguments.output_dir / "metrics.jsonl") as temporary:
        shutil.copyfile(folder / "metrics.jsonl", temporary)
    rows = read_jsonl(folder / "metrics.jsonl")
    run = {
        "arm": arguments.arm,
        "seed": arguments.seed,
        **(validator.outcome(rows, training.steps) if validator else {"steps": training.steps}),
        "key": key,
        "data": data.key,
        "files": files,
        **sources(config),
        "assistant_lora": assistant.sha256,
        "training": training.model_dump(mode="json", by_alias=True),
        "levels": grid.tolist(),
        "parameters_total": total,
        "parameters_trained": sum(parameter.numel() for parameter in parameters.values()),
        "changed_weight_fraction": changed,
        **share_at_bound(steps_of(rows), training.aux),
        **times(steps_of(rows)),
        "device": device.type,
        "peak_memory_bytes": peak_memory_bytes(),
        "weights": file_hashes(arguments.output_dir, "weights", "snapshots", deep=True),
        **environment(),
    }
    write_json(arguments.output_dir / "run.json", run)  # last: it says that everything else is there


if __name__ == "__main__":
    run_cli(main)

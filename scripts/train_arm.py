"""Fine-tune one arm with one seed; resumes from its checkpoint after any interruption."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from legible.config import sections
from legible.errors import run_cli
from legible.io import atomic_path, sha256_file, sha256_json, write_json
from legible.losses.auxiliary import DECODED, open_aux_loss
from legible.models import open_model
from legible.models.hub import pinned_sections, sources
from legible.provenance import code_fingerprint, environment, peak_memory_bytes
from legible.train.adapters import keep_weights, select_parameters
from legible.train.anchor import open_reference
from legible.train.assistant import assistant_file, merge_assistant
from legible.train.checkpoint import alone_in, stop_requests
from legible.train.data import load_training_data
from legible.train.loop import train
from legible.train.optimizer import changed_fraction, sample_weights
from legible.train.preflight import describe, free_bytes, plan


def run_key(config: dict, seed: int, data_key: str, files: list[Path | None]) -> str:
    """Identifies a run: configuration, seed, data, base weights, files, code. Only an equal run may resume it."""
    folder = Path(config["model"].path) / "transformer"
    weights = {path.name: sha256_file(path) for path in sorted(folder.glob("*")) if path.is_file()}
    plain = {name: section.model_dump(mode="json", by_alias=True) for name, section in config.items()}
    hashes = [sha256_file(path) if path else None for path in files]
    return sha256_json([plain, seed, data_key, weights, hashes, code_fingerprint(__file__)])


def main() -> None:
    """Parse, train, write weights, metrics and provenance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="JSON: model, clip, reader, training, generation")
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument(
        "--reader-cache", type=Path, default=Path("results/cache/ocr/reader"), help="folder for the ctc loss's network"
    )
    parser.add_argument("--segmenter", type=Path, help="latent segmenter of the char_segmentation loss")
    parser.add_argument("--anchor", type=Path, help="trajectories of the base model for the velocity anchor")
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder that outlives a failed attempt")
    parser.add_argument("--output-dir", type=Path, required=True)
    arguments = parser.parse_args()
    config = pinned_sections(sections(arguments.config, "model", "clip", "reader", "training", "generation"))
    training = config["training"]
    data = load_training_data(arguments.cache)
    read = [arguments.segmenter, arguments.anchor, assistant_file(training)]
    key = run_key(config, arguments.seed, data.key, read)
    folder = arguments.checkpoints / f"{arguments.arm}-seed{arguments.seed}-{key[:12]}"
    label = f"{arguments.arm} seed {arguments.seed}"

    if torch.cuda.is_available():  # on the CPU: `snakemake preflight`
        expected = plan(config["model"], training, *data.latents.shape[-2:])
        print(f"{label}, memory:\n{describe(expected, free_bytes(), training)}", flush=True)
    parts = ("transformer", "scheduler", "vae") if DECODED & set(training.aux.weights) else ("transformer", "scheduler")
    model = open_model(config["model"], parts, training.threads, quantization=training.quantization)
    critics = (config["clip"], config["reader"], arguments.segmenter)
    aux = open_aux_loss(training.aux, *critics, data.texts, arguments.reader_cache, model.device)
    total = sum(parameter.numel() for parameter in model.transformer.parameters())
    parameters = select_parameters(model.transformer, training, arguments.seed)
    assistant = merge_assistant(model.transformer, training)
    model.use_attention(training.attention, training.ragged)
    model.save_memory(training.gradient_checkpointing)
    if training.compile:
        model.transformer.compile_repeated_blocks()
    before = sample_weights(list(parameters.values()))
    grid = model.sigma_grid(config["generation"].steps)
    print(f"{label}: {len(data.latents)} samples, σ grid {[round(s, 4) for s in grid.tolist()]}", flush=True)
    paths = open_reference(training, arguments.anchor, data, grid)
    with alone_in(folder), stop_requests() as stopping:
        weights = train(
            model, parameters, data, training, grid, aux, paths, arguments.seed, folder, key, label, stopping
        )

    # Before `weights` are put in place of them (with EMA they are others).
    changed = changed_fraction(before, list(parameters.values()))
    (arguments.output_dir / "snapshots").mkdir(parents=True, exist_ok=True)
    # The snapshots last: they are written through the model's own parameters, which the final weights are views of.
    keep_weights(model.transformer, assistant.removed_from(weights), training, arguments.output_dir / "weights")
    for step in training.snapshots:
        snapshot = assistant.removed_from(load_file(folder / f"snapshot-{step}.safetensors"))
        keep_weights(model.transformer, snapshot, training, arguments.output_dir / "snapshots" / f"step{step}")
    with atomic_path(arguments.output_dir / "metrics.jsonl") as temporary:
        shutil.copyfile(folder / "metrics.jsonl", temporary)
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    files = sorted(path for path in (arguments.output_dir / "weights").rglob("*") if path.is_file())
    run = {
        "arm": arguments.arm,
        "seed": arguments.seed,
        "steps": training.steps,
        "key": key,
        "data": data.key,
        **sources(config),
        "assistant_lora": assistant.sha256,
        "training": training.model_dump(mode="json", by_alias=True),
        "sigma_grid": grid.tolist(),
        "parameters_total": total,
        "parameters_trained": sum(parameter.numel() for parameter in parameters.values()),
        "changed_weight_fraction": changed,
        "wall_seconds": json.loads(last)["seconds"],
        "peak_memory_bytes": peak_memory_bytes(),
        "weights": {str(path.relative_to(arguments.output_dir)): sha256_file(path) for path in files},
        **environment(),
    }
    write_json(arguments.output_dir / "run.json", run)  # last: it says that everything else is there


if __name__ == "__main__":
    run_cli(main)

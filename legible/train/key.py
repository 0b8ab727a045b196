"""What identifies a run: everything that decides its weights, and nothing else. Only an equal run may resume it."""

from pathlib import Path
from typing import Any

from legible.config import CRITICS, HEARD, critics_of
from legible.io import file_hashes, sha256_file, sha256_json
from legible.models.spec import spec_of
from legible.provenance import placeless
from legible.train.assistant import assistant_file


def used_files(
    config: dict[str, Any], segmenter: Path | None, anchor: Path | None, start: Path | None = None
) -> dict[str, Any]:
    """SHA-256 of every file that a training reads besides the cache: of the model, its critics, anchor, assistant.

    Args:
        config: the sections model, clip, reader, training; where spelling is watched, validation and ocr.
        start: folder of the weights from which it goes on.
    """
    training, model, spec = config["training"], config["model"], spec_of(config["model"].family)
    roles = ["denoiser", "scheduler"]
    roles += ["autoencoder"] if any(HEARD[name].decodes for name in training.heard) else []
    roles += ["text"] if training.text_trained else []
    roles += ["autoencoder", "text"] if config.get("validation") else []
    reader = config["reader"]
    # EasyOCR's own networks lie together in one folder, a user network in its own.
    folders = {name: section.path for name, section in config.items() if name in CRITICS and hasattr(section, "path")}
    folders["reader"] = reader.models if reader.network == "standard" else reader.network
    heard = [critic for critic in critics_of(training.heard) if folders.get(critic)]
    single = {"segmenter": segmenter, "anchor": anchor, "assistant": assistant_file(training)}
    return {
        "model": file_hashes(Path(model.path), *spec.folders(*roles)),
        **{critic: file_hashes(Path(folders[critic])) for critic in heard},
        **{name: sha256_file(path) for name, path in single.items() if path is not None},
        **(
            {"start": file_hashes(start, *sorted(path.name for path in start.iterdir() if path.is_dir()))}
            if start
            else {}
        ),
        **_watched_files(config),
    }


def _watched_files(config: dict[str, Any]) -> dict[str, Any]:
    """SHA-256 of the prompts that are watched and of the files that their judge names; nothing where none are."""
    settings = config.get("validation")
    if settings is None:
        return {}
    judge = getattr(config["ocr"], settings.judge)
    folders = [Path(folder) for key in ("network", "models", "data") if (folder := getattr(judge, key, None))]
    named = {f"{folder.name}/{name}": digest for folder in folders for name, digest in file_hashes(folder).items()}
    return {"validation": {"prompts": sha256_file(settings.prompts), **named}}


def run_key(config: dict[str, Any], seed: int, data_key: str, files: dict[str, Any], code: dict[str, Any]) -> str:
    """SHA-256 over configuration values, seed, data, code and versions, and the content of all models that are used.

    Args:
        config: the sections model, clip, reader, training, generation; where spelling is watched, validation, ocr and
            scoring.
        data_key: of the cache.
        files: `used_files`.
        code: `legible.provenance.decides_training`.
    """
    plain = {name: config[name].model_dump(mode="json", by_alias=True) for name in ("training", "generation")}
    critics = [critic for critic in critics_of(config["training"].heard) if critic in config]
    plain |= {name: placeless(config[name], bool(files.get(name))) for name in ("model", *critics)}
    if settings := config.get("validation"):
        judge = placeless(getattr(config["ocr"], settings.judge), True)
        judged = {"judge": judge, "normalization": config["scoring"].normalization}
        plain |= {"validation": settings.model_dump(mode="json", exclude={"prompts"}) | judged}
    return sha256_json([plain, seed, data_key, files, code])

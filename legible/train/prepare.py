"""The model of a run, opened and made ready to be trained: what is trained, what is frozen, and where it lies."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from legible.config import HEARD, Model, Training
from legible.models.family import Family, embed_prompts, empty_model, open_model
from legible.models.opening import DTYPES
from legible.models.spec import spec_of
from legible.train.adapters import select_parameters
from legible.train.assistant import Assistant, merge_assistant
from legible.train.data import TrainingData, permuted
from legible.train.group import Group, shard

if TYPE_CHECKING:
    from legible.train.validation import Validator


def roles_of(training: Training) -> tuple[str, ...]:
    """What a training opens: the decoder only for losses that look at pixels, text encoders only to train them."""
    decodes = any(HEARD[name].decodes for name in training.heard)
    return (
        "denoiser",
        "scheduler",
        *(("autoencoder",) if decodes else ()),
        *(("text",) if training.text_trained else ()),
    )


def data_from(model: Model, training: Training, data: TrainingData, start: Path | None, seed: int = 0) -> TrainingData:
    """The data as training starts: the texts that it teaches, and what a start's tuned text encoder says.

    Raises:
        UserError: no text of the data has another order of its letters (the placebo `permuted`).
    """
    if training.aux.weights and training.aux.targets == "permuted":
        data = permuted(data, seed)
    tuned = start and any((start / folder).is_dir() for folder in spec_of(model.family).text_encoders)
    if not tuned or training.text_trained:
        return data
    said = embed_prompts(model, [*data.captions, ""], training.threads, start)
    return replace(data, conditioning=said.pick(range(len(data.captions))), empty=said.pick([len(data.captions)]))


def open_for_training(
    model: Model, training: Training, seed: int, group: Group, start: Path | None = None
) -> tuple[Family, dict[str, torch.nn.Parameter], Assistant, int]:
    """The opened model, its trained parameters by name, what was merged, and the number of the base's parameters.

    Args:
        start: folder of the weights from which it goes on; None = the base's.

    Raises:
        UserError: the model cannot be opened, or what is to be trained matches nothing.
    """
    opened = open_model(model, roles_of(training), training.threads, start, training.quantization)
    parameters = select_parameters(opened, training, seed)
    assistant = merge_assistant(opened, training)
    opened.use_attention(training.attention, training.ragged)
    opened.save_memory(training.gradient_checkpointing)
    if training.compile:
        opened.compile_blocks()
    denoiser = opened.module("denoiser")
    if group.sharded:
        shard(denoiser, opened.blocks(), opened.spec.blocks, DTYPES[model.dtype])
        parameters = {name: p for name, p in denoiser.named_parameters() if name in parameters}
    base = empty_model(model)
    total = sum(p.numel() for part in training.parts for p in base.module(part).parameters())
    return opened, parameters, assistant, total


def open_watched(
    config: dict[str, Any], model: Family, training: Training, data: TrainingData, start: Path | None, cache: Path,
    files: dict[str, Any],
) -> "Validator | None":  # fmt: skip
    """What the spelling is watched with (`legible.train.validation.open_validator`), where it is; imported only then.

    Args:
        cache: folder with a folder for each judge.
    """
    settings = config.get("validation")
    if settings is None:
        return None
    opener, shape = import_module("legible.train.validation").open_validator, tuple(data.latents.shape[1:])
    return opener(config, model, training, shape, start, cache / settings.judge, files)


def tracking(
    names: tuple[str, ...], folder: Path, run: str
) -> AbstractContextManager[tuple[Callable[[dict], None], ...]]:
    """The trackers that are asked for (`legible.train.trackers.tracking`); imported only then."""
    return import_module("legible.train.trackers").tracking(names, folder, run) if names else nullcontext(())

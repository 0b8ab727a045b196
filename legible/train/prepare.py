"""The model of a run, opened and made ready to be trained: what is trained, what is frozen, and where it lies."""

import torch

from legible.config import HEARD, Model, Training
from legible.models.family import Family, empty_model, open_model
from legible.models.opening import DTYPES
from legible.train.adapters import select_parameters
from legible.train.assistant import Assistant, merge_assistant
from legible.train.group import Group, shard


def roles_of(training: Training) -> tuple[str, ...]:
    """What a training opens: the decoder only for losses that look at pixels, text encoders only to train them."""
    decodes = any(HEARD[name].decodes for name in training.heard)
    return (
        "denoiser",
        "scheduler",
        *(("autoencoder",) if decodes else ()),
        *(("text",) if training.text_trained else ()),
    )


def open_for_training(
    model: Model, training: Training, seed: int, group: Group
) -> tuple[Family, dict[str, torch.nn.Parameter], Assistant, int]:
    """The opened model, its trained parameters by name, what was merged, and the number of the base's parameters.

    Raises:
        UserError: the model cannot be opened, or what is to be trained matches nothing.
    """
    opened = open_model(model, roles_of(training), training.threads, quantization=training.quantization)
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

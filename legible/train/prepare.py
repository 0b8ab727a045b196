"""The model of a run, opened and made ready to be trained: what is trained, what is frozen, and where it lies."""

import torch

from legible.config import Model, Training
from legible.losses.auxiliary import DECODED
from legible.models.family import open_model
from legible.models.zimage.compiled import compile_blocks
from legible.models.zimage.model import DTYPES, ZImage
from legible.train.adapters import select_parameters
from legible.train.assistant import Assistant, merge_assistant
from legible.train.group import Group, shard
from legible.train.preflight import count, empty


def open_for_training(
    model: Model, training: Training, seed: int, group: Group
) -> tuple[ZImage, dict[str, torch.nn.Parameter], Assistant, int]:
    """The opened model, its trained parameters by name, what was merged, and the number of the base's parameters.

    The decoder is opened only for losses that look at pixels.

    Raises:
        UserError: the model cannot be opened, or what is to be trained matches nothing.
    """
    parts = ("transformer", "scheduler", "vae") if DECODED & set(training.aux.weights) else ("transformer", "scheduler")
    opened = open_model(model, parts, training.threads, quantization=training.quantization)
    parameters = select_parameters(opened.transformer, training, seed)
    assistant = merge_assistant(opened.transformer, training)
    opened.use_attention(training.attention, training.ragged)
    opened.save_memory(training.gradient_checkpointing)
    if training.compile:
        compile_blocks(opened.transformer)
    if group.sharded:
        shard(opened.transformer, DTYPES[model.dtype])
        parameters = {name: p for name, p in opened.transformer.named_parameters() if name in parameters}
    return opened, parameters, assistant, count(empty(model, "transformer"))

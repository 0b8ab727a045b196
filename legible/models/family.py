"""The one seam behind which model families differ: what training, sampling and planning need of an opened model."""

import gc
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from legible.config import Model
from legible.models.spec import spec_of


def open_model(
    model: Model,
    components: tuple[str, ...],
    threads: int = 1,
    weights: Path | None = None,
    quantization: str = "none",
):
    """Open the parts of the configured model that a stage needs (e.g. only "transformer").

    Args:
        weights: folder of fine-tuned weights, taken instead of the base's (full) or added to them (LoRA).
        quantization: none, int8 or nf4: of the frozen layers under adapters that are to be trained.
    """
    return import_module(spec_of(model.family).module).open_zimage(model, components, threads, weights, quantization)


def embed_prompts(model: Model, prompts: list[str], threads: int = 1) -> list[Tensor]:
    """Caption embeddings, one [S, D] tensor a prompt, on the CPU.

    The text encoder is opened for this alone and freed again: of the real model it takes 8 GB, which the transformer
    needs afterwards.
    """
    opened = open_model(model, ("text_encoder", "tokenizer"), threads)
    embeddings = [embedding.cpu() for embedding in opened.encode_prompts(prompts)]
    del opened
    free_memory()
    return embeddings


def free_memory() -> None:
    """Give back what nothing refers to any more, on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

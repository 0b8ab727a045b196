"""Adapters of a text encoder for which the pipeline's LoRA file has no place: a folder in peft's format beside it."""

from pathlib import Path

from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from legible.errors import UserError
from legible.io import write_json
from legible.models.opening import first_line


def save_adapters(folder: Path, layers: dict[str, Tensor], about: dict) -> None:
    """Write adapters as peft's own save_pretrained does, but for the place of the base and the order of the targets.

    The latter changes from one process to the next there.
    """
    named = {f"base_model.model.{name}": value.contiguous() for name, value in layers.items()}
    write_json(folder / CONFIG_NAME, about | {"base_model_name_or_path": None})
    save_file(named, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def add_adapters(encoder: PreTrainedModel, folder: Path) -> None:
    """Put saved adapters on the text encoder, frozen.

    Raises:
        UserError: they are missing, damaged or another model's.
    """
    try:
        # transformers would read them from the folder, too, but look for pickled ones where there are no others.
        state = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        found = encoder.load_adapter(peft_config=PeftConfig.from_pretrained(folder), adapter_state_dict=state)
        if wrong := sorted({*found.missing_keys, *found.unexpected_keys}):
            raise ValueError(f"{wrong[0]} does not fit")
    except Exception as error:  # the libraries raise a dozen types for a bad file
        raise UserError(f"{folder}: no adapters of this text encoder ({first_line(error)})") from error

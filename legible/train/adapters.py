"""Which weights are trained: selected modules in full, or LoRA adapters; and how they are saved for diffusers."""

import shutil
from pathlib import Path

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from legible.config import Training
from legible.errors import UserError
from legible.models.zimage.model import DTYPES


def select_parameters(
    transformer: ZImageTransformer2DModel, training: Training, seed: int
) -> dict[str, torch.nn.Parameter]:
    """Make the configured weights trainable (in `training.weights`) and return them by name; all others stay frozen.

    Raises:
        UserError: the configured modules or LoRA targets match nothing.
    """
    transformer.requires_grad_(False)
    if training.method == "lora":
        names = [name for name, _ in transformer.named_modules()]
        for target in training.lora.targets:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise UserError(
                    f"training.lora.targets: `{target}` matches no module; try to_q, to_k, to_v, feed_forward.w1 …"
                )
        torch.manual_seed(seed)  # the A matrices are drawn at random
        settings = LoraConfig(
            r=training.lora.rank, lora_alpha=training.lora.alpha, target_modules=list(training.lora.targets)
        )
        try:
            transformer.add_adapter(settings)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"training.lora.targets: linear layers are needed, like to_q ({reason})") from error
        chosen = {name: p for name, p in transformer.named_parameters() if "lora_" in name}
    else:
        for prefix in training.modules:
            if not any(name.startswith(prefix) for name, _ in transformer.named_parameters()):
                raise UserError(f"training.modules: `{prefix}` matches no parameter; try layers or noise_refiner")
        chosen = {n: p for n, p in transformer.named_parameters() if n.startswith(tuple(training.modules))}
    for parameter in chosen.values():
        # In bfloat16 a 1e-5 step is rounded away, unless the optimiser rounds stochastically (optimizer.py).
        parameter.data = parameter.data.to(DTYPES[training.weights])
        parameter.requires_grad_(True)
    return chosen


def save_weights(
    transformer: ZImageTransformer2DModel, weights: dict[str, Tensor], training: Training, folder: Path
) -> None:
    """Put `weights` into the transformer and write what diffusers loads: LoRA adapters or a `transformer` folder."""
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    folder.mkdir(parents=True, exist_ok=True)
    if training.method == "lora":
        ZImagePipeline.save_lora_weights(
            folder,
            transformer_lora_layers=get_peft_model_state_dict(transformer),
            transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
        )
    else:
        transformer.save_pretrained(folder / "transformer", max_shard_size="5GB")


def keep_weights(
    transformer: ZImageTransformer2DModel, weights: dict[str, Tensor], training: Training, folder: Path
) -> None:
    """`save_weights` into a folder that appears whole or not at all."""
    partial = folder.with_name(f".{folder.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_weights(transformer, weights, training, partial)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)

"""LoRA files as ComfyUI, and what shares its format, takes them.

Transformers keep diffusers' names behind the prefix that ComfyUI knows for the family. UNets get the names of kohya's
trainers, which every tool reads. lora_alpha / rank is multiplied into B; where an alpha is written, it is the rank, and
changes nothing.
Source of the names: comfyanonymous/ComfyUI comfy/lora.py, huggingface/diffusers utils/state_dict_utils.py.
"""

from pathlib import Path

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from safetensors.torch import save_file
from torch import Tensor

from legible.config import Model
from legible.errors import UserError
from legible.integrity import check_sums
from legible.io import atomic_path
from legible.models.family import open_model
from legible.models.opening import LORA
from legible.models.spec import Spec, spec_of

KOHYA = "lora_unet_"


def for_comfyui(spec: Spec, state: dict[str, Tensor], about: dict) -> dict[str, Tensor]:
    """A LoRA's tensors under the names that ComfyUI knows.

    Args:
        state: in diffusers' names, `{component}.{layer}.lora_A.weight` …
        about: peft's settings of each component, `{component}.lora_alpha` and `{component}.r`.
    """
    scaled = {}
    for name, value in state.items():
        component = name.partition(".")[0]
        scale = about[f"{component}.lora_alpha"] / about[f"{component}.r"] if ".lora_B." in name else 1.0
        scaled[name] = (value * scale).contiguous()
    if spec.comfyui == KOHYA:
        return convert_state_dict_to_kohya(scaled)
    own, found = f"{spec.denoiser}.", {}
    for name, value in scaled.items():
        layer = spec.comfyui + name.removeprefix(own) if name.startswith(own) else name
        found[layer] = value
        if ".lora_A." in layer and layer.startswith("diffusion_model."):  # older readers of these names insist on it
            found[f"{layer.partition('.lora_A.')[0]}.alpha"] = torch.tensor(float(len(value)))
    return found


def export_lora(model: Model, weights: Path, output: Path) -> int:
    """Write a run's adapters for ComfyUI and return how many tensors there are.

    Args:
        model: the one that was tuned; nothing of it is opened.
        weights: the run's folder.

    Raises:
        UserError: the folder has no adapters, or some for which ComfyUI has no place.
    """
    if not (weights / LORA).is_file():
        raise UserError(f"--weights: {weights} holds no {LORA}; only LoRA runs can be exported")
    if beside := sorted(path.name for path in weights.glob("*_lora")):
        raise UserError(f"--weights: {weights / beside[0]}: ComfyUI has no place for this text encoder's adapters")
    check_sums(weights)
    state, about = open_model(model, ()).lora_state(weights / LORA)
    if about is None:
        raise UserError(f"--weights: {weights / LORA} does not say its rank and alpha; it was written by another tool")
    exported = for_comfyui(spec_of(model.family), state, about)
    with atomic_path(output) as path:
        save_file(exported, path, metadata={"format": "pt"})
    return len(exported)

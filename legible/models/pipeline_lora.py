"""LoRA files as diffusers' pipelines write and read them, for all families whose networks are taken one by one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from torch import Tensor, nn

from legible.errors import UserError
from legible.models.opening import first_line
from legible.models.spec import Spec


def save_arguments(spec: Spec, layers: Mapping[str, dict[str, Tensor]], about: Mapping[str, dict]) -> dict[str, dict]:
    """What `save_lora_weights` of the pipeline is called with; part → weights, part → peft's settings.

    Files always name a CLIP's layers `text_model.…`: transformers has dropped that prefix, but every version of
    diffusers reads it.
    """
    named: dict[str, dict] = {}
    for part, own in layers.items():
        if part != "denoiser":
            own = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in own.items()}
        folder = spec.folder(part)
        named |= {f"{folder}_lora_layers": own, f"{folder}_lora_adapter_metadata": about[part]}
    return named


def read_lora(kind: type[DiffusionPipeline], path: Path) -> tuple[Any, ...]:
    """A LoRA file as the pipeline reads it: tensors, alphas where it tells them apart, and peft's settings."""
    return kind.lora_state_dict(
        str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True, return_lora_metadata=True
    )


def put_lora(
    kind: type[DiffusionPipeline], path: Path, parts: Sequence[str], networks: Mapping[str, nn.Module | None]
) -> None:
    """Put a LoRA file's adapters on whichever networks are opened.

    Args:
        parts: the components for which the pipeline's files have a place, the denoiser first.
        networks: component → network, None where it is not opened.

    Raises:
        UserError: it cannot be read, or is not for these components.
    """
    denoiser = parts[0]
    try:
        state, *alphas, about = read_lora(kind, path)
        there = {key.partition(".")[0] for key in state}
        if not there <= set(parts):
            raise ValueError(f"it is for {', '.join(sorted(there))}; {' and '.join(parts)} are here")
        scales = alphas[0] if alphas else None
        for name in parts:
            if name not in there or networks[name] is None:
                continue
            if name != denoiser:
                kind.load_lora_into_text_encoder(state, scales, networks[name], prefix=name, metadata=about)
            elif not alphas:  # a transformer's
                networks[name].load_lora_adapter(state, metadata=about)
            else:
                kind.load_lora_into_unet(state, scales, networks[name], metadata=about)
    except Exception as error:  # safetensors, diffusers and peft raise a dozen types; the user needs one sentence
        raise UserError(f"{path}: no LoRA of this model ({first_line(error)})") from error

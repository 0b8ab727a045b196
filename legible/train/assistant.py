"""An assistant LoRA (de-distillation or "training" adapter): merged while training, taken out of what is saved.

A few-step model loses its distillation when it is fine-tuned directly. With an adapter merged
that undoes the distillation, training moves the weights beside it; without the adapter the distilled model is back, and
what was learnt stays (ostris/ai-toolkit: `assistant_lora_path`). With adapters of our own there is nothing to take out:
only they are saved. With full training, what is saved is the trained weights minus the assistant's B·A.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from legible.config import Training
from legible.errors import UserError
from legible.io import sha256_file
from legible.models.family import Family
from legible.models.opening import first_line

NAME = "assistant"


@dataclass(frozen=True)
class Factors:
    """One layer's part of a LoRA; it adds scale · B·A to the weight."""

    down: Tensor  # A [r, in]
    up: Tensor  # B [out, r]
    scale: float  # alpha / r

    def delta(self, device: torch.device) -> Tensor:
        """scale · B·A [out, in], float32."""
        return self.scale * (self.up.to(device, torch.float32) @ self.down.to(device, torch.float32))


@dataclass(frozen=True)
class Assistant:
    """What was merged into a denoiser, by the names of its weights; empty where there is no assistant."""

    factors: dict[str, Factors]
    frozen: dict[str, Tensor]  # weights as they were, of merged layers that are saved and not trained
    sha256: str | None  # of the file

    def removed_from(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Trained `weights` without the assistant (subtracted in float32), and the frozen ones it was merged into."""
        own = {
            name: (value.float() - self.factors[name].delta(value.device)).to(value.dtype)
            if name in self.factors
            else value
            for name, value in weights.items()
        }
        return self.frozen | own


def assistant_file(training: Training) -> Path | None:
    """The file of the assistant, None without one.

    Raises:
        UserError: there is no such file.
    """
    if training.assistant_lora is None:
        return None
    path = Path(training.assistant_lora)
    if not path.is_file() or path.suffix != ".safetensors":
        raise UserError(f"training.assistant_lora: {path} is no .safetensors file on this machine")
    return path


def merge_assistant(model: Family, training: Training) -> Assistant:
    """Add the assistant's B·A (computed in float32) to the weights of the denoiser, in place.

    To be called after `select_parameters`: weights that are trained in float32 then take the sum without rounding it.

    Raises:
        UserError: the file is missing, no LoRA, or one for another model.
    """
    path, factors, frozen = assistant_file(training), {}, {}
    if path is None:
        return Assistant(factors, frozen, None)
    parameters = dict(model.module("denoiser").named_parameters())
    for layer, part in read_factors(model, path).items():
        name = f"{layer}.weight" if f"{layer}.weight" in parameters else f"{layer}.base_layer.weight"
        weight, factors[name] = parameters[name], part
        if training.method == "full" and not weight.requires_grad:
            frozen[name] = weight.detach().to("cpu", copy=True)
        weight.data = (weight.data.float() + part.delta(weight.device)).to(weight.dtype)
    return Assistant(factors, frozen, sha256_file(path))


def read_factors(model: Family, path: Path) -> dict[str, Factors]:
    """The matrices of a LoRA file, by layer, whichever of the formats that diffusers reads it is in.

    diffusers and peft put them on a copy of the denoiser without weights, where the scale is settled.
    """
    denoiser, prefix = model.module("denoiser"), model.spec.denoiser
    try:
        state, about = model.lora_state(path)
        with init_empty_weights():
            skeleton = type(denoiser).from_config(denoiser.config)
        refuse_what_does_not_fit(state, prefix, skeleton, path)
        skeleton.load_lora_adapter(state, prefix=prefix, adapter_name=NAME, metadata=about, low_cpu_mem_usage=True)
    except UserError:
        raise
    except Exception as error:  # safetensors, diffusers and peft raise a dozen types; the user needs one sentence
        raise UserError(f"training.assistant_lora: {path} is no LoRA of this model ({first_line(error)})") from error
    layers = sorted({key.partition(".lora_")[0] for key in state})
    return {
        layer.removeprefix(f"{prefix}."): Factors(
            state[f"{layer}.lora_A.weight"],
            state[f"{layer}.lora_B.weight"],
            skeleton.get_submodule(layer.removeprefix(f"{prefix}.")).scaling[NAME],
        )
        for layer in layers
    }


def refuse_what_does_not_fit(state: dict[str, Tensor], prefix: str, denoiser: nn.Module, path: Path) -> None:
    """Every tensor must be an A or a B of the right size for a layer that is there: diffusers would drop the others."""
    if not state:
        raise UserError(f"training.assistant_lora: {path} holds no matrices of a LoRA")
    for key, value in state.items():
        layer, _, rest = key.removeprefix(f"{prefix}.").partition(".lora_")
        if rest not in ("A.weight", "B.weight"):
            raise UserError(f"training.assistant_lora: {path} holds `{key}`, which is no matrix of a plain LoRA")
        try:
            shape = denoiser.get_parameter(f"{layer}.weight").shape
        except AttributeError as error:
            raise UserError(f"training.assistant_lora: {path} is for another model: no layer `{layer}` here") from error
        side = 1 if rest[0] == "A" else 0
        if value.ndim != 2 or value.shape[side] != shape[side]:
            raise UserError(
                f"training.assistant_lora: {path} is for another model: `{key}` is {list(value.shape)}, but the"
                f" layer's weight {list(shape)}"
            )
        if key.replace(".lora_A.", ".lora_B.") not in state or key.replace(".lora_B.", ".lora_A.") not in state:
            raise UserError(f"training.assistant_lora: {path} holds one matrix of `{layer}`, a LoRA has two")

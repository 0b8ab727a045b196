"""Which weights are trained: selected modules in full, or LoRA adapters; and how they are saved for diffusers."""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from legible.config import Training
from legible.errors import UserError
from legible.io import honour_umask
from legible.models.family import Family
from legible.models.opening import DTYPES
from legible.models.spec import Spec
from legible.tensors import sort_header


def prefix_of(part: str) -> str:
    """What stands before the names of a part's parameters: nothing for the denoiser's."""
    return "" if part == "denoiser" else f"{part}."


def check_parts(spec: Spec, training: Training) -> None:
    """Refuse parts that the family does not have.

    Raises:
        UserError: there is one.
    """
    known = ("denoiser", *spec.text_encoders)
    if unknown := [part for part in training.parts if part not in known]:
        raise UserError(f"training.parts: `{unknown[0]}` is no part of this family; allowed are {', '.join(known)}")


def select_parameters(model: Family, training: Training, seed: int) -> dict[str, nn.Parameter]:
    """Make the configured weights trainable (in `training.weights`) and return them by name; all others stay frozen.

    Raises:
        UserError: the configured parts, modules or LoRA targets match nothing.
    """
    check_parts(model.spec, training)
    modules = {part: model.module(part).requires_grad_(False) for part in training.parts}
    if training.method == "lora":
        add_adapters(model.spec, modules, training, seed)
        chosen = named(modules, lambda part, name: "lora_" in name)
    else:
        wanted = wanted_prefixes(model.spec, modules, training)
        chosen = named(modules, lambda part, name: name.startswith(wanted[part]))
    for parameter in chosen.values():
        # In bfloat16 a 1e-5 step is rounded away, unless the optimiser rounds stochastically (optimizer.py).
        parameter.data = parameter.data.to(DTYPES[training.weights])
        parameter.requires_grad_(True)
    return chosen


def named(modules: dict[str, nn.Module], chosen) -> dict[str, nn.Parameter]:
    """The parameters for which `chosen(part, name)` holds, by their names with the part's prefix."""
    return {
        f"{prefix_of(part)}{name}": parameter
        for part, module in modules.items()
        for name, parameter in module.named_parameters()
        if chosen(part, name)
    }


def wanted_prefixes(spec: Spec, modules: dict[str, nn.Module], training: Training) -> dict[str, tuple[str, ...]]:
    """Part → beginnings of the names of its trained parameters; of a text encoder everything is trained.

    Raises:
        UserError: a configured module matches no parameter of the denoiser.
    """
    wanted = {part: ("",) for part in modules}
    if "denoiser" in modules:
        wanted["denoiser"] = spec.blocks if training.modules is None else tuple(training.modules)
        names = [name for name, _ in modules["denoiser"].named_parameters()]
        for prefix in wanted["denoiser"]:
            if not any(name.startswith(prefix) for name in names):
                raise UserError(
                    f"training.modules: `{prefix}` matches no parameter; try {' or '.join(spec.blocks[:2])}"
                )
    return wanted


def add_adapters(spec: Spec, modules: dict[str, nn.Module], training: Training, seed: int) -> None:
    """Put LoRA adapters on the parts.

    Raises:
        UserError: a target matches no module, or one that is not linear.
    """
    names = {part: [name for name, _ in module.named_modules()] for part, module in modules.items()}

    def matches(part: str, target: str) -> bool:
        return any(name == target or name.endswith(f".{target}") for name in names[part])

    for target in training.lora.targets or ():
        if not any(matches(part, target) for part in modules):
            known = ", ".join(spec.lora_targets[:4])
            raise UserError(f"training.lora.targets: `{target}` matches no module; try {known} …")
    torch.manual_seed(seed)  # the A matrices are drawn at random
    for part, module in modules.items():
        own = spec.lora_targets if part == "denoiser" else spec.text_lora_targets
        targets = own if training.lora.targets is None else [t for t in training.lora.targets if matches(part, t)]
        if not targets:
            raise UserError(f"training.lora.targets: none of them matches a module of the {part}")
        settings = LoraConfig(r=training.lora.rank, lora_alpha=training.lora.alpha, target_modules=list(targets))
        try:
            module.add_adapter(settings)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"training.lora.targets: linear layers are needed, like {spec.lora_targets[0]} ({reason})"
            ) from error


def save_weights(model: Family, weights: dict[str, Tensor], training: Training, folder: Path) -> None:
    """Put `weights` into the model and write what diffusers loads: LoRA adapters, or a folder for each trained part."""
    modules = {part: model.module(part) for part in training.parts}
    with torch.no_grad():
        for name, parameter in named(modules, lambda part, name: True).items():
            if name in weights:
                parameter.copy_(weights[name])
    folder.mkdir(parents=True, exist_ok=True)
    if training.method == "lora":
        layers = {part: get_peft_model_state_dict(module) for part, module in modules.items()}
        about = {part: described(module.peft_config["default"]) for part, module in modules.items()}
        model.save_lora(folder, layers, about)
        for file in folder.rglob("*.safetensors"):
            sort_header(file)
    else:
        for part, module in modules.items():
            module.save_pretrained(folder / model.spec.folder(part), max_shard_size="5GB")


def described(settings: LoraConfig) -> dict[str, Any]:
    """peft's settings as JSON; of a set, the order would change from one process to the next."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.to_dict().items()}


def keep_weights(
    model: Family, weights: dict[str, Tensor], training: Training, folder: Path, start: Path | None = None
) -> None:
    """`save_weights` into a folder that appears whole or not at all.

    Args:
        start: the weights from which the training went on; components that it did not train are taken along.
    """
    partial = folder.with_name(f".{folder.name}-partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_weights(model, weights, training, partial)
    for component in start.iterdir() if start else ():
        if component.is_dir() and not (partial / component.name).exists():  # Snakemake leaves a file of its own beside
            shutil.copytree(component, partial / component.name)
    honour_umask(partial)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)

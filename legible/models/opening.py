"""What all families open their components with: safetensors only, no remote code, one sentence where it fails."""

import json
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedTokenizerBase

from legible.config import Model
from legible.errors import UserError
from legible.integrity import check_sums
from legible.models.spec import Spec

LORA = "pytorch_lora_weights.safetensors"  # diffusers' name
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def first_line(error: BaseException) -> str:
    """What an exception says, on one line: the libraries raise a dozen types for a bad file."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def choose_device(model: Model) -> torch.device:
    """Where the model is to lie.

    Raises:
        UserError: a GPU is asked for and none can be used.
    """
    if model.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: cuda, but no GPU can be used here; check `nvidia-smi`, or set it to auto or cpu")
    return torch.device("cuda" if torch.cuda.is_available() and model.device != "cpu" else "cpu")


def check_pipeline(model: Model, spec: Spec) -> None:
    """Refuse a local folder whose model_index.json names the pipeline of another family.

    Raises:
        UserError: it does.
    """
    index = Path(model.path) / "model_index.json"
    if not index.is_file():
        return
    try:
        found = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{index}: not a JSON object ({first_line(error)})") from error
    if found != spec.pipeline:
        raise UserError(
            f"model.family: {model.family} needs a {spec.pipeline}, but {index} is of {found}; set model.family or "
            "model.path"
        )


def component_folder(model: Model, name: str, needed: list[str]) -> dict[str, str | None]:
    """Where a component is, as `from_pretrained` takes it.

    Raises:
        UserError: the local folder lacks it, or a file of it is not what its checksum says.
    """
    local = Path(model.path)
    if local.is_dir() and not (local / name).is_dir():
        raise UserError(f"{local}: the component folder `{name}` is missing; needed are {', '.join(needed)}")
    check_sums(local / name)
    return {"subfolder": name, "revision": None if local.is_dir() else model.revision}


def open_module(model: Model, name: str, kind: type, needed: list[str]) -> nn.Module:
    """A network: `kind` is a class of diffusers, or one of transformers (also AutoModel).

    Raises:
        UserError: the folder is missing, or its files are damaged, incomplete or of another architecture.
    """
    where = component_folder(model, name, needed)
    dtype = DTYPES[model.dtype]
    try:
        if kind.__module__.startswith("transformers"):
            part, loaded = kind.from_pretrained(
                model.path, dtype=dtype, use_safetensors=True, trust_remote_code=False, ignore_mismatched_sizes=True,
                output_loading_info=True, **where,
            )  # fmt: skip
        else:
            found = kind.load_config(model.path, **where).get("_class_name")
            if found != kind.__name__:
                raise ValueError(f"its configuration is that of {found}, {kind.__name__} is needed")
            part, loaded = kind.from_pretrained(
                model.path, torch_dtype=dtype, use_safetensors=True, output_loading_info=True, **where
            )
        # The libraries would go on with random numbers in their place.
        if absent := sorted({*loaded["missing_keys"], *(entry[0] for entry in loaded["mismatched_keys"])}):
            raise ValueError(
                f"these are not this architecture's weights: {len(absent)} are absent, such as {absent[0]}"
            )
        return part
    except Exception as error:
        raise UserError(f"{model.path}: component `{name}` cannot be loaded ({first_line(error)})") from error


def open_other(model: Model, name: str, kind: type, needed: list[str]) -> object:
    """A component without weights: a tokenizer or a scheduler.

    Raises:
        UserError: the folder is missing or its files are damaged.
    """
    where = component_folder(model, name, needed)
    remote = {"trust_remote_code": False} if kind.__module__.startswith("transformers") else {}
    try:
        return kind.from_pretrained(model.path, **remote, **where)
    except Exception as error:
        raise UserError(f"{model.path}: component `{name}` cannot be loaded ({first_line(error)})") from error


def open_parts(
    model: Model, spec: Spec, roles: tuple[str, ...], weights: Path | None, networks: dict[str, type],
    others: dict[str, type], adapters: tuple[str, ...] = (LORA,),
) -> dict[str, object]:  # fmt: skip
    """The components of some roles by their folders' names, opened as they are stored: not frozen or moved yet.

    Args:
        weights, adapters: see `places_of`.
        networks, others: component folder → its class, with weights and without.

    Raises:
        UserError: a component is missing, damaged or of another architecture.
    """
    names, needed = spec.folders(*roles), [*networks, *others]
    places = places_of(model, names, weights, adapters)
    return {
        name: open_other(places[name], name, others[name], needed)
        if name in others
        else open_module(places[name], name, networks[name], needed)
        for name in names
    }


def check_lengths(prompts: list[str], tokenizer: PreTrainedTokenizerBase, longest: int, reads: int) -> None:
    """Refuse prompts that a pipeline would cut, with a warning at most.

    Args:
        longest: `model.max_sequence_length`.
        reads: tokens that the text encoder can read.

    Raises:
        UserError: there is one.
    """
    for prompt in prompts:
        if (length := len(tokenizer(prompt, verbose=False).input_ids)) > min(longest, reads):
            raise UserError(
                f"prompt {prompt[:60]!r}: {length} tokens, but model.max_sequence_length is {longest} and this text"
                f" encoder reads {reads}; shorten the prompt"
            )


def empty_module(model: Model, name: str, kind: type) -> nn.Module:
    """A network without memory for its weights, on the meta device, in `model.dtype`; for planning.

    Raises:
        UserError: its configuration cannot be read.
    """
    where = {"subfolder": name, "revision": model.revision}
    try:
        with init_empty_weights():
            if kind.__module__.startswith("transformers"):
                from transformers import AutoConfig

                settings = AutoConfig.from_pretrained(model.path, **where)
                part = kind.from_config(settings) if hasattr(kind, "from_config") else kind(settings)
            else:
                part = kind.from_config(kind.load_config(model.path, **where))
    except Exception as error:
        raise UserError(f"{model.path}: the configuration of `{name}` cannot be read ({first_line(error)})") from error
    part = nn.Module.to(part, DTYPES[model.dtype]).to("meta")
    if hasattr(part, "tie_weights"):  # of transformers; they were made one by one
        part.tie_weights()
    return part


def frozen(part: nn.Module, device: torch.device) -> nn.Module:
    """In evaluation mode, without gradients, on the device."""
    return part.eval().requires_grad_(False).to(device)


def where_mixed(network: nn.Module, device: torch.device, *others: nn.Module) -> torch.autocast:
    """Autocast to bfloat16, on where float32 weights are trained beside frozen bfloat16 ones.

    Args:
        others: networks that work together with it.

    See `legible.train.adapters.select_parameters`; weights in few bits (nf4's are bytes) are no other precision.
    """
    weights = (p for each in (network, *others) for p in each.parameters())
    mixed = len({p.dtype for p in weights if p.is_floating_point()}) > 1
    kind = "cpu" if device.type == "meta" else device.type  # autocast knows no meta device
    return torch.autocast(kind, torch.bfloat16, enabled=mixed)


def close(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...], tolerance: float = 0.05) -> bool:
    """Whether every tensor is finite and its error, relative in the 2-norm, is below `tolerance` (bfloat16: 0.01)."""
    pairs = list(zip(found, expected, strict=True))
    return all(a.isfinite().all() and (a - b).norm() < tolerance * b.norm() for a, b in pairs)


def places_of(
    model: Model, names: list[str], weights: Path | None, adapters: tuple[str, ...] = (LORA,)
) -> dict[str, Model]:
    """Component → where to open it: fine-tuned component folders stand in for the base's.

    Args:
        adapters: the files or folders that hold adapters; they are opened on top of the base.

    Raises:
        UserError: `weights` holds neither a component folder nor adapters, or a file is not what its run recorded.
    """
    places = dict.fromkeys(names, model)
    if weights is None:
        return places
    check_sums(weights)
    tuned = [folder for folder in (weights.iterdir() if weights.is_dir() else ()) if (folder / "config.json").is_file()]
    if not tuned and not any((weights / name).exists() for name in adapters):
        raise UserError(f"{weights}: neither a folder of a component nor {' or '.join(adapters)} is there")
    own = model.model_copy(update={"path": str(weights)})
    return places | {folder.name: own for folder in tuned if folder.name in places}

"""Nested training state (dicts, lists, numbers, tensors) as a JSON outline and safetensors shards, and back.

A full fine-tuning of the 6B model has 25 GB of state: it is written shard by shard, without a second copy in memory and
without pickle.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from legible.io import sha256_file

SHARD = 2 * 10**9  # bytes of a file, about
Found = dict[tuple, tuple[str, Tensor]]  # (address, shape, type) → (name, tensor)
SUBCLASSES = "torchao.optim."  # where the tensors with 8-bit moments are defined; nothing else is imported


def save_state(folder: Path, name: str, state: Any) -> None:
    """Write `state` as `folder/name….safetensors` and `folder/name.json`; of distributed tensors this process's part.

    Raises:
        TypeError: something in it is neither a plain value, a list, tuple, dict nor a tensor.
    """
    found: Found = {}
    outline = _outline(state, found)
    tensors = dict(found.values())
    pattern = f"{name}{{suffix}}.safetensors"
    shards = split_torch_state_dict_into_shards(tensors, filename_pattern=pattern, max_shard_size=SHARD)
    for file, names in shards.filename_to_tensors.items():
        save_file(_own_memory({entry: tensors[entry] for entry in names}), folder / file)
    stored = {
        "shards": {file: sha256_file(folder / file) for file in sorted(shards.filename_to_tensors)},
        "state": outline,
    }
    (folder / f"{name}.json").write_text(json.dumps(stored), encoding="utf-8")


def load_state(folder: Path, name: str) -> Any:
    """What `save_state` wrote, on the CPU; of distributed tensors the part that is in the file.

    Raises:
        ValueError: a shard is not what was written, if only by one bit.
    """
    stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {}
    for file, sha256 in stored["shards"].items():
        if sha256_file(folder / file) != sha256:
            raise ValueError(f"{file} is not what was written")
        tensors |= load_file(folder / file)
    return _filled(stored["state"], tensors)


def _outline(value: Any, found: Found) -> Any:
    """`value` as JSON, with a tagged list for all that JSON does not know; its tensors are added to `found`."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return _tensor_outline(value.detach(), found)
    if isinstance(value, torch.dtype):
        return ["dtype", str(value).removeprefix("torch.")]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_outline(entry, found) for entry in value]]
    if isinstance(value, dict):
        return ["dict", [[_outline(k, found), _outline(v, found)] for k, v in value.items()]]
    raise TypeError(f"{type(value).__name__} cannot be part of a checkpoint")


def _tensor_outline(value: Tensor, found: Found) -> list:
    if isinstance(value, DTensor):
        value = value.to_local()
    if is_traceable_wrapper_subclass(value):
        names, context = value.__tensor_flatten__()
        inner = {name: getattr(value, name) for name in names}
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        return ["subclass", kind, _outline(inner, found), _outline(context, found), list(value.shape)]
    if not value.is_contiguous():
        # Its layout (channels_last …) is kept too: from another one, kernels would go on with other rounding.
        order = sorted(range(value.ndim), key=value.stride, reverse=True)
        if value.permute(order).is_contiguous():
            return ["permuted", order, _tensor_outline(value.permute(order), found)]
    # The same memory is written once.
    name, _ = found.setdefault((value.data_ptr(), value.shape, value.dtype), (str(len(found)), value))
    return ["tensor", name]


def _own_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, copied where they are a part of a larger one or lie on one another: safetensors refuses these."""
    own, seen = {}, set()
    for name, value in tensors.items():
        memory = value.untyped_storage()
        alone = memory.nbytes() == value.numel() * value.element_size() and memory.data_ptr() not in seen
        own[name] = value.contiguous() if alone else value.contiguous().clone()
        seen.add(memory.data_ptr())
    return own


def _filled(outline: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(outline, list):
        return outline
    match outline:
        case ["tensor", name]:
            return tensors[name]
        case ["permuted", order, inner]:
            return _filled(inner, tensors).permute([order.index(axis) for axis in range(len(order))])
        case ["subclass", kind, inner, context, shape]:
            module, _, name = kind.rpartition(".")
            if not kind.startswith(SUBCLASSES):
                raise ValueError(f"{kind} is no tensor of an optimiser")
            parts, stride = _filled(inner, tensors), torch.empty(shape, device="meta").stride()
            rebuilt = getattr(importlib.import_module(module), name).__tensor_unflatten__
            return rebuilt(parts, _filled(context, tensors), torch.Size(shape), stride)
        case ["dtype", name]:
            return getattr(torch, name)
        case ["list", entries]:
            return [_filled(entry, tensors) for entry in entries]
        case ["tuple", entries]:
            return tuple(_filled(entry, tensors) for entry in entries)
        case ["dict", entries]:
            return {_filled(key, tensors): _filled(value, tensors) for key, value in entries}
    raise ValueError(f"{outline[:1]} is no part of a checkpoint")

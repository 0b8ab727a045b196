"""Weights of others, as they are published: read without running what is in them, and held against a known hash."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from legible.errors import UserError
from legible.integrity import check_sums
from legible.io import sha256_file
from legible.models.opening import first_line


def read_weights(path: Path, sha256: str | None, section: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors, or of a PyTorch file with nothing but tensors in it (`weights_only`).

    Args:
        sha256: what the file must have; None = anything.
        section: of the configuration, for errors.

    Raises:
        UserError: no such file, another one than the hash says, damaged, or something else than names with tensors.
    """
    if not path.is_file():
        raise UserError(f"{section}.path: {path} is missing; legible downloads no rewards by itself")
    if sha256 is not None and (found := sha256_file(path)) != sha256:
        raise UserError(f"{section}.sha256: {path} has {found}, which is another file than {sha256}")
    check_sums(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: these weights cannot be read ({first_line(error)})") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise UserError(f"{path}: names with tensors (a state dict) are expected in it")
    return state

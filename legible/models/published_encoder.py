"""A text encoder as TextCraftor publishes it: a torch file of a CLIPTextModel, wrapped as it was while it was trained.

Its tensors are named `module.text_model.…`: `module.` is of PyTorch's data parallelism, `text_model.` of transformers
before it dropped that prefix.
"""

from pathlib import Path

from torch import Tensor

from legible.errors import UserError
from legible.models.weights import read_weights

WRAPPERS = ("module.", "text_model.")  # in the order in which they stand before a name
POSITIONS = "embeddings.position_ids"  # 0, 1, 2 …: older versions of transformers stored them among the weights


def read_published(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a published encoder, under the names that the file has; no code in it is run.

    Args:
        sha256: what the file must have; None = anything.

    Raises:
        UserError: no such file, another one than the hash says, damaged, or no names with tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    return read_weights(path, sha256, "encoder")


def bare(name: str) -> str:
    """The name of a tensor without the wrappers before it."""
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def encoder_weights(found: dict[str, Tensor], expected: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of a published encoder under the names of `expected`, whose names and shapes it must have exactly.

    Args:
        expected: the parameters of a CLIPTextModel of the same architecture, as the installed transformers names them.
        source: the file, for errors.

    Raises:
        UserError: a tensor is missing, is there twice, has another shape, or is none of this architecture.
    """
    places = {bare(name): name for name in expected}
    said = f"exactly the {len(expected)} tensors of this model's text encoder are expected"
    weights: dict[str, Tensor] = {}
    for key, value in found.items():
        if (name := bare(str(key))) == POSITIONS:
            continue
        if name not in places:
            raise UserError(f"{source}: `{key}` is no tensor of a text encoder like this model's; {said}")
        place = places[name]
        if place in weights:
            raise UserError(f"{source}: `{key}` is there twice, with and without a prefix; {said}")
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if shape != (wanted := list(expected[place].shape)):
            raise UserError(f"{source}: `{key}` is {shape}, but {wanted} in this model's text encoder; {said}")
        weights[place] = value
    if absent := [name for name, place in places.items() if place not in weights]:
        raise UserError(f"{source}: {len(absent)} tensors are missing, such as `{absent[0]}`; {said}")
    return weights

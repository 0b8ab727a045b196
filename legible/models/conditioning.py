"""What prompts say to a denoiser: any number of named tensors a prompt, as its family's text encoders give them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """B prompts: under each name one tensor [rows, …] a prompt.

    Embeddings have a row a token (as many as the prompt has, or always 77), a pooled vector is one row. A prompt's
    rows under different names need not be equally many.
    """

    tensors: dict[str, list[Tensor]]

    def __post_init__(self) -> None:
        if len({len(rows) for rows in self.tensors.values()}) > 1:
            raise ValueError(f"as many prompts under every name are needed, got {self.counts()}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values()), []))

    def counts(self) -> dict[str, int]:
        """Prompts under each name."""
        return {name: len(rows) for name, rows in self.tensors.items()}

    def pick(self, prompts: Iterable[int]) -> "Conditioning":
        """The prompts at these places, in this order."""
        places = list(prompts)
        return Conditioning({name: [rows[place] for place in places] for name, rows in self.tensors.items()})

    def equals(self, other: "Conditioning") -> bool:
        """Whether both say the same, bit for bit."""
        if self.counts() != other.counts():
            return False
        pairs = (zip(rows, other.tensors[name], strict=True) for name, rows in self.tensors.items())
        return all(torch.equal(one, two) for rows in pairs for one, two in rows)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Conditioning":
        """On a device; numbers with a fraction also as `dtype`."""

        def moved(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else None)

        return Conditioning({name: [moved(value) for value in rows] for name, rows in self.tensors.items()})

    def stacked(self, name: str) -> Tensor:
        """[B, rows, …], where all prompts have as many rows."""
        return torch.stack(self.tensors[name])

    def lengths(self) -> list[int]:
        """Rows of each prompt under the name where it has most."""
        return [max(map(len, rows)) for rows in zip(*self.tensors.values(), strict=True)]

    def replaced(self, where: Sequence[bool], other: "Conditioning") -> "Conditioning":
        """With the one prompt of `other` in the places that `where` marks."""
        return Conditioning(
            {
                name: [other.tensors[name][0] if marked else row for row, marked in zip(rows, where, strict=True)]
                for name, rows in self.tensors.items()
            }
        )

    def packed(self, prefix: str) -> dict[str, Tensor]:
        """As tensors for a file: all rows under one another, and where each prompt begins [B + 1]."""
        stored = {}
        for name, rows in self.tensors.items():
            stored[f"{prefix}.{name}"] = torch.cat(rows).cpu().contiguous()
            stored[f"{prefix}.{name}.offsets"] = torch.tensor([0] + [len(row) for row in rows]).cumsum(0)
        return stored


def joined(parts: Sequence[Conditioning]) -> Conditioning:
    """The prompts of all parts, one part after the other."""
    return Conditioning({name: [row for part in parts for row in part.tensors[name]] for name in parts[0].tensors})


def mixed(parts: Sequence[Conditioning], shares: Sequence[float]) -> Conditioning:
    """Σ share · part, row by row: between what two text encoders say of the same prompts, or of several at once.

    Args:
        parts: of the same prompts, with as many rows each.
        shares: one each, 1 in sum; outside 0 … 1 they go beyond an encoder.

    Raises:
        ValueError: the shares do not add up to 1, or the parts do not fit to one another.
    """
    if len(parts) != len(shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"one share for each of {len(parts)} encoders is needed, 1 in sum; got {list(shares)}")
    heard = [(part, share) for part, share in zip(parts, shares, strict=True) if share]
    found = {}
    for name in parts[0].tensors:
        rows = zip(*(part.tensors[name] for part in parts), strict=True)
        if any(len({value.shape for value in row}) > 1 for row in rows):
            raise ValueError(f"{name}: these encoders do not give as many rows of as many numbers")
        own = [(part.tensors[name], share) for part, share in heard]
        # An encoder alone is taken as it is: 1 · x + 0 · y would be NaN where y is not finite.
        found[name] = own[0][0] if len(own) == 1 else [sum(s * v[i] for v, s in own) for i in range(len(parts[0]))]
    return Conditioning(found)


def unpacked(stored: dict[str, Tensor], prefix: str) -> Conditioning:
    """What `packed` made.

    Raises:
        KeyError: nothing with this prefix is there.
    """
    found = {}
    for key in sorted(stored):
        name = key.removeprefix(f"{prefix}.")
        if key.startswith(f"{prefix}.") and not name.endswith(".offsets"):
            offsets = stored[f"{key}.offsets"].tolist()
            found[name] = [stored[key][start:end] for start, end in pairwise(offsets)]
    if not found:
        raise KeyError(f"{prefix}: no conditioning of this name")
    return Conditioning(found)

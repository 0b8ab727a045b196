"""An arm's auxiliary loss: the weighted sum of the losses that its configuration names, their critics opened once.

A loss is a module that the registry (config/losses.py) names. It has `build(critics, aux, texts)`, which returns a
function of a `View` → loss per sample [B] ≥ 0 with a gradient for `prediction` and `predicted` (or pixels decoded from
it) only; `critics` holds what the loss says it opens, `texts` every target string of the training data.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from legible.config import CRITICS, LOSSES, Aux
from legible.losses.view import AuxLoss, Critics, View


def signal_weight(sigma: Tensor) -> Tensor:
    """(1 − σ)² / ((1 − σ)² + σ²), the share of signal power at σ: rectified flow's form of AnyText's weight ᾱ."""
    signal = (1.0 - sigma).square()
    return signal / (signal + sigma.square())


def sample_weights(aux: Aux, sigma: Tensor) -> Tensor:
    """Weight of each sample in the auxiliary loss by its share of noise σ [B]: hard window times soft weight, 0 … 1."""
    low, high = aux.sigma_window
    inside = ((sigma >= low) & (sigma <= high)).to(sigma)
    return inside * signal_weight(sigma) if aux.sigma_weight == "signal" else inside


def open_critics(names: list[str], sections: dict[str, Any], cache: Path, device: torch.device) -> Critics:
    """The frozen models that losses and rewards look with, by name.

    Args:
        sections: the configuration's, by the critics' names; `segmenter` is the file that the workflow trains.
        cache: folder for files that have to be written to be opened.

    Raises:
        UserError: a model cannot be opened.
    """
    return {name: import_module(CRITICS[name].module).open_critic(sections[name], cache, device) for name in names}


def open_aux_loss(aux: Aux, critics: Critics, texts: tuple[str, ...]) -> AuxLoss | None:
    """The weighted sum of an arm's losses; None for the control.

    Args:
        critics: what they look with; see `open_critics`.
        texts: every target string of the training data.

    Raises:
        UserError: a critic cannot judge one of `texts`.
    """
    if not aux.weights:
        return None
    parts = [
        (weight, import_module(LOSSES[name].module).build(critics, aux, texts)) for name, weight in aux.weights.items()
    ]

    def total(view: View) -> Tensor:
        return sum(weight * loss(view) for weight, loss in parts)

    return total

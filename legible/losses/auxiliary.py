"""An arm's auxiliary loss: the weighted sum of the losses that its configuration names, their models opened once."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from legible.config import Aux, Clip, Reader
from legible.errors import UserError
from legible.losses.view import View

AuxLoss = Callable[[View], Tensor]  # → loss per sample [B]
DECODED = {"clip_region", "clip_contrastive", "recognizer_feature", "ctc"}


def signal_weight(sigma: Tensor) -> Tensor:
    """(1 − σ)² / ((1 − σ)² + σ²), the share of signal power at σ: rectified flow's form of AnyText's weight ᾱ."""
    signal = (1.0 - sigma).square()
    return signal / (signal + sigma.square())


def sample_weights(aux: Aux, sigma: Tensor) -> Tensor:
    """Weight of each sample in the auxiliary loss by its σ [B]: the hard window times the soft weight, 0 … 1."""
    low, high = aux.sigma_window
    inside = ((sigma >= low) & (sigma <= high)).to(sigma)
    return inside * signal_weight(sigma) if aux.sigma_weight == "signal" else inside


def open_aux_loss(
    aux: Aux,
    clip: Clip,
    reader: Reader,
    segmenter: Path | None,
    texts: tuple[str, ...],
    cache: Path,
    device: torch.device,
) -> AuxLoss | None:
    """The weighted sum of an arm's losses; None for the control.

    Args:
        segmenter: file of the latent segmenter (char_segmentation).
        texts: every target string of the training data.
        cache: folder in which EasyOCR finds the recogniser.

    Raises:
        UserError: a model cannot be opened, or cannot judge one of `texts`.
    """
    parts = [
        (weight, open_one(name, aux, clip, reader, segmenter, texts, cache, device))
        for name, weight in aux.weights.items()
    ]
    if not parts:
        return None

    def total(view: View) -> Tensor:
        return sum(weight * loss(view) for weight, loss in parts)

    return total


def open_one(
    name: str,
    aux: Aux,
    clip: Clip,
    reader: Reader,
    segmenter: Path | None,
    texts: tuple[str, ...],
    cache: Path,
    device: torch.device,
) -> AuxLoss:
    """One loss by its name. Its module is imported here: that takes seconds, and other arms do without."""
    if name in ("clip_region", "clip_contrastive"):
        from legible.losses.clip import clip_contrastive_loss, clip_region_loss, open_clip_model
        from legible.losses.distractors import one_edit_distractors

        opened = open_clip_model(clip, device)
        if name == "clip_region":
            return lambda view: view.per_sample(
                clip_region_loss(opened, view.images, view.owners, view.boxes, view.texts, aux.margin, clip.template)
            )
        alphabet = "".join(sorted(set("".join("".join(texts).split()))))
        others = {text: one_edit_distractors(text, alphabet, clip.distractors) for text in set(texts)}
        return lambda view: view.per_sample(
            clip_contrastive_loss(
                opened,
                view.images,
                view.owners,
                view.boxes,
                view.texts,
                [others[text] for text in view.texts],
                aux.margin,
                clip.template,
            )
        )
    if name in ("ctc", "recognizer_feature"):
        from legible.losses.ctc import ctc_region_loss, encode_targets, open_reader
        from legible.losses.feature import recognizer_feature_loss

        read = open_reader(reader, cache, device)
        if name == "recognizer_feature":
            return lambda view: view.per_sample(
                recognizer_feature_loss(read, view.images, view.clean_images, view.owners, view.boxes, aux.margin)
            )
        encode_targets(read, texts)  # refuses what the reader cannot judge, before training
        return lambda view: view.per_sample(
            ctc_region_loss(read, view.images, view.owners, view.boxes, view.texts, aux.margin)
        )
    if name == "glyph_mask":
        from legible.losses.mask import glyph_mask_loss

        return lambda view: glyph_mask_loss(view.velocity, view.target, view.masks)
    from legible.losses.segmentation import char_segmentation_loss, load_segmenter

    if segmenter is None:
        raise UserError("aux.loss: char_segmentation needs a trained segmenter; give it with --segmenter")
    network = load_segmenter(segmenter, device)
    return lambda view: char_segmentation_loss(network, view.predicted, view.characters)

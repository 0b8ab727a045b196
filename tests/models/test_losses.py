"""What the auxiliary losses do to real signs, with the shipped models: each prefers the right text and leads to it."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pictures import draw_signs, random
from rapidfuzz.distance import OSA
from torch import Tensor

from legible.config import Clip, Fonts, Model, Reader
from legible.losses.char_segmentation import char_segmentation_loss
from legible.losses.clip_contrastive import clip_contrastive_loss
from legible.losses.clip_region import clip_region_loss
from legible.losses.ctc import ctc_region_loss
from legible.losses.glyph_mask import glyph_mask_loss
from legible.losses.recognizer_feature import recognizer_feature_loss
from legible.models.clip import OpenedClip, open_clip_model
from legible.models.family import open_model
from legible.models.reader import OpenedReader, open_reader
from legible.models.segmenter import OpenedSegmenter, Segmenter
from legible.train.glyph_maps import character_map, latent_masks
from legible.train.segmenter import train_segmenter

ROOT = Path(__file__).resolve().parents[2]
ALPHABET = Fonts().characters
CPU = torch.device("cpu")
SIGNS = ("OPEN", "BAKERY", "4711", "HOTEL", "FRESH", "TAXI")
WRONG = ("OPNE", "BAKRY", "4771", "HOTE", "FLESH", "TAXIS")


@pytest.fixture(scope="module")
def signs() -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [6, 3, 32, 64] of SIGNS, owners and boxes of their one line."""
    drawn = draw_signs(SIGNS)
    pictures = torch.from_numpy(np.stack([sign.image for sign in drawn])).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pictures, torch.arange(len(drawn)), torch.tensor([sign.line_boxes[0] for sign in drawn]).float()


@pytest.fixture(scope="module")
def shipped_clip() -> OpenedClip:
    torch.set_num_threads(1)
    return open_clip_model(Clip(path=str(ROOT / "resources/nano/clip")), CPU)


@pytest.fixture(scope="module")
def shipped_reader(tmp_path_factory) -> OpenedReader:
    torch.set_num_threads(1)
    folder = ROOT / "resources/nano/recognizer_conv"
    return open_reader(Reader(network=str(folder)), tmp_path_factory.mktemp("cache"), CPU)


def blurred(pictures: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(pictures, [2] * 4, mode="replicate"), 5, stride=1)


def descended(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int = 12) -> Tensor:
    """Where plain gradient descent with steps of length 1 leads to."""
    moved = start
    for _ in range(steps):
        moved = moved.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(moved).sum(), moved)
        moved = moved - gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return moved.detach()


def descend(loss: Callable[[Tensor], Tensor], start: Tensor) -> list[Tensor]:
    """Losses per sample before and after descent."""
    return [loss(start).detach(), loss(descended(loss, start)).detach()]


def test_the_region_loss_prefers_the_right_string_and_leads_to_it(shipped_clip, signs):
    pictures, owners, boxes = signs

    def loss(images: Tensor, texts: list[str]) -> Tensor:
        return clip_region_loss(shipped_clip, images, owners, boxes, texts, 2.0)

    unrelated = [*SIGNS[1:], SIGNS[0]]
    assert (loss(pictures, list(SIGNS)) < loss(pictures, unrelated)).all()
    first, last = descend(lambda images: loss(images, list(SIGNS)), blurred(pictures))
    assert (last < first).all()


def test_the_ctc_loss_prefers_the_right_string_and_makes_it_readable(shipped_reader, signs):
    pictures, owners, boxes = signs
    right, wrong = list(SIGNS), list(WRONG)

    def loss(images: Tensor, texts: list[str] = right) -> Tensor:
        return ctc_region_loss(shipped_reader, images, owners, boxes, texts, 2.0)

    assert (loss(pictures) < loss(pictures, wrong)).all()  # one edit away
    led_to = descended(loss, blurred(pictures), steps=24)
    assert (loss(blurred(pictures)) > 1).all()
    assert (loss(led_to) < 0.1).all()
    assert (loss(led_to) < loss(led_to, wrong)).all()  # to this text, and not to one that is an edit away


def test_the_contrastive_loss_prefers_the_right_string_and_leads_to_it(shipped_clip, signs):
    pictures, owners, boxes = signs
    right, wrong = list(SIGNS), list(WRONG)
    assert all(OSA.distance(a, b) == 1 for a, b in zip(right, wrong, strict=True))

    def loss(images: Tensor, texts: list[str] = right, others: list[str] = wrong) -> Tensor:
        return clip_contrastive_loss(shipped_clip, images, owners, boxes, texts, [[other] for other in others], 2.0)

    # The nano CLIP takes 4711 for 4771: no loss can be better than its model.
    assert (loss(pictures) < loss(pictures, wrong, right)).tolist() == [text != "4711" for text in SIGNS]
    assert loss(pictures).mean() < math.log(2)
    first, last = descend(loss, blurred(pictures))
    assert (last < first).all()


def test_the_feature_loss_prefers_the_right_picture_and_leads_to_it(shipped_reader, signs):
    pictures, owners, boxes = signs

    def loss(images: Tensor, clean: Tensor = pictures) -> Tensor:
        return recognizer_feature_loss(shipped_reader, images, clean, owners, boxes, 2.0)

    unrelated = loss(pictures.roll(1, 0))
    assert (loss(blurred(pictures)) < unrelated).all()
    assert 0.5 < unrelated.mean() < 2.5
    first, last = descend(loss, blurred(pictures))
    assert (last < 0.8 * first).all()


def test_the_glyph_mask_loss_sees_the_text_and_not_the_ground(signs):
    coverage = torch.from_numpy(np.stack([sign.mask for sign in draw_signs(SIGNS)]))
    masks = latent_masks(coverage, 4)
    assert masks.shape == (6, 8, 16)
    velocity = random(6, 12, 8, 16, dtype=torch.float32)
    on_ground = velocity + 3 * (masks == 0)[:, None]
    on_glyphs = velocity + 3 * (masks > 0)[:, None]
    assert (glyph_mask_loss(on_ground, velocity, masks) == 0).all()
    torch.testing.assert_close(glyph_mask_loss(on_glyphs, velocity, masks), torch.full((6,), 9.0), atol=1e-4, rtol=0)
    first, last = descend(lambda v: glyph_mask_loss(v, velocity, masks), random(6, 12, 8, 16, seed=1).float())
    assert (last < first).all()


def test_the_segmentation_loss_prefers_the_right_text_and_leads_to_it(signs):
    pictures, _, _ = signs
    latents = open_model(Model(path=str(ROOT / "resources/nano/zimage")), ("autoencoder",)).encode_images(pictures)
    maps = [
        character_map(sign.mask, list(sign.character_boxes), text, ALPHABET, (16, 32))
        for sign, text in zip(draw_signs(SIGNS), SIGNS, strict=True)
    ]
    characters = torch.from_numpy(np.stack(maps))
    # Learnt by heart (the last sample is held out, hence the repetition): the loss is tested here, not the network.
    network, measured = train_segmenter(
        latents.repeat(2, 1, 1, 1), characters.repeat(2, 1, 1), ALPHABET, 32, 120, 6, 5e-3, 0
    )
    assert measured["ink_accuracy"] > 0.9
    opened = OpenedSegmenter(network, ALPHABET)
    assert isinstance(network, Segmenter)

    def loss(predicted: Tensor, wanted: Tensor = characters) -> Tensor:
        return char_segmentation_loss(opened, predicted, wanted)

    assert (loss(latents) < loss(latents, characters.roll(1, 0))).all()
    noisy = latents + 0.5 * random(*latents.shape, dtype=torch.float32)
    first, last = descend(loss, noisy)
    assert (last < first).all()

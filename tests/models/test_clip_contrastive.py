"""The CLIP loss against distractors: its value, its gradient, and what is encoded."""

import pytest
import torch
from gradients import assert_gradient
from pictures import BOXES, OWNERS, TEXTS, images_of
from torch import Tensor

from legible.losses.clip_contrastive import clip_contrastive_loss
from legible.losses.clip_region import clip_region_loss
from legible.losses.regions import crop_regions
from legible.models.clip import OpenedClip

DISTRACTORS = [["OPE", "OPNE"], ["471", "4771"], ["XX", "Y"]]


def in_double(clip: OpenedClip) -> OpenedClip:
    return OpenedClip(clip.model.double(), clip.tokenize, clip.size, clip.mean.double(), clip.std.double())


def test_the_contrastive_loss_is_the_cross_entropy_of_the_right_string(tiny_clip):
    images = images_of()
    loss = clip_contrastive_loss(tiny_clip, images, OWNERS, BOXES, TEXTS, DISTRACTORS, 2.0)
    crops = crop_regions((images + 1) / 2, OWNERS, BOXES, (32, 64), 2.0)
    seen = tiny_clip.model.encode_image((crops - 0.5) / 0.5)
    for row, (text, others) in enumerate(zip(TEXTS, DISTRACTORS, strict=True)):
        strings = tiny_clip.model.encode_text(tiny_clip.tokenize([text, *others]))
        logits = tiny_clip.model.logit_scale.exp() * torch.cosine_similarity(seen[row : row + 1], strings)
        assert loss[row].item() == pytest.approx(-logits.log_softmax(0)[0].item(), rel=1e-4)
    assert loss.shape == (3,)
    assert loss.min() > 0


def test_contrastive_gradients_are_those_of_finite_differences(tiny_clip):
    clip = in_double(tiny_clip)

    def loss(pixels: Tensor) -> Tensor:
        return clip_contrastive_loss(clip, pixels, OWNERS, BOXES.double(), TEXTS, DISTRACTORS, 2.0).sum()

    assert_gradient(loss, images_of(dtype=torch.float64), 1e-5, 1e-4)


def test_the_contrastive_gradient_reaches_the_pixels_and_nothing_else(tiny_clip):
    images = images_of().requires_grad_(True)
    tiny_clip.model.logit_scale.requires_grad_(True)  # it is frozen by the loss itself, too
    clip_contrastive_loss(tiny_clip, images, OWNERS[:1], BOXES[:1], TEXTS[:1], DISTRACTORS[:1], 2.0).sum().backward()
    assert images.grad[0, :, 10:22, 14:46].abs().min() > 0
    assert images.grad[1].abs().max() == 0
    assert all(p.grad is None for p in tiny_clip.model.parameters())


def test_every_string_is_encoded_once(tiny_clip):
    given_texts = []
    spied = OpenedClip(
        tiny_clip.model,
        lambda texts: given_texts.append(texts) or tiny_clip.tokenize(texts),
        tiny_clip.size,
        tiny_clip.mean,
        tiny_clip.std,
    )
    texts, others = ["OPEN", "OPNE", "OPEN"], [["OPNE", "OPE"], ["OPEN", "ONE"], ["OPNE", "OPE"]]
    loss = clip_contrastive_loss(spied, images_of(), torch.tensor([0, 0, 0]), BOXES[[0, 0, 0]], texts, others, 2.0)
    assert given_texts == [["OPEN", "OPNE", "OPE", "ONE"]]
    assert loss[0].item() == pytest.approx(loss[2].item(), rel=1e-5)  # another row of a batch may round otherwise
    assert loss[0].item() != pytest.approx(loss[1].item(), rel=1e-3)


@pytest.mark.parametrize("text", ["OPEN", "{}", "A{0}B", "{x}"])
def test_the_template_is_wrapped_around_the_string_whatever_stands_in_it(tiny_clip, text):
    one = (tiny_clip, images_of(), OWNERS[:1], BOXES[:1])
    with_template = clip_region_loss(*one, [text], 2.0, "a {} b")
    assert with_template == clip_region_loss(*one, [f"a {text} b"], 2.0)
    assert with_template != clip_region_loss(*one, [text], 2.0)
    contrastive = clip_contrastive_loss(*one, [text], [[f"{text}X"]], 2.0, "a {} b")
    assert contrastive == clip_contrastive_loss(*one, [f"a {text} b"], [[f"a {text}X b"]], 2.0)

"""Pictures without text show what their captions say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from legible.corpus import templates
from legible.corpus.scenes import BLENDED, COUNTS, SHAPES, SHARES, STRIPED, Scene, Shares, draw_scene, scene_words
from legible.corpus.templates import PALETTE
from legible.render.scene import CONTRAST, draw, draw_scenes, split_of
from legible.render.sign import contrast_ratio

SEEDS = st.integers(0, 2**32)


def picture(scene: Scene, seed: int = 0, height: int = 32, width: int = 64) -> np.ndarray:
    return draw(scene, height, width, np.random.default_rng(seed))


def parts(image: np.ndarray, color: str, background: str) -> int:
    """Connected areas that are more of one colour than of the other."""
    one, other = (np.array(PALETTE[name], float) for name in (color, background))
    share = (image - other) @ (one - other) / ((one - other) @ (one - other))
    return ndimage.label(share > 0.4, np.ones((3, 3)))[1]


@given(SEEDS)
def test_a_caption_says_kind_colours_and_number(seed):
    scene = draw_scene(np.random.default_rng(seed))
    assert scene.color != scene.background
    assert scene.background in scene.caption
    assert scene.color in scene.caption or scene.caption == f"a plain {scene.background} ground"
    if scene.kind == "shapes":
        plural = SHAPES[scene.shape] in scene.caption.split()
        assert scene.caption.startswith(COUNTS[scene.count - 1])
        assert plural == (scene.count > 1)
        assert plural or scene.shape in scene.caption.split()
    assert set(scene.caption.split()) <= set(scene_words())


@pytest.mark.parametrize("wanted", ["ring", "cross"])
def test_shares_decide_what_is_drawn(wanted):
    shares = Shares({"shapes": 0.75, "plain": 0.25}, {shape: float(shape == wanted) for shape in reversed(SHAPES)})
    scenes = [draw_scene(np.random.default_rng(seed), shares) for seed in range(400)]
    shapes = [scene.shape for scene in scenes if scene.kind == "shapes"]
    assert set(shapes) == {wanted}
    assert {scene.kind for scene in scenes} == {"shapes", "plain"}
    assert 0.67 < len(shapes) / 400 < 0.83


def test_no_caption_reads_like_a_signs_or_like_one_of_the_drift_prompts():
    captions = {draw_scene(np.random.default_rng(seed)).caption for seed in range(500)}
    things = {word for template in templates.TEMPLATES for word in template.split()} & {"sign", "board", "label"}
    assert not any(things & set(caption.split()) for caption in captions)
    assert not any('"' in caption for caption in captions)


@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 4), SEEDS)
def test_as_many_shapes_are_drawn_as_the_caption_counts(shape, count, seed):
    image = picture(Scene("shapes", "white", "dark blue", count, shape), seed)
    assert parts(image, "white", "dark blue") == count
    assert tuple(image[0, 0]) == PALETTE["dark blue"]


def test_shapes_differ_from_one_another():
    drawn = [picture(Scene("shapes", "white", "black", 1, shape)) for shape in SHAPES]
    masks = [image[..., 0] > 127 for image in drawn]
    for i, one in enumerate(masks):
        for other in masks[i + 1 :]:
            assert (one & other).sum() / (one | other).sum() < 0.9


@given(st.sampled_from(sorted(SHARES)), SEEDS)
def test_a_picture_has_its_two_colours_only(kind, seed):
    scene = Scene(kind, "yellow", "purple", 2, "circle", (STRIPED if kind == "stripes" else BLENDED)[seed % 2])
    image = picture(scene, seed)
    assert image.shape == (32, 64, 3)
    assert image.dtype == np.uint8
    ends = [np.array(PALETTE[name], float) for name in ("yellow", "purple")]
    share = (image - ends[1]) @ (ends[0] - ends[1]) / ((ends[0] - ends[1]) @ (ends[0] - ends[1]))
    assert np.abs(image - (ends[1] + share[..., None] * (ends[0] - ends[1]))).max() < 2
    assert share.min() > -0.01
    assert share.max() < 1.01
    assert kind == "plain" or share.max() > 0.9
    assert share.min() < 0.1


@pytest.mark.parametrize("kind", ["stripes", "blend"])
def test_directions_are_what_they_say(kind):
    first, second = STRIPED if kind == "stripes" else BLENDED
    across = picture(Scene(kind, "white", "black", direction=first)).astype(int)
    down = picture(Scene(kind, "white", "black", direction=second)).astype(int)
    assert (across == across[:1]).all()
    assert (down == down[:, :1]).all()
    if kind == "blend":
        assert across[0, 0, 0] > across[0, -1, 0]
        assert down[0, 0, 0] > down[-1, 0, 0]


def test_splits_share_no_caption_and_pictures_no_stream():
    train, test = (draw_scenes(3, split, 60, 32, 64) for split in ("train", "test"))
    assert not {p.scene.caption for p in train} & {p.scene.caption for p in test}
    assert all(split_of(p.scene.caption) == "test" for p in test)
    assert all(contrast_ratio(PALETTE[p.scene.color], PALETTE[p.scene.background]) >= CONTRAST for p in train + test)
    again = draw_scenes(3, "train", 20, 32, 64)
    assert all(np.array_equal(one.image, two.image) for one, two in zip(train, again, strict=False))
    other = draw_scenes(4, "train", 20, 32, 64)
    assert any(one.scene != two.scene for one, two in zip(train, other, strict=False))
    kinds = {p.scene.kind for p in train}
    assert kinds == set(SHARES)

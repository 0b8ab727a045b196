"""Random streams: no two purposes share draws, and what a seed means never changes (it is part of every result)."""

import itertools

import torch

from legible.seeds import Stream, anchor_noise, image_noise, prompt_number, stateless_generator

SHAPE = (2, 2, 3)


def drawn(*parts: int) -> tuple[float, ...]:
    return tuple(torch.randn(4, generator=stateless_generator(*parts)).tolist())


def test_every_purpose_has_a_number_of_its_own_that_never_changes():
    assert {name: int(stream) for name, stream in Stream.__members__.items()} == {
        "ORDER": 1,
        "NOISE": 2,
        "PLACEBO": 3,
        "GRADIENT_SAMPLES": 4,
        "GRADIENT_NOISE": 5,
        "ANCHOR_POINTS": 6,
        "ANCHOR_NOISE": 7,
        "ROUNDING": 8,
        "BUCKETS": 9,
        "PROMPT_DROPOUT": 10,
    }


def test_streams_steps_and_samples_share_no_draws():
    places = list(itertools.product((0, 1, 7), Stream, range(1, 8), range(1, 8)))
    assert len({drawn(*parts) for parts in places}) == len(places)
    short = list(itertools.product((0, 1, 7), Stream))  # of a seed as a whole
    assert len({drawn(*parts) for parts in short}) == len(short)


def test_a_generator_does_not_know_what_happened_before():
    expected = drawn(3, Stream.NOISE, 57, 1)
    torch.manual_seed(9)
    drawn(3, Stream.NOISE, 56, 1)
    assert drawn(3, Stream.NOISE, 57, 1) == expected


def test_an_images_noise_depends_on_prompt_id_and_seed_only():
    expected = image_noise("held_out-0", 0, SHAPE)
    image_noise("held_out-1", 0, SHAPE)
    torch.manual_seed(5)
    assert torch.equal(image_noise("held_out-0", 0, SHAPE), expected)
    others = [
        image_noise("held_out-0", 1, SHAPE),
        image_noise("held_out-1", 0, SHAPE),
        anchor_noise("held_out-0", 0, SHAPE),
    ]
    assert not any(torch.equal(other, expected) for other in others)


def test_an_images_noise_is_what_it_was():
    """Pinned: with another value, every published picture would be another one."""
    assert prompt_number("held_out-0") == 2162487013
    assert stateless_generator(0, Stream.NOISE, 5, 1).initial_seed() == 6419672511448061259
    images = [-1.56465256, 1.34720457, -0.59540737, 0.21318090, -0.89124918, -0.26057485, -1.11613035, -0.19678688]
    torch.testing.assert_close(image_noise("held_out-0", 0, SHAPE).flatten()[:8], torch.tensor(images))
    anchor = [-0.31320915, -2.26917934, 0.89892590, -0.70826471, 0.53014016, -0.16753335, 0.31411108, 0.66087687]
    torch.testing.assert_close(anchor_noise("held_out-0", 0, SHAPE).flatten()[:8], torch.tensor(anchor))

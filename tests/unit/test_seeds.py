"""Random streams: no two purposes share draws, and what a seed means never changes (it is part of every result)."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from legible.seeds import (
    Stream,
    anchor_noise,
    image_noise,
    prompt_number,
    sample_order,
    shuffled_batches,
    stateless_generator,
)

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
        "PERMUTED": 21,
        "RANDOM_TARGET": 22,
        "GROUP_NOISE": 31,
        "GROUP_LEVELS": 32,
        "GROUP_STEPS": 33,
        "DAMAGE": 41,
        "GLYPHS": 42,
        "PANEL": 43,
    }


def test_streams_steps_and_samples_share_no_draws():
    places = list(itertools.product((0, 1, 7), Stream, range(7), range(7)))
    assert len({drawn(*parts) for parts in places}) == len(places)
    short = list(itertools.product((0, 1, 7), Stream, range(7)))  # of an epoch, or a prompt
    assert len({drawn(*parts) for parts in short}) == len(short)


def test_a_generator_does_not_know_what_happened_before():
    torch.manual_seed(1)
    expected = drawn(3, Stream.NOISE, 57, 1)
    torch.manual_seed(2)
    torch.randn(10)
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
    # From 16 numbers on, torch draws otherwise.
    whole = image_noise("held_out-0", 0, (12, 8, 16)).flatten()[[0, 1, -2, -1]]
    torch.testing.assert_close(whole, torch.tensor([0.11007259, -1.24066091, 0.52535260, 0.43681949]))
    whole = anchor_noise("held_out-0", 0, (12, 8, 16)).flatten()[[0, 1, -2, -1]]
    torch.testing.assert_close(whole, torch.tensor([-0.69716179, 0.73173952, -0.39441040, 2.57745600]))


def test_the_order_of_samples_is_what_it_was():
    assert sample_order(10, 2, 3)(range(12)).tolist() == [5, 4, 8, 0, 3, 7, 6, 2, 1, 9, 8, 2]
    assert sample_order(10, 2, 3, [32, 64] * 5)(range(12)).tolist() == [5, 3, 7, 1, 0, 6, 4, 8, 2, 9, 4, 6]


def test_batches_are_epochs_without_replacement_and_need_no_memory():
    batches = shuffled_batches(10, 4, seed=3)
    stream = torch.cat([batches(step) for step in range(10)]).tolist()
    for epoch in range(4):
        assert sorted(stream[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert stream[:10] != stream[10:20]
    fresh = shuffled_batches(10, 4, seed=3)
    assert [fresh(step).tolist() for step in (7, 0, 3)] == [batches(step).tolist() for step in (7, 0, 3)]
    assert shuffled_batches(10, 4, seed=4)(0).tolist() != batches(0).tolist()
    assert len(shuffled_batches(3, 8, seed=0)(5)) == 8  # a batch may be larger than the data


@given(lengths=st.lists(st.sampled_from([32, 64, 96]), min_size=1, max_size=40), batch=st.integers(1, 6))
def test_buckets_hold_captions_of_one_length_and_every_sample_once(lengths, batch):
    order = sample_order(len(lengths), batch, 3, lengths)
    whole = len(lengths) // batch * batch or len(lengths)
    epochs = [order(range(epoch * whole, (epoch + 1) * whole)).tolist() for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == whole  # all of them, or all but what does not fill a forward pass
        passes = [epoch[start : start + batch] for start in range(0, whole, batch)]
        mixed = [picked for picked in passes if len({lengths[index] for index in picked}) > 1]
        assert len(mixed) <= len(set(lengths)) - 1  # what the buckets leave over: fewer than a pass of each
    again = sample_order(len(lengths), batch, 3, lengths)
    assert again(range(2 * whole, 3 * whole)).tolist() == epochs[2]
    assert len(lengths) < 12 or len({tuple(epoch) for epoch in epochs}) > 1

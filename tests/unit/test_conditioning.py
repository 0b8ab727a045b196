"""What prompts say, as named ragged tensors: picked, joined, replaced, packed into a file and back, nothing is lost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training import same_conditioning

from legible.models.conditioning import Conditioning, joined, mixed, unpacked
from legible.tensors import load_tensors, save_tensors

# Embeddings of two encoders, a pooled vector, token ids: other widths, types and numbers of axes.
KINDS = {
    "captions": ((4,), torch.float32),
    "encoder_2.captions": ((2, 3), torch.bfloat16),
    "pooled": ((5,), torch.float64),
    "ids": ((), torch.int64),
}
NAMES = sorted(KINDS)


@st.composite
def conditionings(draw, most: int = 5, names: list[str] | None = None):
    """Up to `most` prompts, each with 0 to 6 rows of its own under one to four names (or just these)."""
    chosen = names or draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    prompts = draw(st.integers(1, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def rows(name: str) -> torch.Tensor:
        shape, dtype = KINDS[name]
        drawn = 100 * torch.randn((draw(st.integers(0, 6)), *shape), generator=generator)
        return drawn.to(dtype)

    return Conditioning({name: [rows(name) for _ in range(prompts)] for name in chosen})


def everything(conditioning: Conditioning) -> Conditioning:
    return conditioning.pick(range(len(conditioning)))


@given(conditionings(), st.data())
def test_picked_prompts_are_those_at_the_places_in_this_order(conditioning, data):
    places = data.draw(st.lists(st.integers(0, len(conditioning) - 1), max_size=8))
    picked = conditioning.pick(iter(places))
    assert len(picked) == len(places)
    for name, rows in conditioning.tensors.items():
        assert [id(row) for row in picked.tensors[name]] == [id(rows[place]) for place in places]
    assert picked.lengths() == [conditioning.lengths()[place] for place in places]
    assert same_conditioning(everything(conditioning), conditioning)


@given(conditionings(names=NAMES), conditionings(names=NAMES), st.data())
def test_joined_parts_stand_behind_one_another(first, second, data):
    whole = joined([first, second])
    assert len(whole) == len(first) + len(second)
    assert same_conditioning(whole.pick(range(len(first))), first)
    assert same_conditioning(whole.pick(range(len(first), len(whole))), second)
    cut = data.draw(st.integers(0, len(whole)))
    assert same_conditioning(joined([whole.pick(range(cut)), whole.pick(range(cut, len(whole)))]), whole)


@given(conditionings(), conditionings(1, NAMES))
def test_a_file_gives_back_what_was_packed_into_it(tmp_path, conditioning, other):
    path = tmp_path / "cache.safetensors"
    # Beside it lies another one, whose prefix begins alike, and a tensor that belongs to neither.
    rest = other.packed("said2") | {"latents": torch.zeros(2)}
    save_tensors(path, conditioning.packed("said") | rest)
    stored, _ = load_tensors(path, "the cache")
    found = unpacked(stored, "said")
    assert same_conditioning(found, conditioning)
    assert all(
        one.dtype == two.dtype
        for name, rows in conditioning.tensors.items()
        for one, two in zip(rows, found.tensors[name], strict=True)
    )
    assert same_conditioning(unpacked(stored, "said2"), other)


def test_what_was_never_packed_is_named():
    stored = Conditioning({"captions": [torch.zeros(2, 3)]}).packed("conditioning")
    with pytest.raises(KeyError, match="empty: no conditioning of this name"):
        unpacked(stored, "empty")
    del stored["conditioning.captions.offsets"]
    with pytest.raises(KeyError, match=r"conditioning\.captions\.offsets"):
        unpacked(stored, "conditioning")


@given(conditionings(names=NAMES), st.data())
def test_marked_places_are_replaced_by_the_one_prompt(conditioning, data):
    other = data.draw(conditionings(1, NAMES))
    size = len(conditioning)
    where = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    found = conditioning.replaced(where, other)
    expected = joined([other if marked else conditioning.pick([place]) for place, marked in enumerate(where)])
    assert same_conditioning(found, expected)
    assert same_conditioning(conditioning.replaced([False] * size, other), conditioning)
    with pytest.raises(ValueError, match="zip"):
        conditioning.replaced([*where, True], other)


@given(conditionings())
def test_lengths_are_those_of_the_name_with_most_rows(conditioning):
    assert conditioning.lengths() == [
        max(len(rows[prompt]) for rows in conditioning.tensors.values()) for prompt in range(len(conditioning))
    ]


@given(conditionings(names=NAMES))
def test_only_numbers_with_a_fraction_change_their_type(conditioning):
    moved = conditioning.to("cpu", torch.float16)
    kinds = {name: {row.dtype for row in rows} for name, rows in moved.tensors.items()}
    assert kinds == {name: {torch.int64 if name == "ids" else torch.float16} for name in KINDS}
    assert same_conditioning(conditioning.to("cpu"), conditioning)
    assert same_conditioning(moved, moved.to("cpu", torch.float16))


def test_prompts_of_equal_length_can_be_stacked():
    rows = [torch.full((2, 3), float(prompt)) for prompt in range(4)]
    assert torch.equal(Conditioning({"pooled": rows, "ragged": [torch.zeros(i) for i in range(4)]}).stacked("pooled"),
                       torch.stack(rows))  # fmt: skip
    with pytest.raises(RuntimeError, match="equal size"):
        Conditioning({"ragged": [torch.zeros(1, 3), torch.zeros(2, 3)]}).stacked("ragged")


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(0, 4), min_size=1))
def test_every_name_needs_as_many_prompts(counts):
    tensors = {name: [torch.zeros(1, 2)] * count for name, count in counts.items()}
    if len(set(counts.values())) == 1:
        assert len(Conditioning(tensors)) == next(iter(counts.values()))
        assert Conditioning(tensors).counts() == counts
        return
    with pytest.raises(ValueError, match="as many prompts under every name are needed, got"):
        Conditioning(tensors)


def test_mixing_ends_at_its_end_points_and_goes_straight_between():
    one, two = (Conditioning({"a": [torch.full((3, 2), value), torch.full((5, 2), value)]}) for value in (1.0, 3.0))
    for shares, expected in (((1, 0), one), ((0, 1), two)):
        assert all(map(torch.equal, mixed([one, two], shares).tensors["a"], expected.tensors["a"]))
    half = mixed([one, two], (0.5, 0.5)).tensors["a"]
    assert [value.shape for value in half] == [(3, 2), (5, 2)]
    assert all((value == 2).all() for value in half)
    assert (mixed([one, two], (1.5, -0.5)).tensors["a"][0] == 0).all()  # beyond
    assert (mixed([one, two, one], (0.25, 0.5, 0.25)).tensors["a"][0] == 2).all()


@pytest.mark.parametrize("shares", [(0.5, 0.6), (1.0,), (0.2, 0.3, 0.5)])
def test_shares_that_are_no_mixture_are_refused(shares):
    one = Conditioning({"a": [torch.ones(3, 2)]})
    with pytest.raises(ValueError, match="1 in sum"):
        mixed([one, one], shares)


def test_encoders_that_say_different_amounts_are_not_mixed():
    with pytest.raises(ValueError, match="as many rows"):
        mixed([Conditioning({"a": [torch.ones(3, 2)]}), Conditioning({"a": [torch.ones(4, 2)]})], (0.5, 0.5))

"""Placebos: letters in another order, what is refused, and how pages know such an arm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from legible.config import LOSSES, Aux, Config, Training, validate
from legible.corpus.text import characters
from legible.errors import UserError
from legible.figures.labels import arm_label, is_placebo, placebo_kind
from legible.names import PLACEBOS
from legible.report.describe import LOSSES as DESCRIBED
from legible.report.verdict import PLACEBO, placebo_note
from legible.seeds import Stream, stateless_generator
from legible.train.data import reordered

CONTROL = {"diffusion_only": {}}
LETTERS = ["A", "B", "C", " ", "5", "é", "क्षि"]
LINES = st.lists(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=6).map("".join), min_size=1, max_size=3)


def drawn(lines: list[str], sample: int = 0) -> list[str | None]:
    return reordered(lines, stateless_generator(7, Stream.PERMUTED, sample))


@given(LINES, st.integers(0, 99))
def test_a_permuted_text_has_the_same_letters_and_another_order(lines, sample):
    pieces = [characters(line) for line in lines]
    found = drawn(lines, sample)
    assert found == drawn(lines, sample)  # of seed and sample alone
    whole = ["".join(line) if new is None else new for new, line in zip(found, pieces, strict=True)]
    assert sorted(characters("".join(whole))) == sorted(piece for line in pieces for piece in line)
    for new, own in zip(found, pieces, strict=True):
        if new is not None:
            assert new != "".join(own)
            assert [c.isspace() for c in characters(new)] == [c.isspace() for c in own]
    letters = [piece for line in pieces for piece in line if not piece.isspace()]
    if len(lines) == 1:
        assert (found[0] is None) == (len(set(letters)) < 2)


@pytest.mark.parametrize("lines", [["AA"], ["5"], [""], ["A A"], ["BB", "B"]])
def test_a_text_without_another_order_does_not_count(lines):
    assert drawn(lines) == [None] * len(lines)


def test_lines_keep_their_lengths_and_words_and_share_their_letters():
    for sample in range(20):
        first, second = drawn(["TO LATE", "OPEN"], sample)
        assert (len(first), first[2], len(second)) == (7, " ", 4)
        assert sorted(first + second) == sorted("TO LATEOPEN")
        assert first != "TO LATE"
        assert second != "OPEN"
    assert drawn(["A", "B"]) == ["B", "A"]
    assert len({drawn(["OPENS"], sample)[0] for sample in range(20)}) > 10


@pytest.mark.parametrize("loss", LOSSES)
def test_only_losses_of_a_text_alone_can_have_its_letters_permuted(loss):
    keys = {"loss": loss, "lambda": 1.0, "targets": "permuted"}
    if LOSSES[loss].wants == "text":
        assert Aux.model_validate(keys).targets == "permuted"
        return
    with pytest.raises(ValidationError, match=f"targets: permuted needs losses of a text alone; {loss} compares with"):
        Aux.model_validate(keys)
    with pytest.raises(ValidationError, match=f"; {loss} compares with"):
        Aux.model_validate(keys | {"loss": {"ctc": 1.0, loss: 0.1}})


def test_which_losses_look_at_what():
    seen = {wants: {name for name, loss in LOSSES.items() if loss.wants == wants} for wants in ("text", "picture")}
    assert seen["text"] == {"ctc", "clip_region", "clip_contrastive"}
    assert seen["picture"] == {"recognizer_feature", "glyph_mask", "char_segmentation"}
    assert set(DESCRIBED) == set(LOSSES)


@pytest.mark.parametrize(
    ("training", "placebo"),
    [
        ({}, False),
        ({"aux": {"loss": "ctc", "lambda": 1.0}}, False),
        ({"aux": {"loss": "ctc", "lambda": 1.0, "targets": "permuted"}}, True),
        ({"aux": {"loss": "glyph_mask", "lambda": 1.0, "targets": "shuffled"}}, True),
        ({"aux": {"loss": "none", "targets": "shuffled"}}, False),
        ({"aux": {"loss": {"self_reading": 1.0, "random_target": 1.0}, "lambda": 1.0}}, True),
        ({"aux": {"loss": {"self_reading": 1.0, "ctc": 1.0}, "lambda": 1.0}}, False),
        ({"reward": {"weights": {"reading": 1.0}, "targets": "shuffled"}}, True),
        ({"reward": {"weights": {"reading": 1.0}}, "aux": {"targets": "shuffled"}}, False),
    ],
    ids=str,
)
def test_what_is_a_placebo_follows_from_the_configuration(training, placebo):
    assert Training.model_validate(training).placebo == placebo
    name = "x_placebo" if placebo else "x"
    assert is_placebo(name) == placebo
    assert validate({"arms": CONTROL | {name: training | {"steps": 16}}}, "c.yaml").arm(name).placebo == placebo
    wrong, said = ("x", "it is a placebo") if placebo else ("x_shuffled", "it is no placebo")
    with pytest.raises(
        UserError, match=rf"^c\.yaml: arms\.{wrong}: {said}; an arm is a placebo where its name ends in"
    ):
        validate({"arms": CONTROL | {wrong: training | {"steps": 16}}}, "c.yaml")


def test_every_kind_of_placebo_has_a_label_and_a_sentence():
    assert set(PLACEBO) == set(PLACEBOS)
    for ending, kind in PLACEBOS.items():
        assert arm_label(f"x{ending}") == f"x{ending} (placebo)"
        assert placebo_kind(f"x{ending}") == kind
        assert placebo_note(f"x{ending}") == PLACEBO[ending]
    assert not any(map(is_placebo, Config().arms))


def test_sharded_training_cannot_take_gradients_apart():
    aux = {"loss": "ctc", "lambda": 1.0, "measure_every": 0}
    shared = {"processes": 2, "parallel": "shard"}
    assert Training.model_validate(shared | {"aux": aux}).sharded
    for key, value in (("clipping", "each"), ("conflict", "project")):
        with pytest.raises(ValidationError, match=r"cannot take two gradients apart; set aux\.clipping and aux\.conf"):
            Training.model_validate(shared | {"aux": aux | {key: value}})
        assert not Training.model_validate(shared | {"aux": {key: value, "measure_every": 0}}).aux.weights

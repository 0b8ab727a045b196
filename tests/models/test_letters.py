"""Letters that nano has never drawn: tokens and embeddings of their own, and nothing else changed."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import AutoTokenizer, Qwen3Model

from legible.corpus.scenes import scene_words
from legible.corpus.templates import vocabulary
from legible.corpus.words import letters_of
from legible.fingerprint import ROOT
from legible.models.zimage.nano import TINY, build, build_text_encoder
from legible.nano.letters import add_letters, drawn_rows, further_letters, with_words
from legible.nano.tokenizer import build_tokenizer

CAPTION = 'a sign that says "{}" in bold black letters on white'


@pytest.fixture
def pair():
    tokenizer = build_tokenizer(vocabulary())
    torch.manual_seed(0)
    return tokenizer, build_text_encoder(TINY, len(tokenizer)).eval()


def test_without_them_no_letter_can_be_told_from_another(pair):
    tokenizer, _ = pair
    unknown = tokenizer.convert_tokens_to_ids("<unk>")
    assert tokenizer(CAPTION.format("ЖЩ")).input_ids.count(unknown) == 2


def test_each_letter_gets_a_token_and_a_row_and_the_rest_stays(pair):
    tokenizer, encoder = pair
    before, old = copy.deepcopy(encoder), tokenizer(CAPTION.format("HELLO"), return_tensors="pt")
    add_letters(tokenizer, encoder, further_letters(), 7)
    assert tokenizer.tokenize(CAPTION.format("ЖAΩ"))[4:9] == ['"', "Ж", "A", "Ω", '"']
    new = tokenizer(CAPTION.format("HELLO"), return_tensors="pt")
    assert torch.equal(old.input_ids, new.input_ids)
    with torch.no_grad():
        assert torch.equal(before(**old).last_hidden_state, encoder(**new).last_hidden_state)
    rows = encoder.get_input_embeddings().weight
    assert len(rows) == len(tokenizer) == encoder.config.vocab_size
    added = rows[-len(further_letters()) :]
    assert len({tuple(row) for row in added.tolist()}) == len(further_letters())
    assert torch.equal(rows[: len(before.get_input_embeddings().weight)], before.get_input_embeddings().weight)
    sizes = len(tokenizer)
    add_letters(tokenizer, encoder, further_letters(), 7)  # they are there already
    assert len(tokenizer) == sizes


def test_a_new_row_is_a_letter_among_letters():
    like = torch.randn((26, 8), generator=torch.Generator().manual_seed(1)) * 3 + 5
    rows = drawn_rows(like, 4000, 0)
    assert torch.allclose(rows.mean(0), like.mean(0), atol=0.25)
    assert torch.allclose(rows.std(0), like.std(0), rtol=0.1)
    assert torch.equal(rows, drawn_rows(like, 4000, 0))
    assert not torch.equal(rows, drawn_rows(like, 4000, 1))


def test_the_shipped_nano_knows_greek_and_cyrillic_capitals():
    folder = ROOT / "resources" / "nano" / "zimage"
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    encoder = Qwen3Model.from_pretrained(folder / "text_encoder")
    letters = letters_of("greek") + letters_of("cyrillic")
    assert letters == further_letters()
    ids = tokenizer.convert_tokens_to_ids(list(letters))
    assert sorted(ids) == list(range(len(tokenizer) - len(letters), len(tokenizer)))
    assert encoder.config.vocab_size == len(tokenizer)


def test_new_words_become_tokens_and_what_was_known_keeps_its_rows(pair):
    tokenizer, encoder = pair
    add_letters(tokenizer, encoder, further_letters(), 7)
    autoencoder = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    before = replace(build(TINY, autoencoder, tokenizer), text_encoder=encoder)
    caption, scene = CAPTION.format("ЖAΩ"), "a ground in red with two rings in white"
    with torch.no_grad():
        old = encoder(**tokenizer(caption, return_tensors="pt")).last_hidden_state
    after = with_words(before, scene_words(), 7)
    assert after.tokenizer.tokenize(scene) == scene.split()
    assert "rings" not in tokenizer.tokenize(scene)
    with torch.no_grad():
        new = after.text_encoder(**after.tokenizer(caption, return_tensors="pt")).last_hidden_state
    assert torch.equal(old, new)  # other numbers of tokens, the same rows
    rows = after.text_encoder.get_input_embeddings().weight
    assert len(rows) == len(after.tokenizer) == after.text_encoder.config.vocab_size
    assert len({tuple(row) for row in rows.tolist()}) == len(rows)
    letters = after.tokenizer.convert_tokens_to_ids(list(further_letters()))
    assert letters == sorted(letters)  # in the order they came in, whatever the order of a vocabulary
    again = with_words(after, scene_words(), 8)
    assert again.tokenizer.get_vocab() == after.tokenizer.get_vocab()
    assert torch.equal(again.text_encoder.get_input_embeddings().weight, rows)

"""Cross-attention taught by the letters' boxes: where letters stand in captions, what cells show, and the loss."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from hypothesis import given
from hypothesis import strategies as st

from legible.models.stable_diffusion.nano import TINY, build_unet
from legible.nano.parts import caption_tokenizer
from legible.nano.pointing import letter_places, letter_shares, pointer, pointing_loss, watch
from legible.nano.pool import build_pool, with_scenes
from legible.nano.recipe import tiny

SIZE, CELLS = (32, 64), (8, 16)
EDGE = st.integers(0, 32)


def test_letters_stand_where_their_tokens_are():
    tokenizer = caption_tokenizer(32)
    captions = [
        'a sign that says "AB7" in bold white letters on red',
        "two red circles on gray",
        'a board that reads "A"',
    ]
    places = letter_places(tokenizer, captions, ["AB7", "", "A"], 4)
    tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in tokenizer(captions).input_ids]
    assert [tokens[0][place] for place in places[0, :3]] == list("AB7")
    assert tokens[2][places[2, 0]] == "A"
    assert places[0, 3] == 0
    assert not places[1].any()
    assert not places[2, 1:].any()
    for caption in ('a sign that says "OPEN" in red', "no text at all"):
        with pytest.raises(ValueError, match="letter by letter"):
            letter_places(tokenizer, [caption], ["SHUT"], 4)


def test_every_caption_of_the_pool_quotes_its_text(tmp_path):
    recipe = tiny()
    pool = with_scenes(build_pool(recipe, (), tmp_path, workers=1), recipe, "train", 8)
    length = pool.boxes.shape[1]
    assert length == max(map(len, pool.texts))
    places = letter_places(caption_tokenizer(32), pool.captions, pool.texts, length)
    for text, box, place in zip(pool.texts, pool.boxes, places, strict=True):
        has_ink = (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
        assert has_ink.tolist() == (place > 0).tolist() == [index < len(text) for index in range(length)]
        assert box[: len(text), 0].tolist() == sorted(box[: len(text), 0].tolist())  # in reading order
    assert pool.boxes[-8:].sum() == 0


def test_shares_by_hand():
    boxes = torch.tensor([[[0, 0, 6, 4], [6, 2, 8, 4], [0, 0, 0, 0]]])
    shares = letter_shares(boxes, SIZE, CELLS)
    assert shares.shape == (1, 128, 3)
    assert shares[0, :2, 0].tolist() == [1.0, 0.5]
    assert shares[0, :2, 1].tolist() == [0.0, 0.25]
    assert shares[0, 2:].sum() == 0
    assert shares[0, :, 2].sum() == 0
    coarse = letter_shares(boxes, SIZE, (4, 8))
    assert coarse[0, 0].tolist() == [6 * 4 / 64, 2 * 2 / 64, 0.0]


@given(x=st.tuples(EDGE, EDGE), y=st.tuples(EDGE, EDGE), cells=st.sampled_from([(8, 16), (4, 8), (2, 4)]))
def test_shares_add_up_to_the_box(x, y, cells):
    (x0, x1), (y0, y1) = sorted(x), sorted(y)
    shares = letter_shares(torch.tensor([[[x0, y0, x1, y1]]]), SIZE, cells)
    assert shares.min() >= 0
    assert shares.max() <= 1
    area = shares.sum() * (SIZE[0] // cells[0]) * (SIZE[1] // cells[1])
    assert area.item() == pytest.approx((x1 - x0) * (y1 - y0), rel=1e-5)


def test_the_loss_by_hand_and_at_its_ends():
    boxes, places = torch.tensor([[[0, 0, 4, 4], [4, 0, 6, 4]]]), torch.tensor([[1, 2]])
    scores = torch.zeros(1, 2, 128, 5)
    even = pointing_loss([scores], places, boxes, SIZE, CELLS)
    assert even.item() == pytest.approx(torch.tensor(5.0).log().item())
    right, wrong = scores.clone(), scores.clone()
    right[:, :, 0, 1] = right[:, :, 1, 2] = 50.0
    wrong[:, :, 0, 2] = wrong[:, :, 1, 1] = 50.0
    assert pointing_loss([right], places, boxes, SIZE, CELLS) < 1e-6
    assert pointing_loss([wrong], places, boxes, SIZE, CELLS).item() == pytest.approx(50.0)
    # The second cell is half covered: it counts half. Layers count alike.
    half = right.clone()
    half[:, :, 1] = 0.0
    expected = torch.tensor(5.0).log().item() * 0.5 / 1.5
    assert pointing_loss([half, right], places, boxes, SIZE, CELLS).item() == pytest.approx(expected / 2, rel=1e-5)
    assert pointing_loss([wrong], places, torch.zeros_like(boxes), SIZE, CELLS) == 0


def test_the_gradient_by_finite_differences():
    boxes, places = torch.tensor([[[1, 0, 6, 4], [6, 3, 30, 20]]]), torch.tensor([[3, 2]])
    scores = torch.randn(
        1, 1, 32, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda s: pointing_loss([s], places, boxes.double(), SIZE, CELLS), scores)


def test_watching_changes_no_answer_and_sees_the_layers_own_attention():
    torch.manual_seed(0)
    unet = build_unet(TINY, 12).eval()
    noisy, captions = torch.randn(2, 12, 8, 16), torch.randn(2, 7, TINY.text_dim)
    attention = {}

    def shares(name, layer):
        get = layer.get_attention_scores

        def kept(query, key, mask=None):
            attention[name] = get(query, key, mask).unflatten(0, (-1, layer.heads))
            return attention[name].flatten(0, 1)

        return kept

    before = unet(noisy, 5, captions).sample
    scores = watch(unet, 1)
    assert torch.equal(unet(noisy, 5, captions).sample, before)
    seen = [score.softmax(-1) for score in scores]
    scores.clear()
    layers = [(n, m) for n, m in unet.named_modules() if n.endswith(".attn2") and not n.startswith("down_blocks")]
    assert len(seen) == len(layers) == 3  # the middle, and two of the way up
    for name, layer in layers:
        layer.set_processor(AttnProcessor())  # the one that works its attention out
        layer.get_attention_scores = shares(name, layer)
    unet(noisy, 5, captions)
    for ours, theirs in zip(seen, attention.values(), strict=True):  # both in the order of the calls
        torch.testing.assert_close(ours, theirs[:, :1])


def test_a_unet_learns_where_to_look_and_an_empty_prompt_teaches_nothing():
    torch.manual_seed(0)
    unet = build_unet(TINY, 12)
    places, boxes = torch.tensor([[1, 2]]), torch.tensor([[[8, 8, 32, 24], [32, 8, 56, 24]]])
    pointed = pointer(unet, 2, places, boxes, SIZE)
    noisy, captions = torch.randn(4, 12, 8, 16), torch.randn(4, 5, TINY.text_dim)
    rows, values = torch.zeros(4, dtype=torch.int64), []
    optimizer = torch.optim.Adam(unet.parameters(), lr=3e-3)
    for _ in range(60):
        unet(noisy, 5, captions)
        loss = pointed(rows, torch.ones(4, dtype=torch.bool), CELLS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(loss.item())
    assert values[0] > 1.2
    assert values[-1] < 0.3 * values[0]
    unet(noisy, 5, captions)
    assert pointed(rows, torch.zeros(4, dtype=torch.bool), CELLS) == 0

"""Rewards: scores by hand, one picture at a time, with gradients for the pixels."""

import copy
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from legible.config import Reader, Reward
from legible.errors import UserError
from legible.models.caption_clip import OpenedCaptionClip
from legible.models.reader import OpenedReader, open_reader
from legible.models.stable_diffusion import nano
from legible.nano.parts import caption_tokenizer
from legible.rewards.features import clip_pixels
from legible.rewards.reading import expected_length, read
from legible.rewards.reward import build_rewards, score

PROMPTS = ['a sign that says "OPEN" in red letters on white', 'a board that reads "47" in bold blue letters on white',
           "two red circles on white"]  # fmt: skip
OURS = ["reading", "caption"]  # those of others: test_published_rewards.py


@pytest.fixture(scope="module")
def critics(folders, tmp_path_factory) -> dict:
    torch.manual_seed(3)
    tokenizer = caption_tokenizer(nano.CAPTION_TOKENS)
    clip = nano.build_clip(nano.TINY, tokenizer).eval().requires_grad_(False)
    reader = open_reader(Reader(network=str(folders.recognizer)), tmp_path_factory.mktemp("ocr"), torch.device("cpu"))
    return {"reader": reader, "caption_clip": OpenedCaptionClip(clip, tokenizer)}


def pictures(count: int = 3, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, 32, 64), generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9


def rewards_of(critics: dict, tuned=None, **settings):
    return build_rewards(Reward.model_validate({"weights": dict.fromkeys(OURS, 1.0), **settings}), critics, tuned)


def test_a_permuted_batch_permutes_the_scores(critics):
    rewards, order = rewards_of(critics, clip_text="frozen"), [2, 0, 1]
    with torch.no_grad():
        straight = score(rewards, pictures(), PROMPTS)
        permuted = score(rewards, pictures()[order], [PROMPTS[i] for i in order])
        single = score(rewards, pictures()[1:2], PROMPTS[1:2])
    assert list(straight) == OURS
    for name, values in straight.items():
        assert values.shape == (3,)
        torch.testing.assert_close(permuted[name], values[order])
        torch.testing.assert_close(single[name], values[1:2])
        assert values.std() > 0


@pytest.mark.parametrize("name", OURS)
def test_the_gradient_is_that_of_finite_differences(critics, name):
    """In float64, where differences are exact enough."""
    exact = copy.deepcopy(critics)
    exact["reader"].network.double()
    exact["caption_clip"].model.double()
    reward = rewards_of(exact, clip_text="frozen")[name]
    images = pictures().double().requires_grad_(True)
    reward(images, PROMPTS).sum().backward()
    way = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).double()
    width = 1e-6
    with torch.no_grad():
        rise = reward(images + width * way, PROMPTS).sum() - reward(images - width * way, PROMPTS).sum()
    assert float((images.grad * way).sum()) == pytest.approx(float(rise / (2 * width)), rel=1e-4)
    assert images.grad.abs().amax((1, 2, 3)).min() > 0


class Columns(torch.nn.Module):
    """A reader whose answer is given: logits [B, T, C], whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, grey: Tensor, _: None) -> Tensor:
        return self.logits[: len(grey)] + 0 * grey.sum()


def given(chances: list[list[float]], characters: str = "AB") -> OpenedReader:
    logits = torch.tensor([chances]).log()
    return OpenedReader(Columns(logits), characters, (32, 64), len(chances))


CHANCES = [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.2, 0.7]]  # of blank, A, B in three columns


def collapsed(path: tuple[int, ...]) -> str:
    kept = [c for c, before in zip(path, (0, *path), strict=False) if c and c != before]
    return "".join("AB"[c - 1] for c in kept)


def paths() -> list[tuple[str, float]]:
    """Every path through the three columns: what it reads, and its probability."""
    found = itertools.product(range(3), repeat=3)
    return [(collapsed(path), math.prod(CHANCES[t][c] for t, c in enumerate(path))) for path in found]


@pytest.mark.parametrize("text", ["A", "B", "AB", "BA", "ABA", ""])
def test_the_likelihood_is_the_sum_over_all_paths(text):
    likelihood, extra = read(given(CHANCES), pictures(1), [text])
    expected = sum(chance for reading, chance in paths() if reading == text)
    assert float(likelihood[0]) == pytest.approx(math.log(expected) / max(len(text), 1), rel=1e-5)
    length = sum(len(reading) * chance for reading, chance in paths())
    assert float(expected_length(torch.tensor([CHANCES]).log())[0]) == pytest.approx(length, rel=1e-5)
    counted = max(len(text), 1)
    assert float(extra[0]) == pytest.approx(max(length - counted, 0) / counted, rel=1e-5)


def sure(text: str, columns: int = 8) -> OpenedReader:
    """A reader that is 97 % sure to read `text`, one character in every second column."""
    chances = torch.full((columns, 3), 0.015)
    for t in range(columns):
        place = t // 2
        chances[t, 1 + "AB".index(text[place]) if t % 2 == 0 and place < len(text) else 0] = 0.97
    return given(chances.tolist())


def test_letters_too_many_cost_where_a_substring_would_give_full_marks():
    with torch.no_grad():
        exact, none = read(sure("AB"), pictures(1), ["AB"])
        more, extra = read(sure("ABAB"), pictures(1), ["AB"])
        fewer, _ = read(sure("A"), pictures(1), ["AB"])
    assert float(none) < 0.25
    assert float(extra) > 0.9  # two of two characters too many
    assert float(exact) > max(float(more), float(fewer)) + 1


def test_a_text_that_the_reader_cannot_read_is_refused(critics):
    with pytest.raises(UserError, match="does not know the character"):
        read(critics["reader"], pictures(1), ["ä"])


def test_the_caption_reward_is_clips_own_cosine(critics):
    clip = critics["caption_clip"]
    ids = clip.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        whole = clip.model(input_ids=ids, pixel_values=clip_pixels(pictures(), 32))
        found = rewards_of(critics, clip_text="frozen")["caption"](pictures(), PROMPTS)
    torch.testing.assert_close(found, whole.logits_per_image.diagonal() / clip.model.logit_scale.exp())


def test_a_tuned_tower_is_heard_and_gets_a_gradient(critics):
    torch.manual_seed(8)
    clip, tower = critics["caption_clip"], nano.build_clip(nano.TINY, critics["caption_clip"].tokenizer).text_model
    tuned, frozen = (rewards_of(critics, tower, clip_text=text)["caption"] for text in ("tuned", "frozen"))
    assert not torch.allclose(tuned(pictures(), PROMPTS), frozen(pictures(), PROMPTS))
    tower.load_state_dict(clip.model.text_model.state_dict())
    torch.testing.assert_close(tuned(pictures(), PROMPTS), frozen(pictures(), PROMPTS))
    tuned(pictures(), PROMPTS).sum().backward()
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in tower.parameters())
    assert all(p.grad is None for p in clip.model.parameters())


@pytest.mark.parametrize("tuned", [None, torch.nn.Linear(2, 2)])
def test_a_constraint_needs_a_tower_of_its_own_kind(critics, tuned):
    with pytest.raises(UserError, match=r"reward\.clip_text: tuned needs a trained text encoder"):
        rewards_of(critics, tuned)


def test_a_clip_that_is_none_is_refused(tmp_path):
    from legible.config import CaptionClip
    from legible.models.caption_clip import open_critic

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="this CLIP cannot be loaded"):
        open_critic(CaptionClip(path=str(tmp_path)), Path("unused"), torch.device("cpu"))


def test_a_saved_clip_comes_back(critics, tmp_path):
    from legible.config import CaptionClip
    from legible.models.caption_clip import open_critic

    clip = critics["caption_clip"]
    clip.model.save_pretrained(tmp_path)
    clip.tokenizer.save_pretrained(tmp_path)
    opened = {"caption_clip": open_critic(CaptionClip(path=str(tmp_path)), Path("unused"), torch.device("cpu"))}
    with torch.no_grad():
        one, two = (
            build_rewards(Reward(weights={"caption": 1.0}, clip_text="frozen"), c, None)["caption"](pictures(), PROMPTS)
            for c in (critics, opened)
        )
    torch.testing.assert_close(one, two)
    assert not any(p.requires_grad for p in opened["caption_clip"].model.parameters())

"""`reading`: can a frozen reader read exactly the quoted text, and nothing more, in the whole picture?

R = log p(text | picture) / length − w·extra. p is by connectionist temporal classification (Graves et al. 2006) over
the reader's columns, so that letters too many cost as letters too few do; published OCR rewards give full marks
wherever the text occurs. `extra` counts what is expected to be read beyond the text's length, per character: p alone
hardly feels a second word once the first one is lost.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legible.config import Reward
from legible.corpus.templates import quoted_strings
from legible.losses.ctc import encode_targets
from legible.losses.regions import crop_regions, to_grey
from legible.losses.view import Critics
from legible.models.reader import OpenedReader
from legible.rewards.reward import RewardFunction


def build(critics: Critics, settings: Reward, tuned: nn.Module | None) -> RewardFunction:
    """Scores [B] ≤ 0, natural logarithm a character."""
    reader = critics["reader"]

    def reward(images: Tensor, prompts: list[str]) -> Tensor:
        texts = ["".join(quoted_strings(prompt)) for prompt in prompts]
        likelihood, extra = read(reader, images, texts)
        return likelihood - settings.extra_text * extra

    return reward


def read(reader: OpenedReader, images: Tensor, texts: list[str]) -> tuple[Tensor, Tensor]:
    """log p(text) per character [B] ≤ 0, and how many characters too many are expected to be read, per character [B].

    Args:
        images: [B, 3, H, W], about −1 … 1.
        texts: B strings; an empty one asks for a picture without text, and counts as one character.

    Raises:
        UserError: a text has a character that the reader does not know, or is too long for it.
    """
    height, width = images.shape[-2:]
    boxes = images.new_tensor([[0.0, 0.0, width, height]]).expand(len(images), 4)
    grey = to_grey(crop_regions(images, torch.arange(len(images)), boxes, reader.size))
    scores = reader.network(grey, None).log_softmax(2)  # [B, T, classes], blank first
    targets = [encode_targets(reader, [text])[0] if text else [] for text in texts]
    lengths = torch.tensor([len(target) for target in targets])
    flat = torch.tensor([index for target in targets for index in target], dtype=torch.long)
    columns = torch.full((len(targets),), scores.shape[1])
    lost = F.ctc_loss(scores.transpose(0, 1), flat.to(images.device), columns, lengths, reduction="none")
    characters = lengths.clamp(min=1).to(lost)
    return -lost / characters, (expected_length(scores) - characters).clamp(min=0) / characters


def expected_length(scores: Tensor) -> Tensor:
    """Characters [B] that a reader with independent columns is expected to emit, from log-probabilities [B, T, C].

    A column emits its character unless it is the blank or the column before says the same one.
    """
    chance = scores.exp()[:, :, 1:]
    before = F.pad(chance, (0, 0, 1, 0))[:, :-1]
    return (chance * (1 - before)).sum((1, 2))

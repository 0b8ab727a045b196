"""Cross-attention taught by labels: a cell of the picture that shows a letter looks at this letter's token.

A UNet's cells know where they stand only by the zeros around the picture. The renderer knows what each of them shows:
the boxes of the letters say so. No reader is asked, so that nothing which teaches or judges later has been seen. Where
to look is learnt within a few hundred steps; that letters come sooner by it is not shown (docs/NANO.md).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from legible.models.stable_diffusion.attention import CROSS

QUOTE = '"'


def letter_places(tokenizer: PreTrainedTokenizerBase, captions: list[str], texts: list[str], length: int) -> Tensor:
    """Where each letter of a quoted text stands among its caption's tokens, int64 [N, length]; 0 where there is none.

    Raises:
        ValueError: a caption does not quote its text letter by letter.
    """
    places = torch.zeros(len(captions), length, dtype=torch.int64)
    quote = tokenizer.convert_tokens_to_ids(QUOTE)
    for row, (ids, text) in enumerate(zip(tokenizer(captions).input_ids, texts, strict=True)):
        if not text:
            continue
        first = ids.index(quote) + 1 if quote in ids else 0
        if ids[first : first + len(text)] != tokenizer.convert_tokens_to_ids(list(text)):
            raise ValueError(f"caption {captions[row]!r} does not quote {text!r} letter by letter")
        places[row, : len(text)] = torch.arange(first, first + len(text))
    return places


def letter_shares(boxes: Tensor, size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """The share of each cell that lies in each letter's box, [B, rows · columns, L], in 0 … 1.

    Args:
        boxes: [B, L, 4], x0 y0 x1 y1 in pixels; an empty box has no share anywhere.
        size: height and width of the pictures.
        cells: rows and columns.
    """
    along = []
    for axis, count in ((1, cells[0]), (0, cells[1])):
        edges = torch.arange(count + 1) * (size[1 - axis] / count)
        low, high = boxes[..., axis, None].float(), boxes[..., axis + 2, None].float()
        common = torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])
        along.append(common.clamp(min=0) / (edges[1] - edges[0]))
    rows, columns = along
    return (rows[..., :, None] * columns[..., None, :]).flatten(2).transpose(1, 2)


def watch(unet: nn.Module, heads: int) -> list[Tensor]:
    """A list that gets the scores [B, heads, cells, tokens] of the first `heads` of each layer on the way up.

    Only these: on the way down a cell has seen its neighbours alone. What a layer answers stays the same. Whoever reads
    the list empties it.
    """
    scores: list[Tensor] = []
    for name, layer in unet.named_modules():
        if name.endswith(CROSS) and not name.startswith("down_blocks"):
            hook(layer, heads, scores)
    return scores


def hook(layer: nn.Module, heads: int, scores: list[Tensor]) -> None:
    """Have a layer of diffusers' `Attention` leave its scores in `scores`."""
    queries: list[Tensor] = []

    def split(states: Tensor) -> Tensor:
        return states.unflatten(2, (layer.heads, -1)).transpose(1, 2)[:, :heads]

    def keep(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        queries[:] = [split(output)]

    def score(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        scores.append(queries.pop() @ split(output).transpose(2, 3) * layer.scale)

    layer.to_q.register_forward_hook(keep)
    layer.to_k.register_forward_hook(score)


def pointing_loss(
    scores: list[Tensor], places: Tensor, boxes: Tensor, size: tuple[int, int], cells: tuple[int, int]
) -> Tensor:
    """Cross-entropy of what cells look at against the letters they show: the mean over layers, heads and cells.

    A cell counts as far as letters cover it; one that shows two letters is to look at both.

    Args:
        scores: [B, heads, cells, tokens] of each layer, of any number of cells that is `cells` by a power of four.
        places: [B, L], of each letter's token.
        boxes: [B, L, 4], as `letter_shares` takes them.
    """
    losses = []
    for layer in scores:
        coarser = math.isqrt(cells[0] * cells[1] // layer.shape[2])
        wanted = letter_shares(boxes, size, (cells[0] // coarser, cells[1] // coarser))[:, None]
        chosen = places[:, None, None].expand(*layer.shape[:3], -1)
        picked = layer.log_softmax(-1).gather(3, chosen)
        losses.append(-(picked * wanted).sum() / wanted.sum().clamp(min=1) / layer.shape[1])
    return torch.stack(losses).mean()


def pointer(unet: nn.Module, heads: int, places: Tensor, boxes: Tensor, size: tuple[int, int]) -> Callable:
    """`(rows [B], shown [B], cells) -> loss` of the forward pass before; `shown` is false where the prompt is empty."""
    scores = watch(unet, heads)

    def loss(rows: Tensor, shown: Tensor, cells: tuple[int, int]) -> Tensor:
        value = pointing_loss(scores, places[rows], boxes[rows] * shown[:, None, None], size, cells)
        scores.clear()
        return value

    return loss

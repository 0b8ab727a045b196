"""Random streams: every draw of the project comes from a generator seeded with what it is for, and nothing else.

A stream is a number that stands in the seed beside seed, step and sample, so that no two purposes share draws. The
numbers are part of the results' bytes: a new purpose takes a new one.
"""

import hashlib
from collections.abc import Callable, Sequence
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What is drawn."""

    ORDER = 1  # of the samples, per epoch
    NOISE = 2  # and levels, per sample of a step
    PLACEBO = 3  # whose text a shuffled sample is taught
    GRADIENT_SAMPLES = 4  # on which gradients are measured
    GRADIENT_NOISE = 5  # of these samples
    ANCHOR_POINTS = 6  # of a step; also the segmenter's degradations (other seeds, another stage)
    ANCHOR_NOISE = 7  # of the base's trajectories
    ROUNDING = 8  # stochastic, of bfloat16 weights
    BUCKETS = 9  # order of forward passes of captions of one length
    PROMPT_DROPOUT = 10  # per sample of a step
    PERMUTED = 21  # order of a sample's own letters, as a placebo
    RANDOM_TARGET = 22  # smooth pattern of a region, as a placebo
    GROUP_NOISE = 31  # of a sampled picture, per member of a prompt's group; with an SDE also of its steps
    GROUP_LEVELS = 32  # levels and noise at which it is trained on
    GROUP_STEPS = 33  # which of the sampler's steps are trained on
    DAMAGE = 41  # of a letter: where and how
    GLYPHS = 42  # what the glyph judge is to overlook, per step
    PANEL = 43  # strings of the panel


def stateless_generator(*parts: int) -> torch.Generator:
    """A generator that depends on `parts` (seed, step, micro-step …) and on nothing that happened before.

    Resuming therefore needs no random state: step 57 draws the same noise in an interrupted and in an unbroken run.
    """
    words = np.random.SeedSequence(parts).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))


def prompt_number(prompt_id: str) -> int:
    """A prompt's number in seeds: it depends on its id alone."""
    return int.from_bytes(hashlib.sha256(prompt_id.encode()).digest()[:4], "big")


def image_noise(prompt_id: str, seed: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Start noise [C, h, w] of one image: the same for every model, batch size and order."""
    return torch.randn(shape, generator=stateless_generator(prompt_number(prompt_id), seed))


def anchor_noise(prompt_id: str, seed: int, shape: tuple[int, int, int]) -> torch.Tensor:
    """Start noise [C, h, w] of one of the base's recorded trajectories."""
    return torch.randn(shape, generator=stateless_generator(prompt_number(prompt_id), Stream.ANCHOR_NOISE, seed))


def sample_order(size: int, batch: int, seed: int, lengths: list[int] | None = None) -> Callable[[range], torch.Tensor]:
    """`positions -> indices`: epochs of shuffled samples without replacement, stateless like the noise.

    Args:
        batch: samples of a forward pass.
        lengths: of each sample's caption; given, forward passes hold captions of one length as far as there are enough
            of them, and what does not fill a last forward pass sits the epoch out.
    """
    bucketed = lengths is not None and size >= batch
    whole = size // batch * batch if bucketed else size
    orders: dict[int, torch.Tensor] = {}

    def order(epoch: int) -> torch.Tensor:
        drawn = torch.randperm(size, generator=stateless_generator(seed, Stream.ORDER, epoch))
        if not bucketed:
            return drawn
        buckets: dict[int, list[int]] = {}
        for index in drawn.tolist():
            buckets.setdefault(lengths[index], []).append(index)
        full = {length: len(rows) // batch * batch for length, rows in buckets.items()}
        rest = [index for length, rows in sorted(buckets.items()) for index in rows[full[length] :]]
        passes = torch.tensor([index for length, rows in buckets.items() for index in rows[: full[length]]] + rest)
        passes = passes[:whole].view(-1, batch)
        return passes[torch.randperm(len(passes), generator=stateless_generator(seed, Stream.BUCKETS, epoch))].flatten()

    def indices(positions: range) -> torch.Tensor:
        picked = []
        for position in positions:
            epoch, offset = divmod(position, whole)
            if epoch not in orders:
                orders.clear() if len(orders) > 1 else None
                orders[epoch] = order(epoch)
            picked.append(orders[epoch][offset])
        return torch.stack(picked)

    return indices


def staged_order(stages: Sequence[int], total: int, seed: int) -> Callable[[range], torch.Tensor]:
    """`positions -> indices`: one stage after the other, each shuffled by itself, for its share of `total` positions.

    Args:
        stages: samples of each stage, which follow one another.
        total: samples that the whole training sees.
    """
    size, firsts, starts, orders = sum(stages), [], [], []
    for number, own in enumerate(stages):
        firsts.append(sum(stages[:number]))
        starts.append(round(total * firsts[-1] / size))
        orders.append(sample_order(own, 1, seed))

    def indices(positions: range) -> torch.Tensor:
        picked = []
        for position in positions:
            stage = max(number for number, start in enumerate(starts) if start <= position)
            place = position - starts[stage]
            picked.append(orders[stage](range(place, place + 1)) + firsts[stage])
        return torch.cat(picked)

    return indices


def shuffled_batches(size: int, batch: int, seed: int) -> Callable[[int], torch.Tensor]:
    """`step -> indices [batch]`, in `sample_order`."""
    order = sample_order(size, batch, seed)
    return lambda step: order(range(step * batch, (step + 1) * batch))

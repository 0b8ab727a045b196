"""Chunks of pictures drawn by as many processes as one likes; what comes out does not depend on how many."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from legible.progress import progress

Chunk, Made = TypeVar("Chunk"), TypeVar("Made")


def in_processes(
    function: Callable[[Chunk], Made], chunks: Sequence[Chunk], workers: int, label: str
) -> Iterator[Made]:
    """What `function` makes of each chunk, in order, with progress; in this process where one is enough."""
    if workers == 1 or len(chunks) < 2:
        yield from progress(map(function, chunks), label, len(chunks), "chunk")
        return
    with ProcessPoolExecutor(min(workers, len(chunks)), mp_context=get_context("spawn")) as pool:
        yield from progress(pool.map(function, chunks), label, len(chunks), "chunk")

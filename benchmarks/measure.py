"""What every benchmark here needs: synchronised times, floating-point operations, memory, and what they were taken on.

A multiplication and an addition count as two operations. Matrix products, convolutions and attention are counted by
torch.utils.flop_counter; what is elementwise is not.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import torch
from torch.utils.flop_counter import FlopCounterMode

from legible.provenance import environment

GIB = 2**30


@dataclass(frozen=True)
class Times:
    """Seconds of repeated runs after warm-up."""

    median: float
    low: float  # the fastest
    high: float  # the slowest
    runs: int


def summary(seconds: list[float]) -> Times:
    """The figures that are reported of repeated runs."""
    return Times(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def default_device() -> torch.device:
    """The first GPU, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that `run` takes, all of its work on the device included."""
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def interleaved(
    runs: dict[str, Callable[[], object]], warmup: int, rounds: int, device: torch.device
) -> dict[str, Times]:
    """Times of all `runs`, one after the other in every round: what disturbs the machine disturbs them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warmup + rounds):
        for name, run in runs.items():
            took = timed(run, device)
            if turn >= warmup:
                seconds[name].append(took)
    return {name: summary(values) for name, values in seconds.items()}


def flop(run: Callable[[], object]) -> int:
    """Floating-point operations of one call of `run`, of its backward passes too; nothing is compiled in it."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def matmul_peak(dtype: torch.dtype, device: torch.device, side: int, repeats: int = 10) -> float:
    """FLOP/s of a product of two `side` × `side` matrices: the best that this machine does in practice."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = interleaved({"product": lambda: left @ right}, 3, repeats, device)
    return 2 * side**3 / times["product"].low


def peak_memory(run: Callable[[], object], device: torch.device) -> tuple[int, int]:
    """Bytes (allocated, reserved) on a CUDA device at the highest point of one call of `run`."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    synchronize(device)
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's or the machine's memory was not enough."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "t allocate memory" in str(error)


def attempt(case: str, measured: Callable[[], dict]) -> dict:
    """What `measured` gives about a case, or that the memory was not enough; all memory is given back."""
    try:
        return {"case": case, "status": "measured"} | measured()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return {"case": case, "status": "out of memory"}
    finally:
        free_everything()


def free_everything() -> None:
    """Give back what the last case held, the compiler's caches included."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def about(device: torch.device, threads: int) -> dict:
    """What a result was taken on and with: machine, versions, command and date."""
    found = environment()
    for package in ("torchao", "bitsandbytes"):
        try:
            found["versions"][package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        **found,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "device_bytes": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        "threads": threads,
        "command": "python " + " ".join(sys.argv),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def plain(times: Times) -> dict:
    """As JSON."""
    return asdict(times)

"""The processes that train one arm together: torchrun starts them, each takes its share of every optimiser step.

Two ways. *Replicated*: every process holds all weights, and gradients are averaged once per optimiser step (what DDP
does with accumulation; LoRA gradients are small). *Sharded*: FSDP2, every process holds a part of the weights,
gradients and moments. Either way the samples of a step, their noise and their order do not depend on the number of
processes, so two processes do what one process with twice the batch does.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from legible.config import Training
from legible.errors import UserError


@dataclass(frozen=True)
class Group:
    """This process among `size` ones; every method is called by all of them."""

    rank: int = 0
    size: int = 1
    sharded: bool = False

    def passes(self, training: Training) -> list[range]:
        """The forward passes of this process in one optimiser step, as positions of samples in the step."""
        whole = training.batch_size * training.accumulation
        # `Training` has seen to it that one of the two can be divided.
        divides_passes = training.accumulation % self.size == 0
        batch = training.batch_size if divides_passes else training.batch_size // self.size
        first, last = self.rank * whole // self.size, (self.rank + 1) * whole // self.size
        return [range(start, start + batch) for start in range(first, last, batch)]

    def average(self, gradients: list[Tensor | None], like: list[torch.nn.Parameter]) -> list[Tensor | None]:
        """The mean over processes of each gradient; None counts as zero, unless it is None everywhere.

        The gradients of sharded weights are averaged already, in the backward pass.
        """
        if self.size == 1 or self.sharded:
            return gradients
        there = torch.tensor([gradient is not None for gradient in gradients], device=like[0].device, dtype=torch.int32)
        dist.all_reduce(there, dist.ReduceOp.MAX)
        averaged = [
            None if not wanted else torch.zeros_like(parameter) if gradient is None else gradient
            for gradient, parameter, wanted in zip(gradients, like, there.tolist(), strict=True)
        ]
        waiting = [dist.all_reduce(gradient, async_op=True) for gradient in averaged if gradient is not None]
        for work in waiting:
            work.wait()
        for gradient in averaged:
            if gradient is not None:
                gradient /= self.size
        return averaged

    def collect(self, rows: list[Any]) -> list[Any]:
        """The rows of all processes, one process after the other."""
        if self.size == 1:
            return rows
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, rows)
        return [row for part in found for row in part]

    def agree(self, value: Any) -> Any:
        """The first process's value."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return any(self.collect([flag]))

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = Group()


@contextmanager
def join_group(training: Training, device: torch.device) -> Iterator[Group]:
    """The group that torchrun (or `accelerate launch`) has started this process in; without either, this one alone.

    Raises:
        UserError: there are not as many processes as `training.processes`.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size != training.processes:
        raise UserError(
            f"training.processes: {training.processes}, but {size} were started; start the script with "
            f"`torchrun --standalone --nproc-per-node {training.processes}`, as the workflow does"
        )
    group = Group(rank, size, training.sharded)
    if size == 1:
        yield group
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield group
    finally:
        dist.destroy_process_group()


def shard(denoiser: nn.Module, blocks: list[nn.Module], names: tuple[str, ...], dtype: torch.dtype) -> None:
    """Divide the weights of the denoiser's blocks among the processes (FSDP2); they are gathered in `dtype`.

    What is outside the blocks (embedders, final layer) stays whole and cannot be trained.

    Args:
        names: how the configuration calls the blocks, for the error.

    Raises:
        UserError: a part of a block is trained, or something outside the blocks.
    """
    inside = {parameter for block in blocks for parameter in block.parameters()}
    parts = [block for block in blocks if len({parameter.requires_grad for parameter in block.parameters()}) > 1]
    if parts or any(parameter.requires_grad for parameter in set(denoiser.parameters()) - inside):
        raise UserError(f"training.modules: sharded training needs whole blocks; choose from {', '.join(names)}")
    mesh = dist.init_device_mesh(next(denoiser.parameters()).device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(denoiser, mesh=mesh, mp_policy=policy, ignored_params=set(denoiser.parameters()) - inside)


def local(value: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def distributed_like(part: Tensor, whole: Tensor) -> Tensor:
    """`part` as this process's part of a tensor that is sharded like `whole`."""
    if not isinstance(whole, DTensor):
        return part
    return DTensor.from_local(
        part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def full(value: Tensor) -> Tensor:
    """A distributed tensor put together (by all processes), any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_weights(
    parts: dict[str, Tensor], parameters: dict[str, torch.nn.Parameter], group: Group
) -> dict[str, Tensor]:
    """Copies of the weights that `parts` are this process's parts of; sharded ones on the CPU, in the first process."""
    if not group.sharded:
        return {name: part.clone() for name, part in parts.items()}
    found = {}
    for name, part in parts.items():  # one by one: they need not fit beside each other on the GPU
        weight = full(distributed_like(part, parameters[name]))
        if group.rank == 0:
            found[name] = weight.cpu()
    return found

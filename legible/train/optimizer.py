"""AdamW, with float32 or 8-bit moments, on float32 or bfloat16 weights.

A step of 1e-5 is lost when bfloat16 weights are rounded to nearest: of a model's weights only 10–30 % change. They are
therefore rounded stochastically (up or down with probabilities that keep the mean), by torchao's optimisers.
"""

import torch
from torch import Tensor

from legible.config import Training
from legible.errors import UserError
from legible.seeds import Stream, stateless_generator
from legible.train.group import distributed_like, local

SAMPLE = 4096  # values of each parameter that are compared with the start


def build_optimizer(trained: list[torch.nn.Parameter], training: Training) -> torch.optim.Optimizer:
    """The optimiser that `training` asks for.

    Raises:
        UserError: it is torchao's, and torchao is not installed.
    """
    settings = {"lr": training.learning_rate, "betas": (0.9, 0.999), "weight_decay": training.weight_decay}
    if training.optimizer == "adamw" and training.weights == "float32":
        return torch.optim.AdamW(trained, fused=trained[0].is_cuda, **settings)
    try:
        from torchao import optim
    except ImportError as error:
        raise UserError(
            f"training: optimizer {training.optimizer} on {training.weights} weights needs torchao; install it with "
            '`pip install "legible[gpu]"`'
        ) from error
    kind = optim.AdamW8bit if training.optimizer == "adamw_8bit" else optim._AdamW
    return kind(trained, bf16_stochastic_round=training.weights == "bfloat16", **settings)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Put back what `state_dict` gave; moments of sharded weights are this process's parts of them."""
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, moments in state["state"].items():
        like = trained[place]
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == local(like).shape:
                moments[name] = distributed_like(value.to(like.device), like)
    optimizer.load_state_dict(state)


def take_step(optimizer: torch.optim.Optimizer, learning_rate: float, seed: int, step: int) -> None:
    """One step at `learning_rate`; what stochastic rounding draws depends on seed and step alone: runs resume."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # torchao's: a new tensor would compile the step anew
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
    # The global generator, of every device: torchao takes no other. Nothing else in training draws from it.
    torch.manual_seed(stateless_generator(seed, Stream.ROUNDING, step).initial_seed())
    optimizer.step()


def sample_weights(trained: list[torch.nn.Parameter]) -> list[Tensor]:
    """Evenly spaced values of every parameter (copies): enough to see later how many of them changed."""
    parts = [local(parameter.detach()).flatten() for parameter in trained]
    return [part[:: max(len(part) // SAMPLE, 1)].clone() for part in parts]


def changed_fraction(before: list[Tensor], trained: list[torch.nn.Parameter]) -> float:
    """Fraction, 0 … 1, of sampled weights that are no longer what they were."""
    pairs = list(zip(before, sample_weights(trained), strict=True))
    return sum((old != new).sum().item() for old, new in pairs) / sum(old.numel() for old, _ in pairs)

"""Two losses' gradients made into one: summed up, or without what works against the other, clipped together or apart.

Three kinds of gradient meet. The velocity anchor holds the model to what it can already, as the diffusion loss on its
data does; the auxiliary loss is the guest. So the anchor's gradient belongs to the diffusion loss's side: it is clipped
with it, and what the auxiliary gradient is projected against is both. Against the diffusion loss alone λ is balanced,
and norms and cosine are logged, so that they mean the same with an anchor and without.
"""

import torch
from torch import Tensor

from legible.config import Training
from legible.train.group import full

Gradients = list[Tensor | None]


def product(one: Gradients, other: Gradients) -> float:
    """The inner product, summed up in double precision; None counts as zero."""
    pairs = zip(one, other, strict=True)
    return sum((a.double() * b.double()).sum().item() for a, b in pairs if a is not None and b is not None)


def plus(one: Gradients, other: Gradients, factor: float = 1.0) -> Gradients:
    """`one` + factor · `other`; None counts as zero."""
    pairs = zip(one, other, strict=True)
    return [a if b is None else factor * b if a is None else a + factor * b for a, b in pairs]


def project(one: Gradients, other: Gradients) -> tuple[Gradients, Gradients, bool]:
    """PCGrad for two tasks (Yu et al. 2020, arXiv 2001.06782, Algorithm 1).

    Where the two point against one another (a negative inner product), each is projected onto the normal plane of the
    other one as it was: g_i − (g_i·g_j / ‖g_j‖²) · g_j. Between two tasks the algorithm's random order plays no part.

    Returns:
        Both, and whether they were projected.
    """
    against = product(one, other)
    if not against < 0:
        return one, other, False
    lengths = product(one, one), product(other, other)
    return plus(one, other, -against / lengths[1]), plus(other, one, -against / lengths[0]), True


def clip(gradients: Gradients, limit: float) -> tuple[Gradients, bool]:
    """The gradients, together at most `limit` long, and whether they were longer."""
    length = product(gradients, gradients) ** 0.5
    if not length > limit:
        return gradients, False
    return [None if gradient is None else gradient * (limit / length) for gradient in gradients], True


def limit_gradients(
    trained: list[torch.nn.Parameter], extra: Gradients, weight: float, training: Training
) -> tuple[float, dict[str, bool | None]]:
    """Turn what the losses left into the gradient of a step, in `.grad`: λ times `extra` joins it, and it is clipped.

    Conflicts come first, clipping second: shorter gradients meet at the same angle, so the projection holds.

    Args:
        trained: with the gradient of the diffusion loss and the anchor; and λ times the auxiliary one where that is not
            kept apart (`Aux.apart`).
        extra: the auxiliary gradient, unweighted, where it is; all None where no sample had it.
        weight: λ.

    Returns:
        The length of the whole gradient before it was clipped; and for the log, with `conflict: project`, whether the
        gradients were projected, with `clipping: each`, whether each was clipped (None: there was none).
    """
    aux, said = training.aux, {}
    if not aux.apart or not aux.weights:
        return full(torch.nn.utils.clip_grad_norm_(trained, training.max_grad_norm)).item(), said
    own, there = [parameter.grad for parameter in trained], any(gradient is not None for gradient in extra)
    extra = [None if gradient is None else weight * gradient for gradient in extra]
    if aux.conflict == "project":
        own, extra, said["projected"] = project(own, extra)
        said["projected"] = said["projected"] if there else None
    total = plus(own, extra)
    norm = product(total, total) ** 0.5
    if aux.clipping == "each":
        own, said["clipped_diffusion"] = clip(own, training.max_grad_norm)
        extra, clipped = clip(extra, training.max_grad_norm)
        total, said["clipped_aux"] = plus(own, extra), clipped if there else None
    else:
        total, _ = clip(total, training.max_grad_norm)
    for parameter, gradient in zip(trained, total, strict=True):
        parameter.grad = gradient
    return norm, said

"""How much of a training was its auxiliary loss, from metrics.jsonl."""

import numpy as np
import pandas as pd


def gradient_ratio(metrics: pd.DataFrame) -> pd.Series:
    """λ·‖∇auxiliary‖ / ‖∇diffusion‖ on the steps where both were measured; NaN on the others, or where that is 0 / 0.

    Args:
        metrics: rows of metrics.jsonl with lambda, grad_norm_aux and grad_norm_diffusion.
    """
    numbers = metrics[["lambda", "grad_norm_aux", "grad_norm_diffusion"]].astype(float)
    ratio = numbers["lambda"] * numbers["grad_norm_aux"] / numbers["grad_norm_diffusion"]
    return ratio.replace([np.inf, -np.inf], np.nan)


def clipped_share(metrics: pd.DataFrame, max_grad_norm: float) -> float:
    """The share of the steps on which a gradient was longer than `max_grad_norm` and was clipped, 0 … 1.

    That is the whole gradient's, or, where losses are clipped each by itself, that of any.
    """
    own = [name for name in ("clipped_diffusion", "clipped_aux") if name in metrics]
    if own:  # True, False, or nothing on steps without the loss
        return float((metrics[own] == True).any(axis=1).mean())  # noqa: E712
    return float((metrics["grad_norm"].astype(float) > max_grad_norm).mean())

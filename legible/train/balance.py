"""How much the auxiliary loss counts: λ fixed, scheduled, or balanced against the diffusion loss as training goes."""

import math
from dataclasses import dataclass, field

from legible.config import Aux

UNCERTAINTY_RATE = 0.02  # learning rate of the two log-variances


def scheduled(aux: Aux, step: int, steps: int) -> float:
    """λ at `step` of `steps` for constant, linear and cosine: from `lambda` at first to `lambda_end` at last."""
    if aux.balance == "constant":
        return aux.lambda_aux
    done = step / max(steps - 1, 1)
    if aux.balance == "cosine":
        done = (1.0 - math.cos(math.pi * done)) / 2.0
    return aux.lambda_aux + (aux.lambda_end - aux.lambda_aux) * done


@dataclass
class Balance:
    """λ as it develops; `state` holds what a checkpoint must keep.

    gradient_norm: λ = target_ratio · ‖∇L_diffusion‖ / ‖∇L_aux‖ on the trained parameters, of running means of the
    norms (GradNorm's idea, arXiv 1711.02257, without its extra optimiser).
    uncertainty: L = e^(−s_d)·L_d + s_d + e^(−s_a)·L_a + s_a with learned log-variances s (Kendall et al.,
    arXiv 1705.07115, without the factors ½); λ = e^(s_d − s_a), because Adam does not see a common factor.
    """

    aux: Aux
    steps: int
    state: dict[str, float] = field(default_factory=dict)

    def at(self, step: int) -> float:
        """λ of this step."""
        if self.aux.balance in ("constant", "linear", "cosine"):
            return scheduled(self.aux, step, self.steps)
        return self.bounded(self.state.get("lambda", self.aux.lambda_aux))

    def measures(self, step: int) -> bool:
        """Whether both gradients are to be taken apart on this step, on which the auxiliary loss counts."""
        if self.aux.apart:
            return True
        if self.aux.balance == "gradient_norm" or step + 1 == self.aux.every:
            return self.aux.balance == "gradient_norm" or self.aux.measure_every > 0
        turns = max(1, self.aux.measure_every // self.aux.every)
        return self.aux.measure_every > 0 and (step + 1) // self.aux.every % turns == 0

    def observe_norms(self, diffusion: float, auxiliary: float) -> None:
        """Update λ from the norms of the two gradients (gradient_norm)."""
        if self.aux.balance != "gradient_norm" or not auxiliary > 0:
            return
        keep = self.aux.smoothing if "diffusion" in self.state else 0.0
        for name, norm in (("diffusion", diffusion), ("aux", auxiliary)):
            self.state[name] = keep * self.state.get(name, 0.0) + (1.0 - keep) * norm
        self.state["lambda"] = self.bounded(self.aux.target_ratio * self.state["diffusion"] / self.state["aux"])

    def observe_losses(self, diffusion: float, auxiliary: float) -> None:
        """Update λ from the values of the two losses (uncertainty): one gradient step on the log-variances."""
        if self.aux.balance != "uncertainty":
            return
        for name, loss, start in (("s_d", diffusion, 0.0), ("s_a", auxiliary, -math.log(self.aux.lambda_aux))):
            s = self.state.get(name, start)
            self.state[name] = s - UNCERTAINTY_RATE * (1.0 - math.exp(-s) * loss)
        self.state["lambda"] = self.bounded(math.exp(self.state["s_d"] - self.state["s_a"]))

    def bounded(self, value: float) -> float:
        low, high = self.aux.lambda_bounds
        return min(max(value, low), high)

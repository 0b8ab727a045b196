"""Stable Diffusion's schedulers: those that are known, opened, and taken one step at a time."""

from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler
from torch import Tensor

Scheduler = DDIMScheduler | DPMSolverMultistepScheduler | EulerDiscreteScheduler | PNDMScheduler
NAMED = {  # as configurations name them
    "ddim": DDIMScheduler,
    "dpm": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "pndm": PNDMScheduler,
}
SCHEDULERS = {kind.__name__: kind for kind in NAMED.values()}


class KnownScheduler:
    """Opens the scheduler of whichever known class its configuration names."""

    @staticmethod
    def from_pretrained(path: str, **where: str | None) -> Scheduler:
        """The scheduler.

        Raises:
            ValueError: it is of another class, or its noise or what it predicts is of another kind.
        """
        config = DDIMScheduler.load_config(path, **where)
        if config.get("_class_name") not in SCHEDULERS:
            raise ValueError(f"its class is {config.get('_class_name')}; allowed are {', '.join(sorted(SCHEDULERS))}")
        scheduler = SCHEDULERS[config["_class_name"]].from_config(config)
        prediction, signal = scheduler.config.prediction_type, scheduler.alphas_cumprod[-1]
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"its prediction_type is {prediction}; allowed are epsilon and v_prediction")
        if prediction == "epsilon" and signal == 0:
            raise ValueError("its last timestep is pure noise (rescale_betas_zero_snr), which needs v_prediction")
        if scheduler.config.get("timestep_type", "discrete") != "discrete":
            raise ValueError(f"its timestep_type is {scheduler.config.timestep_type}; discrete is needed")
        return scheduler


@dataclass(frozen=True)
class SchedulerSteps:
    """A diffusers scheduler, one step at a time; PNDM remembers earlier predictions, Euler counts."""

    scheduler: Scheduler
    dtype: torch.dtype  # of the latents

    @property
    def levels(self) -> Tensor:
        """The timesteps."""
        return self.scheduler.timesteps

    def begin(self, noise: Tensor) -> Tensor:
        """Noise of the variance that this scheduler begins with."""
        return noise.to(self.dtype) * self.scheduler.init_noise_sigma

    def seen(self, latents: Tensor, place: int) -> Tensor:
        """Of the variance that the UNet knows: an Euler sampler's latents are larger, by √(1 + (σ/α)²)."""
        return self.scheduler.scale_model_input(latents, self.levels[place])

    def step(self, latents: Tensor, prediction: Tensor, place: int) -> Tensor:
        """The scheduler's step."""
        return self.scheduler.step(prediction.to(latents.dtype), self.levels[place], latents, return_dict=False)[0]

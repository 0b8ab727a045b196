"""What the workflow and the configuration know of a model family without opening it: no torch in here."""

from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True)
class Spec:
    """A family's folders and the names inside its networks.

    `module` holds `open_family` and `empty_family`; see legible/models/family.py.
    """

    module: str
    pipeline: str  # diffusers' class, as model_index.json names it
    denoiser: str  # component folder
    text_encoders: tuple[str, ...]  # component folders
    tokenizers: tuple[str, ...]
    autoencoder: str
    scheduler: str
    blocks: tuple[str, ...]  # parameter-name prefixes of the denoiser's repeated blocks: trained where nothing is said
    lora_targets: tuple[str, ...]  # module names in the denoiser, matched at their end
    text_lora_targets: tuple[str, ...]  # the same in the text encoders
    guidance_off: float  # the guidance_scale at which the sampler calls the network once a step
    comfyui: str  # what stands before the denoiser's layers in LoRA files for ComfyUI; see legible/models/comfyui.py
    schedulers: tuple[str, ...] = ()  # by which it can be sampled besides its own
    flow: bool = True  # whether it is a rectified flow

    def folders(self, *roles: str) -> list[str]:
        """Component folders of some roles: denoiser, text (encoders and tokenizers), autoencoder, scheduler."""
        named = {
            "denoiser": [self.denoiser],
            "text": [*self.text_encoders, *self.tokenizers],
            "autoencoder": [self.autoencoder],
            "scheduler": [self.scheduler],
        }
        return [folder for role in roles for folder in named[role]]

    def folder(self, part: str) -> str:
        """The component folder of a trainable part: `denoiser`, or a text encoder by its folder's name."""
        return self.denoiser if part == "denoiser" else part


def spec_of(family: str) -> Spec:
    """The spec of a family: the folder legible/models/{family}/ says it."""
    return import_module(f"legible.models.{family}").SPEC

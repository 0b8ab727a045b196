"""The one seam behind which model families differ: what training, sampling and planning need of an opened model.

A family is a folder `legible/models/{name}/`: its `__init__` says `SPEC` (names of folders and layers, no torch), and
the module that this names has `open_family` and `empty_family`, which return an object of the Protocol below. Sign,
time, shift, ε or velocity, prompt template, guidance and folder names are decided in there and nowhere else.
"""

import gc
from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from legible.config import Model, SigmaSampling
from legible.models.conditioning import Conditioning
from legible.models.download import check_download, check_room
from legible.models.hub import pinned
from legible.models.opening import check_pipeline
from legible.models.sampler import Sampler, Shape
from legible.models.spec import Spec, spec_of

ROLES = ("denoiser", "autoencoder", "text", "scheduler")  # text: the text encoders and their tokenizers


class Process(Protocol):
    """How a family adds noise, and what its network is to predict. Levels [B] are its own: σ of a flow, steps t …"""

    def draw(self, settings: SigmaSampling, grid: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """`count` levels as training draws them; `grid`: those of the sampler [S]."""

    def sigma(self, levels: Tensor) -> Tensor:
        """The share of noise, σ / (α + σ) in 0 … 1 for x = α·x0 + σ·ε: what windows, weights and logs go by."""

    def levels(self, sigma: Tensor) -> Tensor:
        """The levels at (or next to) these shares of noise."""

    def noised(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """Noisy latents [B, C, h, w]."""

    def target(self, clean: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
        """What `Family.predict` should give: a velocity or ε, [B, C, h, w]."""

    def predicted_clean(self, noisy: Tensor, prediction: Tensor, levels: Tensor) -> Tensor:
        """x̂0 from one prediction."""


class Family(Protocol):
    """An opened model; of the roles that a stage did not ask for nothing may be used."""

    spec: Spec
    device: torch.device
    process: Process

    def encode_prompts(self, prompts: list[str], gradient: bool = False) -> Conditioning:
        """What the prompts say; with `gradient`, it reaches the text encoders' weights.

        Raises:
            UserError: a prompt has more tokens than `model.max_sequence_length`.
        """

    def example_conditioning(self, count: int) -> Conditioning:
        """Conditioning of `count` longest prompts, values of no meaning, on the model's device; for planning."""

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a latent cell, in both directions; 1 without an autoencoder, where nothing is decoded."""

    def latent_shape(self, height: int, width: int) -> Shape:
        """(C, h, w) of the latents of an image.

        Raises:
            UserError: height or width does not fit the model's grid.
        """

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] (posterior means), float32, of images [B, 3, H, W] in −1 … 1."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W], float32, about −1 … 1, not clamped (that would kill gradients), of scaled latents."""

    def predict(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's answer [B, C, h, w], float32, in the sign and kind of `process.target`."""

    def level_grid(self, steps: int, shape: Shape | None = None) -> Tensor:
        """The levels [S] at which the sampler calls the network; S = steps, but some samplers call it more often.

        Args:
            shape: of the latents; some families shift their levels by the size of the picture and need it.
        """

    def sample(
        self, conditioning: Conditioning, noise: Tensor, steps: int, guidance_scale: float, empty: Conditioning | None
    ) -> Tensor:
        """Images uint8 [B, H, W, 3] by diffusers' own pipeline, from noise [B, C, h, w].

        Args:
            empty: conditioning of the empty prompt; needed only where guidance is on.
        """

    def guided(self, without: Tensor, asked: Tensor, guidance_scale: float) -> Tensor:
        """Classifier-free guidance of two predictions [B, C, h, w], for no prompt and for one, as the pipeline does it.

        Asked only where `guidance_scale` is above `spec.guidance_off`.
        """

    def sampler(self, steps: int, shape: Shape | None = None) -> Sampler:
        """The sampler's single steps, with gradients; see `level_grid`."""

    def with_scheduler(self, name: str) -> "Family":
        """The same model, sampled by another scheduler; only where `spec.schedulers` names some."""

    def module(self, part: str) -> nn.Module:
        """A part that can be trained: `denoiser`, or a text encoder by its folder's name."""

    def blocks(self) -> list[nn.Module]:
        """The denoiser's repeated blocks, in the order of their use: what is sharded, each with all its weights."""

    def quantized_layers(self) -> list[str]:
        """Names of the denoiser's linear layers that a quantised base has in few bits."""

    def decoder_blocks(self) -> list[nn.Module]:
        """What of the decoder is computed again, one by one, where memory is saved."""

    def save_memory(self, parts: tuple[str, ...]) -> None:
        """Compute the activations of `denoiser` or `decoder` again in the backward pass instead of keeping them."""

    def use_attention(self, backend: str, ragged: bool) -> None:
        """Train with an attention backend of diffusers, after a look at its backward pass; `native` changes nothing.

        Args:
            ragged: whether captions of different lengths will come in one batch.

        Raises:
            UserError: it cannot be used here, its gradient is wrong, or it takes no mask where one is needed.
        """

    def compile_blocks(self) -> None:
        """Compile the repeated blocks for training; weights keep their names."""

    def save_lora(self, folder: Path, layers: dict[str, dict[str, Tensor]], about: dict[str, dict]) -> None:
        """Write adapters as the pipeline's `load_lora_weights` takes them; part → weights, part → peft's settings."""

    def lora_state(self, path: Path) -> tuple[dict[str, Tensor], dict | None]:
        """A LoRA file's tensors in diffusers' names (`{component}.{layer}.lora_A.weight` …), and its settings."""


def open_model(
    model: Model,
    roles: tuple[str, ...],
    threads: int = 1,
    weights: Path | None = None,
    quantization: str = "none",
) -> Family:
    """Open the parts of the configured model that a stage needs, frozen and evaluating, on the configured device.

    Args:
        roles: of ROLES.
        weights: folder of fine-tuned weights: component folders, opened in place of the base's (never both), or LoRA
            adapters (pytorch_lora_weights.safetensors), put on top of it.
        quantization: of the denoiser's blocks, for training adapters on them: none, int8 or nf4.

    Raises:
        UserError: a component is missing, damaged or of another family, the hub cannot be reached, the device is
            missing, or what quantises is not installed.
    """
    torch.set_num_threads(threads)
    model = pinned(model)
    spec = spec_of(model.family)
    check_pipeline(model, spec)
    folders = spec.folders(*roles)
    large = [folder for folder in folders if folder not in (*spec.tokenizers, spec.scheduler)]
    check_room(model.path, model.revision, *(f"{folder}/*.safetensors" for folder in large))
    opened = import_module(spec.module).open_family(model, roles, weights, quantization)
    check_download(model.path, model.revision, *folders)
    return opened


def empty_model(model: Model) -> Family:
    """The configured model on the meta device, where nothing takes memory or computes; for planning.

    Raises:
        UserError: a configuration cannot be read, or is another family's.
    """
    model = pinned(model)
    spec = spec_of(model.family)
    check_pipeline(model, spec)
    return import_module(spec.module).empty_family(model)


def embed_prompts(model: Model, prompts: list[str], threads: int = 1, weights: Path | None = None) -> Conditioning:
    """What the prompts say, on the CPU.

    The text encoders are opened for this alone and freed again: of the real model they take 8 GB, which the denoiser
    needs afterwards.

    Args:
        weights: fine-tuned weights; their text encoders are taken where they have some.
    """
    opened = open_model(model, ("text",), threads, weights)
    conditioning = opened.encode_prompts(prompts).to("cpu")
    del opened
    free_memory()
    return conditioning


def free_memory() -> None:
    """Give back what nothing refers to any more, on the GPU too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

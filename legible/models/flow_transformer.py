"""What Stable Diffusion 3, FLUX.1 and Qwen-Image share: a flow, joint blocks of words and picture, velocity v = ε − x0.

A family of them says what differs: its components, what prompts become, how its transformer is called, its latents.
Sources: huggingface/diffusers pipelines/stable_diffusion_3, flux, qwenimage; schedulers/
scheduling_flow_match_euler_discrete.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from legible.config import Model
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.flow import EulerSteps, Flow
from legible.models.opening import LORA, choose_device, empty_module, frozen, open_other, open_parts
from legible.models.packing import PATCH, packed
from legible.models.pipeline_lora import put_lora, read_lora, save_arguments
from legible.models.quantization import linear_layers, quantize
from legible.models.sampler import Shape
from legible.models.spec import Spec
from legible.models.text_adapters import add_adapters, save_adapters

TIMES = 1000  # the transformers' time is σ times this
CAPTION, POOLED = "captions", "pooled"  # names in their conditioning: [tokens, D] of a prompt, and [1, D']


@dataclass(frozen=True)
class FlowTransformer:
    """The opened parts; a part that a stage did not ask for is None."""

    spec: ClassVar[Spec]
    kind: ClassVar[type[DiffusionPipeline]]
    networks: ClassVar[dict[str, type]]  # component folder → class
    others: ClassVar[dict[str, type]]
    few_bits: ClassVar[tuple[str, ...]]  # parts of the names of layers that a quantised base has in few bits
    lora_parts: ClassVar[tuple[str, ...]]  # component folders for which the pipeline's LoRA file has a place

    device: torch.device
    max_sequence_length: int
    transformer: nn.Module | None = None
    vae: nn.Module | None = None
    scheduler: FlowMatchEulerDiscreteScheduler | None = None

    @property
    def process(self) -> Flow:
        """Noise as diffusers' example trainers draw it: by the scheduler's shift, but for one that goes by size."""
        config = self.scheduler.config
        return Flow(1.0 if config.use_dynamic_shifting else config.shift)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a latent cell, in both directions; 1 without a VAE, where nothing is decoded."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Scaled latents [B, C, H/f, W/f] (posterior means) of images [B, 3, H, W] in −1 … 1."""
        latents = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist.mode()
        return ((latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] (about −1 … 1, not clamped) of scaled latents."""
        latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor + self.vae.config.shift_factor
        return self.vae.decode(latents, return_dict=False)[0].float()

    def check_counts(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> None:
        """Refuse what does not belong together.

        Raises:
            ValueError: there are not as many latents as levels and captions.
        """
        if len(conditioning) != len(noisy) or len(levels) != len(noisy):
            raise ValueError(
                f"{len(noisy)} latents, {len(levels)} sigmas and {len(conditioning)} captions do not match"
            )

    def pipeline(self) -> DiffusionPipeline:
        """The parts as diffusers' own pipeline."""
        return self.kind(**{name: getattr(self, name) for name in (*self.networks, *self.others)})

    def scheduler_settings(self, steps: int) -> dict[str, Any]:
        """What the pipeline hands to `set_timesteps` beside the shift: its own even levels, 1 … 1/S."""
        return {"sigmas": torch.linspace(1.0, 1 / steps, steps, dtype=torch.float64).numpy()}

    def level_grid(self, steps: int, shape: Shape | None = None) -> Tensor:
        """The σ values [steps] at which the sampler calls the network, without the final 0.

        Args:
            shape: of the latents; needed where the scheduler shifts by the picture's size.
        """
        scheduler, settings = type(self.scheduler).from_config(self.scheduler.config), self.scheduler_settings(steps)
        if (config := scheduler.config).use_dynamic_shifting:
            tokens = (shape[1] // PATCH) * (shape[2] // PATCH)
            settings["mu"] = calculate_shift(
                tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
            )
        scheduler.set_timesteps(**settings)
        return scheduler.sigmas[:-1].float()

    def sampler(self, steps: int, shape: Shape | None = None) -> EulerSteps:
        """Euler's steps over the σ grid."""
        return EulerSteps(self.level_grid(steps, shape).to(self.device))

    def guided(self, without: Tensor, asked: Tensor, guidance_scale: float) -> Tensor:
        """v_∅ + w·(v_c − v_∅)."""
        return without + guidance_scale * (asked - without)

    def asked(self, conditioning: Conditioning, negative: str = "") -> dict[str, Any]:
        """What prompts are to the pipeline; `negative`: the prefix of what is asked for nothing."""
        return {
            f"{negative}prompt_embeds": conditioning.stacked(CAPTION),
            f"{negative}pooled_prompt_embeds": conditioning.stacked(POOLED)[:, 0],
        }

    def laid_out(self, latents: Tensor) -> Tensor:
        """Latents as the pipeline has them."""
        return packed(latents)

    def guidance(self, guidance_scale: float) -> dict[str, float]:
        """The pipeline's own words for w in v_∅ + w·(v_c − v_∅)."""
        return {"true_cfg_scale": guidance_scale}

    @torch.no_grad()
    def sample(
        self,
        conditioning: Conditioning,
        noise: Tensor,
        steps: int,
        guidance_scale: float,
        empty: Conditioning | None = None,
    ) -> Tensor:
        """Images uint8 [B, H, W, 3] by diffusers' own pipeline, from noise [B, C, h, w].

        Args:
            guidance_scale: w, see `guided`; guidance is off up to 1.
            empty: conditioning of the empty prompt; needed only when guidance is on.
        """
        pipeline, dtype = self.pipeline(), self.transformer.dtype
        pipeline.set_progress_bar_config(disable=True)
        words = self.asked(conditioning.to(self.device, dtype))
        if guidance_scale > self.spec.guidance_off:
            words |= self.asked(empty.to(self.device, dtype).pick([0] * len(conditioning)), "negative_")
        images = pipeline(
            **words,
            **self.guidance(guidance_scale),
            latents=self.laid_out(noise.to(self.device, dtype)),
            height=noise.shape[2] * pipeline.vae_scale_factor,
            width=noise.shape[3] * pipeline.vae_scale_factor,
            num_inference_steps=steps,
            output_type="np",
        ).images
        return torch.from_numpy((images * 255).round().astype("uint8"))

    def latent_shape(self, height: int, width: int) -> Shape:
        """(C, h, w) of the latents of an image.

        Raises:
            UserError: height or width is not a multiple of the VAE's factor times the patch size.
        """
        grid = PATCH * self.pixels_per_latent
        for name, value in (("height", height), ("width", width)):
            if value % grid:
                raise UserError(f"data.{name}: {value} is not divisible by {grid}, the latent grid of this model")
        return self.channels, height // self.pixels_per_latent, width // self.pixels_per_latent

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config.latent_channels

    def module(self, part: str) -> nn.Module:
        """The transformer (`denoiser`) or a text encoder."""
        return getattr(self, self.spec.folder(part))

    def blocks(self) -> list[nn.Module]:
        """The transformer's repeated blocks."""
        return [block for name in self.spec.blocks for block in getattr(self.transformer, name)]

    def quantized_layers(self) -> list[str]:
        """Attention and feed-forward layers of the blocks; embedders, norms and modulations keep their precision."""
        return linear_layers(self.transformer, self.spec.blocks, self.few_bits)

    def decoder_blocks(self) -> list[nn.Module]:
        """The decoder's blocks."""
        return [self.vae.decoder.mid_block, *self.vae.decoder.up_blocks]

    def save_memory(self, parts: tuple[str, ...]) -> None:
        """Compute the activations of `denoiser` or `decoder` again in the backward pass instead of keeping them."""
        if "denoiser" in parts:
            self.transformer.enable_gradient_checkpointing()
        if "decoder" in parts and self.vae is not None:
            self.vae.enable_gradient_checkpointing()

    def use_attention(self, backend: str, ragged: bool) -> None:
        """Only `native`: PyTorch's own attention, which takes its fastest kernel.

        Raises:
            UserError: another backend is asked for.
        """
        if backend != "native":
            raise UserError(f"training.attention: {backend} is not checked for this family; choose native")

    def compile_blocks(self) -> None:
        """Compile the repeated blocks for training (needs a C++ compiler, on a GPU Triton)."""
        for block in self.blocks():  # diffusers' compile_repeated_blocks knows none of Stable Diffusion 3
            block.compile()

    def save_lora(self, folder: Path, layers: dict[str, dict[str, Tensor]], about: dict[str, dict]) -> None:
        """Adapters as the pipeline takes them; those of a text encoder for which it has no place in a folder beside."""
        beside = [part for part in layers if self.spec.folder(part) not in self.lora_parts]
        for part in beside:
            save_adapters(folder / adapters_of(part), layers[part], about[part])
        if inside := {part: own for part, own in layers.items() if part not in beside}:
            self.kind.save_lora_weights(folder, **save_arguments(self.spec, inside, about))

    def lora_state(self, path: Path) -> tuple[dict[str, Tensor], dict | None]:
        """A LoRA file's tensors in diffusers' names, whichever of the formats that diffusers reads it is in."""
        return read_lora(self.kind, path)

    def add_lora(self, weights: Path) -> None:
        """Put a folder's adapters on whichever of the networks are opened.

        Raises:
            UserError: they cannot be read, or are not this model's.
        """
        for name in self.spec.text_encoders:
            if (weights / adapters_of(name)).is_dir() and getattr(self, name) is not None:
                add_adapters(getattr(self, name), weights / adapters_of(name))
        if (weights / LORA).is_file():
            opened = {name: getattr(self, name) for name in self.lora_parts}
            put_lora(self.kind, weights / LORA, self.lora_parts, opened)

    def check(self, model: Model) -> None:
        """Refuse parts that look like this family's and work in another way.

        Raises:
            UserError: there is one.
        """
        if self.transformer is not None:
            config = self.transformer.config
            taken, given = config.in_channels, config.get("out_channels") or config.in_channels
            if given not in (taken, taken // PATCH**2):  # of a cell, or of a token of cells
                raise UserError(
                    f"{model.path}: component `transformer` takes {taken} channels and gives {given}; choose a plain"
                    " text-to-image model"
                )


def adapters_of(name: str) -> str:
    """The folder of a text encoder's adapters."""
    return f"{name}_lora"


def open_flow(
    kind: type[FlowTransformer], model: Model, roles: tuple[str, ...], weights: Path | None, quantization: str,
    **settings: Any,
) -> FlowTransformer:  # fmt: skip
    """See `legible.models.family.open_model`.

    Args:
        kind: the family.
        settings: its own fields.
    """
    device = choose_device(model)
    adapters = (LORA, *map(adapters_of, kind.spec.text_encoders))
    parts = open_parts(model, kind.spec, roles, weights, kind.networks, kind.others, adapters)
    opened = kind(device, model.max_sequence_length, **parts, **settings)
    opened.check(model)
    if quantization != "none":
        quantize(opened.transformer, opened.quantized_layers(), quantization, device)
    if weights is not None:
        opened.add_lora(weights)
    for part in parts.values():
        if isinstance(part, nn.Module):
            frozen(part, device)
    return opened


def empty_flow(kind: type[FlowTransformer], model: Model) -> FlowTransformer:
    """See `legible.models.family.empty_model`."""
    parts = {name: empty_module(model, name, network) for name, network in kind.networks.items()}
    parts["scheduler"] = open_other(model, "scheduler", kind.others["scheduler"], [*kind.networks, *kind.others])
    opened = kind(torch.device("meta"), model.max_sequence_length, **parts)
    opened.check(model)
    return opened

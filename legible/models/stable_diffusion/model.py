"""Stable Diffusion: every convention of this architecture, and nowhere else.

Source: huggingface/diffusers pipelines/stable_diffusion/pipeline_stable_diffusion.py.
"""

import math
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase

from legible.config import Model
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.diffusion import VariancePreserving
from legible.models.opening import (
    LORA,
    check_lengths,
    choose_device,
    empty_module,
    frozen,
    open_other,
    open_parts,
    where_mixed,
)
from legible.models.pipeline_lora import put_lora, read_lora, save_arguments
from legible.models.quantization import linear_layers, quantize
from legible.models.sampler import Shape
from legible.models.spec import Spec
from legible.models.stable_diffusion import SPEC
from legible.models.stable_diffusion.schedulers import NAMED, KnownScheduler, Scheduler, SchedulerSteps

CAPTION = "captions"  # the one name in its conditioning: [tokens, D] of a prompt, always as many as CLIP reads
PIPELINE_GRID = 8  # StableDiffusionPipeline takes multiples of it, whatever the autoencoder
# Settings of a UNet that asks for more than noisy latents, a timestep and captions: inpainting, LCM, SDXL …
FURTHER_INPUTS = ("time_cond_proj_dim", "class_embed_type", "addition_embed_type", "encoder_hid_dim_type")


@dataclass(frozen=True)
class StableDiffusion:
    """The opened parts; a part that a stage did not ask for is None."""

    spec: ClassVar[Spec] = SPEC
    kind: ClassVar[type[DiffusionPipeline]] = StableDiffusionPipeline
    networks: ClassVar[dict[str, type]] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
    }
    others: ClassVar[dict[str, type]] = {"tokenizer": AutoTokenizer, "scheduler": KnownScheduler}
    further_inputs: ClassVar[tuple[str, ...]] = FURTHER_INPUTS

    device: torch.device
    max_sequence_length: int
    unet: UNet2DConditionModel | None = None
    vae: AutoencoderKL | None = None
    text_encoder: CLIPTextModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    scheduler: Scheduler | None = None

    @property
    def process(self) -> VariancePreserving:
        """Noise as the scheduler's configuration describes it."""
        return VariancePreserving(self.scheduler.alphas_cumprod, self.scheduler.config.prediction_type)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a latent cell, in both directions; 1 without a VAE, where nothing is decoded."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode_prompts(self, prompts: list[str], gradient: bool = False, batch: int = 64) -> Conditioning:
        """Caption embeddings, one [77, D] tensor a prompt, padded as the pipeline pads them.

        Raises:
            UserError: a prompt is too long; the pipeline would cut its end off with a warning.
        """
        pipeline = self.pipeline()
        check_lengths(prompts, self.tokenizer, self.max_sequence_length, self.tokenizer.model_max_length)
        embeddings: list[Tensor] = []
        with torch.set_grad_enabled(gradient), where_mixed(self.text_encoder, self.device):
            for start in range(0, len(prompts), batch):
                part = list(prompts[start : start + batch])
                embeddings += pipeline.encode_prompt(part, self.device, 1, False)[0].unbind(0)
        return Conditioning({CAPTION: embeddings})

    def example_conditioning(self, count: int) -> Conditioning:
        """Captions of zeros, as many tokens as the text encoder reads."""
        shape = (self.text_encoder.config.max_position_embeddings, self.unet.config.cross_attention_dim)
        return Conditioning({CAPTION: [torch.zeros(shape, device=self.device, dtype=self.unet.dtype)] * count})

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Scaled latents [B, C, H/f, W/f] (posterior means) of images [B, 3, H, W] in −1 … 1."""
        latents = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist.mode()
        return (latents * self.vae.config.scaling_factor).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] (about −1 … 1, not clamped) of scaled latents; the pipeline knows no shift."""
        latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        return self.vae.decode(latents, return_dict=False)[0].float()

    def predict(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> Tensor:
        """ε or v [B, C, h, w] (float32) at variance-preserving latents, timesteps [B] and caption embeddings."""
        if len(conditioning) != len(noisy) or len(levels) != len(noisy):
            raise ValueError(
                f"{len(noisy)} latents, {len(levels)} timesteps and {len(conditioning)} captions do not match"
            )
        said = self.said(conditioning.to(self.device, self.unet.dtype), noisy)
        with where_mixed(self.unet, self.device):
            output = self.unet(noisy.to(self.unet.dtype), levels.to(self.device), return_dict=False, **said)
        return output[0].float()

    def said(self, conditioning: Conditioning, noisy: Tensor) -> dict[str, Any]:
        """What the UNet is told beside latents and timesteps."""
        return {"encoder_hidden_states": conditioning.stacked(CAPTION)}

    def asked(self, conditioning: Conditioning, negative: str = "") -> dict[str, Tensor]:
        """What prompts are to the pipeline; `negative`: the prefix of what is asked for nothing."""
        return {f"{negative}prompt_embeds": conditioning.stacked(CAPTION)}

    def level_grid(self, steps: int, shape: Shape | None = None) -> Tensor:
        """The timesteps at which the sampler calls the network, falling; PNDM calls it once more than `steps`."""
        return self.scheduler_at(steps).timesteps

    def scheduler_at(self, steps: int) -> Scheduler:
        """A scheduler of its own, set to `steps`, with the settings that the pipeline corrects in old configurations.

        Raises:
            UserError: there are not as many timesteps.
        """
        if steps > (total := self.scheduler.config.num_train_timesteps):
            raise UserError(f"generation.steps: {steps}, but this model has {total} timesteps")
        scheduler = type(self.scheduler).from_config(self.pipeline().scheduler.config)
        scheduler.set_timesteps(steps)
        return scheduler

    def with_scheduler(self, name: str) -> "StableDiffusion":
        """The same model with another scheduler of the same noise (one of `spec.schedulers`)."""
        return replace(self, scheduler=NAMED[name].from_config(self.scheduler.config))

    def pipeline(self) -> StableDiffusionPipeline:
        """The parts as diffusers' own pipeline."""
        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

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
            guidance_scale: w in ε_∅ + w·(ε_c − ε_∅); guidance is off up to 1.
            empty: conditioning of the empty prompt; needed only when guidance is on.
        """
        self.scheduler_at(steps)  # refuses too many steps
        pipeline, factor = self.pipeline(), self.pixels_per_latent
        pipeline.set_progress_bar_config(disable=True)
        words = self.asked(conditioning.to(self.device))
        if guidance_scale > self.spec.guidance_off:
            words |= self.asked(empty.to(self.device).pick([0] * len(conditioning)), "negative_")
        images = pipeline(
            **words,
            latents=noise.to(self.device, self.unet.dtype),
            height=noise.shape[2] * factor,
            width=noise.shape[3] * factor,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            output_type="np",
        ).images
        return torch.from_numpy((images * 255).round().astype("uint8"))

    def guided(self, without: Tensor, asked: Tensor, guidance_scale: float) -> Tensor:
        """ε_∅ + w·(ε_c − ε_∅)."""
        return without + guidance_scale * (asked - without)

    def sampler(self, steps: int, shape: Shape | None = None) -> SchedulerSteps:
        """The scheduler's own steps."""
        return SchedulerSteps(self.scheduler_at(steps), self.unet.dtype)

    def latent_shape(self, height: int, width: int) -> Shape:
        """(C, h, w) of the latents of an image.

        Raises:
            UserError: height or width is not a multiple of the VAE's factor and of 8.
        """
        factor = self.pixels_per_latent
        grid = math.lcm(factor, PIPELINE_GRID)
        for name, value in (("height", height), ("width", width)):
            if value % grid:
                raise UserError(f"data.{name}: {value} is not divisible by {grid}, the grid of this model")
        return self.vae.config.latent_channels, height // factor, width // factor

    def module(self, part: str) -> nn.Module:
        """The UNet (`denoiser`) or the text encoder."""
        return getattr(self, self.spec.folder(part))

    def blocks(self) -> list[nn.Module]:
        """Residual and transformer blocks with their down- and upsamplers."""
        found = []
        for block in (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks):
            lists = [getattr(block, name, None) or () for name in ("resnets", "attentions")]
            found += [unit for pair in zip_longest(*lists) for unit in pair if unit is not None]
            found += [unit for name in ("downsamplers", "upsamplers") for unit in getattr(block, name, None) or ()]
        return found

    def quantized_layers(self) -> list[str]:
        """Attention and feed-forward layers of the transformer blocks; the convolutions keep their precision."""
        return linear_layers(self.unet, self.spec.blocks, (".attn1.", ".attn2.", ".ff."))

    def decoder_blocks(self) -> list[nn.Module]:
        """The decoder's blocks."""
        return [self.vae.decoder.mid_block, *self.vae.decoder.up_blocks]

    def save_memory(self, parts: tuple[str, ...]) -> None:
        """Compute the activations of `denoiser` or `decoder` again in the backward pass instead of keeping them."""
        if "denoiser" in parts:
            self.unet.enable_gradient_checkpointing()
        if "decoder" in parts and self.vae is not None:
            self.vae.enable_gradient_checkpointing()

    def use_attention(self, backend: str, ragged: bool) -> None:
        """Only `native`: diffusers' UNet calls PyTorch's attention itself, which takes its fastest kernel.

        Captions always have 77 tokens, so that nothing is masked.

        Raises:
            UserError: another backend is asked for.
        """
        if backend != "native":
            raise UserError(f"training.attention: {backend} cannot be set in a UNet; choose native")

    def compile_blocks(self) -> None:
        """Compile the transformer blocks for training (needs a C++ compiler, on a GPU Triton)."""
        self.unet.compile_repeated_blocks()

    def save_lora(self, folder: Path, layers: dict[str, dict[str, Tensor]], about: dict[str, dict]) -> None:
        """One file for UNet and text encoders, as the pipeline takes it."""
        self.kind.save_lora_weights(folder, **save_arguments(self.spec, layers, about))

    def lora_state(self, path: Path) -> tuple[dict[str, Tensor], dict | None]:
        """A LoRA file's tensors in diffusers' names; where it has alphas beside them, the UNet's B · alpha / rank."""
        state, alphas, about = read_lora(self.kind, path)
        state = convert_unet_state_dict_to_peft(state)
        for name, alpha in convert_unet_state_dict_to_peft(alphas or {}).items():
            layer = name.removesuffix(".alpha").partition(".lora_")[0]
            if layer.startswith("unet."):
                state[f"{layer}.lora_B.weight"] *= alpha / len(state[f"{layer}.lora_A.weight"])
        return state, about

    def check(self, model: Model) -> None:
        """Refuse parts that look like this family's and work in another way.

        Raises:
            UserError: there is one.
        """
        if self.unet is not None:
            config = self.unet.config
            more = [name for name in self.further_inputs if config.get(name) is not None]
            more += ["in_channels"] if config.in_channels != config.out_channels else []
            if more:
                raise UserError(
                    f"{model.path}: component `unet` needs more than latents, a timestep and captions ({more[0]} is"
                    f" {config[more[0]]}); choose a plain text-to-image model"
                )
        if self.tokenizer is not None and self.text_encoder is not None:
            reads, limit = self.text_encoder.config.max_position_embeddings, self.tokenizer.model_max_length
            if limit > reads:
                raise UserError(
                    f"{model.path}: component `tokenizer` has model_max_length {limit}, but the text encoder reads"
                    f" {reads} tokens; set it to {reads} in tokenizer_config.json"
                )


def open_unet(
    kind: type[StableDiffusion], model: Model, roles: tuple[str, ...], weights: Path | None, quantization: str,
    **settings: Any,
) -> StableDiffusion:  # fmt: skip
    """See `legible.models.family.open_model`.

    Args:
        kind: this family, or a relative with fields of its own, `settings`.
    """
    device = choose_device(model)
    parts = open_parts(model, kind.spec, roles, weights, kind.networks, kind.others)
    opened = kind(device, model.max_sequence_length, **parts, **settings)
    opened.check(model)
    if quantization != "none":
        quantize(opened.unet, opened.quantized_layers(), quantization, device)
    if weights is not None and (weights / LORA).is_file():
        names = (kind.spec.denoiser, *kind.spec.text_encoders)
        put_lora(opened.kind, weights / LORA, names, {name: getattr(opened, name) for name in names})
    for part in parts.values():
        if isinstance(part, nn.Module):
            frozen(part, device)
    return opened


def empty_unet(kind: type[StableDiffusion], model: Model, **settings: Any) -> StableDiffusion:
    """See `legible.models.family.empty_model` and `open_unet`."""
    parts = {name: empty_module(model, name, network) for name, network in kind.networks.items()}
    parts["scheduler"] = open_other(model, "scheduler", KnownScheduler, [*kind.networks, *kind.others])
    opened = kind(torch.device("meta"), model.max_sequence_length, **parts, **settings)
    opened.check(model)
    return opened


def open_family(model: Model, roles: tuple[str, ...], weights: Path | None, quantization: str) -> StableDiffusion:
    """See `legible.models.family.open_model`."""
    return open_unet(StableDiffusion, model, roles, weights, quantization)


def empty_family(model: Model) -> StableDiffusion:
    """See `legible.models.family.empty_model`."""
    return empty_unet(StableDiffusion, model)

"""Z-Image (Tongyi-MAI/Z-Image-Turbo and nano): every convention of this architecture, and nowhere else.

Sources: huggingface/diffusers pipelines/z_image/pipeline_z_image.py, models/transformers/transformer_z_image.py.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from legible.config import Model
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.flow import EulerSteps, Flow
from legible.models.opening import (
    LORA,
    choose_device,
    close,
    empty_module,
    first_line,
    frozen,
    open_module,
    open_other,
    places_of,
    where_mixed,
)
from legible.models.quantization import linear_layers, quantize
from legible.models.sampler import Shape
from legible.models.spec import Spec
from legible.models.text_adapters import add_adapters, save_adapters
from legible.models.zimage import SPEC
from legible.models.zimage.compiled import compile_blocks

COMPONENTS = SPEC.folders("denoiser", "autoencoder", "text", "scheduler")
MODULES = {"transformer": ZImageTransformer2DModel, "vae": AutoencoderKL, "text_encoder": AutoModel}
OTHERS = {"tokenizer": AutoTokenizer, "scheduler": FlowMatchEulerDiscreteScheduler}
CAPTION = "captions"  # the one name in its conditioning: [tokens, D] of a prompt
TOKENS = 32  # captions and pictures are padded to multiples of it
TEXT_ADAPTERS = "text_encoder_lora"  # folder: the pipeline's LoRA file has no place for a text encoder's


@dataclass(frozen=True)
class ZImage:
    """The opened parts; a part that a stage did not ask for is None."""

    spec: ClassVar[Spec] = SPEC

    device: torch.device
    max_sequence_length: int
    transformer: ZImageTransformer2DModel | None = None
    vae: AutoencoderKL | None = None
    text_encoder: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    scheduler: FlowMatchEulerDiscreteScheduler | None = None
    process: Flow = field(default_factory=Flow)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a latent cell, in both directions; 1 without a VAE, where nothing is decoded."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode_prompts(self, prompts: list[str], gradient: bool = False, batch: int = 64) -> Conditioning:
        """Caption embeddings, one [S, D] tensor a prompt (S = its own number of tokens).

        Raises:
            UserError: a prompt is longer than `max_sequence_length`; the pipeline would cut its end off silently.
        """
        pipeline = self.pipeline()
        for prompt, text in zip(prompts, templated(self.tokenizer, prompts), strict=True):
            if (length := len(self.tokenizer(text).input_ids)) > self.max_sequence_length:
                raise UserError(
                    f"prompt {prompt[:60]!r}: {length} tokens with the chat template, but model.max_sequence_length is"
                    f" {self.max_sequence_length}; raise it or shorten the prompt"
                )
        embeddings: list[Tensor] = []
        with torch.set_grad_enabled(gradient), where_mixed(self.text_encoder, self.device):
            for start in range(0, len(prompts), batch):
                # encode_prompt writes the chat template into the list it is given: hand it a copy.
                part = list(prompts[start : start + batch])
                embeddings += pipeline.encode_prompt(
                    part, self.device, False, max_sequence_length=self.max_sequence_length
                )[0]
        return Conditioning({CAPTION: embeddings})

    def example_conditioning(self, count: int) -> Conditioning:
        """Captions of `max_sequence_length` tokens, zeros."""
        width = self.transformer.config.cap_feat_dim
        zeros = torch.zeros((self.max_sequence_length, width), device=self.device, dtype=self.transformer.dtype)
        return Conditioning({CAPTION: [zeros] * count})

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Scaled latents [B, C, H/f, W/f] (posterior means) of images [B, 3, H, W] in −1 … 1."""
        pixels = pixels.to(self.device, self.vae.dtype)
        latents = self.vae.encode(pixels).latent_dist.mode()
        return ((latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] (about −1 … 1, not clamped: a clamp would kill gradients) of scaled latents."""
        latents = latents.to(self.vae.dtype) / self.vae.config.scaling_factor + self.vae.config.shift_factor
        return self.vae.decode(latents, return_dict=False)[0].float()

    def predict(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity [B, C, h, w] (float32) at noisy latents, σ [B] and caption embeddings.

        The network takes the time 1 − σ and returns −v; both are undone here. It zips latents with captions and would
        silently drop the excess, hence the check.
        """
        if len(conditioning) != len(noisy) or len(levels) != len(noisy):
            raise ValueError(
                f"{len(noisy)} latents, {len(levels)} sigmas and {len(conditioning)} captions do not match"
            )
        inputs = list(noisy.to(self.transformer.dtype).unsqueeze(2).unbind(0))
        captions = conditioning.to(self.device, self.transformer.dtype).tensors[CAPTION]
        with where_mixed(self.transformer, self.device):
            output = self.transformer(inputs, 1.0 - levels.float(), captions, return_dict=False)[0]
        return -torch.stack(output).squeeze(2).float()

    def module(self, part: str) -> nn.Module:
        """The transformer (`denoiser`) or the text encoder."""
        return getattr(self, self.spec.folder(part))

    def blocks(self) -> list[nn.Module]:
        """Refiners and layers."""
        return [
            block
            for name in ("noise_refiner", "context_refiner", "layers")
            for block in getattr(self.transformer, name)
        ]

    def quantized_layers(self) -> list[str]:
        """Attention and feed-forward layers of the blocks: 97 % of the weights.

        Embedders, norms, the modulation by time (which scales everything after it) and the final layer keep theirs.
        """
        return linear_layers(self.transformer, self.spec.blocks, (".attention.", ".feed_forward."))

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
        """Train with an attention backend of diffusers, after a look at its backward pass; `native` changes nothing.

        Z-Image pads captions and pictures to multiples of 32 tokens with learned tokens that are attended. A sample by
        itself, and a batch whose padded lengths are all equal, therefore has no mask (None), and the flash backends can
        be used. A ragged batch has a boolean mask [B, 1, 1, S] of the keys, which most of them refuse.

        Args:
            backend: a name that `set_attention_backend` of diffusers knows. Those that end in _hub are not taken: they
                download and run code.
            ragged: whether captions of different lengths will come in one batch.

        Raises:
            UserError: there is no such backend, it cannot be used here, its gradient is missing or wrong, or it takes
                no mask where one is needed.
        """
        known = sorted(name.value for name in AttentionBackendName if not name.value.endswith("_hub"))
        if backend not in known:
            raise UserError(f"training.attention: `{backend}` is no such backend; allowed are {', '.join(known)}")
        if backend == "native":
            return
        for masked in (False, True) if ragged else (False,):
            expected = self._attention("_native_math", masked)
            try:
                found = self._attention(backend, masked)
            except Exception as error:  # every library has its own for what it cannot do
                found, reason = None, first_line(error)
            if found is not None and close(found, expected):
                continue
            if masked:
                raise UserError(
                    f"training.attention: {backend} cannot mask attention, as captions of different lengths in one"
                    " batch need it; set batch_size (and anchor.batch_size) to 1 or choose native"
                )
            why = f" ({reason})" if found is None else ""
            raise UserError(
                f"training.attention: {backend} has no usable backward pass on this device{why}; choose native"
            )
        self.transformer.set_attention_backend(backend)

    def _attention(self, backend: str, masked: bool) -> tuple[Tensor, Tensor]:
        """What the first block's attention makes of two samples of 64 tokens, and the gradient, both [2, 64, dim]."""
        attention, tokens = self.transformer.layers[0].attention, 64
        generator = torch.Generator().manual_seed(0)
        seen, pull = torch.randn((2, 2, tokens, self.transformer.config.dim), generator=generator)
        seen = seen.to(self.device, self.transformer.dtype).requires_grad_(True)
        mask = torch.arange(tokens) < torch.tensor([[tokens], [tokens // 2]]) if masked else None
        with attention_backend(backend), where_mixed(self.transformer, self.device), torch.enable_grad():
            output = attention(seen, attention_mask=None if mask is None else mask.to(self.device)).float()
            (gradient,) = torch.autograd.grad((output * pull.to(self.device)).sum(), seen)
        return output.detach(), gradient.float()

    def compile_blocks(self) -> None:
        """Compile the repeated blocks for training (needs a C++ compiler, on a GPU Triton)."""
        compile_blocks(self.transformer)

    def level_grid(self, steps: int, shape: Shape | None = None) -> Tensor:
        """The σ values [steps] at which the sampler calls the network, without the final 0; the same for all sizes."""
        from diffusers.pipelines.z_image import pipeline_z_image as source

        # diffusers ≥ 0.39 hands the linear grid over itself; the scheduler then applies its shift, once.
        sigmas = source.get_default_z_image_sigmas(steps)
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(sigmas=sigmas)
        return scheduler.sigmas[:-1].float()

    def pipeline(self) -> ZImagePipeline:
        """The parts as diffusers' own pipeline."""
        return ZImagePipeline(
            scheduler=self.scheduler,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            transformer=self.transformer,
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
            empty: conditioning of the empty prompt; needed only when `guidance_scale` is above 0.
        """
        captions = conditioning.to(self.device).tensors[CAPTION]
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        factor = pipeline.vae_scale_factor
        images = pipeline(
            prompt_embeds=captions,
            negative_prompt_embeds=empty.to(self.device).tensors[CAPTION] * len(captions)
            if guidance_scale > self.spec.guidance_off
            else None,
            latents=noise.to(self.device, torch.float32),
            height=noise.shape[2] * factor,
            width=noise.shape[3] * factor,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            output_type="np",
        ).images
        return torch.from_numpy((images * 255).round().astype("uint8"))

    def guided(self, without: Tensor, asked: Tensor, guidance_scale: float) -> Tensor:
        """v_c + s·(v_c − v_∅): here guidance is off at 0."""
        return asked + guidance_scale * (asked - without)

    def sampler(self, steps: int, shape: Shape | None = None) -> EulerSteps:
        """Euler's steps over the σ grid."""
        return EulerSteps(self.level_grid(steps).to(self.device))

    def latent_shape(self, height: int, width: int) -> Shape:
        """(C, h, w) of the latents of an image.

        Raises:
            UserError: height or width is not a multiple of the latent grid (VAE factor × patch size 2).
        """
        factor = self.pixels_per_latent
        for name, value in (("height", height), ("width", width)):
            if value % (2 * factor):
                raise UserError(f"data.{name}: {value} is not divisible by {2 * factor}, the latent grid of this model")
        return self.vae.config.latent_channels, height // factor, width // factor

    def save_lora(self, folder: Path, layers: dict[str, dict[str, Tensor]], about: dict[str, dict]) -> None:
        """The transformer's adapters as ZImagePipeline takes them, the text encoder's as a peft folder beside them."""
        if "denoiser" in layers:
            ZImagePipeline.save_lora_weights(
                folder,
                transformer_lora_layers=layers["denoiser"],
                transformer_lora_adapter_metadata=about["denoiser"],
            )
        if "text_encoder" in layers:
            save_adapters(folder / TEXT_ADAPTERS, layers["text_encoder"], about["text_encoder"])

    def lora_state(self, path: Path) -> tuple[dict[str, Tensor], dict | None]:
        """A LoRA file's tensors in diffusers' names, whichever of the formats that diffusers reads it is in."""
        return ZImagePipeline.lora_state_dict(
            str(path.parent), weight_name=path.name, use_safetensors=True, local_files_only=True,
            return_lora_metadata=True,
        )  # fmt: skip


def templated(tokenizer: PreTrainedTokenizerBase, prompts: list[str]) -> list[str]:
    """Prompts in the chat template, as ZImagePipeline.encode_prompt writes them."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        for prompt in prompts
    ]


def open_family(model: Model, roles: tuple[str, ...], weights: Path | None, quantization: str) -> ZImage:
    """See `legible.models.family.open_model`."""
    device, names = choose_device(model), SPEC.folders(*roles)
    places = places_of(model, names, weights, (LORA, TEXT_ADAPTERS))
    parts = {}
    for name in names:
        if name in OTHERS:
            parts[name] = open_other(places[name], name, OTHERS[name], COMPONENTS)
            continue
        parts[name] = open_module(places[name], name, MODULES[name], COMPONENTS).eval().requires_grad_(False)
        opened = ZImage(device, model.max_sequence_length, **{name: parts[name]})
        if name == SPEC.denoiser and quantization != "none":
            quantize(parts[name], opened.quantized_layers(), quantization, device)
        parts[name] = frozen(parts[name], device)
    opened = ZImage(device, model.max_sequence_length, **parts)
    if weights is not None and (weights / LORA).is_file() and opened.transformer is not None:
        opened.pipeline().load_lora_weights(weights, weight_name=LORA, use_safetensors=True)
    if weights is not None and (weights / TEXT_ADAPTERS).is_dir() and opened.text_encoder is not None:
        add_adapters(opened.text_encoder, weights / TEXT_ADAPTERS)
    return opened


def empty_family(model: Model) -> ZImage:
    """See `legible.models.family.empty_model`."""
    parts = {name: empty_module(model, name, kind) for name, kind in MODULES.items()}
    return ZImage(torch.device("meta"), model.max_sequence_length, **parts)

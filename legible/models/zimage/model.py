"""Z-Image (Tongyi-MAI/Z-Image-Turbo and nano): every convention of this architecture, and nowhere else.

Sources: huggingface/diffusers pipelines/z_image/pipeline_z_image.py, models/transformers/transformer_z_image.py.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from legible.config import Model
from legible.errors import UserError
from legible.losses import flow
from legible.models.hub import pinned
from legible.models.quantization import quantize

COMPONENTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class ZImage:
    """The opened parts; a part that a stage did not ask for is None."""

    device: torch.device
    max_sequence_length: int
    transformer: ZImageTransformer2DModel | None = None
    vae: AutoencoderKL | None = None
    text_encoder: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    scheduler: FlowMatchEulerDiscreteScheduler | None = None

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a latent cell, in both directions; 1 without a VAE, where nothing is decoded."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str], batch: int = 64) -> list[Tensor]:
        """Caption embeddings, one [S, D] tensor a prompt (S = its own number of tokens).

        Raises:
            UserError: a prompt is longer than `max_sequence_length`; the pipeline would cut its end off silently.
        """
        pipeline = self.pipeline()
        for prompt in prompts:
            message = [{"role": "user", "content": prompt}]
            # As ZImagePipeline.encode_prompt writes it.
            text = self.tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            if (length := len(self.tokenizer(text).input_ids)) > self.max_sequence_length:
                raise UserError(
                    f"prompt {prompt[:60]!r}: {length} tokens with the chat template, but model.max_sequence_length is"
                    f" {self.max_sequence_length}; raise it or shorten the prompt"
                )
        embeddings: list[Tensor] = []
        for start in range(0, len(prompts), batch):
            # encode_prompt writes the chat template into the list it is given: hand it a copy.
            part = list(prompts[start : start + batch])
            embeddings += pipeline.encode_prompt(
                part, self.device, False, max_sequence_length=self.max_sequence_length
            )[0]
        return embeddings

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

    def predict(self, noisy: Tensor, sigma: Tensor, captions: list[Tensor]) -> Tensor:
        """Velocity [B, C, h, w] (float32) at noisy latents, σ [B] and caption embeddings.

        The network takes the time 1 − σ and returns −v; both are undone here. It zips latents with captions and would
        silently drop the excess, hence the check.
        """
        if len(captions) != len(noisy) or len(sigma) != len(noisy):
            raise ValueError(f"{len(noisy)} latents, {len(sigma)} sigmas and {len(captions)} captions do not match")
        inputs = list(noisy.to(self.transformer.dtype).unsqueeze(2).unbind(0))
        with self._autocast():
            output = self.transformer(inputs, 1.0 - sigma.float(), captions, return_dict=False)[0]
        return -torch.stack(output).squeeze(2).float()

    def save_memory(self, parts: tuple[str, ...]) -> None:
        """Compute the activations of `transformer` or `decoder` again in the backward pass instead of keeping them."""
        if "transformer" in parts:
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
                found, reason = None, str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
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
        with attention_backend(backend), self._autocast(), torch.enable_grad():
            output = attention(seen, attention_mask=None if mask is None else mask.to(self.device)).float()
            (gradient,) = torch.autograd.grad((output * pull.to(self.device)).sum(), seen)
        return output.detach(), gradient.float()

    def _autocast(self) -> torch.autocast:
        """On where float32 weights are trained beside frozen bfloat16 ones (see select_parameters); nf4's are bytes."""
        mixed = len({p.dtype for p in self.transformer.parameters() if p.is_floating_point()}) > 1
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    def predicted_clean(self, noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
        """x̂0 from one prediction."""
        return flow.predicted_clean(noisy, velocity, sigma)

    def sigma_grid(self, steps: int) -> Tensor:
        """The σ values [steps] at which the sampler calls the network, without the final 0."""
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
        self, captions: list[Tensor], noise: Tensor, steps: int, guidance_scale: float, empty: Tensor | None = None
    ) -> Tensor:
        """Images uint8 [B, H, W, 3] by diffusers' own pipeline, from noise [B, C, h, w] and caption embeddings.

        Args:
            empty: embedding of the empty prompt; needed only when `guidance_scale` is above 0.
        """
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        factor = pipeline.vae_scale_factor
        images = pipeline(
            prompt_embeds=[caption.to(self.device) for caption in captions],
            negative_prompt_embeds=[empty.to(self.device)] * len(captions) if guidance_scale > 0 else None,
            latents=noise.to(self.device, torch.float32),
            height=noise.shape[2] * factor,
            width=noise.shape[3] * factor,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            output_type="np",
        ).images
        return torch.from_numpy((images * 255).round().astype("uint8"))

    @torch.no_grad()
    def trajectory(self, captions: list[Tensor], noise: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the sampler meets on its way from noise [B, C, h, w], without guidance.

        Returns:
            latents [steps, B, C, h, w] at which the network is called, its velocities there, and the σ values [steps].
        """
        grid = self.sigma_grid(steps).to(self.device)
        captions = [caption.to(self.device) for caption in captions]
        latents, points, velocities = noise.to(self.device, torch.float32), [], []
        for sigma, after in zip(grid, torch.cat([grid[1:], grid.new_zeros(1)]), strict=True):
            velocity = self.predict(latents, sigma.expand(len(latents)), captions)
            points.append(latents)
            velocities.append(velocity)
            latents = latents + (after - sigma) * velocity
        return torch.stack(points), torch.stack(velocities), grid

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image.

        Raises:
            UserError: height or width is not a multiple of the latent grid (VAE factor × patch size 2).
        """
        factor = self.pixels_per_latent
        for name, value in (("height", height), ("width", width)):
            if value % (2 * factor):
                raise UserError(f"data.{name}: {value} is not divisible by {2 * factor}, the latent grid of this model")
        return self.vae.config.latent_channels, height // factor, width // factor


def choose_device(model: Model) -> torch.device:
    """Where the model is to lie.

    Raises:
        UserError: a GPU is asked for and none can be used.
    """
    if model.device == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: cuda, but no GPU can be used here; check `nvidia-smi`, or set it to auto or cpu")
    return torch.device("cuda" if torch.cuda.is_available() and model.device != "cpu" else "cpu")


def open_zimage(
    model: Model,
    components: tuple[str, ...],
    threads: int = 1,
    weights: Path | None = None,
    quantization: str = "none",
) -> ZImage:
    """Open `components` of a Z-Image model, frozen and in evaluation mode, on the configured device.

    Args:
        weights: folder of fine-tuned weights: a `transformer` folder, opened in place of the base's (never both), or
            LoRA adapters (pytorch_lora_weights.safetensors), put on top of it.
        quantization: of the transformer's blocks, for training adapters on them: none, int8 or nf4.

    Raises:
        UserError: a component is missing, its weights are damaged, the hub cannot be reached, the device is missing, or
            what quantises is not installed.
    """
    torch.set_num_threads(threads)
    model = pinned(model)
    device = choose_device(model)
    places, adapters = dict.fromkeys(components, model), None
    if weights is not None and (weights / "transformer").is_dir():
        places["transformer"] = model.model_copy(update={"path": str(weights)})
    elif weights is not None:
        adapters = weights / "pytorch_lora_weights.safetensors"
        if not adapters.is_file():
            raise UserError(f"{weights}: neither a `transformer` folder nor {adapters.name} is there")
    parts = {name: _open_part(place, name, DTYPES[model.dtype]) for name, place in places.items()}
    for name in ("transformer", "vae", "text_encoder"):
        if name in parts:
            parts[name] = parts[name].eval().requires_grad_(False)
            if name == "transformer" and quantization != "none":
                quantize(parts[name], quantization, device)
            parts[name] = parts[name].to(device)
    opened = ZImage(device=device, max_sequence_length=model.max_sequence_length, **parts)
    if adapters is not None:
        opened.pipeline().load_lora_weights(weights, weight_name=adapters.name, use_safetensors=True)
    return opened


def close(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 0.05) -> bool:
    """Whether every tensor is finite and its error, relative in the 2-norm, is below `tolerance` (bfloat16: 0.01)."""
    pairs = list(zip(found, expected, strict=True))
    return all(a.isfinite().all() and (a - b).norm() < tolerance * b.norm() for a, b in pairs)


def _open_part(model: Model, name: str, dtype: torch.dtype):
    """One component, from safetensors only and without remote code."""
    local = Path(model.path)
    if local.is_dir() and not (local / name).is_dir():
        raise UserError(f"{local}: the component folder `{name}` is missing; needed are {', '.join(COMPONENTS)}")
    where = {"subfolder": name, "revision": None if local.is_dir() else model.revision}
    try:
        if name == "tokenizer":
            return AutoTokenizer.from_pretrained(model.path, trust_remote_code=False, **where)
        if name == "scheduler":
            return FlowMatchEulerDiscreteScheduler.from_pretrained(model.path, **where)
        if name == "text_encoder":
            part, loaded = AutoModel.from_pretrained(
                model.path, dtype=dtype, use_safetensors=True, trust_remote_code=False, ignore_mismatched_sizes=True,
                output_loading_info=True, **where,
            )  # fmt: skip
        else:
            kind = {"transformer": ZImageTransformer2DModel, "vae": AutoencoderKL}[name]
            found = kind.load_config(model.path, **where).get("_class_name")
            if found != kind.__name__:
                raise ValueError(f"its configuration is that of {found}, {kind.__name__} is needed")
            part, loaded = kind.from_pretrained(
                model.path, torch_dtype=dtype, use_safetensors=True, output_loading_info=True, **where
            )
        # The libraries would go on with random numbers in their place.
        if absent := sorted({*loaded["missing_keys"], *(entry[0] for entry in loaded["mismatched_keys"])}):
            raise ValueError(
                f"these are not this architecture's weights: {len(absent)} are absent, such as {absent[0]}"
            )
        return part
    except Exception as error:  # the libraries raise a dozen types for a bad file; the user needs one sentence
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{model.path}: component `{name}` cannot be loaded ({reason})") from error

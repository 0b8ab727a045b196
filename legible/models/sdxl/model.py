"""Stable Diffusion XL: what differs from Stable Diffusion.

Source: huggingface/diffusers pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerBase

from legible.config import Model
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.opening import check_lengths, component_folder, first_line, where_mixed
from legible.models.sdxl import SPEC
from legible.models.spec import Spec
from legible.models.stable_diffusion.model import CAPTION, FURTHER_INPUTS, StableDiffusion, empty_unet, open_unet
from legible.models.stable_diffusion.schedulers import KnownScheduler

POOLED = "pooled"  # the second name in its conditioning: [1, D'] of a prompt, by the second text encoder
ADDED = "addition_embed_type"


@dataclass(frozen=True)
class StableDiffusionXL(StableDiffusion):
    """The opened parts; a part that a stage did not ask for is None."""

    spec: ClassVar[Spec] = SPEC
    kind: ClassVar[type[DiffusionPipeline]] = StableDiffusionXLPipeline
    networks: ClassVar[dict[str, type]] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    others: ClassVar[dict[str, type]] = {
        "tokenizer": AutoTokenizer,
        "tokenizer_2": AutoTokenizer,
        "scheduler": KnownScheduler,
    }
    further_inputs: ClassVar[tuple[str, ...]] = tuple(name for name in FURTHER_INPUTS if name != ADDED)

    factor: int = 8  # pixels a latent cell: the UNet is told the picture's size, also where the VAE is not opened
    nothing_is_zero: bool = True  # the empty prompt is zeros, as the pipeline has it (force_zeros_for_empty_prompt)
    text_encoder_2: CLIPTextModelWithProjection | None = None
    tokenizer_2: PreTrainedTokenizerBase | None = None

    def encode_prompts(self, prompts: list[str], gradient: bool = False, batch: int = 64) -> Conditioning:
        """Per prompt both encoders' embeddings side by side [77, D], and the second one's pooled vector [1, D'].

        The empty prompt is what the pipeline samples with in its place.

        Raises:
            UserError: a prompt is too long; the pipeline would cut its end off with a warning.
        """
        for tokenizer in (self.tokenizer, self.tokenizer_2):
            check_lengths(prompts, tokenizer, self.max_sequence_length, tokenizer.model_max_length)
        pipeline, found = self.pipeline(), Conditioning({CAPTION: [], POOLED: []})
        with torch.set_grad_enabled(gradient), where_mixed(self.text_encoder, self.device, self.text_encoder_2):
            for start in range(0, len(prompts), batch):
                part = list(prompts[start : start + batch])
                captions, _, pooled, _ = pipeline.encode_prompt(part, None, self.device, 1, False)
                if self.nothing_is_zero:
                    said = torch.tensor([prompt != "" for prompt in part], device=self.device)[:, None]
                    captions, pooled = captions * said[:, None], pooled * said
                found.tensors[CAPTION].extend(captions.unbind(0))
                found.tensors[POOLED].extend(pooled[:, None].unbind(0))
        return found

    def example_conditioning(self, count: int) -> Conditioning:
        """Zeros, as many tokens as the text encoders read."""
        like = {"device": self.device, "dtype": self.unet.dtype}
        tokens = self.text_encoder.config.max_position_embeddings
        captions = torch.zeros((tokens, self.unet.config.cross_attention_dim), **like)
        pooled = torch.zeros((1, self.text_encoder_2.config.projection_dim), **like)
        return Conditioning({CAPTION: [captions] * count, POOLED: [pooled] * count})

    def said(self, conditioning: Conditioning, noisy: Tensor) -> dict[str, Any]:
        """Captions, the pooled vector, and the size of a picture that was neither enlarged nor cropped."""
        height, width = (self.factor * cells for cells in noisy.shape[2:])
        captions = conditioning.stacked(CAPTION)
        size = torch.tensor([[height, width, 0, 0, height, width]], device=captions.device, dtype=captions.dtype)
        added = {"text_embeds": conditioning.stacked(POOLED)[:, 0], "time_ids": size.expand(len(noisy), -1)}
        return super().said(conditioning, noisy) | {"added_cond_kwargs": added}

    def asked(self, conditioning: Conditioning, negative: str = "") -> dict[str, Tensor]:
        """Captions and pooled vectors."""
        pooled = {f"{negative}pooled_prompt_embeds": conditioning.stacked(POOLED)[:, 0]}
        return super().asked(conditioning, negative) | pooled

    def pipeline(self) -> StableDiffusionXLPipeline:
        """The parts as diffusers' own pipeline."""
        return StableDiffusionXLPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            unet=self.unet,
            scheduler=self.scheduler,
            force_zeros_for_empty_prompt=self.nothing_is_zero,
            add_watermarker=False,
        )

    def check(self, model: Model) -> None:
        """Refuse parts that look like this family's and work in another way.

        Raises:
            UserError: there is one.
        """
        super().check(model)
        if self.unet is not None and (added := self.unet.config.get(ADDED)) != "text_time":
            raise UserError(f"{model.path}: component `unet` has {ADDED} {added}; Stable Diffusion XL has text_time")
        if self.vae is not None and self.vae.config.get("latents_mean") is not None:
            raise UserError(f"{model.path}: component `vae` has latents_mean, which is not supported")


def own_settings(model: Model) -> dict[str, Any]:
    """The fields of `StableDiffusionXL` that the model's folder says.

    Raises:
        UserError: the VAE's configuration cannot be read.
    """
    where = component_folder(model, "vae", SPEC.folders("denoiser", "autoencoder", "text", "scheduler"))
    try:
        channels = AutoencoderKL.load_config(model.path, **where)["block_out_channels"]
    except Exception as error:
        raise UserError(f"{model.path}: the configuration of `vae` cannot be read ({first_line(error)})") from error
    try:
        index = StableDiffusionXLPipeline.load_config(model.path, revision=where["revision"])
    except OSError:  # a folder of components without an index
        index = {}
    zeros = index.get("force_zeros_for_empty_prompt", True)
    return {"factor": 2 ** (len(channels) - 1), "nothing_is_zero": zeros}


def open_family(model: Model, roles: tuple[str, ...], weights: Path | None, quantization: str) -> StableDiffusionXL:
    """See `legible.models.family.open_model`."""
    settings = own_settings(model) if roles else {}  # without parts it only knows names
    return open_unet(StableDiffusionXL, model, roles, weights, quantization, **settings)


def empty_family(model: Model) -> StableDiffusionXL:
    """See `legible.models.family.empty_model`."""
    return empty_unet(StableDiffusionXL, model, **own_settings(model))

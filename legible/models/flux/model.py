"""FLUX.1: its two text encoders, its tokens of 2 × 2 latent cells, and the guidance that dev is told as a number.

Source: huggingface/diffusers pipelines/flux/pipeline_flux.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel, PreTrainedTokenizerBase, T5EncoderModel

from legible.config import Model
from legible.models.conditioning import Conditioning
from legible.models.flow_transformer import CAPTION, POOLED, TIMES, FlowTransformer, empty_flow, open_flow
from legible.models.flux import SPEC
from legible.models.opening import check_lengths, where_mixed
from legible.models.packing import PATCH, packed, unpacked
from legible.models.spec import Spec


@dataclass(frozen=True)
class Flux(FlowTransformer):
    """The opened parts; a part that a stage did not ask for is None."""

    spec: ClassVar[Spec] = SPEC
    kind: ClassVar[type] = FluxPipeline
    networks: ClassVar[dict[str, type]] = {
        "transformer": FluxTransformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": T5EncoderModel,
    }
    others: ClassVar[dict[str, type]] = {
        "tokenizer": AutoTokenizer,
        "tokenizer_2": AutoTokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler,
    }
    few_bits: ClassVar[tuple[str, ...]] = (".attn.", ".ff.", ".ff_context.", ".proj_mlp", ".proj_out")
    lora_parts: ClassVar[tuple[str, ...]] = ("transformer", "text_encoder")

    distilled_guidance: float = 3.5  # what dev is told; schnell is not asked
    text_encoder: CLIPTextModel | None = None
    text_encoder_2: T5EncoderModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    tokenizer_2: PreTrainedTokenizerBase | None = None

    def encode_prompts(self, prompts: list[str], gradient: bool = False, batch: int = 64) -> Conditioning:
        """T5's tokens [S, D] and CLIP's pooled vector [1, D'] of each prompt; S is always `max_sequence_length`.

        Raises:
            UserError: a prompt is too long for one of the text encoders; the pipeline would cut its end off.
        """
        longest = self.max_sequence_length
        check_lengths(prompts, self.tokenizer, longest, self.tokenizer.model_max_length)
        check_lengths(prompts, self.tokenizer_2, longest, longest)
        pipeline, found = self.pipeline(), Conditioning({CAPTION: [], POOLED: []})
        with torch.set_grad_enabled(gradient), where_mixed(self.text_encoder, self.device, self.text_encoder_2):
            for start in range(0, len(prompts), batch):
                captions, pooled, _ = pipeline.encode_prompt(
                    list(prompts[start : start + batch]), device=self.device, max_sequence_length=longest
                )
                found.tensors[CAPTION].extend(captions.unbind(0))
                found.tensors[POOLED].extend(pooled[:, None].unbind(0))
        return found

    def example_conditioning(self, count: int) -> Conditioning:
        """Zeros, as many tokens as T5 gives."""
        config, like = self.transformer.config, {"device": self.device, "dtype": self.transformer.dtype}
        captions = torch.zeros((self.max_sequence_length, config.joint_attention_dim), **like)
        pooled = torch.zeros((1, config.pooled_projection_dim), **like)
        return Conditioning({CAPTION: [captions] * count, POOLED: [pooled] * count})

    def predict(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity [B, C, h, w] (float32) at noisy latents, σ [B] and what B captions say."""
        self.check_counts(noisy, levels, conditioning)
        dtype, (height, width) = self.transformer.dtype, noisy.shape[2:]
        said = conditioning.to(self.device, dtype)
        captions = said.stacked(CAPTION)
        told = torch.full((len(noisy),), self.distilled_guidance, device=self.device)
        with where_mixed(self.transformer, self.device):
            output = self.transformer(
                packed(noisy.to(dtype)),
                encoder_hidden_states=captions,
                pooled_projections=said.stacked(POOLED)[:, 0],
                timestep=(levels.to(self.device).float() * TIMES).to(dtype) / TIMES,  # rounded as the pipeline does
                img_ids=FluxPipeline._prepare_latent_image_ids(1, height // PATCH, width // PATCH, self.device, dtype),
                txt_ids=torch.zeros((captions.shape[1], 3), device=self.device, dtype=dtype),
                guidance=told if self.transformer.config.guidance_embeds else None,
                return_dict=False,
            )
        return unpacked(output[0], height, width).float()

    def guidance(self, guidance_scale: float) -> dict[str, float]:
        """Of words that are asked against none (off up to 1), and the number that dev is told."""
        return super().guidance(guidance_scale) | {"guidance_scale": self.distilled_guidance}


def open_family(model: Model, roles: tuple[str, ...], weights: Path | None, quantization: str) -> Flux:
    """See `legible.models.family.open_model`."""
    return open_flow(Flux, model, roles, weights, quantization, distilled_guidance=model.distilled_guidance)


def empty_family(model: Model) -> Flux:
    """See `legible.models.family.empty_model`."""
    return empty_flow(Flux, model)

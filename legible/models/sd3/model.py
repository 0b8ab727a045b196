"""Stable Diffusion 3: its three text encoders and how its transformer is called.

Source: huggingface/diffusers pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor
from transformers import (
    AutoTokenizer,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)

from legible.config import Model
from legible.models.conditioning import Conditioning
from legible.models.flow_transformer import CAPTION, POOLED, TIMES, FlowTransformer, empty_flow, open_flow
from legible.models.opening import check_lengths, where_mixed
from legible.models.sd3 import SPEC
from legible.models.spec import Spec


@dataclass(frozen=True)
class StableDiffusion3(FlowTransformer):
    """The opened parts; a part that a stage did not ask for is None."""

    spec: ClassVar[Spec] = SPEC
    kind: ClassVar[type] = StableDiffusion3Pipeline
    networks: ClassVar[dict[str, type]] = {
        "transformer": SD3Transformer2DModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    others: ClassVar[dict[str, type]] = {
        "tokenizer": AutoTokenizer,
        "tokenizer_2": AutoTokenizer,
        "tokenizer_3": AutoTokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler,
    }
    few_bits: ClassVar[tuple[str, ...]] = (".attn.", ".attn2.", ".ff.", ".ff_context.")
    lora_parts: ClassVar[tuple[str, ...]] = ("transformer", "text_encoder", "text_encoder_2")

    text_encoder: CLIPTextModelWithProjection | None = None
    text_encoder_2: CLIPTextModelWithProjection | None = None
    text_encoder_3: T5EncoderModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    tokenizer_2: PreTrainedTokenizerBase | None = None
    tokenizer_3: PreTrainedTokenizerBase | None = None

    def encode_prompts(self, prompts: list[str], gradient: bool = False, batch: int = 64) -> Conditioning:
        """Per prompt 77 tokens of both CLIPs side by side and T5's behind them, [S, D], and both CLIPs' pooled vectors.

        Raises:
            UserError: a prompt is too long for one of the text encoders; the pipeline would cut its end off.
        """
        clip, longest = self.tokenizer.model_max_length, self.max_sequence_length
        for tokenizer, reads in ((self.tokenizer, clip), (self.tokenizer_2, clip), (self.tokenizer_3, longest)):
            check_lengths(prompts, tokenizer, longest, reads)
        pipeline, found = self.pipeline(), Conditioning({CAPTION: [], POOLED: []})
        encoders = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        with torch.set_grad_enabled(gradient), where_mixed(encoders[0], self.device, *encoders[1:]):
            for start in range(0, len(prompts), batch):
                captions, _, pooled, _ = pipeline.encode_prompt(
                    list(prompts[start : start + batch]), None, None, self.device, do_classifier_free_guidance=False,
                    max_sequence_length=longest,
                )  # fmt: skip
                found.tensors[CAPTION].extend(captions.unbind(0))
                found.tensors[POOLED].extend(pooled[:, None].unbind(0))
        return found

    def example_conditioning(self, count: int) -> Conditioning:
        """Zeros, as many tokens as the text encoders give."""
        config, like = self.transformer.config, {"device": self.device, "dtype": self.transformer.dtype}
        tokens = self.text_encoder.config.max_position_embeddings + self.max_sequence_length
        captions = torch.zeros((tokens, config.joint_attention_dim), **like)
        pooled = torch.zeros((1, config.pooled_projection_dim), **like)
        return Conditioning({CAPTION: [captions] * count, POOLED: [pooled] * count})

    def scheduler_settings(self, steps: int) -> dict[str, Any]:
        """The scheduler's own levels."""
        return {"num_inference_steps": steps}

    def predict(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity [B, C, h, w] (float32) at noisy latents, σ [B] and what B captions say."""
        self.check_counts(noisy, levels, conditioning)
        said = conditioning.to(self.device, self.transformer.dtype)
        with where_mixed(self.transformer, self.device):
            output = self.transformer(
                noisy.to(self.transformer.dtype),
                encoder_hidden_states=said.stacked(CAPTION),
                pooled_projections=said.stacked(POOLED)[:, 0],
                timestep=levels.to(self.device).float() * TIMES,
                return_dict=False,
            )
        return output[0].float()

    def laid_out(self, latents: Tensor) -> Tensor:
        """Latents as the pipeline has them: as they are."""
        return latents

    def guidance(self, guidance_scale: float) -> dict[str, float]:
        """The pipeline's own word for w in v_∅ + w·(v_c − v_∅)."""
        return {"guidance_scale": guidance_scale}


def open_family(model: Model, roles: tuple[str, ...], weights: Path | None, quantization: str) -> StableDiffusion3:
    """See `legible.models.family.open_model`."""
    return open_flow(StableDiffusion3, model, roles, weights, quantization)


def empty_family(model: Model) -> StableDiffusion3:
    """See `legible.models.family.empty_model`."""
    return empty_flow(StableDiffusion3, model)

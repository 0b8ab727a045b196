"""Qwen-Image: captions of any length, a VAE for videos of which a picture is one frame, guidance that keeps its length.

Source: huggingface/diffusers pipelines/qwenimage/pipeline_qwenimage.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from legible.config import Model
from legible.errors import UserError
from legible.models.conditioning import Conditioning
from legible.models.flow_transformer import CAPTION, TIMES, FlowTransformer, empty_flow, open_flow
from legible.models.opening import where_mixed
from legible.models.packing import PATCH, packed, unpacked
from legible.models.qwen_image import SPEC
from legible.models.spec import Spec

TWICE = "computed_twice"  # a mark on the VAE


@dataclass(frozen=True)
class QwenImage(FlowTransformer):
    """The opened parts; a part that a stage did not ask for is None."""

    spec: ClassVar[Spec] = SPEC
    kind: ClassVar[type] = QwenImagePipeline
    networks: ClassVar[dict[str, type]] = {
        "transformer": QwenImageTransformer2DModel,
        "vae": AutoencoderKLQwenImage,
        "text_encoder": Qwen2_5_VLForConditionalGeneration,
    }
    others: ClassVar[dict[str, type]] = {
        "tokenizer": AutoTokenizer,
        "scheduler": FlowMatchEulerDiscreteScheduler,
    }
    few_bits: ClassVar[tuple[str, ...]] = (".attn.", ".img_mlp.", ".txt_mlp.")
    lora_parts: ClassVar[tuple[str, ...]] = ("transformer",)

    text_encoder: Qwen2_5_VLForConditionalGeneration | None = None
    tokenizer: PreTrainedTokenizerBase | None = None

    @property
    def pixels_per_latent(self) -> int:
        """Pixels a latent cell, in both directions; 1 without a VAE, where nothing is decoded."""
        return 1 if self.vae is None else 2 ** len(self.vae.temperal_downsample)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.vae.config.z_dim

    def latent_scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the VAE's latents, [C, 1, 1]."""
        config = self.vae.config
        mean, std = (torch.tensor(values, device=self.device) for values in (config.latents_mean, config.latents_std))
        return mean[:, None, None], std[:, None, None]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Scaled latents [B, C, H/f, W/f] (posterior means) of images [B, 3, H, W] in −1 … 1."""
        frames = pixels.to(self.device, self.vae.dtype)[:, :, None]
        mean, std = self.latent_scale()
        return (self.vae.encode(frames).latent_dist.mode()[:, :, 0].float() - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] of scaled latents; this VAE clamps them to −1 … 1 itself."""
        mean, std = self.latent_scale()
        frames = (latents * std + mean).to(self.vae.dtype)[:, :, None]

        def decoded(values: Tensor) -> Tensor:
            return self.vae.decode(values, return_dict=False)[0][:, :, 0].float()

        if torch.is_grad_enabled() and getattr(self.vae, TWICE, False):
            return checkpoint(decoded, frames, use_reentrant=False)
        return decoded(frames)

    def decoder_blocks(self) -> list[nn.Module]:
        """The whole decoder: its blocks hand frames on to one another, which cannot be computed again one by one."""
        return [self.vae.decoder]

    def save_memory(self, parts: tuple[str, ...]) -> None:
        """Compute the activations of `denoiser` or `decoder` again in the backward pass instead of keeping them."""
        super().save_memory(tuple(part for part in parts if part != "decoder"))
        if "decoder" in parts and self.vae is not None:
            setattr(self.vae, TWICE, True)

    def encode_prompts(self, prompts: list[str], gradient: bool = False, batch: int = 64) -> Conditioning:
        """Caption embeddings, one [S, D] tensor a prompt (S = its own number of tokens, without the template's head).

        Raises:
            UserError: a prompt is longer than `max_sequence_length`; the pipeline would cut its end off silently.
        """
        pipeline = self.pipeline()
        for prompt in prompts:
            text = pipeline.prompt_template_encode.format(prompt)
            length = len(self.tokenizer(text).input_ids) - pipeline.prompt_template_encode_start_idx
            if length > self.max_sequence_length:
                raise UserError(
                    f"prompt {prompt[:60]!r}: {length} tokens with the chat template, but model.max_sequence_length is"
                    f" {self.max_sequence_length}; raise it or shorten the prompt"
                )
        embeddings: list[Tensor] = []
        with torch.set_grad_enabled(gradient), where_mixed(self.text_encoder, self.device):
            for start in range(0, len(prompts), batch):
                captions, mask = pipeline.encode_prompt(
                    list(prompts[start : start + batch]), self.device, max_sequence_length=self.max_sequence_length
                )
                lengths = [captions.shape[1]] * len(captions) if mask is None else mask.sum(1).tolist()
                embeddings += [own[:length] for own, length in zip(captions, lengths, strict=True)]
        return Conditioning({CAPTION: embeddings})

    def example_conditioning(self, count: int) -> Conditioning:
        """Captions of `max_sequence_length` tokens, zeros."""
        width = self.transformer.config.joint_attention_dim
        zeros = torch.zeros((self.max_sequence_length, width), device=self.device, dtype=self.transformer.dtype)
        return Conditioning({CAPTION: [zeros] * count})

    def predict(self, noisy: Tensor, levels: Tensor, conditioning: Conditioning) -> Tensor:
        """Velocity [B, C, h, w] (float32) at noisy latents, σ [B] and B captions."""
        self.check_counts(noisy, levels, conditioning)
        dtype, (height, width) = self.transformer.dtype, noisy.shape[2:]
        captions, mask = padded(conditioning.to(self.device, dtype).tensors[CAPTION])
        with where_mixed(self.transformer, self.device):
            output = self.transformer(
                packed(noisy.to(dtype)),
                encoder_hidden_states=captions,
                encoder_hidden_states_mask=mask,
                timestep=(levels.to(self.device).float() * TIMES).to(dtype) / TIMES,  # rounded as the pipeline does
                img_shapes=[[(1, height // PATCH, width // PATCH)]] * len(noisy),
                return_dict=False,
            )
        return unpacked(output[0], height, width).float()

    def guided(self, without: Tensor, asked: Tensor, guidance_scale: float) -> Tensor:
        """v_∅ + w·(v_c − v_∅), each token of the picture as long as v_c is there."""
        height, width = asked.shape[2:]
        length = packed(asked).norm(dim=-1, keepdim=True)
        tokens = packed(super().guided(without, asked, guidance_scale))
        return unpacked(tokens * (length / tokens.norm(dim=-1, keepdim=True)), height, width)

    def check(self, model: Model) -> None:
        """Refuse parts that look like this family's and work in another way.

        Raises:
            UserError: there is one.
        """
        super().check(model)
        further = ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope")
        if self.transformer is not None and (found := [name for name in further if self.transformer.config.get(name)]):
            raise UserError(f"{model.path}: component `transformer` has {found[0]}; choose a plain text-to-image model")

    def asked(self, conditioning: Conditioning, negative: str = "") -> dict[str, Any]:
        """What prompts are to the pipeline; `negative`: the prefix of what is asked for nothing."""
        captions, mask = padded(conditioning.tensors[CAPTION])
        return {f"{negative}prompt_embeds": captions, f"{negative}prompt_embeds_mask": mask}


def padded(captions: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """B captions [S, D] as [B, longest, D], and which tokens are one's own [B, longest]; None where all are."""
    lengths = torch.tensor([len(caption) for caption in captions], device=captions[0].device)
    together = pad_sequence(captions, batch_first=True)
    mask = torch.arange(together.shape[1], device=lengths.device) < lengths[:, None]
    return together, None if len(set(map(len, captions))) == 1 else mask.long()


def open_family(model: Model, roles: tuple[str, ...], weights: Path | None, quantization: str) -> QwenImage:
    """See `legible.models.family.open_model`."""
    return open_flow(QwenImage, model, roles, weights, quantization)


def empty_family(model: Model) -> QwenImage:
    """See `legible.models.family.empty_model`."""
    return empty_flow(QwenImage, model)

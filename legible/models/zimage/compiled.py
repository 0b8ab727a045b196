"""Z-Image's repeated blocks, compiled (regional compilation: one block is compiled and used for all)."""

from dataclasses import dataclass

import torch
from diffusers import ZImageTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_z_image import RopeEmbedder
from torch import Tensor


class RealRotaryProcessor:
    """Z-Image's attention with the rotary embedding in real arithmetic.

    The same numbers up to rounding as ZSingleStreamAttnProcessor (huggingface/diffusers: models/transformers/
    transformer_z_image.py); but the compiler cannot fuse complex operations, and nano takes a fifth longer with them.
    """

    _parallel_config = None  # diffusers sets both by these names

    def __init__(self, backend=None) -> None:
        self._attention_backend = backend

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, freqs_cis=None) -> Tensor:
        """Attention over hidden_states [B, L, D]; freqs_cis [B, L, head_dim / 2, 2] holds cosines and sines."""
        query, key, value = (
            project(hidden_states).unflatten(-1, (attn.heads, -1)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        cosine, sine = freqs_cis.unsqueeze(2).unbind(-1)

        def rotated(x: Tensor) -> Tensor:  # in float32, as the original
            even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack((even * cosine - odd * sine, even * sine + odd * cosine), -1).flatten(-2).type_as(x)

        query, key = rotated(attn.norm_q(query)), rotated(attn.norm_k(key))
        if attention_mask is not None and attention_mask.ndim == 2:
            attention_mask = attention_mask[:, None, None, :]
        attended = dispatch_attention_fn(
            query, key, value, attn_mask=attention_mask, backend=self._attention_backend, parallel_config=None
        )
        return attn.to_out[0](attended.flatten(2, 3).to(query.dtype))


@dataclass(frozen=True)
class RealEmbedder:
    """Z-Image's rotary embedder, whose complex numbers come as cosines and sines."""

    complex: RopeEmbedder

    def __call__(self, ids: Tensor) -> Tensor:
        return torch.view_as_real(self.complex(ids))


def use_real_rotary(transformer: ZImageTransformer2DModel) -> None:
    """Let all blocks rotate queries and keys in real arithmetic; attention backends stay what they are."""
    transformer.rope_embedder = RealEmbedder(transformer.rope_embedder)
    for block in [*transformer.layers, *transformer.noise_refiner, *transformer.context_refiner]:
        block.attention.processor = RealRotaryProcessor(block.attention.processor._attention_backend)


def compile_blocks(transformer: ZImageTransformer2DModel) -> None:
    """Compile the repeated blocks for training (needs a C++ compiler, on a GPU Triton); weights keep their names."""
    use_real_rotary(transformer)
    transformer.compile_repeated_blocks()

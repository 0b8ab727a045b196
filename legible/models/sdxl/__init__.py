"""Stable Diffusion XL (UNet2DConditionModel; two CLIP text encoders, and the picture's size as a number)."""

from dataclasses import replace

from legible.models import stable_diffusion

SPEC = replace(
    stable_diffusion.SPEC,
    module="legible.models.sdxl.model",
    pipeline="StableDiffusionXLPipeline",
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
)

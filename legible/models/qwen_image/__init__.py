"""Qwen-Image (QwenImageTransformer2DModel; Qwen2.5-VL as its text encoder, a VAE with a time axis)."""

from legible.models.spec import Spec

SPEC = Spec(
    module="legible.models.qwen_image.model",
    pipeline="QwenImagePipeline",
    denoiser="transformer",
    text_encoders=("text_encoder",),
    tokenizers=("tokenizer",),
    autoencoder="vae",
    scheduler="scheduler",
    blocks=("transformer_blocks",),
    lora_targets=(
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    ),
    text_lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    guidance_off=1.0,
    comfyui="diffusion_model.",
)  # fmt: skip

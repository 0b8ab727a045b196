"""FLUX.1 dev and schnell (FluxTransformer2DModel; CLIP's pooled vector and T5)."""

from legible.models.spec import Spec

SPEC = Spec(
    module="legible.models.flux.model",
    pipeline="FluxPipeline",
    denoiser="transformer",
    text_encoders=("text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    autoencoder="vae",
    scheduler="scheduler",
    blocks=("transformer_blocks", "single_transformer_blocks"),
    lora_targets=(
        "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
    ),
    text_lora_targets=("q_proj", "k_proj", "v_proj", "out_proj", "q", "k", "v", "o"),  # CLIP's and T5's
    guidance_off=1.0,
    comfyui="transformer.",
)  # fmt: skip

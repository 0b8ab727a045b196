"""Z-Image (Tongyi-MAI/Z-Image-Turbo and nano)."""

from legible.models.spec import Spec

SPEC = Spec(
    module="legible.models.zimage.model",
    pipeline="ZImagePipeline",
    denoiser="transformer",
    text_encoders=("text_encoder",),
    tokenizers=("tokenizer",),
    autoencoder="vae",
    scheduler="scheduler",
    blocks=("layers", "noise_refiner", "context_refiner"),
    lora_targets=("to_q", "to_k", "to_v", "to_out.0", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
    text_lora_targets=("q_proj", "k_proj", "v_proj", "o_proj"),
    guidance_off=0.0,
    comfyui="diffusion_model.",
)

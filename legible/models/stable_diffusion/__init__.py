"""Stable Diffusion 1.x and 2.x, and what has their classes (UNet2DConditionModel, CLIPTextModel, AutoencoderKL)."""

from legible.models.spec import Spec

SPEC = Spec(
    module="legible.models.stable_diffusion.model",
    pipeline="StableDiffusionPipeline",
    denoiser="unet",
    text_encoders=("text_encoder",),
    tokenizers=("tokenizer",),
    autoencoder="vae",
    scheduler="scheduler",
    blocks=("down_blocks", "mid_block", "up_blocks"),
    lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
    text_lora_targets=("q_proj", "k_proj", "v_proj", "out_proj"),
    guidance_off=1.0,
    comfyui="lora_unet_",
    schedulers=("ddim", "dpm", "euler", "pndm"),
    flow=False,
)

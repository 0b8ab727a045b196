"""Nano's ZImageTransformer2DModel and Qwen3 text encoder, trained together by rectified flow on the pool's latents."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from legible.models.flow import noised, velocity
from legible.models.zimage.compiled import compile_blocks
from legible.nano.pool import Pool
from legible.nano.recipe import TransformerRecipe
from legible.progress import progress
from legible.seeds import stateless_generator
from legible.train.checkpoint import load_parts, save_parts
from legible.train.log import RunLog

CAPTION_TOKENS = 32


def build_text_encoder(recipe: TransformerRecipe, vocabulary: int) -> Qwen3Model:
    """An untrained Qwen3 of the same class as Z-Image's text encoder."""
    heads = max(recipe.text_dim // 32, 1)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=recipe.text_dim,
        intermediate_size=2 * recipe.text_dim,
        num_hidden_layers=recipe.text_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=recipe.text_dim // heads,
        max_position_embeddings=512,
        initializer_range=0.05,
    )
    return Qwen3Model(config)


def build_transformer(recipe: TransformerRecipe, channels: int) -> ZImageTransformer2DModel:
    """An untrained Z-Image transformer.

    The class leaves pad tokens at zero and some layers at PyTorch's defaults; every matrix is initialised here.
    """
    transformer = ZImageTransformer2DModel(
        in_channels=channels,
        dim=recipe.dim,
        n_layers=recipe.layers,
        n_refiner_layers=recipe.refiner_layers,
        n_heads=recipe.heads,
        n_kv_heads=recipe.heads,
        cap_feat_dim=recipe.text_dim,
        axes_dims=list(recipe.axes_dims),
        axes_lens=[128, 64, 64],
    )
    for name, parameter in transformer.named_parameters():
        if "pad_token" in name:
            nn.init.normal_(parameter, std=0.02)
        elif parameter.ndim == 1:  # scales of norms are called weight, everything else with one axis is a bias
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        elif "adaLN" in name:
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.xavier_uniform_(parameter)
    for block in [*transformer.layers, *transformer.noise_refiner]:
        # Gates are tanh(bias + …): start them open, or the image tokens never reach the deeper layers.
        gates = block.adaLN_modulation[0].bias.data.view(4, recipe.dim)
        gates[1].fill_(0.5)
        gates[3].fill_(0.5)
    for final in transformer.all_final_layer.values():
        nn.init.zeros_(final.linear.weight)
    return transformer


def learning_rate(recipe: TransformerRecipe, step: int) -> float:
    """Linear warm-up, then constant until the last `decay` steps of a cycle; each of `restarts` begins a new cycle."""
    end = next(end for end in (*recipe.restarts, recipe.steps) if step < end)
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup) * min(1.0, (end - step) / recipe.decay)


def templated(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> list[str]:
    """Captions in the chat template, as ZImagePipeline.encode_prompt writes them."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        for caption in captions
    ]


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask [N, CAPTION_TOKENS] of captions."""
    encoded = tokenizer(
        templated(tokenizer, captions),
        padding="max_length",
        max_length=CAPTION_TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    return encoded.input_ids, encoded.attention_mask.bool()


def train_transformer(
    recipe: TransformerRecipe,
    pool: Pool,
    latents: torch.Tensor,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    key: str,
    work: Path,
    judge: Callable[[ZImageTransformer2DModel, Qwen3Model], float],
    judge_every: int = 600,
    compiled: bool = False,
) -> tuple[ZImageTransformer2DModel, Qwen3Model]:
    """Train both models on `latents` [N, C, h, w] (scaled); return their averaged weights. Resumes from `work`.

    `judge` reads sampled held-out signs and returns their CER; it only draws the learning curve.
    """
    torch.manual_seed(seed)
    transformer = build_transformer(recipe, latents.shape[1])
    text_encoder = build_text_encoder(recipe, len(tokenizer))
    models = nn.ModuleList([transformer, text_encoder])
    averaged = copy.deepcopy(models).requires_grad_(False).eval()
    if compiled:
        compile_blocks(transformer)
    optimizer = torch.optim.AdamW(models.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    ids, masks = tokenize(tokenizer, pool.captions)
    short = torch.tensor([i for i, text in enumerate(pool.texts) if len(text) <= recipe.short_length])
    everything = torch.arange(len(pool.texts))
    parts = {"models": models, "averaged": averaged, "optimizer": optimizer}
    log = RunLog(work / "transformer.jsonl")
    first = log.rewind(load_parts(work / "transformer.ckpt", key, parts))
    for step in progress(range(first, recipe.steps), "transformer", start=first, total=recipe.steps):
        rate = learning_rate(recipe, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        generator = stateless_generator(seed, 3, step)
        candidates = short if step < recipe.short_until else everything
        picked = candidates[torch.randint(len(candidates), (recipe.batch,), generator=generator)]
        clean = latents[picked]
        noise = torch.randn(clean.shape, generator=generator)
        logits = torch.randn(recipe.batch, generator=generator) * recipe.sigma_std + recipe.sigma_mean
        sigma = torch.sigmoid(logits)

        hidden = text_encoder(input_ids=ids[picked], attention_mask=masks[picked], output_hidden_states=True)
        captions = [states[mask] for states, mask in zip(hidden.hidden_states[-2], masks[picked], strict=True)]
        noisy = noised(clean, noise, sigma)
        output = transformer(list(noisy.unsqueeze(2).unbind(0)), 1.0 - sigma, captions, return_dict=False)[0]
        loss = (torch.stack(output).squeeze(2) + velocity(clean, noise)).square().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(models.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min(recipe.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for target, source in zip(averaged.parameters(), models.parameters(), strict=True):
                target.lerp_(source, 1 - decay)
        log.write(step=step, loss=loss.item(), grad_norm=norm.item(), learning_rate=rate)
        if (step + 1) % judge_every == 0:  # before the checkpoint: a kill between the two repeats it, never drops it
            log.write(step=step, cer=judge(averaged[0], averaged[1]))
        if (step + 1) % 200 == 0 or step + 1 == recipe.steps:
            save_parts(work / "transformer.ckpt", key, step + 1, parts)
    return averaged[0], averaged[1]


def assemble(
    transformer: ZImageTransformer2DModel,
    text_encoder: Qwen3Model,
    vae: AutoencoderKL,
    tokenizer: PreTrainedTokenizerFast,
) -> ZImagePipeline:
    """The pipeline as it is shipped, with Z-Image-Turbo's scheduler settings (8 steps, shift 3, guidance 0)."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=False)
    return ZImagePipeline(
        scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer
    )

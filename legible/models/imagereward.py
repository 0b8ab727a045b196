"""ImageReward, opened from its published files with transformers' BLIP.

Sources: THUDM/ImageReward, ImageReward/ImageReward.py (the layers, 35 tokens, mean and deviation) and
train/src/models/blip.py, blip_pretrain.py (sizes); salesforce/BLIP, models/vit.py (the picture's tower, its names).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

from legible.config import ImageReward
from legible.errors import UserError
from legible.integrity import check_sums
from legible.models.aesthetic import linear_head
from legible.models.opening import first_line
from legible.models.weights import read_weights

ADDED = 2  # tokens that BLIP adds to BERT's: [DEC] and [ENC], which no prompt has
HEAD_WIDTH = 64  # of attention in BLIP's towers, the base one and the large one
# BLIP's names of the picture's tower → transformers'.
RENAMED = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("blocks.", "encoder.layers."),
    (".attn.proj", ".attn.projection"),
    (".attn.", ".self_attn."),
    (".norm", ".layer_norm"),
)
FROM_MED_CONFIG = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id"),
)


@dataclass(frozen=True)
class OpenedImageReward:
    """A frozen BLIP (picture's tower, text tower that looks at it), the layers on its answer, and BERT's tokenizer."""

    vision: BlipVisionModel
    text: BlipTextModel
    head: nn.Sequential
    tokenizer: PreTrainedTokenizerBase


def open_critic(section: ImageReward, cache: Path, device: torch.device) -> OpenedImageReward:
    """Open it from local files; `cache` is not used.

    Raises:
        UserError: a file is missing, damaged, of another hash, or of another architecture.
    """
    folder = Path(section.path)
    check_sums(folder)
    state = read_weights(folder / section.weights, section.sha256, "imagereward")
    med = folder / "med_config.json"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        settings = json.loads(med.read_text(encoding="utf-8"))
        parts = build(state, {name: settings[name] for name in FROM_MED_CONFIG})
        if not 0 <= settings["vocab_size"] - len(tokenizer) <= ADDED:  # without its file it would open empty
            raise ValueError(f"the tokenizer knows {len(tokenizer)} tokens, the network {settings['vocab_size']}")
    except Exception as error:
        raise UserError(
            f"imagereward.path: {folder}: {section.weights}, med_config.json and BERT's tokenizer must lie there and "
            f"fit together ({type(error).__name__}: {first_line(error)})"
        ) from error
    return OpenedImageReward(*(part.to(device).eval().requires_grad_(False) for part in parts), tokenizer)


def build(state: dict[str, Tensor], settings: dict) -> tuple[BlipVisionModel, BlipTextModel, nn.Sequential]:
    """The three networks with the file's weights; the picture's tower is as large as its weights say.

    What the score does not need (`blip.vision_proj`, `blip.text_proj`) is left out, as is what BERT numbers its
    positions with.

    Raises:
        KeyError, RuntimeError: names or shapes are others.
    """
    seen = {vision_name(name): value for name, value in under(state, "blip.visual_encoder.").items()}
    read = {n: value for n, value in under(state, "blip.text_encoder.").items() if not n.endswith("position_ids")}
    width, _, patch, _ = seen["embeddings.patch_embedding.weight"].shape
    positions = seen["embeddings.position_embedding"].shape[1] - 1
    vision = BlipVisionModel(
        BlipVisionConfig(
            hidden_size=width,
            intermediate_size=seen["encoder.layers.0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=sum(name.endswith("mlp.fc1.weight") for name in seen),
            num_attention_heads=width // HEAD_WIDTH,
            image_size=patch * round(positions**0.5),
            patch_size=patch,
            layer_norm_eps=1e-6,
        )
    )
    text = BlipTextModel(BlipTextConfig(**settings, encoder_hidden_size=width), add_pooling_layer=False)
    vision.load_state_dict(seen)
    text.load_state_dict(read)
    return vision, text, linear_head(under(state, "mlp."), text.config.hidden_size)


def under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def vision_name(name: str) -> str:
    """transformers' name of a tensor in BLIP's tower of pictures."""
    for old, new in RENAMED:
        name = name.replace(old, new)
    return name.replace("norm.", "post_layernorm.") if name.startswith("norm.") else name

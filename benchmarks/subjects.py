"""The models that are measured, with samples to train on: nano as shipped, and Z-Image's own size with random weights.

Speed and memory do not depend on what the weights are, so no download is needed for `slice` and `full`:

    nano    resources/nano, 32 × 64 pixels, captions as the shipped tokenizer makes them
    slice   Z-Image's width (3840), but 4 layers and 1 + 1 refiner layers (full: 30, 2 + 2): fits into a small machine
    full    all 6,154,908,736 parameters
"""

import json
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from torch import Tensor, nn

from legible.config import Clip, Model
from legible.models.clip import OpenedClip, open_clip_model
from legible.models.conditioning import Conditioning
from legible.models.family import ROLES, open_model
from legible.models.opening import DTYPES
from legible.models.zimage.model import ZImage
from legible.train.data import TrainingData

ROOT = Path(__file__).resolve().parent.parent
CAPTION = 64  # tokens of a caption of `slice` and `full`, after padding to a multiple of 32
WORDS = ("BAKERY", "HOTEL", "OPEN 24", "MARKET")

# huggingface/diffusers: models/transformers/transformer_z_image.py; the VAE is that of FLUX.1, the encoder Qwen3-4B.
TRANSFORMER = {
    "_class_name": "ZImageTransformer2DModel",
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "cap_feat_dim": 2560,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1024, 512, 512],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
TEXT_ENCODER = {
    "model_type": "qwen3",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}


@dataclass(frozen=True)
class Subject:
    """A model, a CLIP and N samples: what the training step is measured on."""

    model: ZImage
    clip: OpenedClip
    data: TrainingData
    pixels: Tensor  # [N, 3, H, W] in −1 … 1, on the CPU: what a trainer that caches no latents loads


def write_configs(folder: Path, layers: int, refiner_layers: int) -> Path:
    """A model folder with configurations and no weights: enough for `preflight` to plan with. Returns `folder`."""
    sized = TRANSFORMER | {"n_layers": layers, "n_refiner_layers": refiner_layers}
    for name, settings in (("transformer", sized), ("vae", VAE), ("text_encoder", TEXT_ENCODER)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def randomized(kind: type, config: dict, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A model of class `kind` with random weights, made on the device in `dtype`: there never is a float32 copy.

    Every parameter is set: the transformer leaves its pad tokens and embedders to whatever the memory held.
    """
    with torch.device("meta"):
        module = nn.Module.to(kind.from_config(config), dtype)
    module = module.to_empty(device=device).eval().requires_grad_(False)
    if list(module.buffers()):
        raise ValueError(f"{kind.__name__} has buffers, which were left without values")
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1 and "pad_token" not in name:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)  # scales of norms, and biases
        else:
            fan_in = parameter[0].numel()
            parameter.normal_(0.0, fan_in**-0.5, generator=generator)
    return module


def random_zimage(folder: Path, dtype: str, device: torch.device) -> ZImage:
    """Transformer, VAE and Turbo's scheduler of the configurations in `folder`, with random weights."""
    parts = {}
    for name, kind in (("transformer", ZImageTransformer2DModel), ("vae", AutoencoderKL)):
        config = json.loads((folder / name / "config.json").read_text(encoding="utf-8"))
        parts[name] = randomized(kind, config, DTYPES[dtype], device)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    return ZImage(device=device, max_sequence_length=CAPTION, scheduler=scheduler, **parts)


def random_clip(device: torch.device) -> OpenedClip:
    """A CLIP of the size that the study uses (ViT-B/32), with random weights."""
    model = open_clip.create_model("ViT-B-32").to(device).eval().requires_grad_(False)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in ((0.48, 0.46, 0.41), (0.27,) * 3))
    size = model.visual.image_size
    return OpenedClip(model, open_clip.get_tokenizer("ViT-B-32"), tuple(size), mean, std)


def samples(model: ZImage, captions: Conditioning, height: int, width: int) -> tuple[TrainingData, Tensor]:
    """(cache, pixels [N, 3, H, W]) of as many noise pictures as there are captions, each with one line of text.

    The line takes 5/8 of the width, and 5/32 of it in height: eight letters or so.
    """
    count, generator = len(captions), torch.Generator().manual_seed(1)
    pixels = torch.rand((count, 3, height, width), generator=generator) * 2 - 1
    latents = torch.cat([model.encode_images(part).cpu() for part in pixels.split(8)])
    half = torch.tensor([width * 5 / 16, width * 5 / 64])
    centre = torch.tensor([width / 2, height / 2])
    data = TrainingData(
        key="benchmark",
        latents=latents,
        conditioning=captions.to("cpu"),
        empty=captions.pick([0]).to("cpu"),
        captions=tuple(WORDS[i % len(WORDS)] for i in range(count)),
        boxes=torch.cat([centre - half, centre + half]).repeat(count, 1),
        owners=torch.arange(count),
        texts=tuple(WORDS[i % len(WORDS)] for i in range(count)),
        masks=torch.zeros((count, *latents.shape[-2:]), dtype=torch.uint8),
        characters=torch.zeros((count, 2 * latents.shape[-2], 2 * latents.shape[-1]), dtype=torch.uint8),
    )
    return data, pixels


def open_shipped(path: Path, clip: Path, dtype: str, threads: int, count: int, size: tuple[int, int]) -> Subject:
    """A model folder and a CLIP folder as they are (nano), and `count` samples of `size` (height, width) in pixels."""
    model = open_model(Model(path=str(path), dtype=dtype), ROLES, threads)
    prompts = [f'a sign that says "{WORDS[i % len(WORDS)]}" in red letters on white' for i in range(count)]
    data, pixels = samples(model, model.encode_prompts(prompts), *size)
    return Subject(model, open_clip_model(Clip(path=str(clip)), model.device), data, pixels)


def open_random(folder: Path, dtype: str, device: torch.device, count: int, size: tuple[int, int]) -> Subject:
    """The configurations in `folder` with random weights, and `count` samples of `size` (height, width) in pixels."""
    model, generator = random_zimage(folder, dtype, device), torch.Generator().manual_seed(2)
    width = model.transformer.config.cap_feat_dim
    # A few tokens short of the multiple of 32, as captions are: the model pads them.
    captions = [torch.randn((CAPTION - 1 - i % 8, width), generator=generator) for i in range(count)]
    data, pixels = samples(model, Conditioning({"captions": captions}), *size)
    return Subject(model, random_clip(device), data, pixels)

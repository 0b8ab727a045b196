"""The models that are measured, with samples to train on: a shipped one, or one of a real size with random weights."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from legible.config import Clip, Model
from legible.models.clip import OpenedClip, open_clip_model
from legible.models.conditioning import Conditioning
from legible.models.family import ROLES, Family, empty_model, open_model
from legible.train.data import TrainingData, alphabet_of

WORDS = ("BAKERY", "HOTEL", "OPEN 24", "MARKET")


@dataclass(frozen=True)
class Subject:
    """A model, a CLIP and N samples: what the training step is measured on."""

    family: str
    model: Family
    clip: OpenedClip
    data: TrainingData
    pixels: Tensor  # [N, 3, H, W] in −1 … 1, on the CPU: what a trainer that caches no latents loads


def write_configs(folder: Path, components: dict[str, dict]) -> Path:
    """A model folder with configurations and no weights: enough for `preflight` to plan with. Returns `folder`."""
    for name, settings in components.items():
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / file).write_text(json.dumps(settings), encoding="utf-8")
    return folder


def randomized(module: nn.Module, device: torch.device) -> nn.Module:
    """A module from the meta device with random weights, made on the device in its type: there is no other copy.

    Every parameter is set: some classes leave a few to whatever the memory held.
    """
    module = module.to_empty(device=device).eval().requires_grad_(False)
    if list(module.buffers()):
        raise ValueError(f"{type(module).__name__} has buffers, which were left without values")
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)  # scales of norms, and biases
        else:
            fan_in = parameter[0].numel()
            parameter.normal_(0.0, fan_in**-0.5, generator=generator)
    return module


def random_model(model: Model) -> Family:
    """Denoiser, autoencoder and scheduler of the configurations in a folder, with random weights."""
    empty, opened = empty_model(model), open_model(model, ("scheduler",), torch.get_num_threads())
    spec = empty.spec
    networks = {spec.denoiser: empty.module("denoiser"), spec.autoencoder: empty.module(spec.autoencoder)}
    return replace(opened, **{name: randomized(network, opened.device) for name, network in networks.items()})


def random_clip(device: torch.device) -> OpenedClip:
    """A CLIP of the size that the study uses (ViT-B/32), with random weights."""
    model = open_clip.create_model("ViT-B-32").to(device).eval().requires_grad_(False)
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in ((0.48, 0.46, 0.41), (0.27,) * 3))
    size = model.visual.image_size
    return OpenedClip(model, open_clip.get_tokenizer("ViT-B-32"), tuple(size), mean, std)


def random_captions(model: Family, count: int) -> Conditioning:
    """What `count` longest prompts might say."""
    generator = torch.Generator().manual_seed(2)
    return Conditioning(
        {
            name: [torch.randn(row.shape, generator=generator) for row in rows]
            for name, rows in model.example_conditioning(count).tensors.items()
        }
    )


def samples(model: Family, captions: Conditioning, height: int, width: int) -> tuple[TrainingData, Tensor]:
    """(cache, pixels [N, 3, H, W]) of as many noise pictures as there are captions, each with one line of text.

    The line takes 5/8 of the width, and 5/32 of it in height: eight letters or so.
    """
    count, generator = len(captions), torch.Generator().manual_seed(1)
    pixels = torch.rand((count, 3, height, width), generator=generator) * 2 - 1
    latents = torch.cat([model.encode_images(part).cpu() for part in pixels.split(8)])
    half = torch.tensor([width * 5 / 16, width * 5 / 64])
    centre = torch.tensor([width / 2, height / 2])
    words = tuple(WORDS[i % len(WORDS)] for i in range(count))
    data = TrainingData(
        key="benchmark",
        latents=latents,
        conditioning=captions.to("cpu"),
        empty=captions.pick([0]).to("cpu"),
        captions=words,
        boxes=torch.cat([centre - half, centre + half]).repeat(count, 1),
        owners=torch.arange(count),
        texts=words,
        masks=torch.zeros((count, *latents.shape[-2:]), dtype=torch.uint8),
        characters=torch.zeros((count, 2 * latents.shape[-2], 2 * latents.shape[-1]), dtype=torch.uint8),
        stages=(count,),
        alphabet=alphabet_of(words),
    )
    return data, pixels


def open_subject(model: Model, clip: Path | None, count: int, size: tuple[int, int]) -> Subject:
    """A fresh model with `count` samples of `size` (height, width) in pixels, on the device that the model asks for.

    Args:
        clip: folder of the CLIP: model and CLIP are opened as they are; None = both get random weights.
    """
    if clip is None:
        opened = random_model(model)
        data, pixels = samples(opened, random_captions(opened, count), *size)
        return Subject(model.family, opened, random_clip(opened.device), data, pixels)
    opened = open_model(model, ROLES, torch.get_num_threads())
    prompts = [f'a sign that says "{WORDS[i % len(WORDS)]}" in red letters on white' for i in range(count)]
    data, pixels = samples(opened, opened.encode_prompts(prompts), *size)
    return Subject(model.family, opened, open_clip_model(Clip(path=str(clip)), opened.device), data, pixels)

"""A small cache and runs of the real training loop on the tiny models, shared by the training tests."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from legible.config import Clip, Model, Training
from legible.losses.auxiliary import AuxLoss
from legible.losses.clip_region import clip_region_loss
from legible.models.clip import open_clip_model
from legible.models.conditioning import Conditioning
from legible.models.family import ROLES, open_model
from legible.train import session
from legible.train.adapters import save_weights, select_parameters
from legible.train.anchor import Reference
from legible.train.assistant import merge_assistant
from legible.train.budget import Clock
from legible.train.data import TrainingData, alphabet_of
from legible.train.loop import train
from legible.train.session import Place, Task

FAMILIES = {
    "ZImagePipeline": "zimage",
    "StableDiffusionPipeline": "stable_diffusion",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "QwenImagePipeline": "qwen_image",
}
TEXTS = ("OPEN", "4711", "XQ", "ZEBRA", "TO", "907")


def model_of(folder: Path, **override) -> Model:
    """The configuration of the tiny model in `folder`, of whichever family it is."""
    family = FAMILIES[json.loads((folder / "model_index.json").read_text())["_class_name"]]
    longest = {"max_sequence_length": 160} if family == "qwen_image" else {}  # its chat template is many tokens here
    return Model(family=family, path=str(folder), **longest | override)


def small_data(
    folder: Path, count: int = 12, long: tuple[int, ...] = (), size: tuple[int, int] = (32, 64)
) -> TrainingData:
    """`count` samples of `size` (height, width in pixels) in latents and captions of the tiny model in `folder`.

    Every third sample has two regions. Those in `long` have captions of more than 32 tokens.
    """
    model = open_model(model_of(folder), ROLES)
    generator = torch.Generator().manual_seed(11)
    pixels = torch.rand((count, 3, *size), generator=generator) * 2 - 1
    captions = tuple(
        f'a sign that says "{(TEXTS[i % 6] * 12)[:24] if i in long else TEXTS[i % 6]}" in red letters on white'
        for i in range(count)
    )
    owners = [i for i in range(count) for _ in range(2 if i % 3 == 0 else 1)]
    corner = torch.rand((len(owners), 2), generator=generator) * torch.tensor([20.0, 8.0])
    extent = torch.tensor([24.0, 12.0]) + torch.rand((len(owners), 2), generator=generator) * 10
    return TrainingData(
        key="small",
        latents=model.encode_images(pixels),
        conditioning=model.encode_prompts(list(captions)),
        empty=model.encode_prompts([""]),
        captions=captions,
        boxes=torch.cat([corner, corner + extent], dim=1),
        owners=torch.tensor(owners),
        texts=tuple(TEXTS[i % 6] for i in range(len(owners))),
        masks=torch.randint(0, 256, (count, size[0] // 4, size[1] // 4), generator=generator, dtype=torch.uint8),
        characters=torch.randint(0, 3, (count, size[0] // 2, size[1] // 2), generator=generator, dtype=torch.uint8),
        stages=(count,),
        alphabet=alphabet_of(TEXTS),
    )


def settings(**override) -> Training:
    """A short training: 6 steps of 4 samples, a checkpoint every 2."""
    aux = override.pop("aux", {})
    return Training.model_validate(
        {"steps": 6, "batch_size": 4, "learning_rate": 1.0e-3, "warmup": 2, "checkpoint_every": 2}
        | override
        | {"aux": aux}
    )


def region_loss(folder: Path, margin: float = 2.0) -> AuxLoss:
    """The `clip_region` loss on the tiny CLIP."""
    clip = open_clip_model(Clip(path=str(folder)), torch.device("cpu"))

    return on_pixels(lambda images, owners, boxes, texts: clip_region_loss(clip, images, owners, boxes, texts, margin))


def on_pixels(loss: Callable) -> AuxLoss:
    """A function of (decoded images, owners, boxes, texts) → loss per region, as an auxiliary loss."""
    return lambda view: view.per_sample(loss(view.images, view.owners, view.boxes, view.texts))


def run(
    folder: Path, data: TrainingData, training: Training, work: Path, aux: AuxLoss | None = None, seed: int = 0,
    output: Path | None = None, dtype: str = "float32", key: str = "key",
    paths: Reference | None = None, clock: Clock | None = None,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Train the tiny model as scripts/train_arm.py does; return the trained weights, by name."""
    roles = ("denoiser", "scheduler", "autoencoder", *(("text",) if training.text_trained else ()))
    model = open_model(model_of(folder, dtype=dtype), roles, quantization=training.quantization)
    parameters = select_parameters(model, training, seed)
    assistant = merge_assistant(model, training)
    grid = model.level_grid(8, tuple(data.latents.shape[1:]))
    task = Task(model, parameters, data, training, grid, aux, paths, seed)
    weights = train(task, Place(work, key, "test"), clock=clock)
    weights = {name: weight.clone() for name, weight in weights.items()}
    if output is not None:
        save_weights(model, assistant.removed_from(weights), training, output)
    return weights


def metrics(work: Path) -> list[dict]:
    """The rows of metrics.jsonl without what a clock decides."""
    rows = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "processor_seconds", "time")}
        for row in rows
    ]


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


def same_conditioning(left: Conditioning, right: Conditioning) -> bool:
    """Whether two conditionings have the same names, and under each the same rows bit for bit."""
    return left.equals(right)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def killed_at(monkeypatch: pytest.MonkeyPatch, count: int) -> pytest.MonkeyPatch:
    """Let the `count`-th forward pass from now on be the last one."""
    passes = itertools.count(1)
    original = session.micro_step

    def step(*arguments):
        if next(passes) == count:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(session, "micro_step", step)
    return monkeypatch

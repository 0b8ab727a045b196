"""Spelling watched while training: pictures of prompts of their own, drawn and read as a finished run's would be.

Whatever it does, training goes on as if it had not been: random states, modes of the networks, gradients, weights and
the counted time are left as they were. It is opened by name where it is on.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from legible.config import Generation, Scoring, Section, Training, Validation
from legible.corpus.prompts import Prompt, load_prompts
from legible.errors import UserError
from legible.io import sha256_file
from legible.metrics.scores import score_image
from legible.metrics.summary import columns, prompt_means, ratio, with_distance
from legible.models.conditioning import Conditioning
from legible.models.drawing import Asked, draw_batch, texts_of
from legible.models.family import Family, embed_prompts, open_model
from legible.models.sampler import Shape
from legible.ocr import Engine, open_engine
from legible.ocr.manifests import as_row
from legible.tensors import load_tensors, save_tensors
from legible.train.group import Group, whole_weights
from legible.train.log import evaluations_of, steps_of
from legible.train.session import Session

WEIGHTS = (".safetensors", ".pth", ".pt", ".onnx")


@dataclass(frozen=True)
class Validator:
    """What an evaluation is made with."""

    settings: Validation
    model: Family  # shares the trained networks, and can decode
    generation: Generation
    shape: Shape  # of the latents
    prompts: tuple[Prompt, ...]
    fixed: Conditioning | None  # what the prompts say; None = encoded anew, as a text encoder is trained
    before: Conditioning  # what the base's text encoders say
    judge: Engine
    scoring: Scoring

    def watch(self) -> "Watch":
        """The course of one run's evaluations, at its beginning."""
        return Watch(self)

    def asked(self) -> Asked:
        """The prompts as they are heard now."""
        ids, texts = [prompt.id for prompt in self.prompts], [prompt.prompt for prompt in self.prompts]
        words = self.fixed
        if words is None:
            words = self.model.encode_prompts(texts_of(texts, self.generation, self.model.spec)).to("cpu")
        return Asked(ids, words, self.before)

    def pictures(self, part: int = 0, parts: int = 1) -> Iterator[tuple[int, int, np.ndarray]]:
        """(place of the prompt, image seed, pixels uint8 [H, W, 3]) by the weights as they are.

        Args:
            part, parts: of all batches every `parts`-th one, from `part` on: the batches themselves stay the same.
        """
        asked, generation = self.asked(), self.generation
        switched = generation.tuned_steps if generation.tuned_steps and not asked.before.equals(asked.words) else None
        jobs = [(place, seed) for place in range(len(self.prompts)) for seed in self.settings.seeds]
        batches = [jobs[first : first + generation.batch_size] for first in range(0, len(jobs), generation.batch_size)]
        for batch in batches[part::parts]:
            images = draw_batch(self.model, asked, batch, self.shape, generation, switched)
            for (place, seed), pixels in zip(batch, images.numpy(), strict=True):
                yield place, seed, pixels

    def scored(self, place: int, seed: int, pixels: np.ndarray) -> dict[str, Any]:
        """The columns that follow from one picture, as `legible.metrics.scores` makes them."""
        prompt = self.prompts[place]
        file = f"{prompt.id}_s{seed}.png"
        image = {"prompt_id": prompt.id, "image_seed": seed, "file": file, "targets": list(prompt.targets)}
        read = [as_row(reading) for reading in self.judge.read(Image.fromarray(pixels))]
        read = {"engine_version": self.judge.version, "readings": read}
        return score_image(image | {"kind": prompt.kind, "font": prompt.font}, read, self.scoring, "validation")

    def evaluate(self, group: Group) -> dict[str, float | int]:
        """Micro CER and exact match of the weights as they are; several processes share the pictures."""
        with untouched(self.model):
            rows = [self.scored(*picture) for picture in self.pictures(group.rank, group.size)]
        frame = with_distance(pd.DataFrame(group.collect(rows)))
        means = prompt_means(frame)
        found = {name: ratio(*columns(metric, means)) for name, metric in (("cer", "cer_micro"), ("exact", "exact"))}
        return found | {"prompts": len(means), "pictures": len(frame)}

    def outcome(self, rows: list[dict], steps: int) -> dict[str, Any]:
        """What run.json says of a finished run: how long it trained, when it spelled best, by which judge.

        Args:
            rows: of metrics.jsonl.
            steps: that were planned.
        """
        done = steps_of(rows)[-1]["step"] + 1
        best = min(evaluations_of(rows), key=lambda row: (row["validation"]["cer"], row["step"]))
        return {
            "steps": done,
            "stopped_early": done < steps,
            "best_step": best["step"],
            "best_cer": best["validation"]["cer"],
            "validation": self.settings.model_dump(mode="json"),
            "validation_judge": {"engine": self.judge.name, "version": self.judge.version},
        }


@dataclass
class Watch:
    """How the spelling develops; `state` holds what a checkpoint must keep.

    `done`: steps at the last evaluation; `best_step`, `best_cer`: the lowest CER, of equal ones the earlier; `file`,
    `sha256`: its weights, where they are kept; `since`: evaluations after it; `stopped`: these are enough.
    """

    validator: Validator
    named: tuple[str | None, ...] = ()  # best weights that the last two checkpoints name
    state: dict[str, Any] = field(
        default_factory=lambda: {
            **{"done": -1, "best_step": -1, "best_cer": None, "file": None, "sha256": None},
            **{"since": 0, "stopped": False},
        }
    )

    def due(self, done: int, steps: int) -> bool:
        """Whether an evaluation is to be made after `done` of `steps` steps."""
        return done > self.state["done"] and (done % self.validator.settings.every == 0 or done == steps)

    def look(self, session: Session, done: int) -> None:
        """Evaluate, log, and keep the weights if they are the best so far and these are asked for."""
        settings, group = self.validator.settings, session.group
        averaged, seconds = session.averaged if settings.weights == "averaged" else {}, session.seconds()
        with in_place(session.mine, averaged):
            found = self.validator.evaluate(group)
        session.log.write(step=done, seconds=round(seconds, 3), validation=found)
        if not self.observed(done, found["cer"]) or settings.keep != "best":
            return
        weights = whole_weights(averaged or session.mine, session.task.parameters, group)
        path = session.place.folder / f"best-{done}.safetensors"
        if group.rank == 0:
            save_tensors(path, weights)
        self.state |= {"file": path.name, "sha256": group.agree(sha256_file(path) if group.rank == 0 else None)}

    def observed(self, done: int, cer: float) -> bool:
        """Take note of an evaluation; whether it is the best so far."""
        state, patience = self.state, self.validator.settings.patience
        better = state["best_cer"] is None or cer < state["best_cer"]
        state |= {"done": done, "since": 0 if better else state["since"] + 1}
        if better:
            state |= {"best_step": done, "best_cer": cer}
        state["stopped"] = patience is not None and state["since"] >= patience
        return better

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.state, self.named = state, (state["file"],)

    def tidy(self, folder: Path, over: bool) -> None:
        """Drop best weights that neither the last checkpoint names nor, unless training is over, the one before it.

        Only now: dropped before the checkpoint, a kill would lose both.
        """
        self.named = (*(() if over else self.named[-1:]), self.state["file"])
        for path in folder.glob("best-*.safetensors"):
            if path.name not in self.named:
                path.unlink()

    def best_weights(self, folder: Path) -> dict[str, torch.Tensor] | None:
        """The weights of the best evaluation, where they are kept.

        Raises:
            UserError: their file is gone, or is not what the checkpoint names.
        """
        if self.validator.settings.keep != "best":
            return None
        path = folder / self.state["file"]
        if not path.is_file() or sha256_file(path) != self.state["sha256"]:
            raise UserError(f"{path}: the best weights are damaged or gone; delete {folder} to start this run again")
        return load_tensors(path, "the best weights")[0]


@contextmanager
def in_place(views: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> Iterator[None]:
    """With other weights in the trained parameters (by views of them); afterwards with their own, bit for bit."""
    own = {name: views[name].clone() for name in weights}
    with torch.no_grad():
        for name, value in weights.items():
            views[name].copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in own.items():
                views[name].copy_(value)


def networks(model: Family) -> list[nn.Module]:
    """The opened networks of a model."""
    return [part for each in fields(model) if isinstance(part := getattr(model, each.name), nn.Module)]


@contextmanager
def untouched(model: Family) -> Iterator[None]:
    """Evaluating, without gradients and uncompiled; afterwards modes, threads and random states are as before.

    Uncompiled, because other batches would make `torch.compile` choose other kernels for training.
    """
    modes = [(module, module.training) for part in networks(model) for module in part.modules()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (others draw from it)
    threads = torch.get_num_threads()
    for part in networks(model):
        part.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_num_threads(threads)


def able_to_draw(model: Family, config: dict[str, Any], threads: int) -> Family:
    """The model with what drawing needs beside what training has opened.

    It is another object: training goes by whether a decoder is there (`pixels_per_latent`) and must not see this one.
    """
    opened = open_model(config["model"], ("autoencoder", "scheduler"), threads)
    missing = [each.name for each in fields(model) if getattr(model, each.name) is None]
    able = replace(model, **{name: getattr(opened, name) for name in missing})
    scheduler = config["generation"].scheduler
    return able.with_scheduler(scheduler) if scheduler else able


def check_apart(name: str, judge: Section, read: dict[str, str]) -> None:
    """Refuse a judge whose network a loss or reward listens to, wherever a copy of it lies.

    Args:
        name: the judge's.
        read: SHA-256 of the files of the network that is listened to, by name; empty for none.

    Raises:
        UserError: a file of weights is the same.
    """
    heard = {digest for file, digest in read.items() if file.endswith(WEIGHTS)}
    folders = [Path(folder) for key in ("network", "models") if (folder := getattr(judge, key, None))]
    for path in (path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*"))):
        if path.suffix in WEIGHTS and sha256_file(path) in heard:
            raise UserError(
                f"validation.judge: {name} reads with the network that this arm listens to ({path}); choose another one"
            )


def open_validator(
    config: dict[str, Any], model: Family, training: Training, shape: Shape, start: Path | None, cache: Path,
    files: dict[str, Any],
) -> Validator:  # fmt: skip
    """What evaluations of a run are made with, opened without a trace in what training draws.

    Args:
        config: the sections model, generation, validation, ocr, scoring.
        model: as training has opened it.
        shape: of the latents.
        start: folder of the weights from which it goes on.
        cache: folder for the judge's files.
        files: `legible.train.key.used_files`.

    Raises:
        UserError: the prompts, the judge or a part of the model cannot be opened, the judge is what is listened to, or
            the model as it trains is not the one that will be saved, or cannot draw.
    """
    if training.sharded or training.assistant_lora or training.quantization != "none":
        raise UserError(
            "validation: not with sharded weights, an assistant_lora or a quantised base; leave one of both out"
        )
    settings: Validation = config["validation"]
    judge, generation = getattr(config["ocr"], settings.judge), config["generation"]
    check_apart(settings.judge, judge, files.get("reader", {}))
    prompts = load_prompts(settings.prompts, settings.limit)
    texts = texts_of([prompt.prompt for prompt in prompts], generation, model.spec)
    with untouched(model):
        base = embed_prompts(config["model"], texts, training.threads)
        now = embed_prompts(config["model"], texts, training.threads, start) if start else base
        able = able_to_draw(model, config, training.threads)
        engine = open_engine(settings.judge, judge, cache)
    fixed = None if training.text_trained else now
    return Validator(settings, able, generation, tuple(shape), prompts, fixed, base, engine, config["scoring"])

"""A training as it stands: optimiser, averages, λ, log and checkpoints of one run; resumable bit for bit."""

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from legible.config import SAMPLED, Training
from legible.errors import OutOfTime, Stopped, UserError
from legible.losses.view import AuxLoss
from legible.models.family import Family
from legible.progress import progress
from legible.rewards.reward import RewardFunction
from legible.seeds import Stream, sample_order, staged_order, stateless_generator
from legible.tensors import save_tensors
from legible.train.anchor import Reference
from legible.train.balance import Balance
from legible.train.budget import Clock
from legible.train.checkpoint import drop_earlier, load_checkpoint, save_checkpoint
from legible.train.data import TrainingData, other_samples
from legible.train.group import Group, local, whole_weights
from legible.train.log import RunLog
from legible.train.optimizer import build_optimizer, load_optimizer
from legible.train.reward import reward_pass
from legible.train.step import Batch, Losses, dropped_prompts, micro_step

if TYPE_CHECKING:  # opened by name where it is on: what it draws and reads with decides nothing elsewhere
    from legible.train.validation import Validator


@dataclass(frozen=True)
class Task:
    """What is trained, on what, towards what."""

    model: Family
    parameters: dict[str, torch.nn.Parameter]  # by name; trained in place
    data: TrainingData
    training: Training
    grid: Tensor  # [S], the sampler's levels
    aux: AuxLoss | None = None
    reference: Reference | None = None  # what the velocity anchor compares with, where it is on
    seed: int = 0
    rewards: dict[str, RewardFunction] = field(default_factory=dict)  # by which it is trained instead; empty = not
    validator: "Validator | None" = None  # watches the spelling, where this is on
    told: tuple[Callable[[dict], None], ...] = ()  # trackers: given every row of the log


@dataclass(frozen=True)
class Place:
    """Where a run lives between attempts.

    `key` identifies configuration, data, models and code: a checkpoint of another key is refused.
    """

    folder: Path
    key: str
    label: str  # as progress and errors call the run

    @property
    def checkpoint(self) -> Path:
        """The file that names the last checkpoint."""
        return self.folder / "checkpoint.json"


def processor_time() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return time.process_time() + sum(os.times()[2:4])


class Session:
    """The state of a run, from its last checkpoint on."""

    def __init__(self, task: Task, place: Place, group: Group, clock: Clock) -> None:
        self.task, self.place, self.group, self.clock = task, place, group, clock
        training = task.training
        self.trained = list(task.parameters.values())
        self.optimizer = build_optimizer(self.trained, training)
        # Views: they follow training.
        self.mine = {name: local(parameter.detach()) for name, parameter in task.parameters.items()}
        self.averaged = {name: part.float().clone() for name, part in self.mine.items()} if training.ema else {}
        if training.order == "stages":
            seen = training.steps * training.batch_size * training.accumulation
            self.order = staged_order(task.data.stages, seen, task.seed)
        else:
            lengths = task.data.padded_lengths() if training.bucket else None
            self.order = sample_order(len(task.data.latents), training.batch_size, task.seed, lengths)
        self.passes = group.passes(training)
        shuffled = "shuffled" in (training.aux.targets, training.reward.targets)
        self.others = other_samples(len(task.data.latents), task.seed) if shuffled else None
        self.balance = Balance(training.aux, training.steps)
        self.log = RunLog(place.folder / "metrics.jsonl", writes=group.rank == 0, told=task.told)
        self.watch = task.validator.watch() if task.validator else None
        # A method by the values of rewards, the base's weights where it needs them, and what a checkpoint keeps of it.
        self.method = import_module(SAMPLED[training.reward.method]) if training.reward.sampled else None
        self.base = self.method.reference(task) if self.method else {}
        self.kept: dict[str, Any] = {}
        self.first, self.spent, self.worked = 0, 0.0, 0.0
        if state := load_checkpoint(place.checkpoint, place.key, group):
            for name, part in self.mine.items():
                part.copy_(state["parameters"][name])
            self.averaged = {name: value.to(task.model.device) for name, value in state["averaged"].items()}
            load_optimizer(self.optimizer, state["optimizer"])
            self.balance.state = state["balance"]
            self.kept = on_device(state.get("kept", {}), task.model.device)
            self.first, self.spent, self.worked = state["step"], state["seconds"], state["processor_seconds"]
            if self.watch:
                self.watch.resume(state["validation"])
        self.log.rewind(self.first)
        clock.start(place.label, self.first)
        self.began, self.worked_before = time.monotonic(), processor_time()

    def steps(self) -> Iterator[int]:
        """The optimiser steps that are left, with progress."""
        steps = range(self.first, self.task.training.steps)
        if self.group.rank == 0:
            total = self.task.training.steps
            steps = progress(steps, self.place.label, start=self.first, total=total, unit="step")
        return takewhile(lambda step: not self.gave_up, steps)

    @property
    def gave_up(self) -> bool:
        """Whether the spelling has not become better for so long that training ends early."""
        return self.watch is not None and self.watch.state["stopped"]

    def validate(self, done: int) -> None:
        """Judge the spelling after `done` steps, where this is on and due; the time that it takes is not counted."""
        if self.watch and self.watch.due(done, self.task.training.steps):
            began, worked = time.monotonic(), processor_time()
            self.watch.look(self, done)
            self.began += time.monotonic() - began
            self.worked_before += processor_time() - worked

    def seconds(self) -> float:
        """Wall-clock seconds of all attempts so far."""
        return self.spent + time.monotonic() - self.began

    def processor_seconds(self) -> float:
        """Processor seconds of all attempts so far, of all threads, children and processes of the group."""
        return sum(self.group.collect([self.worked + processor_time() - self.worked_before]))

    def auxiliary(self, step: int) -> AuxLoss | None:
        """The auxiliary loss on steps on which it counts. Counted in optimiser steps: accumulation cannot move it."""
        aux = self.task.training.aux
        return self.task.aux if aux.lambda_aux > 0 and (step + 1) % aux.every == 0 else None

    def forward(self, step: int, positions: range, aux: AuxLoss | None) -> Losses:
        """One forward pass: the samples at these positions of the step."""
        task, training = self.task, self.task.training
        update = step % training.reward.grpo.updates  # on pictures that were drawn so many steps ago
        before = (step - update) * training.batch_size * training.accumulation
        picked = self.order(range(before + positions.start, before + positions.stop))
        goals = None if self.others is None else self.others[picked]
        generators = [stateless_generator(task.seed, Stream.NOISE, step, sample) for sample in positions]
        if self.method:
            batch = Batch(step - update, update, positions, picked, goals)
            return self.method.method_pass(task, self.base, self.kept, batch)
        if task.rewards:
            return reward_pass(task.model, task.data, picked, goals, training, task.grid, task.rewards, generators)
        dropped = dropped_prompts(training, task.seed, step, positions)
        return micro_step(task.model, task.data, picked, goals, training, task.grid, aux, generators, dropped)

    def check_finite(self, step: int, *values: float) -> None:
        """Stop before a step that would spoil the weights.

        Raises:
            UserError: a loss or the gradient's norm is not finite; the last good checkpoint stays.
        """
        if all(map(math.isfinite, values)):
            return
        kept = self.place.checkpoint
        kept = f"the last good one is {kept}" if kept.exists() else "no checkpoint was written yet"
        label = self.place.label
        raise UserError(
            f"{label}: the loss is not finite at step {step} ({kept}); lower training.learning_rate or lambda"
        )

    @torch.no_grad()
    def average_weights(self) -> None:
        """Follow the weights (EMA), where this is on."""
        for name, value in self.averaged.items():
            value.lerp_(self.mine[name].float(), 1 - self.task.training.ema)

    def weights(self) -> dict[str, Tensor]:
        """Copies of the weights to keep: averaged ones if EMA is on; sharded ones whole, in the first process."""
        return whole_weights(self.averaged or self.mine, self.task.parameters, self.group)

    def chosen_weights(self) -> dict[str, Tensor]:
        """`weights`, or those that spelled best where validation keeps these."""
        best = self.watch.best_weights(self.place.folder) if self.watch else None
        return self.weights() if best is None else best

    def keep(self, step: int, stopping: Callable[[], bool]) -> None:
        """Write what is due after `step`: a snapshot, a checkpoint.

        Raises:
            Stopped: `stopping` said so, or the job's time is nearly over; what was done is in the checkpoint.
        """
        training, done = self.task.training, step + 1
        self.clock.step_done()
        if done in training.snapshots:
            kept = self.weights()
            if self.group.rank == 0:
                save_tensors(self.place.folder / f"snapshot-{done}.safetensors", kept)
        over = done == training.steps or self.gave_up
        # Every process has its own clock: what one of them finds, all do.
        asked = self.group.collect([(stopping(), self.clock.short, self.clock.due)])
        told, short, due = (any(each) and not over for each in zip(*asked, strict=True))
        if told or short or over:
            self.clock.finish()  # what is written now must not be given up
        if told or short or due or done % training.checkpoint_every == 0 or over:
            state = {
                "parameters": self.mine,
                "averaged": self.averaged,
                "optimizer": self.optimizer.state_dict(),
                "balance": self.balance.state,
                **({"kept": self.kept} if self.kept else {}),
                "step": done,
                "seconds": self.seconds(),
                "processor_seconds": self.worked + processor_time() - self.worked_before,  # each process its own
                **({"validation": self.watch.state} if self.watch else {}),
            }
            save_checkpoint(self.place.checkpoint, self.place.key, state, self.group)
            self.clock.checkpoint_done()
            if over and self.group.rank == 0:
                drop_earlier(self.place.checkpoint)
            if self.watch and self.group.rank == 0:
                self.watch.tidy(self.place.folder, over)
        where = f"{self.place.label}: after step {done} of {training.steps}; the same command goes on from there"
        if told:
            raise Stopped(where)
        if short:
            raise OutOfTime(f"the job's time is nearly over; {where}")


def on_device(value: Any, device: torch.device) -> Any:
    """Nested dictionaries whose tensors lie on a device."""
    if isinstance(value, dict):
        return {key: on_device(inner, device) for key, inner in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value

"""The sections of the configuration that decide a training, one frozen model each."""

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from legible.config.allowed import two
from legible.config.losses import LOSSES
from legible.config.rewards import HEARD, Reward
from legible.config.section import (
    BATCH,
    ENTRIES,
    SIDE,
    STEPS,
    Fraction,
    Natural,
    NonNegative,
    Positive,
    PositiveFloat,
    Section,
    Text,
)
from legible.wording import shown


class SigmaSampling(Section):
    """How training draws the noise level σ in (0, 1]."""

    distribution: Literal["logit_normal", "uniform", "grid"] = Field(
        "logit_normal", description="grid = the sampler's own σ values"
    )
    mean: Annotated[float, Field(strict=True)] = Field(0.0, description="of the logit (logit_normal)")
    std: PositiveFloat = Field(1.0, description="of the logit (logit_normal)")


Balance = Literal["constant", "linear", "cosine", "gradient_norm", "uncertainty"]


class Aux(Section):
    """The auxiliary loss: L_total = L_diffusion + lambda · L_aux."""

    loss: str | dict[str, float] = Field(
        "none", description="which loss, or a weighted sum: {ctc: 1.0, glyph_mask: 0.5}; none is the control"
    )
    lambda_aux: NonNegative = Field(0.0, alias="lambda", description="weight λ of the auxiliary loss")
    every: Positive = Field(8, description="optimiser steps from one auxiliary loss to the next")
    balance: Balance = Field(
        "constant", description="how λ goes on: constant, linear, cosine, gradient_norm or uncertainty"
    )
    lambda_end: NonNegative = Field(0.0, description="λ at the last step (linear, cosine)")
    target_ratio: PositiveFloat = Field(0.5, description="λ·‖∇L_aux‖ / ‖∇L_diffusion‖ to hold (gradient_norm)")
    lambda_bounds: Annotated[tuple[PositiveFloat, PositiveFloat], BeforeValidator(two)] = Field(
        (0.01, 100.0), description="λ stays in here (gradient_norm, uncertainty)"
    )
    smoothing: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        0.9, description="memory of the running mean of gradient norms (gradient_norm)"
    )
    measure_every: Natural = Field(
        8, description="optimiser steps between measurements of both gradients' norms and cosine; 0 = never"
    )
    sigma_window: Annotated[tuple[Fraction, Fraction], BeforeValidator(two)] = Field(
        (0.0, 1.0), description="σ range in which it counts"
    )
    sigma_weight: Literal["none", "signal"] = Field(
        "none", description="weight of a sample by its σ; signal = (1−σ)²/((1−σ)²+σ²)"
    )
    sigma_sampling: Literal["shared", "window"] = Field(
        "shared", description="σ on steps with this loss: as on all others, or drawn evenly from sigma_window"
    )
    region: Literal["image", "crop"] = Field(
        "image", description="decode the whole image, or only the latents of the regions"
    )
    soft_range: bool = Field(False, description="limit decoded pixels softly to −1 … 1 (a clamp would kill gradients)")
    targets: Literal["own", "shuffled", "permuted"] = Field(
        "own", description="placebos: shuffled = another sample's text; permuted = its own letters in another order"
    )
    clipping: Literal["sum", "each"] = Field(
        "sum", description="what max_grad_norm limits: the whole gradient, or each loss's by itself"
    )
    conflict: Literal["sum", "project"] = Field(
        "sum", description="project = take out of each gradient what works against the other (PCGrad)"
    )
    margin: Natural = Field(2, le=SIDE, description="pixels added around a text region before cropping")

    @field_validator("loss", mode="before")
    @classmethod
    def known(cls, loss: Any) -> Any:
        names = list(loss) if isinstance(loss, Mapping) else [loss]
        for name in names or [""]:
            if (not isinstance(name, str) or name not in LOSSES) and loss != "none":
                allowed = f"allowed are none, {', '.join(LOSSES)}, or {{name: weight, …}}"
                raise ValueError(f"{shown(name)} is no loss; {allowed}")
        for name, weight in loss.items() if isinstance(loss, Mapping) else ():
            if (
                isinstance(weight, bool)
                or not isinstance(weight, int | float)
                or not (0 < weight <= sys.float_info.max)
            ):
                raise ValueError(f"{name}: its weight must be a finite number above 0, got {shown(weight)}")
        return loss

    @field_validator("lambda_bounds", "sigma_window")
    @classmethod
    def ordered(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if pair[0] >= pair[1]:
            raise ValueError(f"the first number must be below the second, got {list(pair)}")
        return pair

    @model_validator(mode="after")
    def consistent(self) -> "Aux":
        if self.loss == "none" and self.lambda_aux > 0:
            raise ValueError("lambda: above 0 it needs a loss; set `loss: clip_region`, `loss: ctc` or `lambda: 0`")
        if self.balance in ("gradient_norm", "uncertainty") and not self.lambda_aux:
            raise ValueError(f"balance: {self.balance} needs a lambda above 0 to start from")
        low, high = self.lambda_bounds
        if self.balance in ("gradient_norm", "uncertainty") and not low <= self.lambda_aux <= high:
            raise ValueError(f"lambda: {self.lambda_aux} is not within lambda_bounds [{low}, {high}]")
        if self.targets == "permuted" and (other := [name for name in self.weights if LOSSES[name].wants != "text"]):
            looks = "no text" if LOSSES[other[0]].wants == "nothing" else "the clean picture, which shows the own text"
            raise ValueError(f"targets: permuted needs losses of a text alone; {other[0]} compares with {looks}")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Loss → weight in L_aux; empty for the control."""
        if self.loss == "none" or self.lambda_aux == 0:
            return {}
        return {self.loss: 1.0} if isinstance(self.loss, str) else dict(self.loss)

    @property
    def apart(self) -> bool:
        """Whether a step needs both losses' gradients apart, however λ is found."""
        return self.clipping == "each" or self.conflict == "project"


def different(values: tuple[int, ...]) -> tuple[int, ...]:
    """The values, if each is given once only."""
    if len(set(values)) < len(values):
        raise ValueError(f"every value may be given once only, got {shown(values)}")
    return values


Seeds = Annotated[tuple[Natural, ...], Field(min_length=1, max_length=ENTRIES), AfterValidator(different)]


class AnchorTerm(Section):
    """Velocity anchor: the model shall go on doing what the base model does."""

    weight: NonNegative = Field(0.0, description="weight of the anchor in the total loss; 0 = off")
    reference: Literal["recorded", "adapter_off"] = Field(
        "recorded", description="the base's recorded trajectories, or its answers now, with the adapters off (lora)"
    )
    batch_size: Positive = Field(
        8, le=BATCH, description="points per optimiser step: of the trajectories, or of training's own"
    )


class Anchor(Section):
    """Where the velocity anchor is held: sampling trajectories of the base model."""

    prompts: str = Field("resources/prompts/anchor.jsonl", description="prompts without targets, not those of `drift`")
    limit: Positive | None = Field(None, description="use only the first so many prompts")
    seeds: Seeds = Field((0, 1), description="noise seeds per prompt")


class Lora(Section):
    """Low-rank adapters (peft)."""

    rank: Positive = Field(8, le=4096)
    alpha: PositiveFloat = 8.0
    targets: Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(different)] | None = Field(
        None, description="module names, matched at their end; null = the family's attention and feed-forward layers"
    )


class Training(Section):
    """Fine-tuning; an arm overrides any of these keys."""

    steps: Positive = Field(64, le=STEPS, description="optimiser steps")
    batch_size: Positive = Field(32, le=BATCH, description="samples per forward pass")
    accumulation: Positive = Field(1, le=BATCH, description="forward passes per optimiser step")
    learning_rate: PositiveFloat = 3.0e-4
    warmup: Natural = Field(10, description="steps of linear learning-rate warm-up")
    weight_decay: NonNegative = 0.0
    max_grad_norm: PositiveFloat = Field(1.0, description="gradient clipping")
    optimizer: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit keeps the moments in 8 bits (needs torchao)"
    )
    weights: Literal["float32", "bfloat16"] = Field(
        "float32", description="the trained weights; bfloat16 is rounded stochastically (needs torchao)"
    )
    gradient_checkpointing: Annotated[tuple[Literal["auto", "denoiser", "decoder"], ...], AfterValidator(different)] = (
        Field((), description="what is computed twice to save memory: denoiser, decoder; auto = what must, to fit")
    )
    attention: Text = Field(
        "native", description="attention backend of diffusers, as _native_flash; its backward pass is checked first"
    )
    compile: bool = Field(False, description="torch.compile the denoiser's blocks; pays after some hundred steps")
    ema: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(0.0, description="decay of averaged weights; 0 = off")
    method: Literal["full", "lora"] = Field("full", description="train the modules below, or adapters only")
    parts: Annotated[tuple[Text, ...], AfterValidator(different)] = Field(
        ("denoiser",),
        description="what is trained: denoiser, text_encoder, or both (text_encoder_2 … too)",
        min_length=1,
    )
    start: str | None = Field(
        None,
        description="another arm, from whose finished weights (same seed) this one goes on; null = the base",
    )
    modules: Annotated[tuple[Text, ...], Field(min_length=1), AfterValidator(different)] | None = Field(
        None, description="prefixes of the denoiser's parameters to train when method is full; null = all its blocks"
    )
    lora: Lora = Lora()
    prompt_dropout: Fraction = Field(
        0.0, description="share of the samples that see the empty prompt, for models sampled with guidance"
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        "none", description="the frozen base under LoRA: int8 (needs torchao) or nf4 (bitsandbytes); not for sampling"
    )
    assistant_lora: str | None = Field(
        None, description="LoRA file (a de-distillation adapter) merged while training, taken out of what is saved"
    )
    sigma: SigmaSampling = SigmaSampling()
    aux: Aux = Aux()
    reward: Reward = Reward()
    anchor: AnchorTerm = AnchorTerm()
    snapshots: Annotated[tuple[Positive, ...], Field(max_length=ENTRIES), AfterValidator(different)] = Field(
        (), description="steps whose weights are kept too, for learning curves"
    )
    checkpoint_every: Positive = Field(32, description="optimiser steps from one resumable checkpoint to the next")
    order: Literal["shuffled", "stages"] = Field(
        "shuffled", description="of the samples; stages = those of `render` one after the other"
    )
    bucket: bool = Field(
        False, description="forward passes of captions of one length: no padding, but another order of the samples"
    )
    processes: Positive = Field(
        1, le=1024, description="GPUs (without one: CPU processes) that share each step's samples"
    )
    parallel: Literal["auto", "replicate", "shard"] = Field(
        "auto",
        description="with several processes: all weights in each, or FSDP2; auto = replicate for lora, shard for full",
    )
    threads: Positive = Field(
        1, le=1024, description="CPU threads of one training (fixed, so that results do not depend on it)"
    )

    @model_validator(mode="after")
    def consistent(self) -> "Training":
        if self.accumulation % self.processes and self.batch_size % self.processes:
            raise ValueError(
                f"processes: {self.processes} cannot share {self.accumulation} forward passes of {self.batch_size} "
                "samples; make accumulation or batch_size a multiple of processes"
            )
        if self.bucket and self.order == "stages":
            raise ValueError("bucket: captions of one length cannot be kept together where order is stages")
        if self.sharded and self.method == "lora":
            raise ValueError("parallel: shard needs method: full (adapters are small; choose replicate)")
        if self.sharded and self.aux.weights and (self.aux.measure_every or self.aux.balance == "gradient_norm"):
            raise ValueError("parallel: shard cannot measure two gradients apart; set aux.measure_every: 0")
        if self.sharded and self.aux.weights and self.aux.apart:
            raise ValueError("parallel: shard cannot take two gradients apart; set aux.clipping and aux.conflict: sum")
        if self.anchor.reference == "adapter_off" and self.method != "lora":
            raise ValueError("anchor.reference: adapter_off needs method lora; with full training choose recorded")
        if self.quantization != "none" and self.method != "lora":
            raise ValueError(f"quantization: {self.quantization} needs method lora; with full training choose none")
        if self.anchor.weight and "denoiser" not in self.parts:
            raise ValueError("anchor: it holds a trained denoiser; add denoiser to parts or set anchor.weight: 0")
        if self.quantization != "none" and self.text_trained:
            raise ValueError("quantization: with a trained text encoder choose none")
        if self.sharded and self.text_trained:
            raise ValueError("parallel: shard divides the denoiser only; with a trained text encoder choose replicate")
        if self.assistant_lora and self.quantization != "none":
            raise ValueError("assistant_lora: it cannot be merged into a quantised base; set quantization: none")
        if self.assistant_lora and self.anchor.weight and self.anchor.reference == "recorded":
            # It would pull the merged model back to the distilled one, and undo what the assistant is there for.
            raise ValueError("assistant_lora: the recorded base is without it; set anchor.reference: adapter_off")
        if self.reward.weights and self.aux.weights:
            raise ValueError("reward.weights: an arm has rewards or an auxiliary loss; set aux.lambda: 0")
        if self.start and (self.method != "full" or self.assistant_lora):
            raise ValueError("start: adapters need the base beneath them; set method: full, and no assistant_lora")
        if self.start and self.anchor.weight:
            raise ValueError("start: the velocity anchor holds to the base, not to another arm; set anchor.weight: 0")
        if self.reward.weights and self.sharded:
            raise ValueError("parallel: shard cannot sample; with rewards choose replicate")
        if self.reward.grpo.updates > 1 and self.processes > 1:
            raise ValueError("reward.grpo.updates: pictures are kept by one process only; set updates: 1")
        return self

    @property
    def heard(self) -> list[str]:
        """The auxiliary losses and rewards that the training listens to; none for the control."""
        return [*self.aux.weights, *self.reward.weights]

    @property
    def placebo(self) -> bool:
        """Whether what it listens to holds it to anything but its own samples' texts."""
        if not self.heard:
            return False
        targets = self.aux.targets if self.aux.weights else self.reward.targets
        return targets != "own" or all(HEARD[name].wants == "nothing" for name in self.heard)

    @property
    def text_trained(self) -> bool:
        """Whether a text encoder is trained: then captions are encoded anew in every step."""
        return any(part != "denoiser" for part in self.parts)

    @property
    def ragged(self) -> bool:
        """Whether captions of different lengths can come in one batch."""
        return max(self.batch_size, self.anchor.batch_size if self.anchor.weight else 1) > 1

    @property
    def sharded(self) -> bool:
        """Whether the weights are divided among the processes."""
        return self.processes > 1 and (self.parallel == "shard" or (self.parallel, self.method) == ("auto", "full"))

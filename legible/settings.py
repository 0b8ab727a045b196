"""The sections of the configuration, one frozen model each; `legible.config` puts them together and reads files."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """Base of every section: immutable, and a key that is not listed is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


class Fonts(Section):
    """Where fonts come from and which of them are drawn with."""

    bundled: bool = Field(True, description="use the fonts that matplotlib bundles (no installation needed)")
    system: bool = Field(False, description="also search the system's font folders")
    folders: tuple[str, ...] = Field((), description="further folders to search")
    characters: str = Field(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", description="characters that a font must really have", min_length=1
    )
    train: tuple[str, ...] = Field((), description='fonts to draw with, as "family style"; empty = every usable one')
    held_out: tuple[str, ...] = Field((), description="fonts kept for the test split, never trained on")


class Kinds(Section):
    """Relative frequency of each kind of string; 0 leaves a kind out."""

    word: NonNegative = 0.4
    rare: NonNegative = 0.2
    nonword: NonNegative = 0.3
    digits: NonNegative = 0.1

    @model_validator(mode="after")
    def some_kind(self) -> "Kinds":
        if self.word + self.rare + self.nonword + self.digits <= 0:
            raise ValueError("at least one kind needs a weight above 0")
        return self


class Data(Section):
    """The synthetic dataset: signs with words on them."""

    seed: Natural = Field(0, description="every sample has its own seed, derived from this one and its index")
    train: Positive = Field(1536, description="samples in the train split")
    test: Natural = Field(128, description="samples in the test split: held-out words and held-out fonts")
    height: Positive = Field(32, description="pixels")
    width: Positive = Field(64, description="pixels")
    length: tuple[Positive, Positive] = Field((2, 6), description="shortest and longest line, in characters")
    lines: tuple[Positive, Positive] = Field((1, 1), description="fewest and most lines on one sign")
    kinds: Kinds = Kinds()
    font_size: tuple[Positive, Positive] = Field((12, 20), description="smallest and largest font size, in pixels")
    margin: Natural = Field(2, description="pixels that stay free on every side; text that does not fit is rejected")
    jitter: Natural = Field(0, description="largest shift from the centre, in pixels")
    contrast: PositiveFloat = Field(4.5, description="smallest WCAG contrast ratio of text and background")

    @model_validator(mode="after")
    def ordered(self) -> "Data":
        for key in ("length", "lines", "font_size"):
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key}: the first number must not exceed the second, got [{low}, {high}]")
        return self


class Model(Section):
    """The model to fine-tune."""

    family: Literal["zimage"] = Field("zimage", description="architecture; see legible/models/")
    path: str = Field("resources/nano/zimage", description="local folder in diffusers' format, or a hub id")
    revision: str | None = Field(None, description="commit of the hub id (ignored for a folder)")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of weights and activations")
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="auto = the GPU where there is one; cuda refuses to go on without"
    )
    max_sequence_length: Positive = Field(64, description="longest caption, in tokens")


class Clip(Section):
    """The open_clip model of the `clip_region` loss."""

    path: str = Field("resources/nano/clip", description="local folder (open_clip_config.json + weights), or a hub id")
    revision: str | None = Field(None, description="commit of the hub id (ignored for a folder)")
    template: str = Field("{}", description="what the target string stands in, for CLIPs that learned from captions")
    distractors: Positive = Field(9, description="strings one edit away that clip_contrastive tells the target from")

    @field_validator("template")
    @classmethod
    def has_a_place(cls, template: str) -> str:
        if template.count("{}") != 1:
            raise ValueError("exactly one {} is needed, the place of the target string")
        return template


class Reader(Section):
    """The recogniser of the `ctc` loss, in EasyOCR's format. It must not be the only judge."""

    network: str = Field("resources/nano/recognizer_conv", description="folder of a user network, or `standard`")
    models: str | None = Field(None, description="folder of EasyOCR's downloaded networks (for `standard`)")
    aspect: PositiveFloat = Field(2.0, description="width / height of the crops that it reads")


class Segmenter(Section):
    """The latent segmenter of the `char_segmentation` loss, trained on the dataset's own glyph masks."""

    width: Positive = Field(64, description="channels")
    steps: Positive = 1200
    batch_size: Positive = 16
    learning_rate: PositiveFloat = 3.0e-3
    seed: Natural = 0


class PromptSet(Section):
    """A file of prompts with the words that must be readable, one JSON object a line: id, prompt, targets."""

    path: str
    limit: Positive | None = Field(None, description="use only the first so many prompts")
    steps: Positive | None = Field(None, description="forward passes; null = those of `generation`")


class Generation(Section):
    """Sampling. Baseline and fine-tuned images use identical prompts, noise and settings."""

    steps: Positive = Field(8, description="forward passes of the transformer")
    guidance_scale: NonNegative = Field(0.0, description="0 = one forward pass a step (Turbo models need 0)")
    seeds: tuple[Natural, ...] = Field((0, 1), description="image seeds per prompt", min_length=1)
    batch_size: Positive = Field(32, description="images per forward pass")


class SigmaSampling(Section):
    """How training draws the noise level σ in (0, 1]."""

    distribution: Literal["logit_normal", "uniform", "grid"] = Field(
        "logit_normal", description="grid = the sampler's own σ values"
    )
    mean: Annotated[float, Field(strict=True)] = Field(0.0, description="of the logit (logit_normal)")
    std: PositiveFloat = Field(1.0, description="of the logit (logit_normal)")


LOSSES = ("clip_region", "clip_contrastive", "recognizer_feature", "ctc", "glyph_mask", "char_segmentation")
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
    lambda_bounds: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.01, 100.0), description="λ stays in here (gradient_norm, uncertainty)"
    )
    smoothing: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(
        0.9, description="memory of the running mean of gradient norms (gradient_norm)"
    )
    measure_every: Natural = Field(
        8, description="optimiser steps between measurements of both gradients' norms and cosine; 0 = never"
    )
    sigma_window: tuple[Fraction, Fraction] = Field((0.0, 1.0), description="σ range in which it counts")
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
    targets: Literal["own", "shuffled"] = Field("own", description="shuffled = placebo: another sample's text")
    margin: Natural = Field(2, description="pixels added around a text region before cropping")

    @field_validator("loss")
    @classmethod
    def known(cls, loss: str | dict[str, float]) -> str | dict[str, float]:
        names = [loss] if isinstance(loss, str) else list(loss)
        for name in names or [""]:
            if name not in LOSSES and loss != "none":
                raise ValueError(f"'{name}' is no loss; allowed are none, {', '.join(LOSSES)}, or {{name: weight, …}}")
        if isinstance(loss, dict) and (bad := [name for name, weight in loss.items() if not weight > 0]):
            raise ValueError(f"the weight of {bad[0]} must be above 0, got {loss[bad[0]]}")
        return loss

    @field_validator("lambda_bounds", "sigma_window")
    @classmethod
    def ordered(cls, pair: tuple[float, float]) -> tuple[float, float]:
        if pair[0] >= pair[1]:
            raise ValueError("the first number must be below the second")
        return pair

    @model_validator(mode="after")
    def consistent(self) -> "Aux":
        if self.loss == "none" and self.lambda_aux > 0:
            raise ValueError("lambda above 0 needs a loss: set `loss: clip_region`, `loss: ctc` or `lambda: 0`")
        if self.balance in ("gradient_norm", "uncertainty") and not self.lambda_aux:
            raise ValueError(f"balance: {self.balance} needs a lambda above 0 to start from")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """Loss → weight in L_aux; empty for the control."""
        if self.loss == "none" or self.lambda_aux == 0:
            return {}
        return {self.loss: 1.0} if isinstance(self.loss, str) else dict(self.loss)


class Keep(Section):
    """Velocity anchor: the model shall go on doing what the base model does."""

    weight: NonNegative = Field(0.0, description="weight of the anchor in the total loss; 0 = off")
    reference: Literal["recorded", "adapter_off"] = Field(
        "recorded", description="the base's recorded trajectories, or its answers now, with the adapters off (lora)"
    )
    batch_size: Positive = Field(8, description="points per optimiser step: of the trajectories, or of training's own")


class Anchor(Section):
    """Where the velocity anchor is held: sampling trajectories of the base model."""

    prompts: str = Field("resources/prompts/anchor.jsonl", description="prompts without targets, not those of `drift`")
    limit: Positive | None = Field(None, description="use only the first so many prompts")
    seeds: tuple[Natural, ...] = Field((0, 1), description="noise seeds per prompt", min_length=1)


class Lora(Section):
    """Low-rank adapters (peft)."""

    rank: Positive = 8
    alpha: PositiveFloat = 8.0
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
        description="module names, matched at their end",
        min_length=1,
    )


class Training(Section):
    """Fine-tuning; an arm overrides any of these keys."""

    steps: Positive = Field(64, description="optimiser steps")
    batch_size: Positive = Field(32, description="samples per forward pass")
    accumulation: Positive = Field(1, description="forward passes per optimiser step")
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
    gradient_checkpointing: tuple[Literal["auto", "transformer", "decoder"], ...] = Field(
        (), description="what is computed twice to save memory: transformer, decoder; auto = what must, to fit"
    )
    attention: str = Field(
        "native", description="attention backend of diffusers, as _native_flash; its backward pass is checked first"
    )
    compile: bool = Field(False, description="torch.compile the transformer's blocks; pays after some hundred steps")
    ema: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(0.0, description="decay of averaged weights; 0 = off")
    method: Literal["full", "lora"] = Field("full", description="train the modules below, or adapters only")
    modules: tuple[str, ...] = Field(
        ("layers", "noise_refiner", "context_refiner"),
        description="parameter-name prefixes trained when method is full",
        min_length=1,
    )
    lora: Lora = Lora()
    quantization: Literal["none", "int8", "nf4"] = Field(
        "none", description="the frozen base under LoRA: int8 (needs torchao) or nf4 (bitsandbytes); not for sampling"
    )
    assistant_lora: str | None = Field(
        None, description="LoRA file (a de-distillation adapter) merged while training, taken out of what is saved"
    )
    sigma: SigmaSampling = SigmaSampling()
    aux: Aux = Aux()
    anchor: Keep = Keep()
    snapshots: tuple[Positive, ...] = Field((), description="steps whose weights are kept too, for learning curves")
    checkpoint_every: Positive = Field(32, description="optimiser steps from one resumable checkpoint to the next")
    bucket: bool = Field(
        False, description="forward passes of captions of one length: no padding, but another order of the samples"
    )
    processes: Positive = Field(1, description="GPUs (without one: CPU processes) that share each step's samples")
    parallel: Literal["auto", "replicate", "shard"] = Field(
        "auto",
        description="with several processes: all weights in each, or FSDP2; auto = replicate for lora, shard for full",
    )
    threads: Positive = Field(1, description="CPU threads of one training (fixed, so that results do not depend on it)")

    @model_validator(mode="after")
    def consistent(self) -> "Training":
        if self.accumulation % self.processes and self.batch_size % self.processes:
            raise ValueError(
                f"{self.processes} processes cannot share {self.accumulation} forward passes of {self.batch_size} "
                "samples; make accumulation or batch_size a multiple of processes"
            )
        if self.sharded and self.method == "lora":
            raise ValueError("parallel: shard needs method: full (adapters are small; choose replicate)")
        if self.sharded and self.aux.weights and (self.aux.measure_every or self.aux.balance == "gradient_norm"):
            raise ValueError("sharded training cannot measure two gradients apart; set aux.measure_every: 0")
        if self.anchor.reference == "adapter_off" and self.method != "lora":
            raise ValueError("anchor.reference: adapter_off needs method lora; with full training choose recorded")
        if self.quantization != "none" and self.method != "lora":
            raise ValueError(f"quantization: {self.quantization} needs method lora; with full training choose none")
        if self.assistant_lora and self.quantization != "none":
            raise ValueError("assistant_lora: it cannot be merged into a quantised base; set quantization: none")
        if self.assistant_lora and self.anchor.weight and self.anchor.reference == "recorded":
            # It would pull the merged model back to the distilled one, and undo what the assistant is there for.
            raise ValueError("assistant_lora: the recorded base is without it; set anchor.reference: adapter_off")
        return self

    @property
    def ragged(self) -> bool:
        """Whether captions of different lengths can come in one batch."""
        return max(self.batch_size, self.anchor.batch_size if self.anchor.weight else 1) > 1

    @property
    def sharded(self) -> bool:
        """Whether the weights are divided among the processes."""
        return self.processes > 1 and (self.parallel == "shard" or (self.parallel, self.method) == ("auto", "full"))


class Drift(Section):
    """How far the pictures move from the base model's on prompts without text, same noise."""

    prompts: str = Field("resources/prompts/no_text.jsonl", description="prompts without targets")
    limit: Positive | None = Field(None, description="use only the first so many prompts")


class RapidOcr(Section):
    """RapidOCR (PP-OCR, ONNX); its wheel carries the models."""

    detect: bool = Field(False, description="false: the whole image is one line; true: find the lines first")
    scale: Positive = Field(2, description="enlargement before reading")


class EasyOcr(Section):
    """EasyOCR with a user network or its own downloaded networks."""

    network: str = Field("resources/nano/recognizer_crnn", description="folder of a user network, or `standard`")
    models: str | None = Field(None, description="folder of downloaded networks (for `standard`)")
    detect: bool = False
    scale: Positive = 2


class Tesseract(Section):
    """Tesseract, where it is installed (`pip install "legible[tesseract]"` and the system's language data)."""

    language: str = Field("eng", pattern=r"^[A-Za-z0-9_]+$", description="which .traineddata to read with")
    data: str | None = Field(None, description="folder of the language data; null = where the system keeps it")
    detect: bool = False
    scale: Positive = 2


class Ocr(Section):
    """The judges. Leave a section out (null) to do without that engine."""

    rapidocr: RapidOcr | None = RapidOcr()
    easyocr: EasyOcr | None = EasyOcr()
    tesseract: Tesseract | None = Field(None, description="e.g. {language: eng}: read with Tesseract too")


class Scoring(Section):
    """Metrics and statistics."""

    normalization: Literal["strict", "lenient"] = Field("lenient", description="see docs/METRICS.md")
    resamples: Positive = Field(2000, description="bootstrap resamples, clustered by prompt")
    confidence: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.95
    seed: Natural = 0
    cer_cap: PositiveFloat = Field(1.0, description="cap of one image's CER in the macro average")


class FigureStyle(Section):
    """One figure. Changing it redraws that figure only."""

    width: PositiveFloat = Field(7.0, description="inches")
    height: PositiveFloat = Field(4.0, description="inches")
    dpi: Positive = 150
    colors: tuple[Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")], ...] = Field(
        ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
        description="base, then the arms in order (Okabe-Ito: colour-blind safe)",
        min_length=3,
    )
    examples: Positive = Field(6, description="rows of a picture grid")


class Figures(Section):
    """The figures of the report."""

    cer_by_arm: FigureStyle = FigureStyle()
    delta_to_control: FigureStyle = FigureStyle(height=3.2)
    cer_by_length: FigureStyle = FigureStyle()
    training_curves: FigureStyle = FigureStyle(height=5.0)
    samples: FigureStyle = FigureStyle(height=7.0)
    best_and_worst: FigureStyle = FigureStyle(height=7.0)
    dataset: FigureStyle = FigureStyle(height=5.0, examples=8)
    learning_curves: FigureStyle = FigureStyle(height=5.0)
    drift_tradeoff: FigureStyle = FigureStyle(height=4.5)
    gradient_reach: FigureStyle = FigureStyle(height=3.6)
    adaptive_weights: FigureStyle = FigureStyle(height=5.0)

"""The configuration: one pydantic model of `config.yaml`. Unknown keys, wrong types and impossible values stop at once.

`load` reads and validates; `document_defaults` writes the documented default from the field descriptions below.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from legible.errors import UserError, describe

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
    max_sequence_length: Positive = Field(64, description="longest caption, in tokens")


class Clip(Section):
    """The open_clip model of the `clip_region` loss."""

    path: str = Field("resources/nano/clip", description="local folder (open_clip_config.json + weights), or a hub id")
    revision: str | None = None


class Reader(Section):
    """The recogniser of the `ctc` loss, in EasyOCR's format. It must not be the only judge."""

    network: str = Field("resources/nano/recognizer_conv", description="folder of a user network, or `standard`")
    models: str | None = Field(None, description="folder of EasyOCR's downloaded networks (for `standard`)")
    aspect: PositiveFloat = Field(2.0, description="width / height of the crops that it reads")


class PromptSet(Section):
    """A file of prompts with the words that must be readable, one JSON object a line: id, prompt, targets."""

    path: str
    limit: Positive | None = Field(None, description="use only the first so many prompts")


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


class Aux(Section):
    """The auxiliary loss: L_total = L_diffusion + lambda · L_aux."""

    loss: Literal["none", "clip_region", "ctc"] = Field("none", description="which loss; none is the control")
    lambda_aux: NonNegative = Field(0.0, alias="lambda", description="weight λ of the auxiliary loss")
    every: Positive = Field(8, description="optimiser steps from one auxiliary loss to the next")
    sigma_window: tuple[Fraction, Fraction] = Field((0.0, 1.0), description="σ range in which it counts")
    margin: Natural = Field(2, description="pixels added around a text region before cropping")

    @model_validator(mode="after")
    def consistent(self) -> "Aux":
        if self.sigma_window[0] >= self.sigma_window[1]:
            raise ValueError("sigma_window: the first number must be below the second")
        if self.loss == "none" and self.lambda_aux > 0:
            raise ValueError("lambda above 0 needs a loss: set `loss: clip_region`, `loss: ctc` or `lambda: 0`")
        return self


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
    ema: Annotated[float, Field(ge=0, lt=1, strict=True)] = Field(0.0, description="decay of averaged weights; 0 = off")
    method: Literal["full", "lora"] = Field("full", description="train the modules below, or adapters only")
    modules: tuple[str, ...] = Field(
        ("layers", "noise_refiner", "context_refiner"),
        description="parameter-name prefixes trained when method is full",
        min_length=1,
    )
    lora: Lora = Lora()
    sigma: SigmaSampling = SigmaSampling()
    aux: Aux = Aux()
    checkpoint_every: Positive = Field(32, description="optimiser steps from one resumable checkpoint to the next")
    threads: Positive = Field(1, description="CPU threads of one training (fixed, so that results do not depend on it)")


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


class Ocr(Section):
    """The judges. Leave a section out (null) to do without that engine."""

    rapidocr: RapidOcr | None = RapidOcr()
    easyocr: EasyOcr | None = EasyOcr()


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


class Config(Section):
    """The whole experiment."""

    experiment: Name = Field("nano", description="results go to results/{experiment}/")
    fonts: Fonts = Fonts(
        train=("DejaVu Sans", "DejaVu Sans Bold", "DejaVu Serif Bold", "STIXGeneral Bold", "cmss10"),
        held_out=("DejaVu Sans Mono Bold", "cmr10"),
    )
    data: Data = Data()
    model: Model = Model()
    clip: Clip = Clip()
    reader: Reader = Reader()
    prompt_sets: dict[Name, PromptSet] = Field(
        {"held_out": PromptSet(path="resources/prompts/held_out.jsonl")}, min_length=1
    )
    generation: Generation = Generation()
    training: Training = Training()
    arms: dict[Name, dict[str, Any]] = Field(
        {
            "diffusion_only": {"aux": {"loss": "none", "lambda": 0.0}},
            "clip_region": {"aux": {"loss": "clip_region", "lambda": 0.2}},
            "ctc": {"aux": {"loss": "ctc", "lambda": 1.0, "every": 1}},
        },
        description="named overrides of `training` (null: left out); `diffusion_only` (λ = 0), the control, must stay",
    )
    seeds: tuple[Natural, ...] = Field((0, 1), description="training seeds per arm", min_length=1)
    gpu: bool | None = Field(None, description="jobs ask for a GPU; null = where this machine has one")
    ocr: Ocr = Ocr()
    scoring: Scoring = Scoring()
    figures: Figures = Figures()

    @field_validator("arms", mode="before")
    @classmethod
    def without_null(cls, arms: Any) -> Any:
        """Snakemake merges an overlay into config.yaml key by key: only null can take a default arm out."""
        return {name: arm for name, arm in arms.items() if arm is not None} if isinstance(arms, dict) else arms

    @model_validator(mode="after")
    def consistent(self) -> "Config":
        control = self.arms.get("diffusion_only")
        if control is None or self.arm("diffusion_only").aux.lambda_aux != 0:
            raise ValueError("arms: `diffusion_only` with lambda 0 must be there: every claim is measured against it")
        for name in self.arms:
            self.arm(name)
        for key, seeds in (("seeds", self.seeds), ("generation.seeds", self.generation.seeds)):
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{key}: every seed may be given once only, got {list(seeds)}")
        if self.ocr.rapidocr is None and self.ocr.easyocr is None:
            raise ValueError("ocr: at least one engine is needed")
        judges = [engine.network if isinstance(engine, EasyOcr) else "" for engine in self.engines().values()]
        for name in self.arms:
            if self.arm(name).aux.loss == "ctc" and set(judges) == {self.reader.network}:
                raise ValueError(f"arms.{name}: its own reader ({self.reader.network}) is the only judge; add rapidocr")
        return self

    def arm(self, name: str) -> Training:
        """The training section as arm `name` overrides it, validated."""
        merged = merge(self.training.model_dump(by_alias=True, mode="json"), self.arms[name])
        try:
            return Training.model_validate(merged)
        except ValidationError as error:
            raise ValueError(f"arms.{name}.{describe(error)}") from error

    def engines(self) -> dict[str, RapidOcr | EasyOcr]:
        """The OCR engines in use, by name."""
        return {name: section for name in ("rapidocr", "easyocr") if (section := getattr(self.ocr, name)) is not None}


def merge(base: dict, override: dict) -> dict:
    """`base` with the keys of `override` laid over it, dictionaries merged key by key."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def validate(raw: dict, source: str) -> Config:
    """Validate a raw mapping; `source` names it in the error.

    Raises:
        UserError: one sentence naming the key, the value and what is allowed.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{source}: {describe(error)}") from error


def load(path: str | Path) -> Config:
    """Read a YAML file (safely) and validate it."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such configuration file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: the top level must be a mapping of sections")
    return validate(raw, str(path))


def source_of(text: str) -> str:
    """How errors name a `--config` argument: the file, or the argument itself when it is inline JSON."""
    return "--config" if text.lstrip().startswith("{") else text


def raw_sections(text: str) -> dict[str, Any]:
    """The JSON object that a `--config` argument holds (inline) or names (a file), not validated yet.

    Raises:
        UserError: no such file, or not a JSON object.
    """
    source = source_of(text)
    try:
        raw = json.loads(text if source == "--config" else Path(text).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such configuration file") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not valid JSON ({error.msg}, line {error.lineno})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{source}: a JSON object of sections is needed")
    return raw


def sections(text: str, *required: str) -> dict[str, Any]:
    """The sections that one stage needs, from inline JSON or from a JSON file: name → validated section object.

    A stage is given only its own sections, so that it reruns when they change and not otherwise.

    Raises:
        UserError: no such file, not JSON, an unknown section, a value that is not allowed, or a missing section.
    """
    raw, source = raw_sections(text), source_of(text)
    if unknown := sorted(set(raw) - set(Config.model_fields)):
        raise UserError(f"{source}: {unknown[0]}: unknown section; allowed are {', '.join(Config.model_fields)}")
    if missing := sorted(set(required) - set(raw)):
        raise UserError(f"{source}: the section {missing[0]} is missing")
    validated = {}
    for name, value in raw.items():
        field = Config.model_fields[name]
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        try:
            validated[name] = TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{source}: {name}.{describe(error)}") from error
    return validated

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

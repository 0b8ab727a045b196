"""The judges (OCR engines) and how their readings are scored.

A new judge is one entry in `JUDGES`, its section in `Ocr`, and its module.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from legible.config.allowed import matching
from legible.config.section import SIDE, Fraction, Natural, Positive, PositiveFloat, Section, Text
from legible.corpus.templates import PALETTE

LARGEST = 32  # enlargement
LANGUAGE = r"^[A-Za-z0-9_]+$"
Language = Annotated[
    str,
    AfterValidator(matching(LANGUAGE[1:-1], "letters, digits and '_' only, as eng or chi_sim")),
    Field(json_schema_extra={"pattern": LANGUAGE}),
]
NO_TEXT = "no_text"  # what the prompt set of `drift` is called


@dataclass(frozen=True)
class Judge:
    """What the workflow knows of an engine without importing it."""

    label: str  # as people write its name
    module: str  # has `open_engine(section, cache_dir)`
    packages: tuple[str, ...]  # whose versions decide what it reads


JUDGES = {
    "rapidocr": Judge("RapidOCR", "legible.ocr.rapid", ("rapidocr", "onnxruntime")),
    "easyocr": Judge("EasyOCR", "legible.ocr.easy", ("easyocr", "torch")),
    "tesseract": Judge("Tesseract", "legible.ocr.tesseract", ("tesserocr",)),
}
GLYPH_JUDGE = "glyph_judge"  # what the judge of letters' shape, which reads nothing, is called among them


class RapidOcr(Section):
    """RapidOCR (PP-OCR, ONNX); its wheel carries the models."""

    detect: bool = Field(False, description="false: the whole image is one line; true: find the lines first")
    scale: Positive = Field(2, le=LARGEST, description="enlargement before reading")


class EasyOcr(Section):
    """EasyOCR with a user network or its own downloaded networks."""

    network: str = Field("resources/nano/recognizer_crnn", description="folder of a user network, or `standard`")
    models: str | None = Field(None, description="folder of downloaded networks (for `standard`)")
    detect: bool = False
    scale: Positive = Field(2, le=LARGEST)


class Tesseract(Section):
    """Tesseract, where it is installed (`pip install "legible[tesseract]"` and the system's language data)."""

    language: Language = Field("eng", description="which .traineddata to read with")
    data: str | None = Field(None, description="folder of the language data; null = where the system keeps it")
    page_mode: Literal["line", "raw line"] = Field(
        "line", description="without detect: its page mode 7, or 13, which reads some scripts better"
    )
    detect: bool = False
    scale: Positive = Field(2, le=LARGEST)


class Ocr(Section):
    """The judges. Leave a section out (null) to do without that engine."""

    rapidocr: RapidOcr | None = RapidOcr()
    easyocr: EasyOcr | None = EasyOcr()
    tesseract: Tesseract | None = Field(None, description="e.g. {language: eng}: read with Tesseract too")


class Scoring(Section):
    """Metrics and statistics."""

    normalization: Literal["strict", "lenient"] = Field("lenient", description="see docs/METRICS.md")
    resamples: Positive = Field(2000, le=1_000_000, description="bootstrap resamples, clustered by prompt")
    confidence: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.95
    seed: Natural = 0
    cer_cap: PositiveFloat = Field(1.0, description="cap of one image's CER in the macro average")
    judge_limit: Fraction | None = Field(
        0.03,
        description="a judge that gets more of the characters of our own clean renders wrong is refused; null = none",
    )


class GlyphJudge(Section):
    """A network of our own that looks at the letters' shape instead of reading them; no loss can use it."""

    path: str = Field(description="local folder with glyph_judge.safetensors, e.g. resources/nano/glyph_judge")


class Calibration(Section):
    """A panel of signs with one inner letter damaged, read by every judge: what it overlooks (docs/METRICS.md).

    The pictures have the size of `data`, and every one of them is there undamaged, too.
    """

    words: Positive = Field(20, le=10_000, description="words for each font")
    nonwords: Positive = Field(20, le=10_000, description="non-words for each font")
    severities: tuple[Fraction, ...] = Field(
        (0.5, 1.0), min_length=1, max_length=100, description="of each kind of damage, 0 … 1"
    )
    fonts: tuple[Text, ...] = Field(("DejaVu Sans Bold",), min_length=1, description='as "family style"')
    font_size: Positive = Field(14, le=SIDE, description="pixels; smaller where a string does not fit")
    color: str = "white"
    background: str = "dark green"
    seed: Natural = 0

    @field_validator("color", "background")
    @classmethod
    def in_palette(cls, name: str) -> str:
        if name not in PALETTE:
            raise ValueError(f"'{name}' is no colour; allowed are {', '.join(PALETTE)}")
        return name


class Timing(Section):
    """How many seconds a step of each arm takes, measured alone: nothing else of the workflow runs meanwhile."""

    steps: Positive = Field(
        6, le=10_000, description="steps per round, rounded up to whole turns of aux.every and measure_every"
    )
    rounds: Positive = Field(3, le=10_000, description="rounds over all arms, in rotating order")


class Drift(Section):
    """How far the pictures move from the base model's on prompts without text, same noise."""

    prompts: str = Field("resources/prompts/no_text.jsonl", description="prompts without targets")
    limit: Positive | None = Field(None, description="use only the first so many prompts")

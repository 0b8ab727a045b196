"""The configuration, one file a room: each stage's sections, the whole experiment, and how files are read.

`load` reads and validates a file, `sections` the parts that one stage is given.
"""

from legible.config.data import Data, Fonts, Kinds, PromptSet
from legible.config.experiment import Config, merge
from legible.config.figures import FIGURES, FigureEntry, Figures, FigureStyle
from legible.config.files import check_page, in_usual_order, load, raw_sections, sections, source_of, validate
from legible.config.judges import (
    GLYPH_JUDGE,
    JUDGES,
    NO_TEXT,
    Calibration,
    Drift,
    EasyOcr,
    GlyphJudge,
    Ocr,
    RapidOcr,
    Scoring,
    Tesseract,
    Timing,
)
from legible.config.losses import CRITICS, LOSSES, Clip, Reader, Segmenter
from legible.config.model import Generation, Model
from legible.config.render import Recipe, Render
from legible.config.rewards import (
    HEARD,
    REWARDS,
    SAMPLED,
    Aesthetic,
    CaptionClip,
    Hps,
    ImageReward,
    PickScore,
    Reward,
    critics_of,
)
from legible.config.section import Section
from legible.config.training import Anchor, AnchorTerm, Aux, Lora, SigmaSampling, Training
from legible.config.validation import Validation
from legible.errors import describe

__all__ = [  # every section is imported from here
    "CRITICS",
    "FIGURES",
    "GLYPH_JUDGE",
    "HEARD",
    "JUDGES",
    "LOSSES",
    "NO_TEXT",
    "REWARDS",
    "SAMPLED",
    "Aesthetic",
    "Anchor",
    "AnchorTerm",
    "Aux",
    "Calibration",
    "CaptionClip",
    "Clip",
    "Config",
    "Data",
    "Drift",
    "EasyOcr",
    "FigureEntry",
    "FigureStyle",
    "Figures",
    "Fonts",
    "Generation",
    "GlyphJudge",
    "Hps",
    "ImageReward",
    "Kinds",
    "Lora",
    "Model",
    "Ocr",
    "PickScore",
    "PromptSet",
    "RapidOcr",
    "Reader",
    "Recipe",
    "Render",
    "Reward",
    "Scoring",
    "Section",
    "Segmenter",
    "SigmaSampling",
    "Tesseract",
    "Timing",
    "Training",
    "Validation",
    "check_page",
    "critics_of",
    "describe",
    "in_usual_order",
    "load",
    "merge",
    "raw_sections",
    "sections",
    "source_of",
    "validate",
]

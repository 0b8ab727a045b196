"""The whole configuration, one pydantic model: unknown keys, wrong types and impossible values stop at once."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, field_validator, model_validator

from legible.config.allowed import TAKEN, drawable, listened_to, matching, named_apart, readable, trainable, two
from legible.config.data import Data, Fonts, PromptSet
from legible.config.figures import Figures
from legible.config.judges import (
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
from legible.config.losses import Clip, Reader, Segmenter
from legible.config.model import Generation, Model
from legible.config.render import Render
from legible.config.rewards import REWARDS, Aesthetic, CaptionClip, Hps, ImageReward, PickScore, critics_of
from legible.config.section import ENTRIES, Fraction, Name, Natural, Section
from legible.config.training import Anchor, Seeds, Training, different
from legible.config.validation import Validation
from legible.errors import describe
from legible.models.spec import spec_of
from legible.names import PLACEBOS
from legible.wording import under

PAGE = r"^[A-Za-z0-9_][A-Za-z0-9_/-]*\.md$"
Page = Annotated[
    str,
    AfterValidator(matching(PAGE[1:-1], "a relative path of letters, digits, '_', '-' and '/' that ends in .md")),
    Field(json_schema_extra={"pattern": PAGE}, max_length=200),
]
Command = Annotated[
    str, AfterValidator(matching(r"[^-\s].*", "it must begin with the name of a program, such as snakemake"))
]


class Config(Section):
    """The whole experiment."""

    experiment: Name = Field("nano", description="results go to results/{experiment}/")
    fonts: Fonts = Fonts(
        train=("DejaVu Sans", "DejaVu Sans Bold", "DejaVu Serif Bold", "STIXGeneral Bold", "cmss10"),
        held_out=("DejaVu Sans Mono Bold", "cmr10"),
    )
    data: Data = Data()
    render: Render | None = Field(
        None,
        description="e.g. {recipe: {scripts: {arabic: 1.0}}}: draw the data with the text engine; null = plain signs",
    )
    model: Model = Model()
    clip: Clip = Clip()
    reader: Reader = Reader()
    caption_clip: CaptionClip | None = Field(
        None, description="e.g. {path: resources/nano/caption_clip}: what the reward `caption` judges with"
    )
    aesthetic: Aesthetic | None = Field(None, description="e.g. {path: models/aesthetic}: what its reward judges with")
    pickscore: PickScore | None = Field(None, description="e.g. {path: models/pickscore}")
    hps: Hps | None = Field(None, description="e.g. {path: models/hps}")
    imagereward: ImageReward | None = Field(None, description="e.g. {path: models/imagereward}")
    segmenter: Segmenter = Segmenter()
    prompt_sets: dict[Name, PromptSet] = Field(
        {"held_out": PromptSet(path="resources/prompts/held_out.jsonl")},
        min_length=1,
        description="files of prompts, by name (null: left out)",
    )
    benchmarks: str | None = Field(
        None, description="folder with copies of public prompt sets (results/prompts/*.jsonl); null = fetch them"
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
    contrasts: tuple[Annotated[tuple[Name, Name], BeforeValidator(two)], ...] = Field(
        (), description="pairs of arms that the pages compare with each other too, e.g. [[reading, ctc]]; [] = none"
    )
    seeds: Seeds = Field((0, 1), description="training seeds per arm")
    anchor: Anchor = Anchor()
    validation: Validation | None = Field(
        None, description="e.g. {every: 16}: draw and read pictures while arms train; null = not"
    )
    trackers: Annotated[tuple[Literal["tensorboard", "wandb"], ...], AfterValidator(different)] = Field(
        (), description="also write each run's log for tensorboard, wandb (offline), where installed; [] = not"
    )
    drift: Drift | None = Field(None, description="measure image drift on prompts without text; null = not")
    reward_scores: Annotated[tuple[str, ...], AfterValidator(different)] = Field(
        (), description="rewards by which all drawn pictures are scored, with the guards that void a gain; [] = not"
    )
    cer_levels: Annotated[tuple[Fraction, ...], AfterValidator(different)] = Field(
        (),
        max_length=ENTRIES,
        description="draw how many steps each arm with snapshots takes to these character error rates; [] = not",
    )
    gradients: Natural = Field(
        0, le=1_000_000, description="samples on which each loss's gradient is measured per σ; 0 = not at all"
    )
    timing: Timing | None = Field(
        None, description="e.g. {steps: 6, rounds: 3}: measure each arm's seconds per step alone, in turn; null = not"
    )
    protocol: str | None = Field(
        None,
        description="e.g. docs/PROTOCOL.md: the results page confirms what this file said before training; null = not",
    )
    regimes: dict[Name, dict[str, Any]] = Field(
        {}, description="variants of this whole configuration, run beside it as experiments {experiment}_{regime}"
    )
    title: str = Field("", max_length=1000, description="what this experiment asks, as the heading of its results")
    results_page: Page | None = Field(
        None, description="write the tables and figures of all regimes to this .md file, such as docs/RESULTS.md"
    )
    command: Command = Field(
        "snakemake --cores all", max_length=1000, description="the command that the results page gives"
    )
    gpu: bool | None = Field(
        None, description="jobs ask for a GPU; null = where this machine has one, and on a cluster"
    )
    ocr: Ocr = Ocr()
    glyph_judge: GlyphJudge | None = Field(
        None,
        description="e.g. {path: resources/nano/glyph_judge}: count pictures with malformed letters; a gain that comes "
        "with more of them is void; null = not",
    )
    calibration: Calibration | None = Field(
        None, description="e.g. {words: 20}: measure which damage to a letter each judge overlooks; null = not"
    )
    scoring: Scoring = Scoring()
    figures: Figures = Figures()

    @model_validator(mode="before")
    @classmethod
    def readable_text(cls, raw: Any) -> Any:
        return readable(raw)

    @field_validator("experiment")
    @classmethod
    def free(cls, experiment: str) -> str:
        if experiment in TAKEN:
            raise ValueError(f"results/{experiment} is taken by files of all experiments; choose another name")
        return experiment

    @field_validator("arms", "prompt_sets", "regimes", mode="before")
    @classmethod
    def without_null(cls, named: Any) -> Any:
        """Snakemake merges an overlay into config.yaml key by key: only null can take a default entry out."""
        return {name: entry for name, entry in named.items() if entry is not None} if isinstance(named, dict) else named

    @model_validator(mode="after")
    def consistent(self) -> "Config":
        named_apart(self)
        drawable(self)
        trainable(self)
        control = self.arms.get("diffusion_only")
        if control is None or self.arm("diffusion_only").aux.lambda_aux != 0:
            raise ValueError("arms: `diffusion_only` with lambda 0 must be there: every claim is measured against it")
        if heard := self.arm("diffusion_only").heard:
            raise ValueError(f"arms.diffusion_only: the control listens to {heard[0]}; give rewards to other arms only")
        if self.arm("diffusion_only").start:
            raise ValueError(
                "arms.diffusion_only.start: the control begins with the base, as it is measured; leave it out"
            )
        for name in self.arms:
            if self.arm(name).weights != "float32" and self.model.dtype != self.arm(name).weights:
                raise ValueError(f"arms.{name}.weights: bfloat16 needs model.dtype bfloat16, got {self.model.dtype}")
            if self.arm(name).order == "stages" and len(self.render.stages if self.render else ()) < 2:
                raise ValueError(f"arms.{name}.order: stages need a section `render` with two stages or more")
            self.check_heard(name)
            listened_to(self, name)
            late = [step for step in self.arm(name).snapshots if step >= self.arm(name).steps]
            if late:
                raise ValueError(f"arms.{name}.snapshots: {late[0]} is not below steps ({self.arm(name).steps})")
        for number, pair in enumerate(self.contrasts):
            if absent := [name for name in pair if name not in self.arms]:
                raise ValueError(
                    f"contrasts, entry {number + 1}: no arm is called '{absent[0]}'; there are {', '.join(self.arms)}"
                )
            if len(set(pair)) < 2:
                raise ValueError(f"contrasts, entry {number + 1}: '{pair[0]}' is compared with itself; name two arms")
        for name in self.regimes:
            self.regime(name)
        for name in self.reward_scores:
            if name not in REWARDS:
                raise ValueError(f"reward_scores: '{name}' is no reward; allowed are {', '.join(REWARDS)}")
            if missing := [critic for critic in critics_of([name]) if getattr(self, critic) is None]:
                raise ValueError(f"reward_scores: {name} judges with {missing[0]}; set {missing[0]}.path")
        for name, section in [("generation", self.generation)] + [
            (f"prompt_sets.{name}", self.generation_of(name)) for name in self.prompt_sets
        ]:
            if section.scheduler and section.scheduler not in spec_of(self.model.family).schedulers:
                raise ValueError(f"{name}.scheduler: {self.model.family} has its own scheduler only; choose null")
        drawn = [name for name, entry in self.prompt_sets.items() if entry.split]
        if drawn and (self.render or not self.data.test):
            raise ValueError(f"prompt_sets.{drawn[0]}.split: it needs plain signs (render: null) and data.test above 0")
        if NO_TEXT in self.prompt_sets:
            raise ValueError(f"prompt_sets.{NO_TEXT}: this name is taken by the prompts of `drift`; choose another one")
        if not self.engines():
            raise ValueError("ocr: at least one engine is needed: rapidocr, easyocr or tesseract")
        judges = [engine.network if isinstance(engine, EasyOcr) else "" for engine in self.engines().values()]
        for name in self.arms:
            if "reader" in critics_of(self.arm(name).heard) and set(judges) == {self.reader.network}:
                raise ValueError(f"arms.{name}: its own reader ({self.reader.network}) is the only judge; add rapidocr")
        return self

    def check_heard(self, name: str) -> None:
        """An arm that never hears its loss, or whose adapters are not trained, would be a second control, silently."""
        training = self.arm(name)
        if name != "diffusion_only" and training.aux.loss != "none" and training.aux.lambda_aux == 0:
            raise ValueError(f"arms.{name}.aux.lambda: 0, so its loss is never heard; set it above 0, or loss: none")
        self.check_start(name)
        if training.placebo != name.endswith(tuple(PLACEBOS)):
            ending = f"an arm is a placebo where its name ends in {' or '.join(PLACEBOS)}, as pages know it"
            raise ValueError(f"arms.{name}: it is {'a' if training.placebo else 'no'} placebo; {ending}")
        if missing := [critic for critic in critics_of(training.heard) if getattr(self, critic, critic) is None]:
            raise ValueError(
                f"arms.{name}: its reward judges with {missing[0]}; set {missing[0]}.path to where it lies"
            )
        if training.reward.sampled and training.reward.method == "grpo" and not spec_of(self.model.family).flow:
            raise ValueError(
                f"arms.{name}.reward.method: grpo needs a flow, and {self.model.family} is none; choose nft, dpo or "
                "best_of_n"
            )
        if training.aux.weights and training.aux.every > training.steps:
            raise ValueError(
                f"arms.{name}.aux.every: {training.aux.every}, but there are {training.steps} steps: its loss is never "
                "heard; lower it or raise steps"
            )
        if "lora" in self.arms[name] and training.method != "lora":
            raise ValueError(f"arms.{name}.lora: method is {training.method}; set method: lora, or leave lora out")

    @model_validator(mode="after")
    def watchable(self) -> "Config":
        """Validation draws what the finished run would, and reads it with a network that no arm listens to."""
        if self.validation is None:
            return self
        judge = self.engines().get(self.validation.judge)
        if judge is None:
            known = ", ".join(self.engines())
            raise ValueError(f"validation.judge: '{self.validation.judge}' is no engine of `ocr`; there are {known}")
        for name in self.arms:
            training = self.arm(name)
            if "reader" in critics_of(training.heard) and getattr(judge, "network", None) == self.reader.network:
                raise ValueError(f"validation.judge: arms.{name} listens to its network ({self.reader.network})")
            if training.sharded:
                raise ValueError(
                    f"arms.{name}.parallel: shard cannot draw pictures; choose replicate, or no validation"
                )
            if training.assistant_lora or training.quantization != "none":
                raise ValueError(
                    f"arms.{name}: with an assistant_lora or a quantised base, pictures drawn while training are not "
                    "those of the finished run; leave it out, or set validation: null"
                )
            if training.snapshots and self.validation.chooses:
                raise ValueError(
                    f"arms.{name}.snapshots: learning curves end with the last step, but validation chooses another; "
                    "set snapshots: [], or validation.keep: last and patience: null"
                )
        return self

    def check_start(self, name: str) -> None:
        """An arm may go on from another one that leaves full weights, and not in a circle."""
        seen = [name]
        while start := self.arm(seen[-1]).start:
            if start not in self.arms:
                raise ValueError(f"arms.{seen[-1]}.start: no arm is called '{start}'; there are {', '.join(self.arms)}")
            if start in seen:
                raise ValueError(f"arms.{name}.start: {' → '.join([*seen, start])} is a circle")
            if self.arm(start).method != "full":
                raise ValueError(f"arms.{seen[-1]}.start: '{start}' leaves adapters; set method: full there")
            seen.append(start)

    def arm(self, name: str) -> Training:
        """The training section as arm `name` overrides it, validated."""
        merged = merge(self.training.model_dump(by_alias=True, mode="json"), self.arms[name])
        try:
            return Training.model_validate(merged)
        except ValidationError as error:
            raise ValueError(under(f"arms.{name}", describe(error))) from error

    def generation_of(self, prompt_set: str) -> Generation:
        """The generation section with what a prompt set has of its own."""
        own = self.prompt_sets[prompt_set].model_dump(
            mode="json", exclude={"path", "limit", "split"}, exclude_none=True
        )
        try:
            return Generation.model_validate(self.generation.model_dump(mode="json") | own)
        except ValidationError as error:
            raise ValueError(under(f"prompt_sets.{prompt_set}", describe(error))) from error

    def regime(self, name: str) -> "Config":
        """This configuration as regime `name` overrides it: an experiment of its own, without regimes."""
        own = {"experiment": f"{self.experiment}_{name}", "regimes": {}, "results_page": None}
        if unknown := sorted(set(own) & set(self.regimes[name])):
            raise ValueError(f"regimes.{name}.{unknown[0]}: a regime cannot set this; leave it out")
        merged = merge(self.model_dump(by_alias=True, mode="json"), self.regimes[name])
        try:
            return Config.model_validate(merged | own)
        except ValidationError as error:
            raise ValueError(under(f"regimes.{name}", describe(error))) from error

    def engines(self) -> dict[str, RapidOcr | EasyOcr | Tesseract]:
        """The OCR engines in use, by name."""
        return {
            name: section for name in type(self.ocr).model_fields if (section := getattr(self.ocr, name)) is not None
        }

    def detectors(self) -> dict[str, RapidOcr | EasyOcr | Tesseract]:
        """The engines that can say whether a picture holds text at all: set to find lines, and to look twice as close.

        A reader of whole lines finds letters in everything. EasyOCR's detector is a download: it counts where set.
        """
        return {
            name: section.model_copy(update={"detect": True, "scale": 2 * section.scale})
            for name, section in self.engines().items()
            if section.detect or not isinstance(section, EasyOcr)
        }


def merge(base: dict, override: dict) -> dict:
    """`base` with the keys of `override` laid over it, dictionaries merged key by key."""
    merged = dict(base)
    for key, value in override.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged

"""The figures by name: what each is drawn from, when, how it looks, and what stands below it.

A new figure is one entry in `FIGURES` and its module.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, create_model, model_validator

from legible.config.allowed import matching
from legible.config.section import ENTRIES, Positive, Section

HEX = r"^#[0-9a-fA-F]{6}$"
Color = Annotated[
    str,
    AfterValidator(matching(HEX[1:-1], "a colour is written as #0072B2, with six hexadecimal digits")),
    Field(json_schema_extra={"pattern": HEX}),
]
MOST_PIXELS = 50_000_000


class FigureStyle(Section):
    """One figure. Changing it redraws that figure only."""

    width: Annotated[float, Field(ge=3, le=100, strict=True)] = Field(7.0, description="inches")
    height: Annotated[float, Field(ge=1, le=100, strict=True)] = Field(4.0, description="inches")
    dpi: Annotated[int, Field(ge=20, le=1200, strict=True)] = 150
    colors: tuple[Color, ...] = Field(
        ("#999999", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
        description="base, then the arms in order (Okabe-Ito: colour-blind safe)",
        min_length=3,
        max_length=ENTRIES,
    )
    examples: Positive = Field(6, le=100, description="rows of a picture grid")

    @model_validator(mode="after")
    def fits_in_memory(self) -> "FigureStyle":
        if (pixels := self.width * self.height * self.dpi**2) > MOST_PIXELS:
            raise ValueError(
                f"dpi: {self.width:g} × {self.height:g} inches at {self.dpi} dpi make {pixels / 1e6:.0f} million "
                f"pixels; at most {MOST_PIXELS // 10**6} million are allowed"
            )
        return self


PLAIN = FigureStyle()


@dataclass(frozen=True)
class FigureEntry:
    """What workflow and pages know of a figure without importing it."""

    title: str  # its heading
    module: str  # has `draw(…, style)`, which is given what it `needs`, in that order
    needs: tuple[str, ...]  # keys of `legible.figures.inputs.READ`
    caption: str
    style: FigureStyle = PLAIN  # by default
    when: Callable[[Any], bool] = lambda config: True  # whether an experiment (a Config) measures what it shows
    on_results_page: bool = True  # the report shows all


# In the order of the report.
FIGURES = {
    "delta_to_control": FigureEntry(
        title="Difference to the control",
        module="legible.figures.delta_to_control",
        needs=("summary", "seeds", "arms"),
        style=FigureStyle(height=3.2),
        caption=(
            "Paired difference in character error rate to the control (λ = 0), on the same prompts and noise; left "
            "of zero is better. Bars are bootstrap intervals over prompts, rings the single training seeds, each "
            "against the control of its own seed. Bars left of zero are no claim yet: that takes corrected tests "
            "and at least three training seeds, and an arm with an anchor has another control (the same anchor "
            "without the loss), whose numbers stand in the report. The grey rows, base model against control, say "
            "what fine-tuning changed by itself: right of zero means that the base model makes more errors. A "
            "placebo that unlearns spelling may lie outside the picture: an arrow, and its numbers."
        ),
    ),
    "cer_by_arm": FigureEntry(
        title="Character error rate",
        module="legible.figures.cer_by_arm",
        needs=("summary", "seeds", "arms"),
        on_results_page=False,
        caption=(
            "Character error rate of the base model and of every arm, one panel per OCR engine; further to the left "
            "is better. Bars are bootstrap intervals over prompts, rings the single training seeds. Thin lines are "
            "the ceilings: our own renders of the same prompts, and these after the VAE, which show what the engine "
            "gets wrong by itself. Overlapping bars do not rule out a difference, because the arms share their "
            "prompts: read the difference to the control in its own figure."
        ),
    ),
    "drift_tradeoff": FigureEntry(
        title="What it costs the pictures",
        module="legible.figures.drift_tradeoff",
        needs=("summary", "drift", "arms"),
        style=FigureStyle(height=4.5),
        when=lambda config: config.drift is not None,
        caption=(
            "What legibility costs: character error rate against the drift of pictures of prompts without text from "
            "what the base model draws on the same noise. Both axes: lower is better. Bars are bootstrap intervals "
            "over prompts. The dashed line joins the models that no other one beats in both. A large gain far to "
            "the right may be bought with other pictures; the control's own drift is what fine-tuning alone "
            "changes. Where the base model draws letters for these prompts, too, drift cannot show collateral "
            "damage. Placebo arms are left out: they unlearn spelling."
        ),
    ),
    "learning_curves": FigureEntry(
        title="In equal steps and in equal time",
        module="legible.figures.learning_curves",
        needs=("curve", "arms"),
        style=FigureStyle(height=5.0),
        when=lambda config: any(config.arm(arm).snapshots for arm in config.arms),
        caption=(
            "Character error rate of every arm while it trains, against optimiser steps and against the seconds "
            "that training takes, evaluation left out: by the clock that the axis names, measured alone or, without "
            "that, beside other work, and then no more than a hint; lower is better. Strong lines are means over "
            "training seeds, thin ones single seeds, the dotted line is the base model. An auxiliary loss makes a step "
            "slower: only where an arm lies below the control's last point left of the upright line is it ahead in "
            "equal time as well."
        ),
    ),
    "race": FigureEntry(
        title="The race: at equal time, and at what cost",
        module="legible.figures.race",
        needs=("curve", "drift", "malformed", "arms"),
        style=FigureStyle(height=5.0),
        when=lambda config: (
            config.drift is not None
            and any(config.arm(arm).reward.sampled for arm in config.arms)
            and any(config.arm(arm).snapshots for arm in config.arms)
        ),
        caption=(
            "Character error rate of every arm against the time that its training has taken, sampling and reading of "
            "its own pictures included, evaluation left out; lower is better. Strong lines are means over training "
            "seeds, thin ones single seeds, the dotted line is the base model. Beside it, at the same height, each "
            "arm's end against what it costs: how far pictures without text have moved from the base model's and, "
            "where the glyph judge looked, the share of pictures with a malformed letter. To be ahead, an arm must lie "
            "lower without lying further right. Placebo arms are left out."
        ),
    ),
    "steps_to_cer": FigureEntry(
        title="How many steps to a given error rate",
        module="legible.figures.steps_to_cer",
        needs=("reached", "arms"),
        style=FigureStyle(height=4.0),
        when=lambda config: bool(config.cer_levels) and any(config.arm(arm).snapshots for arm in config.arms),
        caption=(
            "After how many optimiser steps each training first lies at a character error rate or below it; fewer is "
            "better. Between two snapshots the rate is taken to change linearly. Rings are single training seeds, the "
            "upright line their mean; a seed that never gets there stands as an arrow at the end of its training, and "
            "then no mean is drawn. The number is what the arm takes of the control's steps, the lowest and the "
            "highest of the training seeds in brackets; a step with an auxiliary loss takes longer."
        ),
    ),
    "samples": FigureEntry(
        title="The same prompts, side by side",
        module="legible.figures.samples",
        needs=("images", "scores", "arms"),
        style=FigureStyle(height=7.0),
        caption=(
            "Pictures of every model for the same prompts and the same start noise, beside our own render of what "
            "was asked for. The prompts are taken evenly from the list, whatever the result; of many arms, those "
            "with the fewest errors are shown. Below each picture stands what the engines read, with wrong "
            "characters marked, and its character error rate."
        ),
    ),
    "best_and_worst": FigureEntry(
        title="Where it helps and hurts most",
        module="legible.figures.best_and_worst",
        needs=("images", "scores", "arms"),
        style=FigureStyle(height=7.0),
        caption=(
            "The pictures in which the arm that changed the readings most gains and loses most against the control, "
            "averaged over the engines; columns as in the samples. These are chosen by result: extremes, not "
            "typical cases. The counts above the pictures say how many improved and how many fell."
        ),
    ),
    "cer_by_length": FigureEntry(
        title="Short and long words",
        module="legible.figures.cer_by_length",
        needs=("summary", "arms"),
        caption=(
            "Character error rate by the number of characters asked for; lower is better. Bars are bootstrap "
            "intervals over prompts; a length with a single prompt has none. The number of prompts stands below "
            "each length: few prompts, little to say. The dotted line is what the engine gets wrong on our own "
            "renders."
        ),
    ),
    "gradient_reach": FigureEntry(
        title="How far each loss reaches",
        module="legible.figures.gradient_reach",
        needs=("gradients",),
        style=FigureStyle(height=3.6),
        when=lambda config: config.gradients > 0 and any(config.arm(arm).aux.weights for arm in config.arms),
        caption=(
            "How strong the gradient of each auxiliary loss is beside that of the diffusion loss, and where it "
            "points, at the noise levels that the sampler visits, measured on the base model before any training. A "
            "loss whose gradient fades towards σ = 1 cannot teach what is decided in the first steps. A cosine near "
            "zero says that it asks for something that the diffusion loss does not, a negative one that both pull "
            "apart."
        ),
    ),
    "adaptive_weights": FigureEntry(
        title="How strong each loss was",
        module="legible.figures.adaptive_weights",
        needs=("metrics", "arms"),
        style=FigureStyle(height=5.0),
        when=lambda config: any(config.arm(arm).aux.balance != "constant" for arm in config.arms),
        caption=(
            "The weight λ of the arms that change it during training; then, for every arm where both gradients were "
            "measured, how strong the weighted auxiliary gradient is beside the diffusion gradient, and the cosine "
            "between them. Dots are measurements, lines running means, both over training seeds together. The "
            "strength is comparable between losses, λ is not."
        ),
    ),
    "training_curves": FigureEntry(
        title="How training went",
        module="legible.figures.training_curves",
        needs=("metrics", "arms"),
        style=FigureStyle(height=5.0),
        on_results_page=False,
        caption=(
            "Training of every arm and seed: pale lines are single steps, strong ones a running mean. Data order, "
            "noise and noise levels are the same for all arms of a seed, so the second panel, the difference to the "
            "control, shows what the auxiliary loss costs the diffusion loss: a line that climbs means that it "
            "pulls the model away from the data. The auxiliary loss is measured only on its own steps and shown "
            "before it is multiplied by λ."
        ),
    ),
    "validation_curves": FigureEntry(
        title="Spelling while it trained",
        module="legible.figures.validation_curves",
        needs=("validation", "arms"),
        style=FigureStyle(height=4.0),
        when=lambda config: config.validation is not None,
        on_results_page=False,
        caption=(
            "Character error rate on the validation prompts, as one judge read the pictures while each arm trained; "
            "lower is better. Strong lines are means over training seeds as far as all of them got, thin ones single "
            "seeds; a ring marks each seed's best evaluation. These prompts are few and no scored prompt is among "
            "them: they say when to stop, not how well an arm spells, and a lowest point is low by luck, too."
        ),
    ),
    "dataset": FigureEntry(
        title="What it was trained on",
        module="legible.figures.dataset",
        needs=("data", "showcase"),
        style=FigureStyle(height=5.0, examples=8),
        on_results_page=False,
        caption=(
            "Training pictures with their captions, taken evenly from the dataset. Beside each, its glyph mask in grey "
            "with the boxes of lines, words and characters, which are tight around the ink; the auxiliary loss "
            "looks at the line boxes. Below: a picture of each of the ten scripts that the text engine draws, with its "
            "mask, words and characters; nothing here was trained on these."
        ),
    ),
}

Figures = create_model(
    "Figures",
    __base__=Section,
    __doc__="The figures of the report.",
    **{name: (FigureStyle, entry.style) for name, entry in FIGURES.items()},
)

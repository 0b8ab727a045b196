"""The report: the answer in sentences computed from the numbers, then tables, figures, costs and how to repeat it."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd

from legible.config import FIGURES
from legible.errors import UserError
from legible.figures.choose import columns_of, pick_evenly
from legible.figures.inputs import read_rows, require
from legible.figures.labels import (
    arm_label,
    auxiliary_arms,
    engine_label,
    is_placebo,
    signed,
    with_control_first,
)
from legible.metrics.compare import claims
from legible.metrics.statistics import seed_interval
from legible.names import BASE, CEILINGS, CONTROL, SCALE
from legible.report import contrasts
from legible.report.describe import describe_drift, describe_judges, describe_validation
from legible.report.experiment import (
    Experiment,
    clipped_text,
    clock,
    corrected,
    pace_text,
    strength_text,
    verdict_of,
)
from legible.report.letters import letter_tables
from legible.report.rewards import reward_tables
from legible.report.verdict import MIN_SEEDS, explain, explain_ceilings, explain_control, headline, placebo_note, rule
from legible.report.words import counted, interval, listed, p_text, with_delta

RESOURCES = Path(__file__).resolve().parents[2] / "resources" / "report"
# Column of the summary table → what it is called and which direction is better.
COLUMNS = {
    "cer_micro": "CER ↓",
    "wer": "WER ↓",
    "exact": "exact match ↑",
    "ned": "NED ↑",
    "extra_text_rate": "extra text ↓",
    "no_detection_rate": "nothing read ↓",
}
# Column of drift.csv → what it is called; all are distances to the base model's pictures.
DRIFTS = {"dssim": "DSSIM ↓", "clip_distance": "CLIP distance ↓", "kid": "KID ↓"}


def summary_rows(summary: pd.DataFrame, arms: Sequence[str], prompt_set: str) -> list[dict]:
    """The summary table: base, arms and ceilings × engines, a cell per column of `COLUMNS`."""
    rows = summary[(summary["stratum"] == "all") & (summary["prompt_set"] == prompt_set)]
    cells = rows.set_index(["arm", "engine", "metric"])[["value", "ci_low", "ci_high"]]
    found = [arm for arm in (BASE, *with_control_first(arms), *CEILINGS) if arm in set(rows["arm"])]
    return [
        {
            "arm": arm_label(arm),
            "engine": engine_label(engine),
            "ceiling": arm in CEILINGS,
            "cells": [interval(*cells.loc[(arm, engine, metric)]) for metric in COLUMNS],
        }
        for arm in found
        for engine in sorted(rows["engine"].unique())
    ]


def guard_rows(summary: pd.DataFrame, drift: pd.DataFrame, arms: Sequence[str], prompt_set: str) -> list[dict]:
    """What a gain may have been bought with: per model its CER, text that nobody asked for, and the drift of pictures.

    Returns:
        Rows with `arm` and `cells`: CER and extra-text rate per engine, then the drifts in `DRIFTS`.
    """
    columns = ["value", "delta_vs_control", "delta_low", "delta_high"]
    rows = summary[(summary["stratum"] == "all") & (summary["prompt_set"] == prompt_set)]
    read = {key: tuple(row) for key, row in rows.set_index(["arm", "engine", "metric"])[columns].iterrows()}
    moved = {key: tuple(row) for key, row in drift.set_index(["arm", "metric"])[columns].iterrows()}
    engines = sorted(rows["engine"].unique())
    found = []
    for arm in (BASE, *with_control_first(arms), SCALE):
        cells = [read.get((arm, engine, metric)) for metric in ("cer_micro", "extra_text_rate") for engine in engines]
        cells += [moved.get((arm, metric)) for metric in DRIFTS]
        if any(cells):
            found.append({"arm": arm_label(arm), "cells": [with_delta(*cell) if cell else "–" for cell in cells]})
    return found


def guard_columns(engines: Sequence[str]) -> list[str]:
    """Headings of the cells of `guard_rows`."""
    names = [engine_label(engine) for engine in sorted(engines)]
    return [f"{what} ↓, {name}" for what in ("CER", "extra text") for name in names] + list(DRIFTS.values())


def cost_rows(experiment: Experiment) -> list[dict]:
    """The table of training costs, one row per run.

    Raises:
        UserError: a run.json lacks one of the numbers.
    """
    rows = []
    for (arm, seed), run in experiment.runs.items():
        try:
            rows.append(
                {
                    "arm": arm_label(arm),
                    "seed": seed,
                    "steps": run["steps"],
                    "wall": f"{run['wall_seconds']:.0f}",
                    "processor": f"{run['processor_seconds']:.0f}",
                    "per_step": pace_text(experiment, arm),
                    "memory": f"{run['peak_memory_bytes'] / 2**30:.2f}",
                    "trained": f"{run['parameters_trained']:,} of {run['parameters_total']:,}",
                    "strength": strength_text(experiment, arm),
                    "clipped": clipped_text(experiment, arm),
                }
            )
        except KeyError as error:
            raise UserError(
                f"runs/{arm}/seed{seed}/run.json: the key {error} is missing; train this run again"
            ) from error
    return rows


def limits(experiment: Experiment) -> list[str]:
    """What these numbers do not say, as far as the configuration and the readings tell."""
    found, config = [], experiment.config
    total = max(run["parameters_total"] for run in experiment.runs.values())
    data = config.data
    if total < 100e6:
        found.append(
            f"The model is small ({total / 1e6:.1f} million parameters) and so are its pictures ({data.height} × "
            f"{data.width} pixels, {data.length[0]} to {data.length[1]} characters a line): what helps it need not "
            "help a large model."
        )
    whole = [engine_label(name) for name, engine in config.engines().items() if not engine.detect]
    if whole:
        found.append(
            f"{listed(whole)} read every picture as a single line (detection is off), which suits one-line signs: text "
            "elsewhere in a picture is not found by itself, and something is nearly always read."
        )
    found.append(describe_judges(config))
    found += filter(None, [describe_validation(config, experiment.runs)])
    if len(config.engines()) < 2:
        found.append("There is one judge only. A claim needs at least two engines of different families.")
    seeds = len(config.seeds)
    found.append(
        f"{counted(seeds).capitalize()} per arm: intervals of error rates and of drift are about other prompts, not "
        f"about other training runs{f'; with fewer than {MIN_SEEDS} nothing is claimed' if seeds < MIN_SEEDS else ''}."
    )
    strong = [arm for arm in auxiliary_arms(experiment.arms) if experiment.strength[arm][0] > 1]
    if strong:
        found.append(
            f"With {listed(strong)} the auxiliary gradient is longer than the diffusion loss's (table of costs): what "
            "is shown holds for trainings that mostly follow the auxiliary loss."
        )
    bound = {arm for (arm, _), run in experiment.runs.items() if run.get("lambda_at_bound", 0) > 0}
    if held := [arm for arm in experiment.arms if arm in bound]:
        found.append(
            f"With {listed(held)} λ was held at one of lambda_bounds on some steps (lambda_at_bound in run.json): "
            "there the balance that was asked for was not kept."
        )
    found.append(
        "Where losses, weights or arms were chosen on these prompts, as those of the default experiment were, the "
        "numbers flatter them; only other prompts can confirm them."
    )
    found += dict.fromkeys(placebo_note(arm) for arm in experiment.arms if is_placebo(arm))
    if experiment.drift is None:
        found.append("Only legibility is measured. Nothing here says whether the pictures changed in other respects.")
    found.append("Error rates depend on engines, normalisation and picture size: do not compare them across reports.")
    return found


def sample_rows(results: Path, scores: pd.DataFrame, arms: Sequence[str], count: int) -> list[dict]:
    """The pictures of the figure `samples` as text: prompt, target, and per model what the engines read.

    Raises:
        UserError: the base model's manifest or a prompt in it is missing.
    """
    rows, models = [], [model for model in columns_of(scores, arms) if model not in CEILINGS]
    for prompt_set, prompt_id, seed in pick_evenly(scores, count):
        path = results / "images" / BASE / prompt_set / "manifest.jsonl"
        manifest = read_rows(path, ("prompt_id", "prompt"), "generate").drop_duplicates("prompt_id")
        prompts = dict(zip(manifest["prompt_id"], manifest["prompt"], strict=True))
        if prompt_id not in prompts:
            raise UserError(f"{path}: the prompt {prompt_id} is not in it; run the generate stage again")
        own = scores[(scores["prompt_set"] == prompt_set) & (scores["prompt_id"] == prompt_id)]
        own = own[own["image_seed"] == seed].sort_values("engine")
        read = [own[own["model"] == model]["reading"].tolist() for model in models]
        rows.append({"prompt": prompts[prompt_id], "target": own["target"].iloc[0], "readings": read})
    return rows


def figure_entry(results: Path, name: str) -> dict:
    """A figure as a data URI, with its title and caption."""
    png = require(results / "figures" / f"{name}.png", "figures").read_bytes()
    uri = f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
    return {"name": name, "title": FIGURES[name].title, "uri": uri, "caption": FIGURES[name].caption}


def drawn_figures(results: Path) -> list[str]:
    """Names of the figures that were drawn for this experiment, in the report's order."""
    return [name for name in FIGURES if (results / "figures" / f"{name}.png").is_file()]


def tested_rows(experiment: Experiment, prompt_set: str) -> list[dict]:
    """The table of tests: per arm and judge the differences in CER and in exact match with their p-values."""
    summary, confidence = experiment.summary, experiment.config.scoring.confidence
    runs = claims(experiment.seeds)
    runs = runs[runs["prompt_set"] == prompt_set].set_index(["arm", "engine"]).sort_index()
    rows = summary[(summary["prompt_set"] == prompt_set) & (summary["stratum"] == "all") & (summary["arm"] != BASE)]
    rows = rows[rows["p_value"].notna()]
    exact = rows[rows["metric"] == "exact"].set_index(["arm", "engine"])
    found = []
    for row in rows[rows["metric"] == "cer_micro"].itertuples():
        other, own = exact.loc[(row.arm, row.engine)], runs.loc[[(row.arm, row.engine)]]
        base = own["value"] - (row.value - row.base_delta)
        low, high = seed_interval(own["delta_vs_control"].dropna().tolist(), confidence)
        base_low, base_high = seed_interval(base.tolist(), confidence)
        found.append(
            {
                "arm": row.arm,
                "control": row.control,
                "engine": engine_label(row.engine),
                "cer": f"{signed(row.delta_vs_control)} [{signed(row.two_way_low)}, {signed(row.two_way_high)}]",
                "cer_seeds": f"[{signed(low)}, {signed(high)}]",
                "base": f"{signed(row.base_delta)} [{signed(row.base_two_way_low)}, {signed(row.base_two_way_high)}]",
                "base_seeds": f"[{signed(base_low)}, {signed(base_high)}]",
                "base_p_holm": p_text(row.base_p_holm),
                "cer_p": p_text(row.p_value),
                "cer_p_holm": p_text(row.p_holm),
                "exact": f"{signed(other.delta_vs_control)} [{signed(other.delta_low)}, {signed(other.delta_high)}]",
                "exact_p": p_text(other.p_value),
                "exact_p_holm": p_text(other.p_holm),
            }
        )
    return found


def contrast_table(found: Sequence[contrasts.Contrast], confidence: float) -> dict | None:
    """Arm against arm, with its note; None where nothing was to be compared."""
    if not found:
        return None
    rows, sentences = contrasts.contrast_rows(found), contrasts.sentences(found, confidence)
    return {"note": contrasts.NOTE, "columns": contrasts.COLUMNS, "rows": rows, "sentences": sentences}


def answer(experiment: Experiment, prompt_set: str, found: Sequence[contrasts.Contrast]) -> dict:
    """What the page says about one prompt set; `found`: its comparisons of arm with arm."""
    summary, seeds, confidence = experiment.summary, experiment.seeds, experiment.config.scoring.confidence
    verdicts = [verdict_of(experiment, arm, prompt_set) for arm in auxiliary_arms(experiment.arms)]
    size = summary[(summary["prompt_set"] == prompt_set) & (summary["arm"] == CONTROL)].iloc[0]
    sentences = [explain(verdict, confidence) for verdict in verdicts]
    sentences += [explain_control(summary, seeds, prompt_set, confidence), explain_ceilings(summary, prompt_set)]
    drift, first = experiment.drift, prompt_set == experiment.first_set
    return {
        "prompt_set": prompt_set,
        "headline": headline(verdicts),
        "outcomes": sorted({verdict.outcome for verdict in verdicts}),
        "sentences": [sentence for sentence in sentences if sentence],
        "prompts": int(size["n_prompts"]),
        "images": int(size["n_images"]),
        "seeds": int(size["n_training_seeds"]),
        "rows": summary_rows(summary, experiment.arms, prompt_set),
        "tests": tested_rows(experiment, prompt_set),
        "rewards": reward_tables(experiment.rewards, experiment.guards, prompt_set),
        "letters": letter_tables(experiment.malformed, experiment.panel, experiment.attributes, prompt_set, first),
        "contrasts": contrast_table(found, confidence),
        "guard": [] if drift is None else guard_rows(summary, drift, experiment.arms, prompt_set),
    }


def build(experiment: Experiment, config_text: str, figures: Sequence[str]) -> str:
    """The report as one self-contained HTML page.

    Args:
        experiment: the experiment, read.
        config_text: its configuration as YAML, as it is shown.
        figures: names of the figures to show, whatever their order.

    Raises:
        UserError: a figure or a number is missing, or a figure is unknown.
    """
    if unknown := sorted(set(figures) - set(FIGURES)):
        raise UserError(f"--figures: {unknown[0]}: unknown figure; allowed are {', '.join(FIGURES)}")
    (experiment,) = corrected([experiment])
    between = contrasts.contrasts_of([experiment])[experiment.name]
    summary, scores, runs, config = experiment.summary, experiment.scores, experiment.runs, experiment.config
    results, models = experiment.results, [m for m in columns_of(scores, experiment.arms) if m not in CEILINGS]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(RESOURCES),
        autoescape=True,  # prompts and readings are text, never markup
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        experiment=config.experiment,
        results=f"results/{config.experiment}",
        answers=[answer(experiment, name, between[name]) for name in sorted(summary["prompt_set"].unique())],
        rule=rule(config.scoring.confidence, experiment.family[0]),
        base_family=experiment.family[1],
        clock=clock(experiment),
        alone=experiment.timing is not None,
        columns=list(COLUMNS.values()),
        guard_columns=guard_columns(summary["engine"].unique()),
        confidence=f"{config.scoring.confidence:.0%}",
        resamples=config.scoring.resamples,
        models=models,
        judges=[engine_label(engine) for engine in sorted(scores["engine"].unique())],
        samples=sample_rows(results, scores, experiment.arms, config.figures.samples.examples),
        figures=[figure_entry(results, name) for name in FIGURES if name in figures],
        costs=cost_rows(experiment),
        drift="" if experiment.drift is None else describe_drift(experiment.lettered),
        machines=sorted({run["machine"] for run in runs.values()}),
        limits=limits(experiment),
        versions=dict(next(iter(runs.values())).get("versions", {})),
        engines=scores[["engine", "engine_version", "normalization"]].drop_duplicates().to_dict("records"),
        run_keys=[(arm, seed, run.get("key", "–")) for (arm, seed), run in runs.items()],
        model=config.model.path,
        revision=config.model.revision,
        config_text=config_text,
    )

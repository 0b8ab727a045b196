"""docs/RESULTS.md: what one or more experiments say, computed from their numbers and no bolder than they are."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from legible.config import FIGURES
from legible.figures.inputs import require
from legible.figures.labels import ARM_LABELS, auxiliary_arms, engine_label, is_placebo, placebo_kind, signed
from legible.metrics.statistics import seed_interval
from legible.names import BASE, CEILINGS, CONTROL
from legible.report import contrasts, race
from legible.report.aim import (
    AIM,
    CONDITIONS,
    IN_AIM,
    MET,
    NOT_MET,
    NOT_SHOWN,
    Condition,
    candidates,
    closest,
    conditions,
)
from legible.report.copies import copied_note
from legible.report.describe import LOSSES, describe_arm, describe_drift, describe_judges, describe_validation
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
from legible.report.protocol import Protocol
from legible.report.report_page import drawn_figures
from legible.report.rewards import GUARDS_NOTE, REWARDS_NOTE, guard_states, reward_rows
from legible.report.verdict import explain, explain_ceilings, explain_control, headline, rule
from legible.report.words import change, escaped, interval, listed, p_text, percent

NOTICE = "<!-- Written by scripts/write_results.py from the numbers: change those, not this file. -->"


def shown_figures(experiment: Experiment) -> list[str]:
    """The figures of the page that were drawn for this experiment."""
    return [name for name in drawn_figures(experiment.results) if FIGURES[name].on_results_page]


def figure_copies(experiments: Sequence[Experiment]) -> dict[str, Path]:
    """Name of the copy beside the page → the figure, for all experiments."""
    return {
        f"{experiment.name}-{name}.png": require(experiment.results / "figures" / f"{name}.png", "figures")
        for experiment in experiments
        for name in shown_figures(experiment)
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; what would end a cell is escaped, and markup (`<br>`) is left: see `escaped`."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def named(arm: str, control: str = CONTROL) -> str:
    """An arm in the page's tables, with its control where that is not `diffusion_only`."""
    if is_placebo(arm):
        return f"`{arm}`, placebo ({placebo_kind(arm)})"
    return ARM_LABELS.get(arm, f"`{arm}`" + (f", control: `{control}`" if control != CONTROL else ""))


def pick(summary: pd.DataFrame, prompt_set: str, metric: str, stratum: str = "all") -> pd.DataFrame:
    """The rows of one metric on one prompt set, by arm and engine."""
    rows = summary[(summary["stratum"] == stratum) & (summary["metric"] == metric)]
    return rows[rows["prompt_set"] == prompt_set].set_index(["arm", "engine"]).sort_index()


def difference(row: pd.Series, bounds: str = "two_way") -> str:
    """The difference to the control with its interval; a dash where there is none.

    Args:
        bounds: "two_way", over prompts and training seeds, or "delta", over prompts.
    """
    return change(row["delta_vs_control"], row[f"{bounds}_low"], row[f"{bounds}_high"])


def relative(row: pd.Series, prefix: str = "") -> str:
    """The relative change to the control (`prefix` "base_": to the base) with its interval; a dash without one."""
    value, low, high = (row[f"{prefix}relative_{end}"] for end in ("delta", "two_way_low", "two_way_high"))
    bounds = f" [{percent(low)}, {percent(high)}]"
    return "–" if pd.isna(value) else percent(value) + ("" if pd.isna(low) else bounds)


def mean_error(summary: pd.DataFrame, prompt_set: str) -> dict[str, float]:
    """Arm → micro CER, mean over the engines."""
    return pick(summary, prompt_set, "cer_micro")["value"].groupby(level="arm").mean().to_dict()


def seeds_alone(deltas: Sequence[float], confidence: float) -> str:
    """Student's t interval of a difference over training seeds; a dash for fewer than two."""
    low, high = seed_interval(deltas, confidence)
    return "–" if pd.isna(low) else f"[{signed(low)}, {signed(high)}]"


def result_rows(experiment: Experiment, prompt_set: str) -> list[list[str]]:
    """The rows of a regime's table: base, control, the arms from the lowest CER on, the ceilings."""
    summary, error = experiment.summary, mean_error(experiment.summary, prompt_set)
    cer, extra = (pick(summary, prompt_set, metric) for metric in ("cer_micro", "extra_text_rate"))
    engines = sorted(cer.index.get_level_values("engine").unique())
    runs = experiment.seeds[(experiment.seeds["stratum"] == "all") & (experiment.seeds["metric"] == "cer_micro")]
    runs = runs[runs["prompt_set"] == prompt_set]
    drift = None if experiment.drift is None else experiment.drift[experiment.drift["metric"] == "dssim"]
    drift = None if drift is None else drift.set_index("arm")
    confidence = experiment.config.scoring.confidence
    ranked = sorted(auxiliary_arms(experiment.arms), key=lambda arm: (error[arm], arm))
    rows = []
    for arm in (BASE, CONTROL, *ranked, *(name for name in CEILINGS if name in error)):
        own = [(cer.loc[(arm, engine)], extra.loc[(arm, engine)]) for engine in engines]
        mine = [runs[(runs["engine"] == engine) & (runs["arm"] == arm)] for engine in engines]
        deltas = [own_runs["delta_vs_control"].dropna().tolist() for own_runs in mine]
        base = [
            [value - cer.loc[(BASE, engine), "value"] for value in own_runs["value"]] if arm in experiment.arms else []
            for engine, own_runs in zip(engines, mine, strict=True)
        ]
        cells = [
            [engine_label(engine) for engine in engines],
            [interval(c["value"], c["ci_low"], c["ci_high"]) for c, _ in own],
            [difference(c) for c, _ in own],
            [relative(c) for c, _ in own],
            [seeds_alone(own_deltas, confidence) for own_deltas in deltas],
            [p_text(c["p_holm"]) for c, _ in own],
            [relative(c, "base_") for c, _ in own],
            [seeds_alone(own_deltas, confidence) for own_deltas in base],
            [p_text(c["base_p_holm"]) for c, _ in own],
            [f"{x['value']:.3f}" for _, x in own],
            [", ".join(map(signed, own_deltas)) or "–" for own_deltas in deltas],
            [difference(drift.loc[arm], "delta") if drift is not None and arm in drift.index else "–"],
            [pace_text(experiment, arm)],
            [strength_text(experiment, arm) if arm in experiment.arms else "–"],
            [clipped_text(experiment, arm) if arm in experiment.arms else "–"],
        ]
        rows.append([named(arm, own[0][0]["control"]), *("<br>".join(cell) for cell in cells)])
    return rows


RESULT_COLUMNS = (
    *("Pictures of", "Judge", "CER ↓", "minus control", "relative", "minus control, over seeds alone", "p (Holm)"),
    *("relative to the base", "minus base, over seeds alone", "p (Holm), base", "extra text ↓"),
    *("minus control, per seed", "DSSIM drift minus control ↓", "s per step (÷ control's)"),
    *("λ‖∇aux‖ / ‖∇diffusion‖, median (range)", "steps clipped"),
)


def strata_order(stratum: str) -> tuple[str, float, str]:
    """Strata by kind, then numbers by size, then names."""
    column, _, value = stratum.partition("=")
    return column, float(value) if value.isdecimal() else 0.0, value


def strata_rows(experiment: Experiment, prompt_set: str, arm: str) -> list[list[str]]:
    """Per stratum: prompts, then CER of the control and of `arm`, their difference and relative change, per judge."""
    rows = []
    for stratum in sorted(set(experiment.summary["stratum"]) - {"all"}, key=strata_order):
        own = pick(experiment.summary, prompt_set, "cer_micro", stratum)
        engines = sorted(own.index.get_level_values("engine").unique())
        if (arm, engines[0] if engines else "") not in own.index:
            continue
        control = own.loc[(arm, engines[0]), "control"]
        pairs = [(own.loc[(control, engine)], own.loc[(arm, engine)]) for engine in engines]
        cells = [
            [engine_label(engine) for engine in engines],
            [interval(*c[["value", "ci_low", "ci_high"]]) for c, _ in pairs],
            [interval(*a[["value", "ci_low", "ci_high"]]) for _, a in pairs],
            [difference(a) for _, a in pairs],
            [relative(a) for _, a in pairs],
        ]
        rows.append([escaped(stratum), str(int(pairs[0][1]["n_prompts"])), *("<br>".join(cell) for cell in cells)])
    return rows


def aim_of(experiment: Experiment, prompt_set: str) -> dict[str, tuple[Condition, ...]]:
    """Arm → the conditions of the aim, for every arm that can reach it."""
    arms = candidates(experiment.arms, experiment.runs)
    return {arm: conditions(experiment, arm, prompt_set) for arm in arms}


def views_of(experiments: Sequence[Experiment]) -> list[tuple[Experiment, str, str]]:
    """Every regime and prompt set, with the name that the page gives it."""
    found = []
    for experiment in experiments:
        sets = sorted(experiment.summary["prompt_set"].unique())
        for name in sets:
            title = escaped(experiment.title)
            found.append((experiment, name, title + (f", prompts {name}" if len(sets) > 1 else "")))
    return found


def answer(experiments: Sequence[Experiment]) -> list[str]:
    """The answer to the aim, first in a sentence, then the best arm of every regime against the conditions."""
    views, reached, refuted, sentences, rows = views_of(experiments), [], [], [], []
    for experiment, prompt_set, name in views:
        found = aim_of(experiment, prompt_set)
        if not found:
            sentences.append(f"- {name}: there is no arm beside the control, so nothing can be said.")
            continue
        best = closest(found, mean_error(experiment.summary, prompt_set))
        states = [condition.state for condition in found[best][:IN_AIM]]
        all_met = [arm for arm, own in found.items() if all(condition.state == MET for condition in own[:IN_AIM])]
        if all_met:
            reached.append(name)
            sentences.append(f"- {name}: **met** by {listed([f'`{arm}`' for arm in all_met])}.")
        else:
            lacking = [f"{title}: {state}" for title, state in zip(CONDITIONS, states, strict=False) if state != MET]
            met = len(states) - len(lacking)
            refuted += [name] if all(any(c.state == NOT_MET for c in own[:IN_AIM]) for own in found.values()) else []
            state = NOT_MET if name in refuted else NOT_SHOWN
            closeness = f"{met} of {IN_AIM}; {'; '.join(lacking)}"
            sentences.append(f"- {name}: **{state}**; `{best}` comes closest ({closeness}).")
        cells = [f"**{condition.state}**: {condition.words}".replace("; ", "<br>") for condition in found[best]]
        rows.append([name, f"`{best}`", *cells])
    note = (
        "The criterion is the same in every regime, and the aim is reached when an arm meets it in every one. Shown is "
        "the arm that meets most conditions, of several the one with the lowest CER: it is chosen on the prompts that "
        'it is reported on. "Not met" is what an interval as a whole speaks against; "not shown" means that the '
        "numbers allow both. Brackets are intervals over prompts and training seeds together, of drift over "
        "prompts. Equal time: CER at the last evaluated step within the plain control's training time. "
        f"{time_note(experiments)}"
    )
    parts = [overall(len(views), reached, refuted), "\n".join(sentences), f"The aim: {AIM}"]
    return [*parts, table(["Regime", "Arm", *CONDITIONS], rows), note] if rows else parts


def time_note(experiments: Sequence[Experiment]) -> str:
    """What the page's seconds are worth."""
    clocks = listed(sorted({clock(experiment) for experiment in experiments}))
    if all(experiment.timing is not None for experiment in experiments):
        return f"Seconds: {clocks}, each arm in its turn, median over the rounds; they depend on the machine."
    return f"Seconds: {clocks}. They were taken while other work ran on the machine: hints, no evidence."


def overall(regimes: int, reached: Sequence[str], refuted: Sequence[str]) -> str:
    """The answer over all regimes: "yes" is only what holds in every one, "no" what is refuted in one.

    Args:
        regimes: how many there are.
        reached: names of those in which an arm meets all conditions.
        refuted: names of those in which every arm has a condition that is not met.
    """
    if not reached and refuted:
        return "**No**: no arm meets all conditions of the aim, and for every one there is a condition that it fails."
    if not reached:
        return "**Not shown**: no arm meets all conditions of the aim, and not every arm fails one: both are possible."
    if len(reached) == regimes:
        every = "in every regime" if regimes > 1 else f"in the regime {reached[0]}"
        return f"**Yes**: {every} at least one arm meets all conditions of the aim."
    where = f"in {len(reached)} of {regimes} regimes ({listed(reached)})"
    return f"**Not in every regime**: an arm meets all conditions of the aim {where}, and none in the others."


def arm_lines(experiment: Experiment, prompt_set: str) -> list[str]:
    """One line per arm: its verdict with the numbers."""
    error, confidence = mean_error(experiment.summary, prompt_set), experiment.config.scoring.confidence
    arms = sorted(auxiliary_arms(experiment.arms), key=lambda name: (error[name], name))
    verdicts = [verdict_of(experiment, arm, prompt_set) for arm in arms]
    return ["- " + explain(verdict, confidence) for verdict in verdicts]


def section(experiment: Experiment, prompt_set: str, name: str, between: Sequence[contrasts.Contrast]) -> list[str]:
    """One regime on one prompt set: answer, table, verdicts, comparisons of arm with arm, and strata."""
    summary, seeds, arms = experiment.summary, experiment.seeds, auxiliary_arms(experiment.arms)
    confidence = experiment.config.scoring.confidence
    size = pick(summary, prompt_set, "cer_micro").loc[CONTROL].iloc[0]
    verdicts = [verdict_of(experiment, arm, prompt_set) for arm in arms]
    counts = (
        f"{int(size['n_prompts'])} prompts, {int(size['n_images'])} pictures per trained arm, training seeds: "
        f"{int(size['n_training_seeds'])}; ↓ lower is better. Brackets are {confidence:.0%} intervals: of CER over "
        "prompts, of its differences over prompts and training seeds together (or by Student's t over seeds alone, "
        f"where the column says so), of drift over prompts. {rule(confidence, experiment.family[0])} The comparisons "
        f"with the base are another family, of {experiment.family[1]} tests. {time_note([experiment])}"
    )
    more = [explain_control(summary, seeds, prompt_set, confidence), explain_ceilings(summary, prompt_set)]
    more += [escaped(describe_judges(experiment.config)), describe_validation(experiment.config, experiment.runs)]
    more += [] if experiment.drift is None else [describe_drift(experiment.lettered)]
    parts = [f"## {name}", headline(verdicts), counts]
    parts += [table(RESULT_COLUMNS, result_rows(experiment, prompt_set))]
    parts += ["\n".join([*arm_lines(experiment, prompt_set), *(f"- {line}" for line in more if line)])]
    if between:
        lines = "\n".join(f"- {line}" for line in contrasts.sentences(between, confidence))
        rows = table(contrasts.COLUMNS, contrasts.contrast_rows(between))
        parts += ["### Arm against arm", contrasts.NOTE, rows, lines]
    if "race" in shown_figures(experiment):
        words, rows = race.after_same_time(experiment, prompt_set)
        parts += [f"### {race.TITLE}", words, table(race.COLUMNS, rows)]
    first = prompt_set == experiment.first_set
    for part in letter_tables(experiment.malformed, experiment.panel, experiment.attributes, prompt_set, first):
        parts += [f"### {part['title']}", part["note"], table(part["columns"], part["rows"])]
    parts += rewards_and_guards(experiment, prompt_set)
    found = aim_of(experiment, prompt_set)
    if found:
        best = closest(found, mean_error(summary, prompt_set))
        control = experiment.controls[best].name
        header = ["Stratum", "Prompts", "Judge", f"control (`{control}`)", f"`{best}`", "minus control", "relative"]
        parts += [f"### Where it helps: `{best}`", table(header, strata_rows(experiment, prompt_set, best))]
    return parts


def rewards_and_guards(experiment: Experiment, prompt_set: str) -> list[str]:
    """Rewards of the pictures and what voids a gain, where rewards were scored."""
    if experiment.rewards is None or experiment.guards is None:
        return []
    columns, rows = reward_rows(experiment.rewards, prompt_set)
    header, guards = guard_states(experiment.guards, prompt_set)
    return [f"### Rewards and guards\n\n{REWARDS_NOTE}", table(columns, rows), GUARDS_NOTE, table(header, guards)]


def legend(experiment: Experiment) -> str:
    """What every arm is, from the configuration that its runs recorded."""
    sections = {arm: run.get("training", {}) for (arm, _), run in experiment.runs.items()}
    rows = [[named(arm), escaped(describe_arm(sections[arm], sections[CONTROL]))] for arm in experiment.arms]
    return table(["Arm", "Training"], rows)


def losses_used(experiments: Sequence[Experiment]) -> list[str]:
    """The losses of all arms with what they ask for, one list entry each."""
    used = set()
    for run in (run for experiment in experiments for run in experiment.runs.values()):
        loss = run.get("training", {}).get("aux", {}).get("loss", "none")
        used |= {loss} if isinstance(loss, str) else set(loss)
    return [f"- `{loss}`: {LOSSES.get(loss, 'no description')}" for loss in sorted(used - {"none"})]


def confirmation(protocol: Protocol | None) -> list[str]:
    """What makes the page confirmatory, or that it is not."""
    if protocol is None:
        return ["No protocol was frozen before these trainings: the page explores, and confirms nothing."]
    rows = [
        [f"`{record.path}`", f"`{record.sha256}`", f"`{record.commit}`", f"{record.date:%Y-%m-%d %H:%M:%S} UTC"]
        for record in protocol.records
    ]
    words = (
        "This page is confirmatory: the files below were committed before the first training began "
        f"({protocol.run}, {protocol.began:%Y-%m-%d %H:%M:%S} UTC), and have not changed since. The dates are those of "
        "the committer's and of this machine's clocks."
    )
    return [words, table(["File", "SHA-256", "Commit", "Committed"], rows)]


def origin(experiments: Sequence[Experiment], command: str) -> list[str]:
    """Command, machines and library versions behind the page."""
    runs = [run for experiment in experiments for run in experiment.runs.values()]
    versions: dict[str, set[str]] = {}
    for run in runs:
        for name, version in run.get("versions", {}).items():
            versions.setdefault(name, set()).add(str(version))
    parts = ["## Where this comes from"]
    parts += [f"```bash\n{command}\n```"] if command else []
    machines = sorted({escaped(run.get("machine", "unknown machine")) for run in runs})
    parts.append(f"Trained on {listed(machines)}. Definitions of all numbers: `docs/METRICS.md`.")
    if versions:
        rows = [[escaped(name), escaped(", ".join(sorted(found)))] for name, found in sorted(versions.items())]
        parts.append(table(["Library", "Version"], rows))
    return parts


def build(
    experiments: Sequence[Experiment], command: str = "", pictures: str = "results", protocol: Protocol | None = None
) -> str:
    """The page as Markdown; the same numbers give the same bytes.

    Args:
        experiments: the regimes, the main one first.
        command: what makes all of this.
        pictures: folder of the copies of figures and tables, as seen from the page.
        protocol: what it confirms; None: it explores.
    """
    experiments = corrected(experiments)
    between = contrasts.contrasts_of(experiments)
    parts = [f"# Results\n\n{NOTICE}", *answer(experiments), *confirmation(protocol)]
    for experiment in experiments:
        for own, prompt_set, name in views_of([experiment]):
            parts += section(own, prompt_set, name, between[own.name][prompt_set])
        title = escaped(experiment.title)
        for name in shown_figures(experiment):
            where = os.path.join(pictures, f"{experiment.name}-{name}.png")
            parts += [f"### {FIGURES[name].title}", f"![{title}: {FIGURES[name].title}]({where})"]
        parts += [f"### The arms of: {title}", legend(experiment), copied_note(experiment, pictures)]
    if losses := losses_used(experiments):
        parts += ["## The losses", "\n".join(losses)]
    return "\n\n".join([*parts, *origin(experiments, command)]) + "\n"

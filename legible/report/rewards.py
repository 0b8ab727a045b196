"""Rewards of the pictures and the guards that void a gain, as tables of the pages."""

import pandas as pd

from legible.figures.labels import arm_label, signed
from legible.metrics.guards import WORDS

NAMES = {
    "reading": "reading ↑",
    "likelihood": "likelihood ↑",
    "reading_unseen": "reading, unseen reader ↑",
    "likelihood_unseen": "likelihood, unseen reader ↑",
    "colour_entropy": "colour entropy, bits",
    "edge_density": "edge density",
    "distance_to_others": "distance to other prompts' pictures",
}
REWARDS_NOTE = (
    "The pictures, scored by rewards: whether an arm was trained by them or not. In brackets the difference to the "
    "arm's control with its interval over prompts; then the share of pictures that score higher than the base's on the "
    "same noise, by these scores and no person's. `likelihood` is log p of the wanted text per character; the unseen "
    "reader is the EasyOCR judge's network, which no arm listens to."
)
GUARDS_NOTE = (
    "What voids a gain in legibility, because it was bought with something else. A broken guard is written in capitals."
)


def reward_rows(rewards: pd.DataFrame, prompt_set: str) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table of rewards: a row an arm, a column a metric."""
    own = rewards[rewards["prompt_set"] == prompt_set]
    metrics, table = list(dict.fromkeys(own["metric"])), own.set_index(["arm", "metric"])
    rows = [
        [arm_label(arm), *(cell(table.loc[(arm, metric)]) for metric in metrics)] for arm in dict.fromkeys(own["arm"])
    ]
    return ["Pictures of", *(NAMES.get(metric, f"{metric} ↑") for metric in metrics)], rows


def cell(row: pd.Series) -> str:
    """Value, difference to the control, win rate."""
    if pd.isna(row["delta_vs_control"]):
        change = ""
    else:
        bounds = f"{signed(row['delta_low'])}, {signed(row['delta_high'])}"
        change = f" ({signed(row['delta_vs_control'])} [{bounds}])"
    won = "" if pd.isna(row["win_rate"]) else f"; {row['win_rate']:.0%}"
    return f"{row['value']:.3f}{change}{won}"


def guard_states(guards: pd.DataFrame, prompt_set: str) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of the table of guards: a row an arm, a column a guard."""
    own = guards[guards["prompt_set"] == prompt_set]
    names = [name for name in WORDS if name in set(own["guard"])]
    table = own.set_index(["arm", "guard"])
    rows = []
    for arm in dict.fromkeys(own["arm"]):
        cells = [table.loc[(arm, name)] if (arm, name) in table.index else None for name in names]
        rows.append([arm_label(arm), *(state(found) for found in cells)])
    limits = own.drop_duplicates("guard").set_index("guard")["limit"]
    return ["Arm", *(f"{name} (limit {limits[name]:.2g})" for name in names)], rows


def state(row: pd.Series | None) -> str:
    """A guard's value, and whether it is broken."""
    if row is None:
        return "–"
    return f"{row['value']:.2f}" + (" BROKEN" if row["broken"] else "")


def reward_tables(rewards: pd.DataFrame | None, guards: pd.DataFrame | None, prompt_set: str) -> list[dict]:
    """Both tables for the report, with their notes; none where no rewards were scored."""
    if rewards is None or guards is None:
        return []
    tables = ((REWARDS_NOTE, reward_rows(rewards, prompt_set)), (GUARDS_NOTE, guard_states(guards, prompt_set)))
    return [{"note": note, "columns": columns, "rows": rows} for note, (columns, rows) in tables]

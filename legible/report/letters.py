"""Whether letters are well formed, as tables of the pages: the glyph judge's rate, and what each judge overlooks."""

import pandas as pd

from legible.config import GLYPH_JUDGE
from legible.figures.labels import arm_label, engine_label, signed
from legible.report.words import interval

MALFORMED_NOTE = (
    "OCR says which letters are read, not whether they are well formed. The glyph judge, which no loss can hear, looks "
    "at their shape only: share of pictures in which it finds a malformed letter, with its interval over prompts, and "
    "the difference to the arm's own control. An arm whose interval of that difference lies above zero has gained "
    "nothing, whatever the readers say. The rows of our own renders are what the judge gets wrong by itself."
)
PANEL_NOTE = (
    "Signs with one inner letter damaged, drawn by us: share of pictures (words; non-words) in which a judge still "
    "reads the target, or in which the glyph judge finds nothing malformed, over the fonts of the panel. That is right "
    "where nothing is damaged and an oversight everywhere else. A judge that reads the target with another letter in "
    "its place reads nothing at all; the glyph judge must find that letter well formed."
)


def letter_tables(malformed: pd.DataFrame | None, panel: pd.DataFrame | None, prompt_set: str) -> list[dict]:
    """Title, note, columns and rows of both tables; those that were measured."""
    tables = []
    if malformed is not None:
        rows = malformed_rows(malformed, prompt_set)
        columns = ["Pictures of", "Control", "malformed ↓", "malformed ↓, minus control"]
        tables.append({"title": "Malformed letters", "note": MALFORMED_NOTE, "columns": columns, "rows": rows})
    if panel is not None:
        columns, rows = panel_rows(panel)
        tables.append({"title": "What each judge overlooks", "note": PANEL_NOTE, "columns": columns, "rows": rows})
    return tables


def malformed_rows(malformed: pd.DataFrame, prompt_set: str) -> list[list[str]]:
    """A row for each arm in the order of the table: control, value, and the difference with its interval."""
    rows = []
    for row in malformed[malformed["prompt_set"] == prompt_set].itertuples():
        control = row.control if isinstance(row.control, str) and row.control else "–"
        bounds = "" if pd.isna(row.delta_low) else f" [{signed(row.delta_low)}, {signed(row.delta_high)}]"
        value = interval(row.value, row.ci_low, row.ci_high)
        rows.append([arm_label(row.arm), control, value, signed(row.delta_vs_control) + bounds])
    return rows


def panel_rows(panel: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """(header, rows): a row for each kind and severity, a column for each judge, in it words and non-words."""
    judges = sorted(set(panel["judge"]), key=lambda judge: (judge == GLYPH_JUDGE, judge))
    passed = panel.assign(passed=panel["share"] * panel["n"])
    counts = passed.groupby(["kind", "severity", "judge", "text"])[["passed", "n"]].sum()
    rows = []
    for kind, severity in panel[["kind", "severity"]].drop_duplicates().itertuples(index=False):
        found = counts.loc[(kind, severity)]
        cells = ["; ".join(share(found, judge, text) for text in ("word", "nonword")) for judge in judges]
        pictures = int(found.loc[judges[0], "n"].sum())
        rows.append([kind.replace("_", " "), f"{severity:g}", str(pictures), *cells])
    return ["Damage", "Severity", "Pictures", *(f"{engine_label(judge)} ↓" for judge in judges)], rows


def share(found: pd.DataFrame, judge: str, text: str) -> str:
    """The share of a judge's pictures with words (or non-words) that pass; a dash where there is none."""
    if (judge, text) not in found.index:
        return "–"
    return f"{found.loc[(judge, text), 'passed'] / found.loc[(judge, text), 'n']:.2f}"

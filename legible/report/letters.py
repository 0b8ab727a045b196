"""Tables of the pages beside the readings: are letters well formed, what do judges overlook, what else is drawn."""

import pandas as pd

from legible.config import GLYPH_JUDGE
from legible.figures.labels import arm_label, engine_label
from legible.report.words import change, interval

MALFORMED_NOTE = (
    "OCR says which letters are read, not whether they are well formed. The glyph judge, which no loss can hear, looks "
    "at their shape only: share of pictures in which it finds a malformed letter, with its interval over prompts, and "
    "the difference to the arm's own control, with its interval over prompts and training seeds. An arm whose interval "
    "of that difference lies above zero has gained nothing, whatever the readers say. The rows of our own renders are "
    "what the judge gets wrong by itself."
)
PANEL_NOTE = (
    "Signs with one inner letter damaged, drawn by us: share of pictures (words; non-words) in which a judge still "
    "reads the target, or in which the glyph judge finds nothing malformed, over the fonts of the panel. That is right "
    "where nothing is damaged and an oversight everywhere else. A judge that reads the target with another letter in "
    "its place reads nothing at all; the glyph judge must find that letter well formed."
)
ATTRIBUTES_NOTE = (
    "A model that spells better and no longer draws what else it is asked for has gained nothing. Pictures of prompts "
    "without text, checked by plain image processing for what these name: `share` is how many of the attributes are "
    "there (ground, colour, number and shape, where named), `all` how many pictures have every one. The change "
    "is that of `share` against the base, with its interval over prompts and training seeds."
)


def letter_tables(
    malformed: pd.DataFrame | None,
    panel: pd.DataFrame | None,
    attributes: pd.DataFrame | None,
    prompt_set: str,
    first: bool = True,
) -> list[dict]:
    """Title, note, columns and rows of each table; those that were measured.

    The panel and the attributes belong to no prompt set: they stand with the `first` one.
    """
    tables = []
    if malformed is not None:
        rows = malformed_rows(malformed, prompt_set)
        columns = ["Pictures of", "Control", "malformed ↓", "malformed ↓, minus control"]
        tables.append({"title": "Malformed letters", "note": MALFORMED_NOTE, "columns": columns, "rows": rows})
    if first and panel is not None:
        columns, rows = panel_rows(panel)
        tables.append({"title": "What each judge overlooks", "note": PANEL_NOTE, "columns": columns, "rows": rows})
    if first and attributes is not None and len(attributes):
        columns, rows = attribute_rows(attributes)
        tables.append({"title": "Pictures without text", "note": ATTRIBUTES_NOTE, "columns": columns, "rows": rows})
    return tables


def attribute_rows(attributes: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """(header, rows): a row for each arm, the attributes in the order of the table, then the change of their share."""
    names = list(dict.fromkeys(attributes["attribute"]))
    found = attributes.set_index(["arm", "attribute"])
    rows = []
    for arm in dict.fromkeys(attributes["arm"]):
        values = [f"{found.loc[(arm, name), 'value']:.3f}" for name in names]
        own = found.loc[(arm, "share")]
        rows.append([arm_label(arm), *values, change(own.delta_vs_base, own.base_low, own.base_high)])
    return ["Pictures of", *(f"{name} ↑" for name in names), "share ↑, minus base"], rows


def malformed_rows(malformed: pd.DataFrame, prompt_set: str) -> list[list[str]]:
    """A row for each arm in the order of the table: control, value, and the difference with its interval."""
    rows = []
    for row in malformed[malformed["prompt_set"] == prompt_set].itertuples():
        control = row.control if isinstance(row.control, str) and row.control else "–"
        value = interval(row.value, row.ci_low, row.ci_high)
        rows.append([arm_label(row.arm), control, value, change(row.delta_vs_control, row.delta_low, row.delta_high)])
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

"""What a judge gets wrong by itself on our own clean renders of the prompts, and whether it may judge them."""

from collections.abc import Mapping, Sequence

import pandas as pd

from legible.config import Scoring
from legible.errors import UserError
from legible.metrics.scores import score_images
from legible.metrics.summary import with_distance

KEYS = ["engine", "prompt_set", "kind"]


def clean_errors(
    manifests: Mapping[tuple[str, str], Sequence[dict]],
    readings: Mapping[tuple[str, str, str], Sequence[dict]],
    scoring: Scoring,
) -> pd.DataFrame:
    """A row for each engine, prompt set and kind of text: `images`, `unread` ones, `characters`, `errors`, `cer`.

    Args:
        manifests, readings, scoring: as `legible.metrics.scores.score_images` takes them.
    """
    scores = with_distance(score_images(manifests, readings, scoring))
    scores = scores.assign(unread=scores["reading"] == "", characters=scores["length"])
    table = scores.groupby(KEYS, as_index=False).agg(
        images=("file", "size"), unread=("unread", "sum"), characters=("characters", "sum"), errors=("distance", "sum")
    )
    return table.assign(cer=table["errors"] / table["characters"])


def check_fit(table: pd.DataFrame, limit: float) -> None:
    """Refuse a judge that gets more than `limit` of the characters of a prompt set's clean renders wrong.

    Raises:
        UserError: it does; it says what it can read and what not.
    """
    for (engine, prompt_set), own in table.groupby(["engine", "prompt_set"]):
        found = own["errors"].sum() / own["characters"].sum()
        if found > limit:
            kinds = ", ".join(f"{row.kind} {row.cer:.3f}" for row in own.itertuples())
            raise UserError(
                f"ocr.{engine}: it cannot judge the prompt set {prompt_set}: of our own clean renders it gets"
                f" {found:.3f} of the characters wrong ({kinds}), scoring.judge_limit is {limit:g}; leave this judge"
                " out, choose prompts that it reads, or raise the limit"
            )

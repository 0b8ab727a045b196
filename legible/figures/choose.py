"""Which pictures are shown: some chosen blindly, some because they are extreme."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from legible.errors import UserError
from legible.figures.labels import auxiliary_arms, with_control_first
from legible.names import BASE, CEILINGS, CONTROL, Run, arm_and_seed

KEY = ["prompt_set", "prompt_id", "image_seed"]
MOST = 3  # arms beside base and control in a figure that has room for a few


def first_seed(scores: pd.DataFrame) -> int:
    """The training seed whose pictures are shown."""
    return int(scores["training_seed"].min())


def shown_arms(scores: pd.DataFrame, arms: Sequence[str], always: Sequence[str] = ()) -> list[str]:
    """The control and the other arms in order; of more than `MOST`, those with the fewest errors, and `always`.

    Errors count per character, as in the micro CER, over all pictures, engines and training seeds.
    """
    others = auxiliary_arms(with_control_first(arms))
    if len(others) <= MOST:
        return [CONTROL, *others]
    length = scores["target"].str.len()
    sums = pd.DataFrame({"wrong": scores["cer"] * length, "length": length}).groupby(scores["model"].map(arm_of)).sum()
    error = sums["wrong"] / sums["length"]
    ranked = sorted(others, key=lambda arm: (arm not in always, error.get(arm, np.inf), arm))
    return [CONTROL, *(arm for arm in others if arm in ranked[:MOST])]


def arm_of(model: str) -> str:
    """The arm of a model."""
    return arm_and_seed(model)[0]


def columns_of(scores: pd.DataFrame, arms: Sequence[str], always: Sequence[str] = ()) -> dict[str, str]:
    """Model (folder name) → heading of its column: our render, the base, then the arms of `shown_arms`."""
    seed = first_seed(scores)
    shown = shown_arms(scores, arms, always)
    trained = {str(Run(arm, seed)): f"{arm}\n(control)" if arm == CONTROL else arm for arm in shown}
    return {CEILINGS[0]: "our own\nrender", BASE: BASE, **trained}


def pick_evenly(scores: pd.DataFrame, count: int) -> list[tuple[str, str, int]]:
    """`count` keys (prompt set, prompt id, first image seed), evenly spaced in the list, blind to scores."""
    base = scores[scores["model"] == BASE]
    first = base[base["image_seed"] == base["image_seed"].min()].drop_duplicates(KEY)
    keys = list(first[KEY].itertuples(index=False, name=None))
    chosen = np.linspace(0, len(keys) - 1, min(count, len(keys))).round().astype(int)
    return [keys[i] for i in sorted(set(chosen.tolist()))]


def changes(scores: pd.DataFrame, model: str, control: str) -> pd.Series:
    """CER of `model` minus that of `control` per picture, averaged over the engines; index (set, prompt, image seed).

    Raises:
        UserError: one of the models has no scores.
    """
    for name in (model, control):
        if name not in set(scores["model"]):
            raise UserError(f"scores.parquet: the model {name} is not in it; run the score stage again")
    means = [scores[scores["model"] == name].groupby(KEY)["cer"].mean() for name in (model, control)]
    return (means[0] - means[1]).dropna()


def pick_extremes(delta: pd.Series, count: int) -> tuple[list, list]:
    """Keys of the pictures that gained and lost most, at most one picture a prompt, half of `count` each.

    Only real gains and losses: where fewer pictures changed in one direction, fewer are shown.
    """
    ranked = delta.sort_index().sort_values(kind="stable")
    half = (count + 1) // 2
    gains = ranked[ranked < 0].reset_index().drop_duplicates(KEY[:2])[: max(1, half)]
    losses = ranked[ranked > 0][::-1].reset_index().drop_duplicates(KEY[:2])[: max(1, count - half)]
    first, second = (list(part[KEY].itertuples(index=False, name=None)) for part in (gains, losses))
    return first, second

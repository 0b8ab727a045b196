"""`malformed_rate`: the share of an arm's pictures in which the glyph judge finds a malformed letter."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from legible.config import GLYPH_JUDGE, Scoring
from legible.errors import UserError
from legible.metrics.statistics import Estimate, cluster_bootstrap, two_way_bootstrap
from legible.metrics.summary import ALL, compares, draw, means_by_seed
from legible.names import BASE, CEILINGS, CONTROL, arm_and_seed

METRIC = "malformed_rate"
NONE = Estimate(*[float("nan")] * 3)


def judged_images(rows: Mapping[tuple[str, str], Sequence[dict]]) -> pd.DataFrame:
    """One row a picture: model, arm, training_seed, prompt_set, prompt_id, image_seed, probability, malformed.

    Args:
        rows: (model, prompt set) → rows of scripts/judge_glyphs.py.
    """
    found = []
    for (model, prompt_set), judged in rows.items():
        arm, seed = arm_and_seed(model)
        identity = {"model": model, "arm": arm, "training_seed": seed, "prompt_set": prompt_set}
        keys = ("prompt_id", "image_seed", "probability", "malformed")
        found += [identity | {key: row[key] for key in keys} for row in judged]
    return pd.DataFrame(found).astype({"training_seed": "Int64", "malformed": "bool"})


def malformed_table(images: pd.DataFrame, controls: Mapping[str, str], scoring: Scoring) -> pd.DataFrame:
    """The rows of malformed.csv, one for each arm and prompt set.

    Columns as in summary.csv, whose rows of CER they stand beside: stratum, arm, engine, prompt_set, metric; `value`
    with its interval over prompts; `delta_vs_control`, the arm − `control` (its own, matched where there is one), with
    its interval over prompts and training seeds (`two_way_bootstrap`), on the resamples of the CER; n_prompts,
    n_images, n_training_seeds. Image and training seeds are averaged within a prompt.

    Args:
        images: of `judged_images`.
        controls: arm → the arm that it is compared with; what is not in it (the base, too) with `diffusion_only`.
        scoring: resamples, confidence and seed.

    Raises:
        UserError: an arm lacks the pictures of a prompt and seed that the base has.
    """
    rows = []
    for prompt_set, part in images.groupby("prompt_set", sort=True):
        check_same_pictures(part, str(prompt_set))
        means = {arm: means_by_seed(part[part["arm"] == arm], "malformed") for arm in dict.fromkeys(part["arm"])}
        draws = draw(scoring, str(prompt_set), ALL, means[CONTROL].shape)
        ones = np.ones(means[BASE].shape[1])
        for arm, own in means.items():
            control = controls.get(arm, CONTROL)
            value = cluster_bootstrap(own.mean(0), ones, draws.prompts, scoring.confidence)
            delta = NONE
            if compares(arm):
                pair = (own, means[control], ones, draws.prompts, draws.seeds)
                delta = two_way_bootstrap(*pair, scoring.confidence).difference
            counted = part[part["arm"] == arm]
            rows.append(
                {"stratum": ALL, "arm": arm, "engine": GLYPH_JUDGE, "prompt_set": prompt_set, "metric": METRIC}
                | {"value": value.value, "ci_low": value.low, "ci_high": value.high}
                | {"delta_vs_control": delta.value, "delta_low": delta.low, "delta_high": delta.high}
                | {"control": control if compares(arm) else "", "n_prompts": len(ones), "n_images": len(counted)}
                | {"n_training_seeds": counted["training_seed"].nunique()}
            )
    return pd.DataFrame(rows)


def check_same_pictures(part: pd.DataFrame, where: str) -> None:
    """Every model holds the base's prompts and image seeds (a ceiling its prompts), each once."""
    if missing := {BASE, CONTROL} - set(part["arm"]):
        raise UserError(f"{where}: judgements of {min(missing)} are missing; judge its pictures first")
    for model, own in part.groupby("model"):
        keys = ["prompt_id"] if model in CEILINGS else ["prompt_id", "image_seed"]
        wanted = set(part.loc[part["arm"] == BASE, keys].itertuples(index=False, name=None))
        found = list(own[keys].itertuples(index=False, name=None))
        if wanted != set(found) or len(found) > len(wanted):
            raise UserError(f"{where}: {model} and {BASE} do not hold the same pictures; generate and judge them again")

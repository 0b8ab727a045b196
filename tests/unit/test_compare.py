"""Which control an arm is compared with, and the numbers of that comparison."""

import numpy as np
import pandas as pd
import pytest
from make_results import RATES, make_results

from legible.config import Config, load
from legible.figures.inputs import read_drift, read_scores, read_seeds, read_summary
from legible.metrics.compare import (
    Control,
    claims,
    drift_with_own_controls,
    is_heard,
    own_control,
    with_own_controls,
)
from legible.metrics.summary import by_training_seed, summarise

pytestmark = pytest.mark.slow  # whole pages, figures and bootstraps

CTC = {"loss": "ctc", "lambda": 1.0, "every": 1}
ANCHOR = {"weight": 10.0, "batch_size": 16}
TRAININGS = {"anchor_only": {"anchor": ANCHOR}, "ctc_anchored": {"anchor": ANCHOR, "aux": CTC}}
SPELLING = RATES | {"anchor_only": 0.2, "ctc_anchored": 0.08, "ctc": 0.1}
ARMS = ["diffusion_only", "clip_region", "anchor_only", "ctc_anchored", "ctc"]


def trainings_of(arms: dict[str, dict]) -> dict[str, dict]:
    config = Config.model_validate({"arms": {"diffusion_only": {}, **arms}})
    return {arm: config.arm(arm).model_dump(mode="json", by_alias=True) for arm in config.arms}


@pytest.mark.parametrize(
    ("own", "others", "control"),
    [
        ({"aux": CTC}, {}, Control("diffusion_only")),
        ({"aux": CTC, "snapshots": [8], "threads": 2, "checkpoint_every": 4}, {}, Control("diffusion_only")),
        ({"aux": CTC, "anchor": {"batch_size": 16}}, {}, Control("diffusion_only")),  # an anchor that is off
        ({"aux": CTC, "anchor": ANCHOR}, {}, Control("diffusion_only", ("anchor",))),
        ({"aux": CTC, "anchor": ANCHOR}, {"anchor_only": {"anchor": ANCHOR}}, Control("anchor_only")),
        (
            {"aux": CTC, "anchor": ANCHOR},
            {"anchor_only": {"anchor": ANCHOR | {"weight": 5.0}}},
            Control("diffusion_only", ("anchor",)),
        ),
        (
            {"aux": CTC, "anchor": ANCHOR},
            {"other": {"anchor": ANCHOR, "aux": CTC | {"lambda": 0.5}}},  # hears a loss itself: no control
            Control("diffusion_only", ("anchor",)),
        ),
        ({"aux": CTC, "steps": 99}, {}, Control("diffusion_only", ("steps",))),
        ({"aux": CTC, "ema": 0.9, "method": "lora"}, {}, Control("diffusion_only", ("ema", "method"))),
        ({"anchor": ANCHOR}, {}, Control("diffusion_only")),  # without a loss: the anchor is what is compared
    ],
)  # fmt: skip
def test_the_control_is_the_same_training_without_the_loss(own, others, control):
    trainings = trainings_of({"own": own, **others})
    assert own_control("own", trainings) == control
    assert is_heard(trainings["own"]) == ("aux" in own)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("results"), SPELLING, pictures=False, trainings=TRAININGS)


CONTROLS = {arm: Control("diffusion_only") for arm in ARMS[1:]} | {"ctc_anchored": Control("anchor_only")}


def test_differences_are_taken_to_the_own_control_with_the_packages_own_statistics(folder):
    scoring = load(folder / "config.yaml").scoring
    summary, seeds, scores = read_summary(folder, ARMS), read_seeds(folder), read_scores(folder)
    found, found_seeds = with_own_controls(summary, seeds, scores, scoring, CONTROLS)
    assert set(found.loc[found["arm"] == "ctc_anchored", "control"]) == {"anchor_only"}
    assert set(found.loc[found["arm"] != "ctc_anchored", "control"]) == {"diffusion_only"}
    # By another way: the same scores, in which the anchor alone is the only control that there is.
    swapped = scores[scores["arm"].isin(["base", "anchor_only", "ctc_anchored"])].copy()
    swapped["arm"] = swapped["arm"].replace("anchor_only", "diffusion_only")
    swapped["model"] = swapped["model"].str.replace("anchor_only-", "diffusion_only-")
    keys = ["stratum", "engine", "metric"]
    for own, other, more in (
        (found, summarise(swapped, scoring), []),
        (found_seeds, by_training_seed(swapped), ["training_seed"]),
    ):
        own, other = (t[t["arm"] == "ctc_anchored"].set_index(keys + more).sort_index() for t in (own, other))
        names = ("delta_vs_control", "delta_low", "relative_high", "two_way_low", "relative_two_way_high", "p_value")
        columns = [c for c in names if c in other]
        pd.testing.assert_frame_equal(own[columns], other[columns], check_dtype=False, check_index_type=False)
    # Everybody else keeps the numbers of the files.
    rest, before = (t[t["arm"] != "ctc_anchored"].set_index(["arm", *keys]) for t in (found, summary))
    pd.testing.assert_series_equal(rest["delta_vs_control"], before["delta_vs_control"])
    cer = claims(found).set_index(["arm", "engine"])["delta_vs_control"]
    assert (cer["ctc_anchored"] < 0).all()


def test_the_change_against_the_base_is_there_for_every_arm(folder):
    scoring = load(folder / "config.yaml").scoring
    found, _ = with_own_controls(read_summary(folder, ARMS), read_seeds(folder), read_scores(folder), scoring, CONTROLS)
    rows = claims(found).set_index(["arm", "engine"])
    for arm in ARMS:
        for engine in ("easyocr", "rapidocr"):
            row = rows.loc[(arm, engine)]
            assert row["base_relative_delta"] == pytest.approx(
                row["value"] / rows.loc[("base", engine), "value"] - 1, abs=1e-5
            )
            assert row["base_relative_two_way_low"] < row["base_relative_delta"] < row["base_relative_two_way_high"]
            assert row["base_two_way_low"] < row["base_delta"] < row["base_two_way_high"]
            assert row["base_delta"] == pytest.approx(row["value"] - rows.loc[("base", engine), "value"], abs=1e-5)
    assert rows.loc[["base", "ceiling_vae"], "base_relative_delta"].isna().all()


def test_drift_is_taken_to_the_own_control_where_every_prompt_is_known(folder):
    scoring = load(folder / "config.yaml").scoring
    singles = pd.read_parquet(folder / "scores" / "drift_by_prompt.parquet")
    drift = drift_with_own_controls(read_drift(folder), singles, scoring, CONTROLS).set_index(["arm", "metric"])
    values = drift["value"]
    row = drift.loc[("ctc_anchored", "dssim")]
    assert row["control"] == "anchor_only"
    assert row["delta_vs_control"] == pytest.approx(values["ctc_anchored", "dssim"] - values["anchor_only", "dssim"])
    assert row["delta_low"] < row["delta_vs_control"] < row["delta_high"]
    assert (
        drift.loc[("ctc", "dssim"), "delta_vs_control"]
        == read_drift(folder).set_index(["arm", "metric"]).loc[("ctc", "dssim"), "delta_vs_control"]
    )
    without = drift_with_own_controls(read_drift(folder), None, scoring, CONTROLS).set_index(["arm", "metric"])
    assert np.isnan(without.loc[("ctc_anchored", "dssim"), "delta_vs_control"])

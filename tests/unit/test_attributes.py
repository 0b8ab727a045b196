"""Attributes of pictures without text: right on what the renderer draws, wrong on what it draws otherwise."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from legible.config import Scoring
from legible.corpus.prompts import Prompt
from legible.corpus.scenes import SHAPES, Scene
from legible.corpus.templates import PALETTE
from legible.metrics.attributes import ATTRIBUTES, SUMMARIES, attribute_table, attributes_of, by_picture, things
from legible.names import BASE, CONTROL
from legible.render.scene import CONTRAST, draw, draw_scenes
from legible.render.sign import contrast_ratio


def prompt_of(scene: Scene, name: str = "a") -> Prompt:
    return Prompt(
        name,
        scene.caption,
        (),
        scene.kind,
        None,
        scene.color,
        scene.background,
        scene.count or None,
        scene.shape or None,
    )


def picture(scene: Scene, seed: int = 0) -> np.ndarray:
    return draw(scene, 32, 64, np.random.default_rng(seed))


def test_what_the_renderer_draws_is_what_was_asked_for():
    wrong: dict[str, list[bool]] = {}
    for drawn in draw_scenes(5, "test", 400, 32, 64):
        for attribute, there in attributes_of(drawn.image, prompt_of(drawn.scene)).items():
            wrong.setdefault(attribute, []).append(not there)
    assert set(wrong) == set(ATTRIBUTES)
    assert {attribute: np.mean(errors) for attribute, errors in wrong.items() if attribute != "shape"} == {
        "background": 0,
        "color": 0,
        "count": 0,
    }
    assert np.mean(wrong["shape"]) < 0.02  # four of them are 12 pixels wide


SCENE = Scene("shapes", "yellow", "purple", 2, "circle")


@pytest.mark.parametrize(
    ("attribute", "other"),
    [
        ("background", {"background": "dark red"}),
        ("color", {"color": "white"}),
        ("count", {"count": 3}),
        *[("shape", {"shape": name}) for name in SHAPES if name != "circle"],
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_one_thing_that_is_otherwise_is_seen_and_no_other(attribute, other, seed):
    found = attributes_of(picture(replace(SCENE, **other), seed), prompt_of(SCENE))
    assert found == {name: name != attribute for name in ATTRIBUTES}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(SHAPES)), st.integers(1, 4), st.sampled_from(list(PALETTE)), st.sampled_from(list(PALETTE)),
    st.integers(0, 99),
)  # fmt: skip
def test_numbers_and_colours_hold_under_noise_and_blur(shape, count, color, background, seed):
    if contrast_ratio(PALETTE[color], PALETTE[background]) < CONTRAST:
        return
    scene = Scene("shapes", color, background, count, shape)
    noise = np.random.default_rng(seed).normal(0, 6, (32, 64, 3))
    image = (picture(scene, seed) + noise).clip(0, 255).astype(np.uint8)
    found = attributes_of(image, prompt_of(scene))
    assert found["count"]
    assert found["background"]


def test_an_empty_ground_shows_nothing():
    plain = picture(Scene("plain", "red", "white"))
    assert things(np.zeros((32, 64))) == []
    assert attributes_of(plain, prompt_of(Scene("plain", "red", "white"))) == {"background": True}
    assert attributes_of(plain, prompt_of(replace(SCENE, background="white"))) == {
        "background": True,
        "color": False,
        "count": False,
        "shape": False,
    }


@pytest.mark.parametrize("kind", ["stripes", "checks", "dots"])
def test_patterns_are_checked_for_their_colours(kind):
    scene = Scene(kind, "yellow", "purple", direction="upright")
    assert attributes_of(picture(scene), prompt_of(scene)) == {"background": True, "color": True}
    other = replace(scene, color="white")
    assert attributes_of(picture(other), prompt_of(scene)) == {"background": True, "color": False}


def test_blends_and_prompts_that_name_nothing_do_not_count():
    blend = Scene("blend", "yellow", "purple", direction="across")
    image = picture(blend)
    prompts = {"a": prompt_of(blend), "b": Prompt("b", "something", ())}
    assert by_picture(np.stack([image, image]), ["a", "b"], prompts).empty


def test_a_picture_with_one_thing_wrong_has_three_quarters_of_what_was_asked():
    image = picture(replace(SCENE, count=3))
    row = by_picture(image[None], ["a"], {"a": prompt_of(SCENE)}).iloc[0]
    assert (row["share"], row["all"], row["count"], row["shape"]) == (0.75, 0, 0, 1)


def table(rights: list[float]) -> pd.DataFrame:
    rows = [{"prompt_id": f"p{n}", "share": right, "all": right, "count": right} for n, right in enumerate(rights)]
    return pd.DataFrame(rows, columns=["prompt_id", *SUMMARIES, *ATTRIBUTES])


def test_the_table_by_hand():
    models = {
        (BASE, None): table([1, 1, 1, 0]),
        (CONTROL, 0): table([1, 1, 0, 0]),
        (CONTROL, 1): table([1, 1, 1, 0]),
        ("ctc", 0): table([1, 0, 0, 0]),
        ("ctc", 1): table([1, 1, 0, 0]),
    }
    found = attribute_table(models, Scoring(resamples=200)).set_index(["arm", "attribute"])
    assert set(found.index.get_level_values("attribute")) == {"share", "all", "count"}
    assert found.loc[(BASE, "all"), "value"] == 0.75
    assert np.isnan(found.loc[(BASE, "all"), "delta_vs_base"])
    assert found.loc[(CONTROL, "all"), "value"] == 0.625
    assert found.loc[(CONTROL, "all"), "delta_vs_base"] == pytest.approx(-0.125)
    assert np.isnan(found.loc[(CONTROL, "all"), "delta_vs_control"])
    own = found.loc[("ctc", "all")]
    assert (own["value"], own["delta_vs_base"], own["delta_vs_control"]) == (0.375, -0.375, -0.25)
    assert own["base_low"] <= own["delta_vs_base"] <= own["base_high"]
    assert (own["n_prompts"], own["n_training_seeds"]) == (4, 2)


def test_the_interval_of_a_change_knows_that_trainings_scatter():
    models = {(BASE, None): table([1.0] * 40)} | {(CONTROL, seed): table([1.0] * 40) for seed in range(3)}
    alike = models | {("ctc", seed): table([1.0] * 20 + [0.0] * 20) for seed in range(3)}
    scattered = models | {("ctc", seed): table([1 - seed / 2] * 40) for seed in range(3)}
    first, second = (
        attribute_table(own, Scoring(resamples=500)).set_index(["arm", "attribute"]).loc[("ctc", "share")]
        for own in (alike, scattered)
    )
    assert first["delta_vs_base"] == second["delta_vs_base"] == -0.5
    for name in ("base", "control"):
        assert -0.7 < first[f"{name}_low"] < first[f"{name}_high"] < -0.3
        assert second[f"{name}_low"] < -1 < 0 < second[f"{name}_high"]

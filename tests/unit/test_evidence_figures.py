"""Figures of the evidence: their lines are the tables' numbers, and twelve arms still fit."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_results import ARMS, ENGINES, RATES, SEEDS, make_results, trained_arms
from matplotlib.text import Text

from legible.config import FigureStyle
from legible.errors import UserError
from legible.figures import (
    adaptive_weights,
    cer_by_length,
    choose,
    drift_tradeoff,
    gradient_reach,
    inputs,
    learning_curves,
    race,
    training_curves,
)
from legible.figures.panels import smooth
from legible.figures.style import LINES, MARKERS, arm_colors, arm_rounds, log_scale, new_figure, spread_out

pytestmark = pytest.mark.slow  # whole pages, figures and bootstraps

MANY = RATES | {f"loss_{number:02d}": 0.1 + 0.02 * number for number in range(9)} | {"loss_00_shuffled": 0.33}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("results"), pictures=False)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("many"), MANY, pictures=False)


def texts_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def line_with(axes, x, y) -> bool:
    """Whether one of the panel's lines goes through exactly these points."""
    lines = [line.get_xydata() for line in axes.lines]
    return any(line.shape == (len(x), 2) and np.allclose(line, np.stack([x, y], axis=1)) for line in lines)


def test_learning_curves_are_means_over_seeds_and_seeds_against_steps_and_seconds(results):
    curve = inputs.read_curve(results)
    figure = learning_curves.draw(curve, ARMS, FigureStyle())
    panels = np.array(figure.axes).reshape(len(ENGINES), 2)
    for row, engine in enumerate(ENGINES):
        for arm in ARMS:
            own = curve[(curve["engine"] == engine) & (curve["arm"] == arm)]
            for column, x in enumerate(("step", "seconds")):
                mean = own.groupby("step")[["value", "seconds"]].mean().reset_index()
                assert line_with(panels[row, column], mean[x], mean["value"])
                for seed in SEEDS:
                    single = own[own["training_seed"] == seed]
                    assert line_with(panels[row, column], single[x], single["value"])
    control = curve[curve["arm"] == "diffusion_only"]["seconds"].max()
    assert any(np.allclose(line.get_xdata(), control) for line in panels[0, 1].lines)
    with pytest.raises(UserError, match=r"curve\.csv: the arm diffusion_only is not in it"):
        learning_curves.draw(curve[curve["arm"] != "diffusion_only"], ARMS, FigureStyle())


def test_the_tradeoff_shows_every_model_at_its_place(results):
    summary, drift = inputs.read_summary(results, ARMS), inputs.read_drift(results)
    figure = drift_tradeoff.draw(summary, drift, ARMS, FigureStyle())
    overall = summary[(summary["stratum"] == "all") & (summary["metric"] == "cer_micro")]
    x = drift[drift["metric"] == "dssim"].set_index("arm")["value"]
    for axes, engine in zip(figure.axes, ENGINES, strict=True):
        y = overall[overall["engine"] == engine].set_index("arm")["value"]
        for arm in ARMS:
            assert line_with(axes, [x[arm]], [y[arm]])
        assert line_with(axes, [0.0], [y["base"]])
    assert any("unrelated pictures of the base model: 0.400" in text for text in texts_of(figure))
    assert {"better", "clip_region", "base (not fine-tuned)"} <= set(texts_of(figure))
    with pytest.raises(UserError, match=r"drift\.csv: clip_region has no dssim"):
        drift_tradeoff.draw(summary, drift[drift["arm"] != "clip_region"], ARMS, FigureStyle())


def test_the_front_by_hand():
    points = {"base": (0.0, 0.5), "worse": (0.2, 0.5), "cheap": (0.1, 0.3), "dear": (0.4, 0.1), "beaten": (0.3, 0.3)}
    assert drift_tradeoff.pareto_front(points) == ["base", "cheap", "dear"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_no_point_beats(places):
    points = {f"p{i}": place for i, place in enumerate(places)}
    front = {points[name] for name in drift_tradeoff.pareto_front(points)}
    beaten = {p for p in places if any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in places)}
    assert front == set(places) - beaten


def test_gradient_reach_leaves_out_what_has_no_logarithm(results):
    gradients = inputs.read_gradients(results)
    strength, direction = gradient_reach.draw(gradients, FigureStyle()).axes
    ctc = gradients[gradients["loss"] == "ctc"].sort_values("sigma", ascending=False)
    assert line_with(strength, ctc["sigma"], ctc["grad_norm_aux"] / ctc["grad_norm_diffusion"])
    assert line_with(direction, ctc["sigma"], ctc["cosine"])
    clip = next(line for line in strength.lines if np.isnan(line.get_ydata()).any())
    assert np.isnan(clip.get_ydata()).tolist() == [True] + [False] * 7
    assert strength.get_yscale() == "log"


def test_adaptive_weights_show_lambda_only_where_it_varies(many):
    arms = trained_arms(MANY)
    metrics = inputs.read_metrics(many, arms)
    weight, ratio, cosine = adaptive_weights.draw(metrics, arms, FigureStyle()).axes
    assert [text.get_text() for text in weight.texts] == ["clip_region"]
    assert len(ratio.texts) == len(cosine.texts) == len(arms) - 1
    by_hand = pd.concat([metrics["loss_03", seed] for seed in SEEDS]).dropna(subset="grad_norm_aux")
    by_hand["ratio"] = by_hand["lambda"] * by_hand["grad_norm_aux"] / by_hand["grad_norm_diffusion"]
    mean = by_hand.groupby("step")["ratio"].mean()
    assert line_with(ratio, mean.index, mean)
    constant = {run: rows.assign(**{"lambda": 0.2}) for run, rows in metrics.items()}
    assert "no arm changes its λ" in texts_of(adaptive_weights.draw(constant, arms, FigureStyle()))


def malformed_of(arms) -> pd.DataFrame:
    rows = [{"arm": arm, "prompt_set": "held_out", "metric": "malformed_rate"} for arm in arms]
    return pd.DataFrame(rows).assign(value=[0.1 + 0.01 * place for place in range(len(rows))])


def test_the_race_is_the_curves_against_time_and_their_ends_against_what_they_cost(many):
    arms = trained_arms(MANY)
    curve, drift = inputs.read_curve(many), inputs.read_drift(many)
    curve = curve.assign(clock="processor seconds, measured alone")
    figure = race.draw(curve, drift, malformed_of(arms), arms, FigureStyle())
    panels = np.array(figure.axes).reshape(len(ENGINES), 3)
    moved = drift[drift["metric"] == "dssim"].set_index("arm")["value"]
    for row, engine in enumerate(ENGINES):
        for place, arm in enumerate(arms):
            own = curve[(curve["engine"] == engine) & (curve["arm"] == arm)]
            mean = own.groupby("step")[["value", "seconds"]].mean()
            drawn = not arm.endswith("_shuffled")
            assert line_with(panels[row, 0], mean["seconds"], mean["value"]) == drawn
            end = mean["value"].iloc[-1:]
            assert line_with(panels[row, 1], [moved[arm]], end) == drawn
            assert line_with(panels[row, 2], [0.1 + 0.01 * place], end) == drawn
    shown = texts_of(figure)
    assert "processor seconds, measured alone" in shown
    assert "loss_00" in shown
    assert not any("shuffled" in text for text in shown)


def test_the_race_without_a_glyph_judge_says_less(results):
    curve, drift = inputs.read_curve(results), inputs.read_drift(results)
    figure = race.draw(curve, drift, inputs.READ["malformed"](results, ARMS, None), ARMS, FigureStyle())
    assert len(figure.axes) == 2 * len(ENGINES)
    with pytest.raises(UserError, match=r"curve\.csv: the arm diffusion_only is not in it"):
        race.draw(curve[curve["arm"] != "diffusion_only"], drift, None, ARMS, FigureStyle())
    with pytest.raises(UserError, match=r"drift\.csv: the arm clip_region is not in it"):
        race.draw(curve, drift[drift["arm"] != "clip_region"], None, ARMS, FigureStyle())


@pytest.mark.parametrize("file", ["scores/curve.csv", "scores/drift.csv", "gradients.csv"])
@pytest.mark.parametrize("damage", ["missing", "empty", "foreign"])
def test_a_missing_empty_or_foreign_table_is_named(file, damage, results):
    read = {"curve.csv": inputs.read_curve, "drift.csv": inputs.read_drift, "gradients.csv": inputs.read_gradients}
    path = results / file
    content = path.read_bytes()
    try:
        path.unlink()
        if damage != "missing":
            path.write_bytes(b"" if damage == "empty" else b"a,b\n1,2\n")
        with pytest.raises(UserError) as error:
            read[path.name](results)
    finally:
        path.write_bytes(content)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_twelve_arms_are_told_apart_by_colour_and_marker():
    arms, style = trained_arms(MANY), FigureStyle()
    assert len(arms) == 12
    colors, rounds = arm_colors(arms, style), arm_rounds(arms, style)
    assert len({(colors[arm], rounds[arm]) for arm in colors}) == 13
    assert max(rounds.values()) < min(len(MARKERS), len(LINES))
    assert [arm for arm in colors if colors[arm] in (colors["base"], colors["diffusion_only"])] == [
        "base",
        "diffusion_only",
    ]


def test_figures_with_room_for_a_few_show_the_best(many):
    arms, summary = trained_arms(MANY), inputs.read_summary(many, trained_arms(MANY))
    shown = texts_of(cer_by_length.draw(summary, arms, FigureStyle()))
    best = cer_by_length.best_arms(summary, arms, 2)
    overall = summary[(summary["stratum"] == "all") & (summary["metric"] == "cer_micro")]
    error = overall.groupby("arm")["value"].mean()
    assert error[best].max() <= error[[arm for arm in arms if arm not in ("diffusion_only", *best)]].min()
    assert {arm for arm in arms[1:] if arm in shown} == set(best)
    table = inputs.read_scores(many)
    columns = choose.shown_arms(table, arms)
    assert len(columns) == 1 + choose.MOST
    assert set(best) <= set(columns)
    assert "loss_08" in choose.shown_arms(table, arms, ("loss_08",))
    assert choose.shown_arms(table, ARMS) == list(ARMS)


def test_training_curves_of_many_arms_are_means_over_seeds(many):
    arms = trained_arms(MANY)
    metrics = inputs.read_metrics(many, arms)
    axes = training_curves.draw(metrics, arms, FigureStyle()).axes
    mean = sum(metrics["loss_05", seed]["loss_diffusion"] for seed in SEEDS) / len(SEEDS)
    assert line_with(axes[0], range(80), smooth(mean))
    assert len([line for line in axes[0].lines if len(line.get_xdata())]) == len(arms)


@pytest.mark.parametrize("decades", [1, 2, 3, 4, 7, 12])
def test_a_logarithmic_axis_has_plain_numbers_however_far_it_reaches(decades):
    figure = new_figure(FigureStyle(), 3)
    axes = figure.subplots()
    axes.plot([0, 1], [10.0**-decades, 1])
    log_scale(axes)
    figure.canvas.draw()
    low, high = axes.get_ylim()
    numbers = [text.get_text() for text in axes.get_yticklabels() if low <= text.get_position()[1] <= high]
    assert 3 <= len(numbers) <= 12
    assert all(float(number) > 0 for number in numbers)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=15), st.floats(0.01, 0.066))
def test_labels_keep_their_order_their_distance_and_the_panel(heights, gap):
    placed = spread_out(sorted(heights), gap)
    assert len(placed) == len(heights)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(placed))
    assert min(placed) >= -1e-9
    assert max(placed) <= 1 + 1e-9
    apart = [i / 20 for i in range(5)]
    assert spread_out(apart, 0.05) == pytest.approx(apart)

"""Every figure from a small experiment: drawn, written, repeatable, and its choices and marks checked by hand."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_results import ARMS, SEEDS, make_results
from matplotlib.text import Text
from PIL import Image

from legible.config import FIGURES, FigureStyle
from legible.errors import UserError
from legible.figures import (
    best_and_worst,
    cer_by_arm,
    cer_by_length,
    delta_to_control,
    inputs,
    picture_grid,
    training_curves,
)
from legible.figures.choose import changes, columns_of, pick_evenly, pick_extremes
from legible.figures.page import break_name, mark_errors, resized
from legible.figures.panels import smooth
from legible.figures.style import arm_colors, house_style, save_figure
from legible.metrics.text import cer

pytestmark = pytest.mark.slow  # whole pages, figures and bootstraps

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(FIGURES)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return make_results(tmp_path_factory.mktemp("results"))


def draw(name: str, results: Path, style: FigureStyle, arms=ARMS):
    """One figure, by the library alone."""
    figure = FIGURES[name]
    return import_module(figure.module).draw(*(inputs.READ[need](results, arms, None) for need in figure.needs), style)


def texts_of(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def plot(results: Path, name: str, output: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/plot_figure.py", "--figure", name, "--results", str(results)]
    command += ["--arms", ",".join(ARMS), "--output", str(output), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_written_as_png_and_pdf_with_equal_bytes_each_time(name, results, tmp_path):
    style = FIGURES[name].style
    files = []
    for attempt in ("first", "second"):
        png = tmp_path / attempt / f"{name}.png"
        pdf = save_figure(draw(name, results, style), png)
        files.append((png.read_bytes(), pdf.read_bytes()))
        assert sorted(path.name for path in png.parent.iterdir()) == [f"{name}.pdf", f"{name}.png"]
    assert files[0] == files[1]
    assert files[0][1].startswith(b"%PDF")
    assert b"CreationDate" not in files[0][1]
    with Image.open(tmp_path / "first" / f"{name}.png") as image:
        assert image.width == round(style.width * style.dpi)
        assert image.height > 200
        assert np.asarray(image.convert("L")).std() > 5
        assert set(image.info) <= {"dpi"}


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_too_small_to_print(name, results):
    figure = draw(name, results, FIGURES[name].style)
    shown = [text for text in figure.findobj(Text) if text.get_text()]
    assert shown
    assert min(text.get_fontsize() for text in shown) >= 8


def test_the_script_draws_in_its_own_process_the_same_bytes(results, tmp_path):
    style = FigureStyle(height=3.0, colors=("#000000", "#111111", "#222222"))
    done = plot(results, "delta_to_control", tmp_path / "a.png", "--style", style.model_dump_json())
    assert done.returncode == 0, done.stderr
    save_figure(draw("delta_to_control", results, style), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_figures_show_the_numbers_of_the_summary(results):
    summary = inputs.read_summary(results, ARMS)
    overall = summary[(summary["stratum"] == "all") & (summary["metric"] == "cer_micro")]
    shown = texts_of(draw("cer_by_arm", results, FigureStyle()))
    for row in overall.itertuples():
        assert any(text.endswith(f"{row.value:.3f}") for text in shown), row
    shown = texts_of(draw("delta_to_control", results, FigureStyle()))
    row = overall[(overall["arm"] == "clip_region") & (overall["engine"] == "rapidocr")].iloc[0]
    number = f"{row.delta_vs_control:+.3f} [{row.delta_low:+.3f}, {row.delta_high:+.3f}]".replace("-", "−")
    assert number in shown
    assert "← better" in shown


def test_the_interval_over_prompts_and_seeds_is_drawn_beside_the_narrower_one(results):
    summary = inputs.read_summary(results, ARMS)
    row = summary[(summary["stratum"] == "all") & (summary["metric"] == "cer_micro")]
    row = row[(row["arm"] == "clip_region") & (row["engine"] == "rapidocr")].iloc[0]
    assert row.two_way_low < row.two_way_high
    (axes,) = draw("delta_to_control", results, FigureStyle()).axes
    ends = [tuple(segment[:, 0]) for lines in axes.collections for segment in lines.get_segments()]
    assert (row.two_way_low, row.two_way_high) in ends


def test_a_markers_place_is_the_value(results):
    summary = inputs.read_summary(results, ARMS)
    figure = draw("cer_by_length", results, FigureStyle())
    rows = summary[(summary["metric"] == "cer_micro") & (summary["engine"] == "rapidocr")]
    rows = rows[(rows["arm"] == "clip_region") & rows["stratum"].str.startswith("length=")]
    drawn = [container[0] for container in figure.axes[1].containers if container.get_label() == "clip_region"]
    np.testing.assert_allclose(sorted(drawn[0].get_ydata()), sorted(rows["value"]))


def test_more_arms_prompt_sets_and_engines_than_usual_still_fit(results, tmp_path):
    """Colours repeat, rows grow: nothing fails, and the figure becomes higher, not smaller."""
    summary, seeds = inputs.read_summary(results, ARMS), inputs.read_seeds(results)
    arms = [*ARMS, *(f"arm_{number}" for number in range(7))]
    own = [summary[summary["arm"] == "clip_region"].assign(arm=arm) for arm in arms[2:]]
    summary = pd.concat([summary, *own])
    third = summary[summary["engine"] == "rapidocr"].assign(engine="tesseract")
    summary = pd.concat([summary, third])
    summary = pd.concat([summary, summary.assign(prompt_set="other")])
    style = FigureStyle()
    for figure in (
        cer_by_arm.draw(summary, seeds, arms, style),
        delta_to_control.draw(summary, seeds, arms, style),
        cer_by_length.draw(summary, arms, style),
    ):
        save_figure(figure, tmp_path / "many.png")
        assert figure.get_figheight() > style.height
    assert len(set(arm_colors(arms, style).values())) == len(style.colors)


def test_prompts_are_text_and_no_formula_and_pictures_may_be_large(results, tmp_path):
    read = picture_grid.Read("rapidocr", "A$B$", "A$\\frac$<b>" * 9, "strict", 3.0)
    big = np.random.default_rng(0).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    row = picture_grid.Row("A$B$", 'a sign "$\\frac{" ' * 30, "", "", (picture_grid.Cell(big, (read,)),) * 3)
    figure = picture_grid.picture_grid([row], ["one", "two", "three"], "title", FigureStyle(dpi=80))
    save_figure(figure, tmp_path / "big.png")
    assert any("$\\frac{" in text for text in texts_of(figure))


def test_only_the_picked_training_seed_and_image_are_shown(results):
    table = inputs.read_scores(results)
    keys = pick_evenly(table, 6)
    assert [key[1] for key in keys] == ["p00", "p03", "p06", "p08", "p11", "p14"]
    assert {key[2] for key in keys} == {0}
    assert list(columns_of(table, ("clip_region", "diffusion_only"))) == [
        "ceiling_render",
        "base",
        "diffusion_only-seed0",
        "clip_region-seed0",
    ]
    rows = picture_grid.load_rows(results / "images", table, keys, ["base", "clip_region-seed0"])
    expected = np.asarray(Image.open(results / "images" / "clip_region-seed0" / "held_out" / "p03_s0.png"))
    np.testing.assert_array_equal(rows[1].cells[1].image, expected)
    assert (rows[1].target, [read.engine for read in rows[1].cells[0].reads]) == ("KNOCK", ["easyocr", "rapidocr"])


def test_extremes_are_extreme_real_changes_and_of_different_prompts():
    index = pd.MultiIndex.from_tuples(
        [("s", "a", 0), ("s", "a", 1), ("s", "b", 0), ("s", "c", 0), ("s", "d", 0), ("s", "e", 0)],
        names=["prompt_set", "prompt_id", "image_seed"],
    )
    delta = pd.Series([-0.9, -0.8, -0.5, 0.0, 0.25, -0.1], index=index)
    gains, losses = pick_extremes(delta, 4)
    assert gains == [("s", "a", 0), ("s", "b", 0)]
    assert losses == [("s", "d", 0)]
    assert pick_extremes(delta * 0, 4) == ([], [])


def test_the_change_of_a_picture_is_its_mean_over_the_engines(results):
    table = inputs.read_scores(results)
    delta = changes(table, "clip_region-seed0", "diffusion_only-seed0")
    assert len(delta) == 30
    by_hand = [
        table[(table["model"] == f"{arm}-seed0") & (table["prompt_id"] == "p04") & (table["image_seed"] == 1)]["cer"]
        for arm in ("clip_region", "diffusion_only")
    ]
    assert delta["held_out", "p04", 1] == pytest.approx(by_hand[0].mean() - by_hand[1].mean())
    with pytest.raises(UserError, match="clip_region-seed7"):
        changes(table, "clip_region-seed7", "diffusion_only-seed0")


def test_without_any_change_the_extremes_say_so(tmp_path):
    folder = make_results(tmp_path, dict.fromkeys(("base", *ARMS, "ceiling_render", "ceiling_vae"), 0.0))
    table = inputs.read_scores(folder).assign(cer=0.0)
    shown = texts_of(best_and_worst.draw(folder / "images", table, ARMS, FigureStyle()))
    assert "no picture changed" in shown


def test_the_control_alone_is_a_valid_experiment(results):
    for name in NAMES:
        draw(name, results, FigureStyle(), ("diffusion_only",))
    assert (
        "no arm beside the control" in texts_of(draw("best_and_worst", results, FigureStyle(), ["diffusion_only"]))[0]
    )


def test_runs_of_other_seeds_are_left_out_when_seeds_are_given(results, tmp_path):
    assert {seed for _, seed in inputs.read_metrics(results, ARMS, [1])} == {1}
    with pytest.raises(UserError, match=r"seed7.metrics\.jsonl: no such file"):
        inputs.read_metrics(results, ARMS, [7])
    assert plot(results, "training_curves", tmp_path / "a.png", "--seeds", "0").returncode == 0


def test_marks_by_hand():
    assert mark_errors("OPEN", "OPFN", "lenient") == [("O", "right"), ("P", "right"), ("F", "wrong"), ("N", "right")]
    assert mark_errors("OPEN", "open.", "lenient") == [*((c, "right") for c in "open"), (".", "ignored")]
    assert mark_errors("OPEN", "", "strict") == [("_", "missing")] * 4
    assert mark_errors("OPEN", "OP EN", "lenient")[2] == (" ", "ignored")
    assert mark_errors("OPEN", "OP EN", "strict")[2] == (" ", "wrong")
    assert mark_errors("TO GO", "TOGO", "lenient")[2] == ("_", "missing")


@given(
    st.text("ABCab12", min_size=1, max_size=8), st.text("ABCab12", max_size=8), st.sampled_from(["strict", "lenient"])
)
def test_as_many_characters_are_marked_as_the_score_counts(target, reading, profile):
    marked = mark_errors(target, reading, profile)
    wrong = sum(state in ("wrong", "missing") for _, state in marked)
    fold = str.casefold if profile == "lenient" else str
    assert wrong == round(cer(fold(target), fold(reading)) * len(target))
    assert "".join(piece for piece, state in marked if state != "missing") == reading


def test_headings_break_after_underscores():
    assert break_name("diffusion_only\n(control)", 14) == "diffusion_only\n(control)"
    assert break_name("diffusion_only\n(control)", 10) == "diffusion_\nonly\n(control)"


def test_small_pictures_keep_their_pixels_and_large_ones_their_mean():
    checks = (np.indices((4, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    np.testing.assert_array_equal(resized(checks, 24, 12), checks.repeat(3, axis=0).repeat(3, axis=1))
    enlarged = resized(checks, 20, 10)
    assert enlarged.shape == (10, 20, 3)
    assert enlarged.mean() == pytest.approx(checks.mean(), abs=2)
    assert enlarged[0, 0, 0] == 0
    assert resized(np.full((64, 64, 3), 90, np.uint8), 10, 10).std() == 0


def test_settings_of_a_user_do_not_change_a_figure():
    import matplotlib

    before = matplotlib.rcParams["font.size"]
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True}), house_style():
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["axes.grid"]) == (9, False)
    assert matplotlib.rcParams["font.size"] == before


def test_an_arm_with_rewards_has_no_diffusion_loss_and_its_own_loss_is_shown(results):
    """… and nothing of it is compared with the control's."""
    rows = inputs.read_metrics(results, ARMS)
    rewarded = {run: table.copy() for run, table in rows.items()}
    for (arm, _), table in rewarded.items():
        if arm == ARMS[1]:
            table[["loss_diffusion", "loss_aux"]] = None
    axes = training_curves.draw(rewarded, ARMS, FigureStyle()).axes
    before = training_curves.draw(rows, ARMS, FigureStyle()).axes

    def lines(panel) -> list:
        return [np.asarray(line.get_ydata(), float) for line in panel.lines if len(line.get_xdata()) == 80]

    smoothed = smooth(rewarded[ARMS[1], SEEDS[0]]["loss_total"].astype(float), 0.25)
    assert any(np.allclose(line, smoothed) for line in lines(axes[2]))
    assert len(lines(axes[1])) == len(lines(before[1])) - len(SEEDS)
    assert len(lines(axes[3])) == len(lines(before[3]))


def test_the_training_figure_compares_each_seed_with_its_own_control(results):
    metrics_of = inputs.read_metrics(results, ARMS)
    assert list(metrics_of) == [(arm, seed) for arm in ARMS for seed in SEEDS]
    axes = training_curves.draw(metrics_of, ARMS, FigureStyle()).axes
    difference = [line for line in axes[1].lines if len(line.get_xdata()) == 80]
    assert len(difference) == len(SEEDS)
    for line in difference:
        np.testing.assert_allclose(line.get_ydata(), 0.004, atol=1e-9)
    shorter = {run: rows if run[0] == ARMS[0] else rows[:50] for run, rows in metrics_of.items()}
    longer = {run: rows[:50] if run[0] == ARMS[0] else rows for run, rows in metrics_of.items()}
    for unlike in (shorter, longer):  # arms with numbers of steps of their own: as far as both go
        compared = [line for line in training_curves.draw(unlike, ARMS, FigureStyle()).axes[1].lines]
        assert [len(line.get_xdata()) for line in compared if len(line.get_xdata()) > 2] == [50] * len(SEEDS)
    alone = {run: rows for run, rows in metrics_of.items() if run[0] == "diffusion_only"}
    shown = texts_of(training_curves.draw(alone, ["diffusion_only"], FigureStyle()))
    assert shown.count("no arm has one") == 2


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cer_by_arm", "scores/summary.csv"),
        ("delta_to_control", "scores/seeds.csv"),
        ("samples", "scores/scores.parquet"),
        ("samples", "images/base/held_out/manifest.jsonl"),
        ("best_and_worst", "images/clip_region-seed0/held_out/manifest.jsonl"),
        ("training_curves", "runs/clip_region/seed1/metrics.jsonl"),
        ("dataset", "data/train.parquet"),
        ("dataset", "data/showcase.parquet"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "empty", "foreign"])
def test_a_missing_empty_or_foreign_file_is_named(name, file, damage, results):
    path = results / file
    content = path.read_bytes()
    try:
        path.unlink()
        if damage != "missing":
            path.write_bytes(b"" if damage == "empty" else b"{}\n")
        with pytest.raises(UserError) as error:
            draw(name, results, FigureStyle())
    finally:
        path.write_bytes(content)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_picture_arm_or_control_is_named(results):
    with pytest.raises(UserError, match=r"summary\.csv: the arm ctc is not in it"):
        draw("cer_by_arm", results, FigureStyle(), ("diffusion_only", "ctc"))
    with pytest.raises(UserError, match=r"runs.ctc: no run"):
        draw("training_curves", results, FigureStyle(), ("diffusion_only", "ctc"))
    with pytest.raises(UserError, match="diffusion_only is missing"):
        draw("cer_by_arm", results, FigureStyle(), ("clip_region",))
    path = results / "images" / "base" / "held_out" / "p00_s0.png"
    content = path.read_bytes()
    try:
        path.write_bytes(content[:60])
        with pytest.raises(UserError, match=r"p00_s0\.png: the image is damaged"):
            draw("samples", results, FigureStyle())
    finally:
        path.write_bytes(content)


def test_the_script_refuses_bad_arguments_in_one_sentence(results, tmp_path):
    for style, message in (
        ({"dpi": -1}, "--style: dpi"),
        ({"colour": 1}, "--style: colour: unknown key"),
        ({"colors": ["red", "blue", "green"]}, "--style: colors"),
    ):
        done = plot(results, "cer_by_arm", tmp_path / "a.png", "--style", json.dumps(style))
        assert (done.returncode, message in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
    assert "must end in .png" in plot(results, "cer_by_arm", tmp_path / "a.svg").stderr
    assert list(tmp_path.iterdir()) == []


def test_characters_without_a_glyph_are_shown_as_code_points():
    from legible.figures.style import drawable

    assert drawable("AB漢é→") == "AB⟨6F22⟩é→"

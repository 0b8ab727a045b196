"""The report: its sentences follow the numbers, it holds the table, and it needs nothing from anywhere else."""

import base64
import html
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from make_results import ARMS, RATES, SEEDS, make_results

from legible.config import FIGURES, Config, load
from legible.errors import UserError
from legible.figures import inputs
from legible.figures.labels import arm_label, engine_label, signed
from legible.io import write_jsonl
from legible.metrics.compare import claims
from legible.metrics.statistics import holm, seed_interval
from legible.metrics.training import clipped_share
from legible.report import report_page
from legible.report.describe import describe_drift
from legible.report.experiment import Experiment, corrected, read_experiment
from legible.report.verdict import Verdict, explain, explain_control, headline, judge, rule
from legible.report.words import p_text

pytestmark = pytest.mark.slow  # whole pages, figures and bootstraps

ROOT = Path(__file__).resolve().parents[2]
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
ATTACK = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Rows of all tables by the table's class, the tags, and every address that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.table, self.inside = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [found[key] for key in ("src", "href", "data", "srcset", "poster") if key in found]
        if tag == "table":
            self.table = found.get("class", "")
            self.tables.setdefault(self.table, [])
        elif tag == "tr":
            self.tables[self.table].append([])
        elif tag in ("td", "th"):
            self.tables[self.table][-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.tables[self.table][-1][-1] += data


def add_figures(folder: Path) -> Path:
    (folder / "figures").mkdir()
    for name in FIGURES:
        (folder / "figures" / f"{name}.png").write_bytes(PNG)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return add_figures(make_results(tmp_path_factory.mktemp("results"), extra=ATTACK))


@cache
def read(results: Path) -> Experiment:
    """The experiment, which no test may change."""
    return read_experiment(results, load(results / "config.yaml"))


def build(results: Path, figures=tuple(FIGURES), drift: bool = True) -> str:
    experiment = read(results)
    experiment = experiment if drift else replace(experiment, drift=None)
    return report_page.build(experiment, (results / "config.yaml").read_text(), figures)


@pytest.fixture(scope="module")
def page(results) -> str:
    return build(results)


BOTH = "prompts and training seeds does not exclude zero"
GAIN, LOSS = (-0.1, -0.2, -0.05), (0.1, 0.05, 0.2)
UNSURE, TOUCHING, ALONE = (-0.1, -0.2, 0.01), (-0.1, -0.2, 0.0), (-0.1, float("nan"), float("nan"))


def verdict_of(
    results: Path,
    easy: tuple,
    rapid: tuple,
    p_holm: tuple[float, float] = (0.001, 0.001),
    seeds: tuple[float, ...] = (0.9, 1.0, 1.1),
    differs: str = "",
    control: str = "diffusion_only",
) -> Verdict:
    """The verdict on clip_region with other numbers: (delta, low, high) of both engines; `seeds`: shares of delta."""
    experiment = read(results)
    summary, runs = experiment.summary.copy(), experiment.seeds.copy()
    for engine, numbers, p in (("easyocr", easy, p_holm[0]), ("rapidocr", rapid, p_holm[1])):
        for table in (summary, runs):
            mine = (table["arm"] == "clip_region") & (table["engine"] == engine) & (table["metric"] == "cer_micro")
            table.loc[mine, ["control", "control_differs"]] = [control, differs]
            if table is summary:
                table.loc[mine, ["delta_vs_control", "two_way_low", "two_way_high", "p_holm"]] = [*numbers, p]
                continue
            for seed in range(3):
                share = seeds[seed] if seed < len(seeds) else float("nan")
                table.loc[mine & (table["training_seed"] == seed), "delta_vs_control"] = share * numbers[0]
    return judge(summary, runs, "clip_region", "held_out", 0.95)


@pytest.mark.parametrize(
    ("changed", "outcome", "sentence", "reason"),
    [
        ({}, "better", "Yes: with clip_region the text is read with fewer errors", ""),
        ({"easy": LOSS, "rapid": LOSS}, "worse", "No: with clip_region the text is read with more errors", ""),
        ({"rapid": LOSS}, "not shown", "Not shown", "the judges contradict one another"),
        ({"rapid": UNSURE}, "not shown", "Not shown", f"the interval of RapidOCR over {BOTH}"),
        ({"rapid": TOUCHING}, "not shown", "Not shown", f"the interval of RapidOCR over {BOTH}"),
        ({"rapid": ALONE}, "not shown", "Not shown", f"the interval of RapidOCR over {BOTH}"),
        (
            {"easy": UNSURE, "rapid": UNSURE},
            *("not shown", "Not shown", f"the interval of EasyOCR and RapidOCR over {BOTH}"),
        ),
        ({"seeds": (1.0, 1.1, -0.9)}, "not shown", "Not shown", "the training seeds disagree in sign"),
        (
            {"p_holm": (0.001, 0.069)},
            *("not shown", "Not shown", "p of RapidOCR after Holm's correction is not below 0.05"),
        ),
        (
            {"p_holm": (0.001, 0.05)},  # at the level, not below it
            *("not shown", "Not shown", "p of RapidOCR after Holm's correction is not below 0.05"),
        ),
        (
            {"p_holm": (0.001, float("nan"))},  # an older table, without the test
            *("not shown", "Not shown", "p of RapidOCR after Holm's correction is not below 0.05"),
        ),
        (
            {"seeds": (0.02, 0.5, 2.48)},  # of one sign, and far apart
            *("not shown", "Not shown", "the interval of EasyOCR and RapidOCR over training seeds alone does"),
        ),
        (
            {"differs": "anchor"},
            *("not shown", "Not shown", "no control is matched: diffusion_only differs in anchor, too"),
        ),
        ({"seeds": (1.0,)}, "hint better", "A hint, one training seed only: with clip_region", "one training seed"),
        ({"seeds": (0.9, 1.1)}, "hint better", "A hint, two training seeds only", "two training seeds"),
        ({"easy": LOSS, "rapid": LOSS, "seeds": (1.0,)}, "hint worse", "A hint, one training seed", "one training"),
        ({"seeds": (1.0,), "p_holm": (0.069, 0.069)}, "not shown", "Not shown", "p of EasyOCR and RapidOCR after"),
    ],
)  # fmt: skip
def test_a_gain_is_claimed_only_with_corrected_tests_three_seeds_and_a_matched_control(
    results, changed, outcome, sentence, reason
):
    verdict = verdict_of(results, **{"easy": GAIN, "rapid": GAIN} | changed)
    assert verdict.outcome == outcome
    assert verdict.reason.startswith(reason)
    assert bool(verdict.reason) == bool(reason)
    assert headline([verdict]).startswith(sentence)
    text = explain(verdict, 0.95)
    assert verdict.reason in text
    assert ("no difference is shown" in text) == (outcome == "not shown")
    if outcome not in ("better", "worse"):
        assert not headline([verdict]).startswith(("Yes", "No:"))


def test_several_arms_share_one_headline_that_counts_the_training_seeds(results):
    better, worse = verdict_of(results, GAIN, GAIN), verdict_of(results, LOSS, LOSS)
    both = headline([better, worse])
    assert "Yes: with clip_region the text is read with fewer errors than with the control (3 training seeds)." in both
    assert "But with clip_region the text is read with more errors" in both
    assert "no arm beside the control" in headline([])


def test_another_control_is_named(results):
    verdict = verdict_of(results, GAIN, GAIN, control="base")
    assert "Yes: with clip_region (control: base) the text" in headline([verdict])
    assert explain(verdict, 0.95).startswith("clip_region against base: fewer errors")


def test_the_sentence_gives_the_numbers(results):
    (experiment,) = corrected([read(results)])
    verdict = judge(experiment.summary, experiment.seeds, "clip_region", "held_out", 0.95)
    text = explain(verdict, 0.95)
    for row in verdict.judgements:
        assert f"CER {row.value:.3f} instead of {row.control:.3f} ({row.delta:+.3f}".replace("-", "−") in text
        start = f"{row.delta / row.control:+.0%}; 95% interval over prompts and training seeds {row.low:+.3f} to "
        start += f"{row.high:+.3f}, over training seeds alone {row.seeds_low:+.3f} to {row.seeds_high:+.3f}; p (Holm) "
        start += p_text(row.p_holm)
        assert start.replace("-", "−") in text
        assert (row.seeds_low, row.seeds_high) == seed_interval(row.seed_deltas, 0.95)
    assert "All 3 training seeds point the same way." in text
    assert "With a single training seed intervals resample prompts only" in rule(0.95, 8)
    assert "Holm's correction over all 8 tests of CER against a control on this page" in rule(0.95, 8)


def test_tests_are_corrected_over_all_arms_judges_and_regimes_of_a_page(results):
    one = read(results)
    p_values = claims(one.summary).set_index(["arm", "engine"])["p_value"].dropna()
    own = p_values["clip_region"].tolist()
    (alone,) = corrected([one])
    assert claims(alone.summary).set_index(["arm", "engine"]).loc["clip_region", "p_holm"].tolist() == holm(own)
    first, second = corrected([one, one])
    for experiment, expected in ((first, holm(own * 2)[:2]), (second, holm(own * 2)[2:])):
        found = claims(experiment.summary).set_index(["arm", "engine"])
        assert found.loc["clip_region", "p_holm"].tolist() == expected
        assert found.loc["base", "p_holm"].tolist() == p_values["base"].tolist()  # no claim
        assert experiment.family == (4, 8)  # two pages of one arm × two judges; against the base the control, too
        to_base = claims(one.summary).set_index(["arm", "engine"])["base_p_value"].dropna()
        start = 4 if experiment is second else 0
        expected_base = holm(to_base.tolist() * 2)[start : start + 4]
        assert found["base_p_holm"].dropna().tolist() == expected_base
    assert one.summary["p_holm"].equals(read(results).summary["p_holm"])


def test_the_control_is_compared_with_the_base_the_right_way_round(results):
    experiment = read(results)
    summary, seeds = experiment.summary.copy(), experiment.seeds
    mine = (summary["arm"] == "base") & (summary["metric"] == "cer_micro")
    summary.loc[mine, ["delta_vs_control", "two_way_low", "two_way_high"]] = [0.1, 0.05, 0.2]
    assert explain_control(summary, seeds, "held_out", 0.95).count("(fewer errors)") == 2
    summary.loc[mine, ["delta_vs_control", "two_way_low", "two_way_high"]] = [-0.1, -0.2, -0.05]
    assert explain_control(summary, seeds, "held_out", 0.95).count("(more errors)") == 2


def test_the_whole_page_flips_with_the_spelling(results, page, tmp_path):
    assert "Yes: with clip_region the text is read with fewer errors" in page
    swapped = RATES | {"diffusion_only": RATES["clip_region"], "clip_region": 0.5}
    worse = build(add_figures(make_results(tmp_path / "worse", swapped)))
    assert "No: with clip_region the text is read with more errors" in worse
    assert "Yes: with" not in worse


def test_the_table_holds_every_number_of_the_summary(results, page):
    table = Page(page).tables["summary"]
    assert table[0] == ["Pictures of", "Judge", *report_page.COLUMNS.values()]
    found = {tuple(row[:2]): row[2:] for row in table[1:]}
    summary = inputs.read_summary(results, ARMS)
    overall = summary[(summary["stratum"] == "all") & summary["metric"].isin(report_page.COLUMNS)]
    assert len(found) * len(report_page.COLUMNS) == len(overall) == 5 * 2 * 6
    for row in overall.itertuples():
        cell = found[arm_label(row.arm), engine_label(row.engine)][list(report_page.COLUMNS).index(row.metric)]
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", cell)]
        assert numbers == pytest.approx([row.value, row.ci_low, row.ci_high], abs=5e-4)


def test_costs_versions_and_configuration_are_there(results, page):
    costs = Page(page).tables["costs"]
    counts = ["80", "40", "60", "0.75 (1.00 ×)", "1.40", "4,900,000 of 5,100,000"]
    assert costs[1][:8] == ["diffusion_only (control, λ = 0)", "0", *counts]
    assert costs[4][5] == "0.825 (1.10 ×)"
    assert "Seconds per step: processor seconds, other work beside. Other jobs on the same machine" in page
    assert len(costs) == 7
    for text in ("Test CPU (2 logical cores), Linux", "rapidocr 1.0, normalisation lenient-1", "2.15.0", "ab" * 32):
        assert text in page
    assert "snakemake --cores all --configfile results/nano/config.yaml" in page
    assert "held_out.jsonl" in page


def test_it_needs_nothing_from_anywhere_else(page):
    parsed = Page(page)
    assert len(parsed.addresses) == len(FIGURES)
    assert all(address.startswith("data:image/png;base64,") for address in parsed.addresses)
    assert base64.b64decode(parsed.addresses[0].split(",")[1]) == PNG
    assert not {"script", "link", "iframe", "object", "base"} & set(parsed.tags)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_prompts_are_text_and_never_markup(page):
    assert ATTACK not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    samples = Page(page).tables["samples"]
    assert samples[1][0].endswith(ATTACK)
    assert samples[1][1] == "OPEN"


def test_every_figure_has_its_title_and_its_caption(page):
    for figure in FIGURES.values():
        assert len(figure.caption) > 100
        assert html.escape(figure.caption, quote=False) in page.replace("&#39;", "'").replace("&#34;", '"')
        assert f">{figure.title}</h2>" in page
    for name in ("workflow", "report", "summary"):  # of Snakemake's own report
        assert len((report_page.RESOURCES / f"{name}.rst").read_text(encoding="utf-8")) > 100


def test_only_the_figures_asked_for_are_shown_in_the_reports_order(results):
    page = build(results, ("samples", "delta_to_control"))
    assert re.findall(r'<h2 id="(samples|delta_to_control|cer_by_arm)"', page) == ["delta_to_control", "samples"]
    assert len(Page(page).addresses) == 2
    with pytest.raises(UserError, match="--figures: pie: unknown figure"):
        build(results, ("pie",))


def test_by_default_the_drawn_figures_are_shown(results):
    path = results / "figures" / "samples.png"
    content = path.read_bytes()
    path.unlink()
    try:
        assert set(report_page.drawn_figures(results)) == set(FIGURES) - {"samples"}
    finally:
        path.write_bytes(content)


def test_drift_stands_beside_the_gain(results, page):
    rows = Page(page).tables["guard"]
    assert rows[0] == ["Pictures of", *report_page.guard_columns(["rapidocr", "easyocr"])]
    found = {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[1:]}
    drift, summary = inputs.read_drift(results), inputs.read_summary(results, ARMS)
    moved = drift[(drift["arm"] == "clip_region") & (drift["metric"] == "dssim")].iloc[0]
    numbers = [float(x) for x in re.findall(r"[+-]?\d+\.\d+", found["clip_region"]["DSSIM ↓"].replace("−", "-"))]
    assert numbers == pytest.approx(
        [moved[c] for c in ("value", "delta_vs_control", "delta_low", "delta_high")], abs=5e-4
    )
    extra = summary[(summary["stratum"] == "all") & (summary["metric"] == "extra_text_rate")]
    extra = extra[(extra["arm"] == "clip_region") & (extra["engine"] == "rapidocr")].iloc[0]
    assert found["clip_region"]["extra text ↓, RapidOCR"].startswith(f"{extra.value:.3f} (")
    assert found["base (not fine-tuned)"]["KID ↓"] == "–"
    scale = drift[(drift["arm"] == "base_other_seed") & (drift["metric"] == "dssim")].iloc[0]
    assert found["base, other noise (the scale)"]["DSSIM ↓"].startswith(f"{scale.value:.3f}")
    without = build(results, drift=False)
    assert "Reward hacking?" in page
    assert "Reward hacking?" not in without
    assert "Only legibility is measured" in without
    assert "Only legibility is measured" not in page


def test_the_tests_show_both_p_values_of_errors_and_of_exact_matches(results, page):
    rows = Page(page).tables["tests"]
    (experiment,) = corrected([read(results)])
    summary = experiment.summary[
        (experiment.summary["stratum"] == "all") & (experiment.summary["arm"] == "clip_region")
    ]
    cer, exact = (summary[summary["metric"] == metric] for metric in ("cer_micro", "exact"))
    expected = [
        [p_text(p) for p in (c.p_value, c.p_holm, e.p_value, e.p_holm)]
        for c, e in zip(cer.itertuples(), exact.itertuples(), strict=True)
    ]
    assert [[row[5], row[6], row[8], row[9]] for row in rows[1:]] == expected
    runs = claims(experiment.seeds)
    for row, c in zip(rows[1:], cer.itertuples(), strict=True):
        assert row[3] == f"{signed(c.delta_vs_control)} [{signed(c.two_way_low)}, {signed(c.two_way_high)}]"
        own = runs[(runs["arm"] == "clip_region") & (runs["engine"] == c.engine)]
        low, high = seed_interval(own["delta_vs_control"].tolist(), 0.95)
        assert row[4] == f"[{signed(low)}, {signed(high)}]"
        assert row[10] == f"{signed(c.base_delta)} [{signed(c.base_two_way_low)}, {signed(c.base_two_way_high)}]"
        base = claims(experiment.summary).set_index(["arm", "engine"]).loc[("base", c.engine), "value"]
        low, high = seed_interval((own["value"] - base).tolist(), 0.95)
        assert row[11] == f"[{signed(low)}, {signed(high)}]"
        assert row[12] == p_text(c.base_p_holm)
    assert [row[:2] for row in rows[1:]] == [["clip_region", "diffusion_only"]] * 2


def test_limits_follow_the_configuration_and_the_training(results):
    experiment = read(results)
    text = " ".join(report_page.limits(experiment))
    assert "RapidOCR and EasyOCR read every picture as a single line" in text
    assert "3 training seeds per arm" in text
    assert "fewer than" not in text
    assert (
        "The EasyOCR judge (resources/nano/recognizer_crnn) is separate from the losses' reader, not independent"
        in text
    )
    assert "Independent judges: RapidOCR." in text
    assert "placebo" not in text
    assert "only other prompts can confirm them" in text
    assert "auxiliary gradient is longer" not in text
    raw = {"ocr": {"rapidocr": {"detect": True}, "easyocr": None}, "seeds": [0]}
    none = (float("nan"),) * 3
    strong = {"diffusion_only": none, "clip_region": (16.0, 9.0, 40.0), "x_shuffled": none}
    other = replace(
        experiment, config=Config.model_validate(raw), strength=strong, arms=[*experiment.arms, "x_shuffled"]
    )
    text = " ".join(report_page.limits(other))
    assert "single line" not in text
    assert "one judge only" in text
    assert "One training seed per arm" in text
    assert "with fewer than 3 nothing is claimed" in text
    assert "Independent of the losses' reader: RapidOCR." in text
    assert "With clip_region the auxiliary gradient is longer than the diffusion loss's" in text
    assert "does not exclude that any gradient towards more legible glyphs" in text


def test_the_share_of_the_gradient_and_the_clipped_steps_stand_beside_the_costs(results, page):
    rows = {(row[0], row[1]): row for row in Page(page).tables["costs"][1:]}
    metrics = pd.concat(inputs.read_metrics(results, ["clip_region"], SEEDS).values())
    measured = metrics.dropna(subset="grad_norm_aux")
    ratio = measured["lambda"] * measured["grad_norm_aux"] / measured["grad_norm_diffusion"]
    clipped = sum(metrics["grad_norm"] > 1.0) / len(metrics)
    assert rows["clip_region", "0"][-2:] == [
        f"{ratio.median():.2g} ({ratio.min():.2g} to {ratio.max():.2g})",
        f"{clipped:.0%}",
    ]
    assert rows["diffusion_only (control, λ = 0)", "0"][-2] == "–"
    longer = metrics.assign(grad_norm=[0.5, 1.0, 1.5, 2.0] * (len(metrics) // 4))
    assert (clipped_share(longer, 1.0), clipped_share(longer, 2.0)) == (0.5, 0.0)


def test_what_drift_can_show_follows_what_is_read_in_the_bases_pictures(results):
    limit = "drift on a model that draws letters for every prompt cannot show collateral damage"
    page = build(results)
    assert f"hold text was not measured: {limit}" in html.unescape(page)
    found = [("XK", 0.9), ("OOO", 0.9), None, ("XK", 0.5), ("A1", 0.7)]
    rows = [{"readings": [{"text": line[0], "confidence": line[1]}] if line else []} for line in found]
    try:
        for engine in ("rapidocr", "easyocr"):  # the latter's detector is not there: what lies there does not count
            write_jsonl(results / "ocr" / engine / "base" / "no_text.jsonl", rows)
        read.cache_clear()
        assert read(results).lettered == {"rapidocr": (2, 5)}
        page = html.unescape(build(results))
    finally:
        shutil.rmtree(results / "ocr")
        read.cache_clear()
    assert f"prompts without text by RapidOCR in 2 of 5: {limit}." in page
    assert describe_drift({"rapidocr": (1, 48)}).endswith("prompts without text by RapidOCR in 1 of 48.")


def run(results: Path, output: Path, figures=tuple(FIGURES)) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/build_report.py", "--results", str(results), "--output", str(output)]
    command += ["--config", str(results / "config.yaml"), "--figures", *figures]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)})


def test_the_script_writes_the_same_page(results, page, tmp_path):
    done = run(results, tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    "file", ["figures/samples.png", "scores/seeds.csv", "runs/clip_region/seed1/run.json", "config.yaml"]
)
def test_a_missing_or_empty_file_is_named(results, file, tmp_path):
    path = results / file
    content = path.read_bytes()
    try:
        path.unlink()
        done = run(results, tmp_path / "report.html")
        assert (done.returncode, file in done.stderr, done.stderr.count("\n")) == (2, True, 1), done.stderr
        if file != "config.yaml":  # an empty configuration is the default one
            path.write_bytes(b"")
            read.cache_clear()
            with pytest.raises(UserError, match=path.name):
                build(results)
    finally:
        path.write_bytes(content)
    assert list(tmp_path.iterdir()) == []

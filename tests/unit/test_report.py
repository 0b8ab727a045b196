"""The report: its sentences follow the numbers, it holds the table, and it needs nothing from anywhere else."""

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from make_results import ARMS, RATES, SEEDS, make_results

from legible.config import Config, Figures, load
from legible.errors import UserError
from legible.figures import inputs, report
from legible.figures.verdict import explain, explain_control, headline, judge

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
    for name in Figures.model_fields:
        (folder / "figures" / f"{name}.png").write_bytes(PNG)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    return add_figures(make_results(tmp_path_factory.mktemp("results"), extra=ATTACK))


def build(results: Path, figures=tuple(Figures.model_fields), drift: bool = True) -> str:
    config = load(results / "config.yaml")
    return report.build(
        results,
        config,
        (results / "config.yaml").read_text(),
        inputs.read_summary(results, ARMS),
        inputs.read_seeds(results),
        inputs.read_scores(results),
        inputs.read_runs(results, ARMS, SEEDS),
        figures,
        inputs.read_drift(results) if drift else None,
    )


@pytest.fixture(scope="module")
def page(results) -> str:
    return build(results)


def tables(results: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    return inputs.read_summary(results, ARMS), inputs.read_seeds(results)


def with_delta(results: Path, deltas: dict[str, tuple[float, float, float]], seed_sign: int = 1) -> tuple:
    """Summary and seeds with other differences of clip_region: engine → (delta, low, high)."""
    summary, seeds = (table.copy() for table in tables(results))
    for engine, (delta, low, high) in deltas.items():
        for table in (summary, seeds):
            mine = (table["arm"] == "clip_region") & (table["engine"] == engine) & (table["metric"] == "cer_micro")
            table.loc[mine, "delta_vs_control"] = delta
            if table is summary:
                table.loc[mine, ["delta_low", "delta_high"]] = [low, high]
            elif seed_sign < 0:
                table.loc[mine & (table["training_seed"] == 1), "delta_vs_control"] = -delta
    return summary, seeds


@pytest.mark.parametrize(
    ("easy", "rapid", "seed_sign", "outcome", "sentence"),
    [
        ((-0.1, -0.2, -0.05), (-0.1, -0.2, -0.01), 1, "better", "Yes: with clip_region"),
        ((0.1, 0.05, 0.2), (0.1, 0.01, 0.2), 1, "worse", "No: with clip_region"),
        ((-0.1, -0.2, -0.05), (-0.1, -0.2, 0.01), 1, "undecided", "No difference can be told"),
        ((-0.1, -0.2, -0.05), (-0.1, -0.2, 0.0), 1, "undecided", "No difference can be told"),
        ((-0.1, -0.2, -0.05), (0.1, 0.01, 0.2), 1, "undecided", "No difference can be told"),
        ((-0.1, -0.2, -0.05), (-0.1, -0.2, -0.01), -1, "undecided", "No difference can be told"),
        ((-0.1, float("nan"), float("nan")), (-0.1, -0.2, -0.1), 1, "undecided", "No difference can be told"),
    ],
)
def test_a_gain_is_claimed_only_when_all_agree_and_no_interval_holds_zero(
    results, easy, rapid, seed_sign, outcome, sentence
):
    summary, seeds = with_delta(results, {"easyocr": easy, "rapidocr": rapid}, seed_sign)
    verdict = judge(summary, seeds, "clip_region", "held_out")
    assert verdict.outcome == outcome
    assert headline([verdict]).startswith(sentence)
    assert ("no difference can be told" in explain(verdict, 0.95)) == (outcome == "undecided")


def test_the_reason_is_named(results):
    gain, loss, unsure = (-0.1, -0.2, -0.05), (0.1, 0.05, 0.2), (-0.1, -0.2, 0.05)
    for easy, rapid, sign, reason in (
        (gain, loss, 1, "the judges contradict one another"),
        (gain, unsure, 1, "the interval of RapidOCR does not exclude zero"),
        (unsure, unsure, 1, "the interval of every judge does not exclude zero"),
        (gain, gain, -1, "the training seeds disagree in sign"),
    ):
        summary, seeds = with_delta(results, {"easyocr": easy, "rapidocr": rapid}, sign)
        assert judge(summary, seeds, "clip_region", "held_out").reason == reason
    assert "do not all point the same way" in explain(judge(summary, seeds, "clip_region", "held_out"), 0.95)


def test_several_arms_share_one_headline(results):
    gain, loss = (-0.1, -0.2, -0.05), (0.1, 0.05, 0.2)
    better = judge(*with_delta(results, {"easyocr": gain, "rapidocr": gain}), "clip_region", "held_out")
    worse = judge(*with_delta(results, {"easyocr": loss, "rapidocr": loss}), "clip_region", "held_out")
    both = headline([better, worse])
    assert "Yes: with clip_region" in both
    assert "But with clip_region the text is read with more errors" in both
    assert "no arm beside the control" in headline([])


def test_the_sentence_gives_the_numbers(results):
    summary, seeds = tables(results)
    verdict = judge(summary, seeds, "clip_region", "held_out")
    text = explain(verdict, 0.95)
    for row in verdict.judgements:
        assert f"CER {row.value:.3f} instead of {row.control:.3f} ({row.delta:+.3f}".replace("-", "−") in text
        assert f"{row.delta / row.control:+.0%}; 95% interval {row.low:+.3f}".replace("-", "−") in text
    assert "Both training seeds point the same way." in text


def test_the_control_is_compared_with_the_base_the_right_way_round(results):
    summary, seeds = tables(results)
    mine = (summary["arm"] == "base") & (summary["metric"] == "cer_micro")
    summary.loc[mine, ["delta_vs_control", "delta_low", "delta_high"]] = [0.1, 0.05, 0.2]
    assert explain_control(summary, seeds, "held_out").count("(fewer errors)") == 2
    summary.loc[mine, ["delta_vs_control", "delta_low", "delta_high"]] = [-0.1, -0.2, -0.05]
    assert explain_control(summary, seeds, "held_out").count("(more errors)") == 2


def test_the_whole_page_flips_with_the_spelling(results, page, tmp_path):
    assert "Yes: with clip_region the text is read with fewer errors" in page
    swapped = RATES | {"diffusion_only": RATES["clip_region"], "clip_region": RATES["diffusion_only"]}
    worse = build(add_figures(make_results(tmp_path / "worse", swapped)))
    assert "No: with clip_region the text is read with more errors" in worse
    assert "Yes: with" not in worse


def test_the_table_holds_every_number_of_the_summary(results, page):
    table = Page(page).tables["summary"]
    assert table[0] == ["Pictures of", "Judge", *report.COLUMNS.values()]
    found = {tuple(row[:2]): row[2:] for row in table[1:]}
    summary = inputs.read_summary(results, ARMS)
    overall = summary[(summary["stratum"] == "all") & summary["metric"].isin(report.COLUMNS)]
    assert len(found) * len(report.COLUMNS) == len(overall) == 5 * 2 * 6
    for row in overall.itertuples():
        cell = found[inputs.arm_label(row.arm), inputs.engine_label(row.engine)][list(report.COLUMNS).index(row.metric)]
        numbers = [float(number) for number in re.findall(r"\d+\.\d+", cell)]
        assert numbers == pytest.approx([row.value, row.ci_low, row.ci_high], abs=5e-4)


def test_costs_versions_and_configuration_are_there(results, page):
    costs = Page(page).tables["costs"]
    assert costs[1] == ["diffusion_only (control, λ = 0)", "0", "80", "40", "0.5", "1.40", "4,900,000 of 5,100,000"]
    assert len(costs) == 5
    for text in ("Test CPU (2 logical cores), Linux", "rapidocr 1.0, normalisation lenient-1", "2.15.0", "ab" * 32):
        assert text in page
    assert "snakemake --cores all --configfile results/nano/config.yaml" in page
    assert "held_out.jsonl" in page


def test_it_needs_nothing_from_anywhere_else(page):
    parsed = Page(page)
    assert len(parsed.addresses) == len(Figures.model_fields)
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


def test_every_figure_has_its_place_and_its_caption():
    assert {name for name, _ in report.FIGURES} >= set(Figures.model_fields)
    for name in (*dict(report.FIGURES), "workflow", "report", "summary"):
        assert len((report.RESOURCES / f"{name}.rst").read_text(encoding="utf-8")) > 100


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
        assert set(report.drawn_figures(results)) == set(Figures.model_fields) - {"samples"}
    finally:
        path.write_bytes(content)


def test_drift_stands_beside_the_gain(results, page):
    rows = Page(page).tables["guard"]
    assert rows[0] == ["Pictures of", *report.guard_columns(["rapidocr", "easyocr"])]
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


def test_the_tests_show_both_p_values(results, page):
    rows = Page(page).tables["tests"]
    summary = inputs.read_summary(results, ARMS)
    exact = summary[(summary["stratum"] == "all") & (summary["metric"] == "exact") & (summary["arm"] == "clip_region")]
    assert [row[3:] for row in rows[1:]] == [[f"{r.p_value:.3g}", f"{r.p_holm:.3g}"] for r in exact.itertuples()]


def test_limits_follow_the_configuration(results):
    runs = inputs.read_runs(results, ARMS, SEEDS)
    text = " ".join(report.limits(Config(), runs))
    assert "RapidOCR and EasyOCR read every picture as a single line" in text
    assert "2 training seeds per arm" in text
    assert "fewer than three" in text
    raw = {"ocr": {"rapidocr": {"detect": True}, "easyocr": None}, "seeds": [0, 1, 2]}
    text = " ".join(report.limits(Config.model_validate(raw), runs))
    assert "single line" not in text
    assert "one judge only" in text
    assert "fewer than three" not in text


def run(results: Path, output: Path, figures=tuple(Figures.model_fields)) -> subprocess.CompletedProcess:
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
            with pytest.raises(UserError, match=path.name):
                build(results)
    finally:
        path.write_bytes(content)
    assert list(tmp_path.iterdir()) == []

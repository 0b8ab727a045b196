"""What the workflow declares: from which files the pages are written, and what is copied beside them."""

from types import SimpleNamespace

import pytest

from legible.config import FIGURES, Config
from legible.report.copies import copied_tables
from legible.report.sources import page_copies, report_sources

EVERYTHING = {
    "experiment": "all",
    "drift": {"limit": 2},
    "timing": {"steps": 2},
    "glyph_judge": {"path": "resources/nano/glyph_judge"},
    "calibration": {},
    "reward_scores": ["reading"],
    "arms": {"diffusion_only": {"aux": {"loss": "none", "lambda": 0.0}}, "ctc": {"snapshots": [10]}},
}


@pytest.mark.parametrize("left_out", [None, "drift", "timing", "glyph_judge", "calibration", "reward_scores", "arms"])
def test_what_is_declared_beside_a_page_is_what_is_copied(left_out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = Config.model_validate({name: own for name, own in EVERYTHING.items() if name != left_out})
    sources = [tmp_path / name for name in report_sources(config)]
    for path in sources:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n1\n")
    experiment = SimpleNamespace(results=tmp_path / "results" / "all", name="all")
    copies = [name for name in page_copies(config) if not name.endswith(".png")]
    assert sorted(copies) == sorted(f"all/{name}" for name in [*copied_tables(experiment), "runs.json"])
    figures = {name for name, figure in FIGURES.items() if figure.when(config) and figure.on_results_page}
    assert {f"all-{name}.png" for name in figures} == set(page_copies(config)) - set(copies)
    assert len(set(sources)) == len(sources)

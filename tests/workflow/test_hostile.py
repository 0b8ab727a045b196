"""What a finished experiment may not hide: inputs that are missing, pages that would be overwritten, another order."""

import pytest
import yaml
from project import TINY

pytestmark = pytest.mark.workflow

MISSING = [
    ("prompt_sets: {more: {path: nowhere.jsonl}}", "prompt_sets.more.path: there is no file 'nowhere.jsonl'"),
    (
        "prompt_sets: {more: {path: 'results/prompts/$(touch HACKED).jsonl'}}",
        "prompt_sets.more.path: there is no file",
    ),
    ("anchor: {prompts: nowhere.jsonl}", "anchor.prompts: there is no file 'nowhere.jsonl'"),
    ("model: {path: resources/tiny/nowhere}", "model.path: there is no folder 'resources/tiny/nowhere'"),
    ("regimes: {shift: {drift: {prompts: nowhere.jsonl}}}", "regimes.shift.drift.prompts: there is no file"),
    ("results_page: README.md", "results_page: README.md is another file"),
    ("results_page: 'page;touch HACKED;x.md'", "results_page: "),
]


@pytest.mark.parametrize(("text", "sentence"), MISSING)
def test_a_finished_experiment_does_not_hide_what_is_missing(project, text, sentence):
    (project.folder / "missing.yaml").write_text(text)
    said = project.snakemake("--dry-run", "--configfile", "missing.yaml", check=False)
    assert sentence in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 5
    assert not (project.folder / "HACKED").exists()


def test_an_overlay_that_names_one_arm_keeps_the_order_of_all(project):
    last = list(yaml.safe_load((project.folder / "config.yaml").read_text())["arms"])[-1]
    (project.folder / "order.yaml").write_text(yaml.safe_dump({"arms": {last: TINY["arms"][last]}}))  # as it is
    assert project.would_run("--configfile", "order.yaml") == set()

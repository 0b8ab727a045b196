"""The catalogue of figures: every entry can be drawn, and nothing beside it has to know a figure's name."""

import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from legible.config import FIGURES, Config, Figures
from legible.figures.inputs import READ
from legible.fingerprint import used_files

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "plot_figure.py"
ARM = {"aux": {"loss": "ctc", "lambda": 1.0, "every": 1}}


@pytest.mark.parametrize("name", FIGURES)
def test_an_entry_says_what_its_module_draws_from(name):
    figure = FIGURES[name]
    assert set(figure.needs) <= set(READ)
    assert figure.module == f"legible.figures.{name}"
    parameters = list(inspect.signature(import_module(figure.module).draw).parameters)
    assert len(parameters) == len(figure.needs) + 1
    assert parameters[-1] == "style"
    assert figure.caption == " ".join(figure.caption.split())
    assert figure.caption.endswith(".")


def test_the_configuration_has_every_figure_with_its_own_style():
    assert list(Figures.model_fields) == list(FIGURES)
    assert all(getattr(Figures(), name) == figure.style for name, figure in FIGURES.items())
    assert json.loads(Config().model_dump_json())["figures"]["dataset"]["examples"] == 8


@pytest.mark.parametrize(
    ("raw", "more"),
    [
        ({}, set()),
        ({"drift": {}}, {"drift_tradeoff"}),
        ({"gradients": 8}, {"gradient_reach"}),
        ({"gradients": 8, "arms": {"diffusion_only": {}}}, set()),  # no loss to measure
        ({"arms": {"diffusion_only": {}, "ctc": ARM | {"snapshots": [8]}}}, {"learning_curves"}),
        (
            {"cer_levels": [0.5], "arms": {"diffusion_only": {}, "ctc": ARM | {"snapshots": [8]}}},
            {"learning_curves", "steps_to_cer"},
        ),
        ({"validation": {}}, {"validation_curves"}),
        ({"cer_levels": [0.5]}, set()),  # no snapshots to find a step between
        ({"arms": {"diffusion_only": {}, "ctc": {"aux": ARM["aux"] | {"balance": "cosine"}}}}, {"adaptive_weights"}),
    ],
)
def test_a_figure_is_drawn_where_its_measurement_is_taken(raw, more):
    config = Config.model_validate(raw)
    measured = {"drift_tradeoff", "gradient_reach", "learning_curves", "steps_to_cer", "adaptive_weights"}
    measured |= {"race", "validation_curves"}
    always = set(FIGURES) - measured
    assert {name for name, figure in FIGURES.items() if figure.when(config)} == always | more


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_depends_on_no_other_figures_module(name):
    modules = {ROOT / "legible" / "figures" / f"{other}.py" for other in FIGURES}
    used = set(used_files(SCRIPT, [FIGURES[name].module]))
    assert used & modules == {ROOT / "legible" / "figures" / f"{name}.py"}
    assert not any("report" in path.parts for path in used)


def test_an_unknown_figure_is_refused():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--figure", "pie", "--results", "x", "--arms", "diffusion_only", "--output", "x.png"],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "invalid choice: 'pie'" in done.stderr


def test_the_catalogue_is_light():
    code = "import sys, legible.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"matplotlib", "pandas", "numpy", "torch"} & set(done.stdout.split())

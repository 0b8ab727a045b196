"""The benchmark of sampling with gradients, in miniature: what it writes, and what it says where memory is short."""

import csv
import json
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import rollout

from legible.errors import UserError

FAMILIES = {"stable_diffusion": 3.0, "zimage": 1.5}  # guidance with which they are sampled here


@pytest.fixture(params=FAMILIES)
def model(request, folders, stable_diffusion) -> str:
    """The options that name a tiny model, and guidance that calls its network twice."""
    path = folders.zimage if request.param == "zimage" else stable_diffusion
    return f"--model {path} --family {request.param} --guidance-scale {FAMILIES[request.param]}"


@pytest.fixture
def zimage_options(folders) -> str:
    """The options that name the tiny Z-Image."""
    return f"--model {folders.zimage}"


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, options: str) -> dict:
    """The result of the script's main, two pictures a micro-step and one repetition."""
    output = folder / "result.json"
    line = f"rollout.py --batch 2 --repeats 1 {options} --output"
    monkeypatch.setattr(sys, "argv", [*line.split(), str(output)])
    rollout.main()
    return json.loads(output.read_text())


def statuses(result: dict) -> list[str]:
    """Those of the plain and the checkpointed chain, cell by cell."""
    return [case["chains"][chain]["status"] for case in result["cases"] for chain in rollout.CHAINS]


def test_a_miniature_writes_figures_and_only_the_plain_chain_grows(model, monkeypatch, tmp_path, capsys):
    result = run(monkeypatch, tmp_path, f"{model} --steps 3 --last 1,3,4")
    assert [(case["steps"], case["last"]) for case in result["cases"]] == [(3, 1), (3, 3)]
    assert set(statuses(result)) == {"measured"}
    assert {"machine", "device", "threads", "versions", "command", "date"} <= set(result)
    one, three = ({name: chain["saved"] for name, chain in case["chains"].items()} for case in result["cases"])
    assert three["plain"] - one["plain"] > 1.8 * result["one_step"]
    assert abs(three["checkpointed"] - one["checkpointed"]) < 0.05 * result["one_step"]
    assert one["checkpointed"] < one["plain"]
    for case in result["cases"]:
        plain, checkpointed = (case["chains"][chain] for chain in rollout.CHAINS)
        assert plain["gradient_norm"] == pytest.approx(checkpointed["gradient_norm"], rel=1e-5)
        assert plain["gradient_norm"] > 0
        assert all(chain[part]["low"] > 0 for chain in (plain, checkpointed) for part in ("forward", "backward"))
    with open(tmp_path / "result.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["last"], row["chain"]) for row in rows] == [
        ("3", last, chain) for last in "13" for chain in rollout.CHAINS
    ]
    assert [int(row["saved_bytes"]) for row in rows] == [
        kept[chain] for kept in (one, three) for chain in rollout.CHAINS
    ]
    assert all(float(row["total_s"]) > 0 and row["machine"] == result["machine"] for row in rows)
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in said] == ["1/2", "2/2"]
    assert said[-1].endswith("; 0 s left")


def test_the_plain_chain_that_does_not_fit_is_reported_and_the_other_measured(zimage_options, monkeypatch, tmp_path):
    original = rollout.roll_out

    def limited(*arguments):
        *_, last, _before, _words, _scale, checkpointed = arguments
        if last > 1 and not checkpointed:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*arguments)

    monkeypatch.setattr(rollout, "roll_out", limited)
    result = run(monkeypatch, tmp_path, f"{zimage_options} --steps 2 --last 1,2")
    assert statuses(result) == ["measured", "measured", "out of memory", "measured"]
    assert "2,2,plain,out of memory,,,,,,\n" in (tmp_path / "result.csv").read_text()
    assert rollout.heading(result).endswith("too big for the memory: 1 (named in the CSV file)")
    assert (tmp_path / "result.png").exists()


def test_what_is_planned_too_big_is_not_tried(zimage_options, monkeypatch, tmp_path):
    monkeypatch.setattr(rollout, "free_bytes", lambda: 1)
    result = run(monkeypatch, tmp_path, f"{zimage_options} --steps 2 --last 1")
    assert all(status.startswith("skipped: ") for status in statuses(result))
    assert (tmp_path / "result.png").exists()


def test_chains_with_different_gradients_are_not_compared(zimage_options, monkeypatch, tmp_path):
    """A fault that the loss does not show: the checkpointed chain's gradient reaches fewer steps."""
    original = rollout.roll_out

    def faulty(model, noise, steps, last, before, words, scale, checkpointed):
        return original(model, noise, steps, 1 if checkpointed else last, before, words, scale, checkpointed)

    monkeypatch.setattr(rollout, "roll_out", faulty)
    with pytest.raises(RuntimeError, match=r"T=3, K=3: the gradients' norms differ by "):
        run(monkeypatch, tmp_path, f"{zimage_options} --steps 3 --last 3")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--steps 5,ten", "--steps: 'ten' is not allowed"),
        ("--last 0,1", "--last: '0' is not allowed"),
        ("--steps 2 --last 3", "--last: 3 is more than --steps"),
        ("--repeats 0", "--repeats: 0 is not allowed; it must be 1 or more"),
        ("--height 0", "--height: 0 is not allowed"),
        ("--model nowhere/at_all", "nowhere/at_all"),
        ("--width 65", "65"),
    ],
)
def test_bad_options(tmp_path, monkeypatch, options, named):
    with pytest.raises(UserError) as refused:
        run(monkeypatch, tmp_path, options)
    assert named in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_cells_have_no_more_gradient_steps_than_steps():
    cells = rollout.cells_of(rollout.STEPS, rollout.LAST)
    assert len(cells) == 15
    assert (5, 5) in cells
    assert (5, 10) not in cells

"""Names of models: built and parsed in one place."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legible.errors import UserError
from legible.names import Run, arm_and_seed, run_of


@pytest.mark.parametrize(
    ("run", "name", "weights"),
    [
        (Run("ctc", 0), "ctc-seed0", "weights"),
        (Run("clip_region", 12, 32), "clip_region-seed12-step32", "snapshots/step32"),
        (Run("a_step3", 0, 1), "a_step3-seed0-step1", "snapshots/step1"),
    ],
)
def test_names_and_folders(run, name, weights):
    assert str(run) == name
    assert run_of(name) == run
    assert run.weights == Path(weights)
    assert run.folder == run.finished.folder == Path("runs", run.arm, f"seed{run.seed}")
    assert run.finished.step is None
    assert arm_and_seed(name) == (run.arm, run.seed)  # a snapshot is no arm of its own


@given(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), st.integers(0, 10**6), st.none() | st.integers(0, 10**6))
def test_a_name_says_its_run(arm, seed, step):
    assert run_of(str(Run(arm, seed, step))) == Run(arm, seed, step)


def test_the_base_and_the_ceilings_have_no_seed():
    assert arm_and_seed("base") == ("base", None)
    assert arm_and_seed("ceiling_vae") == ("ceiling_vae", None)


@pytest.mark.parametrize("name", ["ctc", "ctc-seed", "ctc-seed0-step", "Ctc-seed0", "ctc-seed0/../x", "base-seed"])
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match=r"allowed are base, ceiling_render, .*\{arm\}-seed\{n\}"):
        arm_and_seed(name)

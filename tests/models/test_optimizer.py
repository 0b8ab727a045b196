"""Optimisers: small steps are not lost in bfloat16, moments fit into 8 bits, and every variant resumes bit for bit."""

import sys

import pytest
import torch
from training import Killed, equal, killed_at, metrics, run, settings, small_data

from legible.errors import UserError
from legible.train.data import TrainingData
from legible.train.optimizer import build_optimizer, changed_fraction, sample_weights, take_step


@pytest.fixture
def torchao():
    """Optional; it compiles its steps: half a minute here, and nothing that these tests look at."""
    pytest.importorskip("torchao")
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(scope="module")
def data(folders) -> TrainingData:
    return small_data(folders.zimage)


def stepped(value: float, steps: int, dtype: torch.dtype, **override) -> tuple[torch.nn.Parameter, float]:
    """65 536 equal weights after `steps` steps along a gradient of ones, and the fraction that changed."""
    parameter = torch.nn.Parameter(torch.full((256, 256), value, dtype=dtype))
    optimizer = build_optimizer([parameter], settings(learning_rate=1.0e-5, **override))
    before = sample_weights([parameter])
    for step in range(steps):
        parameter.grad = torch.ones_like(parameter)
        take_step(optimizer, 1.0e-5, seed=0, step=step)
    return parameter, changed_fraction(before, [parameter])


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_small_steps_are_kept_on_average_in_bfloat16(torchao, optimizer):
    # Below 0.5, neighbouring bfloat16 numbers are 2⁻⁹ apart: a step of 1e-5 changes one weight in 195.
    parameter, changed = stepped(0.5, 20, torch.bfloat16, optimizer=optimizer, weights="bfloat16")
    assert (parameter.float().mean() - 0.5).item() == pytest.approx(-20 * 1.0e-5, rel=0.1)
    assert changed == pytest.approx(1 - (1 - 1.0e-5 * 2**9) ** 20, abs=0.03)


def test_rounding_to_nearest_loses_them():
    parameter, changed = stepped(0.5, 20, torch.bfloat16)
    assert changed == 0
    assert torch.equal(parameter, torch.full_like(parameter, 0.5))
    assert stepped(0.5, 20, torch.float32)[1] == 1


@pytest.mark.parametrize("override", [{}, {"optimizer": "adamw_8bit"}])
def test_the_learning_rate_is_that_of_the_step(request, override):
    if override:
        request.getfixturevalue("torchao")
    parameter = torch.nn.Parameter(torch.zeros(64, 64))
    optimizer = build_optimizer([parameter], settings(learning_rate=1.0, **override))
    parameter.grad = torch.ones_like(parameter)
    take_step(optimizer, 0.25, seed=0, step=0)
    torch.testing.assert_close(parameter.detach(), torch.full((64, 64), -0.25), atol=1e-4, rtol=0)


def test_moments_fit_into_eight_bits(torchao):
    parameter = torch.nn.Parameter(torch.zeros(128, 128))
    optimizer = build_optimizer([parameter], settings(optimizer="adamw_8bit"))
    parameter.grad = torch.randn(128, 128)
    take_step(optimizer, 1.0e-3, 0, 0)
    state = optimizer.state[parameter]
    assert {name: state[name].codes.dtype for name in ("exp_avg", "exp_avg_sq")} == {
        "exp_avg": torch.uint8,
        "exp_avg_sq": torch.uint8,
    }


@pytest.mark.parametrize(
    ("dtype", "override"),
    [
        ("float32", {"optimizer": "adamw_8bit"}),
        ("bfloat16", {"weights": "bfloat16"}),
        ("bfloat16", {"optimizer": "adamw_8bit", "weights": "bfloat16", "ema": 0.9}),
    ],
)
def test_every_variant_resumes_bit_for_bit(torchao, folders, data, tmp_path, monkeypatch, dtype, override):
    training = settings(**override)
    unbroken = run(folders.zimage, data, training, tmp_path / "whole", dtype=dtype)
    with monkeypatch.context() as patch:
        killed_at(patch, 4)
        with pytest.raises(Killed):
            run(folders.zimage, data, training, tmp_path / "broken", dtype=dtype)
    resumed = run(folders.zimage, data, training, tmp_path / "broken", dtype=dtype)
    assert equal(resumed, unbroken)
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "whole")
    assert metrics(tmp_path / "whole")[-1]["loss_total"] > 0
    expected = torch.float32 if training.ema or training.weights == "float32" else torch.bfloat16
    assert {weight.dtype for weight in resumed.values()} == {expected}


def test_eight_bit_training_goes_the_same_way(torchao, folders, data, tmp_path):
    full = run(folders.zimage, data, settings(), tmp_path / "full")
    small = run(folders.zimage, data, settings(optimizer="adamw_8bit"), tmp_path / "small")
    start = run(folders.zimage, data, settings(steps=1, learning_rate=1.0e-12), tmp_path / "start")
    moves = [torch.cat([(w[name] - start[name]).flatten() for name in start]) for w in (full, small)]
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.95


def test_the_changed_fraction_by_hand():
    parameters = [torch.nn.Parameter(torch.zeros(10)), torch.nn.Parameter(torch.zeros(30))]
    before = sample_weights(parameters)
    with torch.no_grad():
        parameters[0][:5] = 1
        parameters[1][7] = 1
    assert changed_fraction(before, parameters) == 6 / 40
    assert [len(values) for values in sample_weights([torch.nn.Parameter(torch.zeros(100, 100))])] == [5000]


def test_without_torchao_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    parameter = torch.nn.Parameter(torch.zeros(4))
    build_optimizer([parameter], settings())
    for override in ({"optimizer": "adamw_8bit"}, {"weights": "bfloat16"}):
        with pytest.raises(UserError, match="needs torchao; install it with"):
            build_optimizer([parameter], settings(**override))

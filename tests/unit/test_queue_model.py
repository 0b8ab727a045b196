"""The model of a cluster's queue, against what can be counted by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from queue_model import Cluster, attempts_of, simulate

PLAIN = Cluster(gpus=1, limit=1000, start=10, spare=0, poll=0)


def test_one_gpu_does_one_run_after_the_other():
    cost = simulate([(100, 0)] * 5, PLAIN)
    assert (cost.makespan, cost.gpu_seconds, cost.work_seconds, cost.attempts) == (550, 550, 500, 5)


def test_runs_share_the_gpus_and_drawing_follows_training():
    two = Cluster(gpus=2, limit=1000, start=10, spare=0, poll=0)
    assert simulate([(100, 0)] * 3, two).makespan == 220
    cost = simulate([(100, 40)], two)  # the second GPU is of no use to one run
    assert (cost.makespan, cost.attempts) == (160, 2)


def test_a_limit_cuts_a_training_into_attempts_and_each_starts_anew():
    tight = Cluster(gpus=1, limit=100, start=10, spare=20, poll=5)
    assert attempts_of(150, tight) == [80, 80, 20]
    assert attempts_of(140, tight) == [80, 80]
    assert attempts_of(0, tight) == [10]
    cost = simulate([(150, 0)], tight)
    assert cost.makespan == 80 + 5 + 80 + 5 + 20 + 5
    with pytest.raises(ValueError, match="no time for work"):
        attempts_of(1, Cluster(gpus=1, limit=30, start=10, spare=20))


def test_the_queue_delays_and_costs_no_gpu_time():
    slow = Cluster(gpus=500, limit=1000, start=10, spare=0, poll=0, wait=1000)
    cost = simulate([(100, 0)] * 500, slow)
    assert cost.gpu_seconds == 500 * 110
    # The largest of n exponential times is about ln n + 0.58 means: here 6.8 thousand seconds.
    assert 4000 < cost.makespan < 12_000
    assert simulate([(100, 0)] * 500, slow) == cost


def test_the_makespan_is_never_below_the_work_and_never_above_one_gpu():
    many = [(50 + 7 * n % 90, n % 30) for n in range(60)]
    times = [simulate(many, Cluster(gpus=n, limit=120, start=5, spare=5, poll=3)).makespan for n in (1, 2, 8, 60)]
    assert times == sorted(times, reverse=True)
    assert times[2] > sum(map(sum, many)) / 8

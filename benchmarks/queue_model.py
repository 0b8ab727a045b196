"""What many trainings cost on a cluster: GPU hours, attempts and days, by simulating its queue.

    python benchmarks/queue_model.py --runs 500 --train 200 --draw 200 --gpus 8 --limit 240 --wait 30

Every run is two jobs, one after the other: a training, which a time limit cuts into attempts, and the drawing of its
pictures. An attempt waits in the queue (exponentially distributed, independent of ours), then for one of our GPUs; it
takes some time to start, works until it is done or shortly before the limit, and is noticed at a poll. In seconds.
"""

import argparse
import heapq
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Cluster:
    """What a cluster grants and takes."""

    gpus: int  # ours at the same time
    limit: float  # of a job
    wait: float = 0.0  # mean in the queue, besides the wait for our own jobs
    start: float = 90.0  # from the allocation to the first step: Snakemake twice, torch, weights
    spare: float = 120.0  # before the limit, in which a training stops
    poll: float = 60.0  # until Snakemake sees that a job has ended and submits the next one


@dataclass(frozen=True)
class Cost:
    """What came of it."""

    makespan: float
    gpu_seconds: float  # allocated, starts included
    work_seconds: float
    attempts: int


def attempts_of(work: float, cluster: Cluster) -> list[float]:
    """Seconds of allocation of the attempts that so much work is cut into.

    Raises:
        ValueError: nothing can be done within the limit.
    """
    room = cluster.limit - cluster.start - cluster.spare
    if room <= 0:
        raise ValueError("the limit leaves no time for work")
    whole, rest = divmod(work, room)
    return [cluster.start + room] * int(whole) + ([cluster.start + rest] if rest or not whole else [])


def simulate(runs: list[tuple[float, float]], cluster: Cluster, seed: int = 0) -> Cost:
    """Submit all trainings at once; each run's drawing follows its training.

    Args:
        runs: seconds of work of each run's training and drawing.
    """
    generator = random.Random(seed)
    free = [0.0] * cluster.gpus  # when each of our GPUs is free
    waiting: list[tuple[float, int, list[float]]] = []  # (eligible from, tie, attempts that are left)

    def queued(now: float) -> float:
        return now + (generator.expovariate(1 / cluster.wait) if cluster.wait else 0.0)

    for number, (train, draw) in enumerate(runs):
        jobs = [*attempts_of(train, cluster), *(attempts_of(draw, cluster) if draw else [])]
        heapq.heappush(waiting, (queued(0.0), number, jobs))
    end = used = 0.0
    attempts = 0
    while waiting:
        eligible, number, (first, *left) = heapq.heappop(waiting)
        done = max(eligible, heapq.heappop(free)) + first
        heapq.heappush(free, done)
        end, used, attempts = max(end, done), used + first, attempts + 1
        if left:
            heapq.heappush(waiting, (queued(done + cluster.poll), number, left))
    return Cost(end + cluster.poll, used, sum(sum(run) for run in runs), attempts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, required=True, help="arms × training seeds")
    parser.add_argument("--train", type=float, required=True, help="seconds of work of one training")
    parser.add_argument("--draw", type=float, default=0.0, help="seconds of work of one run's pictures")
    parser.add_argument("--gpus", type=int, required=True, help="that we may use at the same time")
    parser.add_argument("--limit", type=float, default=240.0, help="minutes of a job")
    parser.add_argument("--wait", type=float, default=0.0, help="minutes in the queue, on average")
    parser.add_argument("--start", type=float, default=90.0, help="seconds from the allocation to the first step")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.gpus, 60 * arguments.limit, 60 * arguments.wait, arguments.start)
    cost = simulate([(arguments.train, arguments.draw)] * arguments.runs, cluster)
    print(
        f"{cost.attempts} jobs on GPUs, {cost.gpu_seconds / 3600:.1f} GPU hours, of which"
        f" {cost.work_seconds / cost.gpu_seconds:.0%} work; {cost.makespan / 3600:.1f} hours"
    )


if __name__ == "__main__":
    main()

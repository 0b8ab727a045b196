"""`make test-cluster`: the tiny experiment through profiles/slurm on a real SLURM of one node, and what goes wrong.

python tests/cluster/drill.py [CHECK …]      as root on Debian; needs the plugin in .slurm/; half an hour
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path

import yaml
from slurm import CPUS, Slurm, cannot_run

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "workflow")]

from project import TINY, copied  # noqa: E402
from tiny_models import build_models  # noqa: E402

ARMS = TINY["arms"] | {"pair": {"processes": 2, "parallel": "replicate"}}
OFTEN = 1_000_000  # steps from one checkpoint to the next: none of its own accord
RUN = "results/tiny/runs/{}/seed0"
FIELDS = ("jobid", "state", "partition", "alloctres", "nnodes", "comment", "timelimit")


class Drill:
    """A copy of the project, and the cluster that its jobs go to."""

    def __init__(self, folder: Path, slurm: Slurm) -> None:
        models = build_models(folder / "models").root
        self.slurm, self.seen = slurm, 0
        self.folder = copied(folder / "project", models, TINY | {"arms": ARMS, "gpu": None})
        self.environment = slurm.environment | {"PYTHONPATH": f"{ROOT / '.slurm'}:{self.folder}", "NO_COLOR": "1"}

    def begin(self, *arguments: str, profile: bool = True) -> subprocess.Popen:
        """Snakemake, started; what it says goes to its standard output."""
        options = ["--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "5",
                   "--default-resources", "slurm_account=letters"] if profile else ["--cores", "2"]  # fmt: skip
        command = [sys.executable, "-m", "snakemake", *options, *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def snakemake(self, *arguments: str, status: int = 0, profile: bool = True) -> str:
        """What it says, when it has ended as it should."""
        process = self.begin(*arguments, profile=profile)
        said, _ = process.communicate(timeout=1500)
        assert process.returncode == status, f"status {process.returncode}\n{said[-6000:]}"
        return said

    def overlay(self, name: str, **settings) -> tuple[str, str]:
        """`--configfile` with these settings."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return "--configfile", path.name

    def jobs(self, name: str = "rule_") -> list[dict[str, str]]:
        """The cluster's jobs with this comment since this was asked last, as its accounts have them."""
        shown = self.slurm.call("sacct", "-XnPD", "-S", "now-1day", "-o", ",".join(FIELDS))
        rows = [dict(zip(FIELDS, line.split("|"), strict=True)) for line in shown.splitlines()]
        numbers = [int(row["jobid"].split("_")[0]) for row in rows]  # a member of an array has its place in it behind
        new = [row for row, at in zip(rows, numbers, strict=True) if at > self.seen and name in row["comment"]]
        self.seen = max([self.seen, *numbers])
        return new

    def rows(self, arm: str) -> int:
        """Optimiser steps in the log of an arm's training."""
        logs = self.folder.glob(f"results/tiny/checkpoints/{arm}-seed0-*/metrics.jsonl")
        return sum(log.read_bytes().count(b"\n") for log in logs)

    def weights(self, arm: str) -> str:
        """SHA-256 of an arm's final weights."""
        (path,) = (self.folder / RUN.format(arm)).glob("weights/*/*.safetensors")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def forget(self, arm: str) -> None:
        """Take a run and its checkpoints away."""
        for path in (RUN.format(arm), *self.folder.glob(f"results/tiny/checkpoints/{arm}-*")):
            subprocess.run(["rm", "-rf", str(path)], cwd=self.folder, check=True)

    @cached_property
    def long(self) -> tuple[str, str]:
        """`--configfile` with the arm `long`, which trains for 80 seconds on this machine as busy as it is."""
        probe = {"steps": 200, "checkpoint_every": OFTEN}
        options = self.overlay("probe", arms={"probe": probe})
        self.snakemake(*options, "--", f"{RUN.format('probe')}/run.json", profile=False)
        rows = (self.folder / RUN.format("probe") / "metrics.jsonl").read_text().splitlines()
        self.steps = round(80 * 200 / json.loads(rows[-1])["seconds"])
        return self.overlay("long", arms={"long": probe | {"steps": self.steps}})

    def undisturbed(self) -> str:
        """SHA-256 of the weights of the arm `long`, trained on this machine without interruption; then it is gone."""
        if not (self.folder / "expected").exists():
            self.snakemake(*self.long, "--", f"{RUN.format('long')}/run.json", profile=False)
            (self.folder / "expected").write_text(self.weights("long"))
        self.forget("long")
        return (self.folder / "expected").read_text()

    def running(self, comment: str) -> str:
        """Id of the running job with this comment; empty where there is none."""
        lines = self.slurm.call("squeue", "-h", "-t", "R", "-o", "%i %k").splitlines()
        return next((line.split()[0] for line in lines if comment in line), "")


def whole(drill: Drill) -> str:
    """Everything, with the name given by --config: GPUs, partitions, memory of several processes, no warning."""
    began = time.monotonic()
    said = drill.snakemake("--config", "experiment=tiny", "--slurm-partition-config", "profiles/slurm/partitions.yaml")
    warned = [line for line in said.splitlines() if "warning" in line.lower() or "invalid option" in line]
    assert not warned, warned
    jobs = drill.jobs()
    with_gpu = [job for job in jobs if "gres/gpu" in job["alloctres"]]
    names = {job["comment"].split("_wildcards_")[0] for job in with_gpu}
    expected = {"encode_dataset", "generate_baseline", "generate_finetuned", "round_trip_ceiling", "train_arm"}
    assert names == {f"rule_{name}" for name in expected}, names
    assert all(job["partition"] == "gpu" for job in with_gpu)
    assert all(job["partition"] == "cpu" for job in jobs if job not in with_gpu)
    assert all(job["state"] == "COMPLETED" and job["nnodes"] == "1" for job in jobs), jobs
    for arm, processes in (("clip_region", 1), ("pair", 2)):
        (given,) = [job["alloctres"] for job in jobs if f"train_arm_wildcards_{arm}" in job["comment"]]
        assert {f"cpu={processes}", f"gres/gpu={processes}", "node=1"} <= set(given.split(",")), given
    return f"{len(jobs)} jobs, {len(with_gpu)} with a GPU, {time.monotonic() - began:.0f} s; two processes: {given}"


def arrays(drill: Drill) -> str:
    """The same figures drawn anew, each a submission of its own and then as an array."""
    found = []
    for options in ((), ("--slurm-array-jobs", "plot_figure")):
        began = time.monotonic()
        drill.snakemake(*options, "--config", "experiment=tiny", "--forcerun", "plot_figure", "--", "figures")
        jobs = drill.jobs("rule_plot_figure")
        calls = {job["jobid"].split("_")[0] for job in jobs}
        found.append(f"{len(jobs)} jobs by {len(calls)} calls of sbatch in {time.monotonic() - began:.0f} s")
    return ", ".join(found)


def no_gpu(drill: Drill) -> str:
    """`gpu: false` asks for none."""
    drill.snakemake("--config", "gpu=false", "experiment=plain", "--", "results/plain/cache/train.safetensors")
    jobs = drill.jobs()
    assert len(jobs) == 3
    assert not any("gpu" in job["alloctres"] for job in jobs), jobs
    return f"{len(jobs)} jobs, none with a GPU"


def time_limit(drill: Drill) -> str:
    """A limit of one minute: training stops before it, goes on beyond step 0, and ends in the same weights."""
    expected = drill.undisturbed()
    options = (*drill.long, "--set-resources", "train_arm:runtime=1")
    said = drill.snakemake(*options, "--", f"{RUN.format('long')}/run.json")
    lines = dict.fromkeys(said.splitlines())  # Snakemake shows the program's log and SLURM's
    stops = [line for line in lines if line.startswith("stopped: the job's time is nearly over")]
    jobs = drill.jobs("train_arm_wildcards_long")
    assert len(stops) == len(jobs) - 1 >= 1, (stops, jobs)
    assert all(job["timelimit"] == "00:01:00" for job in jobs), jobs
    assert drill.weights("long") == expected
    steps = ", ".join(stop.split("after step ")[1].split()[0] for stop in stops)
    states = ", ".join(job["state"] for job in jobs)
    return f"stopped after steps {steps}, then all {drill.steps} ({states}); weights {expected[:16]}… as undisturbed"


def too_short(drill: Drill) -> str:
    """A limit in which no step can be done is refused before anything is submitted."""
    drill.forget("long")
    log = drill.folder / "results" / "tiny" / "checkpoints" / "long-seed0-known" / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps({"step": step, "seconds": 400.0 * step}) + "\n" for step in range(2)))
    options = (*drill.long, "--set-resources", "train_arm:runtime=5")
    said = drill.snakemake(*options, "--", f"{RUN.format('long')}/run.json", status=1)
    drill.forget("long")
    (sentence,) = [line.strip() for line in said.splitlines() if "is too short for the arm long" in line]
    assert not drill.jobs()
    return sentence


def interruptions(drill: Drill) -> str:
    """scancel, requeue, a killed slurmd and a drained node, one after the other, in one training."""
    expected, slurm = drill.undisturbed(), drill.slurm
    process, found = drill.begin(*drill.long, "--", f"{RUN.format('long')}/run.json"), []
    reached, noticed = 0, 0.0
    for how in ("scancel", "scontrol requeue"):
        slurm.wait_for("the training", lambda: drill.running("train_arm"), 300)
        slurm.wait_for("a step", lambda least=reached: drill.rows("long") > least + drill.steps // 10, 300)
        slurm.call(*how.split(), drill.running("train_arm"))
        began = time.monotonic()
        slurm.wait_for("its end", lambda: not drill.running("train_arm"), 120)
        reached = drill.rows("long")
        found.append(f"{how} after step {reached}")
        if how == "scancel":
            slurm.wait_for("the next attempt", lambda: drill.running("train_arm"), 300)
            noticed = time.monotonic() - began
    slurm.wait_for("the training", lambda: drill.running("train_arm"), 300)
    slurm.wait_for("a step", lambda: drill.rows("long") > reached + 50, 300)
    slurm.stop("slurmd", subprocess.signal.SIGKILL)
    slurm.call("scontrol", "update", f"nodename={slurm.host}", "state=drain", "reason=drill")
    slurm.start("slurmd", "slurmd", "-D")
    said, _ = process.communicate(timeout=900)
    slurm.call("scontrol", "update", f"nodename={slurm.host}", "state=resume")
    assert process.returncode == 0, said[-6000:]
    assert "stopped: long seed 0: after step" in said  # SIGTERM reached the training, which wrote a checkpoint
    assert drill.weights("long") == expected
    states = [job["state"].split()[0] for job in drill.jobs("train_arm_wildcards_long")]
    found.append(
        f"then slurmd killed and the node drained ({', '.join(states)}); weights {expected[:16]}… as undisturbed"
    )
    return f"{', '.join(found)}; the next attempt ran {noticed:.0f} s after scancel"


def memory(drill: Drill) -> str:
    """Out of memory is named, with what was asked and the key; the next attempt asks for more."""
    if not drill.slurm.cgroups:
        return "not tested: this machine has no cgroup controllers, and nothing limits memory without them"
    options = drill.overlay("greedy", arms={"greedy": {}})
    (drill.folder / "results" / "cache" / "memory" / "asked.json").unlink(missing_ok=True)
    drill.snakemake(*options, "--cores", "1", "--resources", "mem_mb=9000", "--dry-run", profile=False)
    for plan in (drill.folder / "results" / "cache" / "memory").glob("*.json"):
        plan.write_text(json.dumps(json.loads(plan.read_text()) | {"train_greedy": 400}))
    said = drill.snakemake(*options, "--", f"{RUN.format('greedy')}/run.json")
    asked = [dict(part.split("=") for part in job["alloctres"].split(","))["mem"] for job in drill.jobs("greedy")]
    named = [line for line in said.splitlines() if line.startswith("error: killed, memory ran out; 400 MB were asked")]
    assert asked[:2] == ["400M", "600M"], asked
    assert named, said[-6000:]
    return f"asked for {', then '.join(asked)}; said: {named[0]}"


def hopeless(drill: Drill) -> str:
    """What would fail again is not tried again, whatever the retries; nor what has too little by --set-resources."""
    options = drill.overlay("wrong", arms={"wrong": {"attention": "nowhere"}, "fixed": {}})
    targets = (f"{RUN.format('wrong')}/run.json", f"{RUN.format('fixed')}/run.json")
    drill.snakemake(*options, "--", targets[0], status=1)
    count = [len(drill.jobs())]
    if drill.slurm.cgroups:
        drill.snakemake(*options, "--set-resources", "train_arm:mem_mb=400", "--", targets[1], status=1)
        count.append(len(drill.jobs()))
    assert set(count) == {1}, count
    return "one attempt with an attention backend that does not exist, one with too little memory by --set-resources"


LAST = "for last; do :; done; "
BEHIND = 'id=$(date +%N | sed s/^0*//); (sh "$last"; echo $? > {0}/$id) > {0}/log 2>&1 & '
STAND_INS = {
    "qsub": f'{LAST}echo "qsub $*" >> {{0}}/asked; {BEHIND}echo $id.pbs',
    "qstat": f"{LAST}file={{0}}/${{last%.pbs}}; "
    'if [ -s $file ]; then echo "job_state = F, Exit_status = $(cat $file)"; else echo "job_state = R"; fi',
    "bsub": f'{LAST}echo "bsub $*" >> {{0}}/asked; {BEHIND}echo "Job <$id> is submitted to queue <normal>."',
    "bjobs": f'{LAST}case "$(cat {{0}}/$last 2> /dev/null)" in "") echo RUN ;; 0) echo DONE ;; *) echo EXIT ;; esac',
}


def others(drill: Drill) -> str:
    """profiles/pbs and profiles/lsf, with stand-ins for their programs: what is asked for, and that all is done."""
    folder = drill.folder / "stand-ins"
    folder.mkdir()
    for name, body in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/sh\n{body.replace('{0}', str(folder))}\n")
        (folder / name).chmod(0o755)
    environment = drill.environment | {"PATH": f"{folder}:{drill.environment['PATH']}"}
    for kind in ("pbs", "lsf"):
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", f"profiles/{kind}", "--config",
                   f"experiment={kind}", "--", f"results/{kind}/cache/train.safetensors"]  # fmt: skip
        done = subprocess.run(command, cwd=drill.folder, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    asked = (folder / "asked").read_text().splitlines()
    (pbs,), (lsf,) = ([line for line in asked if line.startswith(start) and "encode" in line] for start in ("q", "b"))
    assert ":ngpus=1 -l walltime=28800 " in pbs, pbs
    assert lsf.startswith("bsub -gpu num=1 -J legible.encode_dataset "), lsf
    assert len(asked) == 6
    return f"3 jobs each; {pbs.split(' -v')[0]}"


def without_accounts(drill: Drill) -> str:
    """The same profile on a cluster that keeps no accounts; sacct there is refused in a sentence."""
    slurm, account = drill.slurm, ("--default-resources", "tmpdir=system_tmpdir")
    for name in ("slurmd", "slurmctld"):
        slurm.stop(name)
    slurm.configure(accounts=False)
    slurm.start_slurm()
    target = "results/bare/fonts/manifest.json"
    drill.snakemake("--config", "experiment=bare", *account, "--", target)
    said = drill.snakemake("--config", "experiment=bare", *account, "--slurm-status-command", "sacct",
                           "--forceall", "--", target, status=1)  # fmt: skip
    (sentence,) = [line.strip() for line in said.splitlines() if "keeps no accounts" in line]
    return f"finished; with sacct: {sentence}"


CHECKS = (whole, arrays, no_gpu, time_limit, too_short, interruptions, memory, hopeless, others, without_accounts)


def main() -> None:
    if reason := cannot_run():
        print(f"test-cluster is skipped: {reason}.")
        return
    failed = []
    with tempfile.TemporaryDirectory(prefix="legible-drill-") as folder:
        slurm = Slurm(Path(folder) / "slurm")
        Path(folder).chmod(0o755)
        try:
            slurm.up()
            how = "cgroups track processes and limit memory" if slurm.cgroups else "no cgroups: nothing limits memory"
            print(f"{slurm.call('slurmctld', '-V').strip()}, one node, {CPUS} CPUs pretended; {how}", flush=True)
            drill = Drill(Path(folder), slurm)
            for check in CHECKS:
                if sys.argv[1:] and check.__name__ not in sys.argv[1:]:
                    continue
                began = time.monotonic()
                try:
                    outcome = f"ok      {check.__name__}: {check(drill)}"
                except (AssertionError, RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
                    failed.append(check.__name__)
                    outcome = f"FAILED  {check.__name__}: {error}"
                print(f"{outcome} [{time.monotonic() - began:.0f} s]", flush=True)
        finally:
            slurm.down()
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    os.chdir(ROOT)
    main()

"""What a job is given and, on a cluster, what becomes of one that ends badly. Reruns depend on nothing of this."""

from snakemake.jobs import Job

from legible.cards import visible_cards
from legible.cluster import check_accounts, check_time, forward_sigterm, hopeless, job_began, memory_to_ask
from legible.cores import usable_cores

LEDGER = Path("results", "cache", "memory", "asked.json")  # by jobs that ran out of memory

# A program that the kernel has killed cannot say so itself. LEGIBLE_MB is what its job was given (profiles/).
# Programs that can use a GPU take one that no other job has, where there are several to be chosen from.
CARDS = "-m legible.cards" if len(visible_cards()) > 1 and not workflow.remote_exec else ""
prefix += f'export LEGIBLE_CARDS="{CARDS}"; '
prefix += """python() {
    case "$*" in
        */scripts/encode_dataset.py* | */scripts/generate_images.py* | */scripts/measure_gradients.py* | \
        */scripts/record_anchor.py* | */scripts/round_trip_ceiling.py* | */scripts/train_arm.py*) ;;
        *) local LEGIBLE_CARDS= ;;
    esac
    command python $LEGIBLE_CARDS "$@" && return
    local code=$?
    [ $code -ne 137 ] || echo "error: killed, memory ran out${LEGIBLE_MB:+; $LEGIBLE_MB MB were asked for};\
 the key for more: --set-resources RULE:mem_mb=…, RULE as the job is called" >&2
    return $code
}
"""
shell.prefix(prefix.replace("{", "{{").replace("}", "}}"))

IMAGE = CHECKOUT / "envs" / "legible.sif"
if "APPTAINER" in DEPLOYED:  # named only then: what was made without it is as good

    container: str(IMAGE)

    if not IMAGE.is_file():
        raise WorkflowError(f"--sdm apptainer: {IMAGE} is missing; envs/legible.def says how it is built")


if workflow.remote_exec:  # this process runs one job of a cluster
    os.environ.setdefault("LEGIBLE_MB", os.environ.get("SLURM_MEM_PER_NODE", ""))
    job_began()
    forward_sigterm()


def restarts(job):
    """How often a job may be tried again; Snakemake itself knows no reason not to."""
    fixed = "mem_mb" in workflow.resource_settings._parsed_overwrite_resources.get(job.rule.name, {})
    return 0 if any(hopeless(Path(log), fixed) for log in job.log) else job.rule.restart_times


if workflow.is_main_process:
    Job.restart_times = property(restarts)
    if (workflow.resource_settings.cores or 0) > usable_cores():
        print(f"--cores: this process has a quota of {usable_cores()}; more are slower, not faster", file=sys.stderr)


def gpus(wildcards):
    """Whether a job that can use a GPU asks for one: where this machine or its cluster has some, and they are wanted.

    On a CPU machine it must not wait for a turn; a login node seldom has what its cluster has.
    """
    if CONFIG.gpu is not None:
        return int(CONFIG.gpu)
    return int(CONFIG.model.device != "cpu" and (workflow.non_local_exec or has_gpu()))


def arm_gpus(wildcards):
    """GPUs of one training."""
    return gpus(wildcards) * CONFIG.arm(wildcards.arm).processes


def arm_threads(wildcards):
    """CPU threads of one training, all its processes together."""
    training = CONFIG.arm(wildcards.arm)
    return training.threads * training.processes


@cache
def memory_plan():
    """MB that the jobs which hold the model need, by stage, as the pre-flight counts them; kept by what decides it."""
    config = as_json(model=part("model"), data=part("data", "height", "width"))
    trainings = as_json(**{arm: CONFIG.arm(arm).model_dump(mode="json", by_alias=True) for arm in ARMS})
    sizes = [sha256_file(file) for file in model_files("denoiser", "text", "autoencoder") if file.endswith(".json")]
    key = sha256_json([config, trainings, sizes, decides("plan_memory", [SPEC.module], DIFFUSION)])
    path = Path("results", "cache", "memory", f"{key[:16]}.json")
    if not path.is_file():
        script = [sys.executable, str(CHECKOUT / "scripts" / "plan_memory.py"), "--config", config]
        command, own = [*script, "--output", str(path)], os.environ | {"PYTHONPATH": str(CHECKOUT)}
        done = subprocess.run(command, env=own, input=trainings, capture_output=True, text=True)
        if done.returncode:
            raise WorkflowError(done.stderr.strip().rpartition("\n")[2])
    return json.loads(path.read_text())


@cache
def counted():
    """Whether somebody counts the memory of jobs: a cluster, or a limit (`--resources mem_mb=…`)."""
    if workflow.non_local_exec and workflow.is_main_process:
        checked(check_accounts, getattr(workflow.executor_settings, "status_command", None))
    return workflow.non_local_exec or bool({"mem", "mem_mb"} & set(workflow.global_resources))


def checked(check, *arguments):
    """What `check` refuses, as Snakemake says it."""
    try:
        check(*arguments)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def memory(planned):
    """The function that says how many MB a job is given: more after it ran out of memory.

    Args:
        planned: a number, or a stage of the pre-flight. Where nobody counts, its seconds are spared.
    """

    def mem_mb(wildcards, attempt, rulename):
        if not counted():
            return planned if isinstance(planned, int) else 4000
        needed = planned if isinstance(planned, int) else memory_plan()[planned.format(**wildcards)]
        logs = workflow.get_rule(rulename).expand_log(wildcards)
        return memory_to_ask(needed, attempt, Path(str(logs[0])), LEDGER)

    return mem_mb


def check_arm_time(wildcards):
    """Refuse a time limit that no step fits into, before anything is submitted."""
    done = Path(RESULTS, Run(wildcards.arm, int(wildcards.seed)).folder, "run.json")
    if workflow.local_exec or not workflow.is_main_process or done.is_file():
        return
    limit = rules.train_arm.rule.resources["runtime"]  # a job's are not known yet
    if limit.is_evaluable():
        return
    places = (f"checkpoints/{wildcards.arm}-seed*", f"runs/{wildcards.arm}/seed*")
    logs = [log for place in places for log in Path(RESULTS).glob(f"{place}/metrics.jsonl")]
    checked(check_time, int(limit.value), memory_plan()[f"train_{wildcards.arm}"], wildcards.arm, logs)

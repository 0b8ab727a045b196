"""What jobs are given: threads, GPUs, memory; and what watches a training's spelling."""

WATCHED_GENERATION = ("steps", "guidance_scale", "tuned_steps", "scheduler", "batch_size")


def watched_sections():
    """What decides an evaluation while training, and trackers; nothing where they are off, so that no arm changes."""
    tracked = {"trackers": list(CONFIG.trackers)} if CONFIG.trackers else {}
    if not CONFIG.validation:
        return tracked
    judge = CONFIG.validation.judge
    ocr = dict.fromkeys(ENGINES) | {judge: getattr(CONFIG.ocr, judge).model_dump(mode="json")}
    return tracked | {"validation": part("validation"), "ocr": ocr, "scoring": part("scoring", "normalization")}


def watched_files():
    """What evaluations while training read: prompts, decoder, text encoders and the judge's networks."""
    if not CONFIG.validation:
        return []
    files = model_files("autoencoder", "text") + section_files(getattr(CONFIG.ocr, CONFIG.validation.judge))
    return [CONFIG.validation.prompts, *files]


def arm_threads(wildcards):
    """CPU threads of one training, all its processes together."""
    training = CONFIG.arm(wildcards.arm)
    return training.threads * training.processes


def arm_gpus(wildcards):
    """GPUs of one training."""
    return GPU * CONFIG.arm(wildcards.arm).processes


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
        command = [*script, "--trainings", trainings, "--output", str(path)]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True)
        if done.returncode:
            raise WorkflowError(done.stderr.strip().rpartition("\n")[2])
    return json.loads(path.read_text())


def planned_memory(stage):
    """The function that says how many MB a job of this stage is given: half more at each further attempt.

    Without a cluster or a limit (`--resources mem_mb=…`) nobody counts them: the pre-flight's seconds are spared.
    """

    def mem_mb(wildcards, attempt):
        counted = workflow.non_local_exec or {"mem", "mem_mb"} & set(workflow.global_resources)
        return round(memory_plan()[stage.format(**wildcards)] * (1 + attempt) / 2) if counted else 4000

    return mem_mb

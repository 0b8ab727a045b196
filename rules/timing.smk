"""What a step of each arm costs, measured alone."""

from types import SimpleNamespace

from legible.train.timing import timed


def timed_arms():
    """Every arm with the training seed that is timed, as input functions know a job."""
    return [SimpleNamespace(arm=arm, seed=CONFIG.seeds[0]) for arm in ARMS]


def timing_inputs(wildcards):
    """What the trainings of all arms open."""
    needs = (arm_models, arm_segmenter, arm_anchor, arm_start)
    return list(dict.fromkeys(path for job in timed_arms() for files in needs for path in files(job)))


def timing_memory(wildcards, attempt):
    """MB of the largest training."""
    return max(planned_memory(f"train_{arm}")(wildcards, attempt) for arm in ARMS)


def timing_commands(wildcards, input):
    """Arm → the command that trains it for a few steps, as rule train_arm does, without the folders to write to."""
    commands = {}
    for job in timed_arms():
        training = timed(CONFIG.arm(job.arm), CONFIG.timing)
        config = json.loads(training_config(training))
        # Defaults left out: all arms' commands together must fit into one argument (128 KiB).
        config["training"] = training.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        own = SimpleNamespace(
            segmenter=first(arm_segmenter(job)), anchor=first(arm_anchor(job)), start=first(arm_start(job))
        )
        files = [*segmenter_option(job, own), *anchor_option(job, own), *start_option(job, own)]
        command = [*launcher(job), str(CHECKOUT / "scripts" / "train_arm.py"), "--config", as_json(**config)]
        command += ["--arm", job.arm, "--seed", str(job.seed), "--cache", str(input.cache), *files]
        commands[job.arm] = [*command, "--reader-cache", f"{RESULTS}/cache/ocr/reader"]
    return json.dumps(commands)


def first(paths):
    """The first of some paths, or nothing."""
    return paths[0] if paths else ""


rule time_arms:
    """Seconds of a step of every arm, in turn. It takes all cores, so that nothing of this workflow runs beside it."""
    input:
        cache=rules.encode_dataset.output,
        files=timing_inputs,
    output:
        TIMING,
    log:
        f"{RESULTS}/logs/time_arms.log",
    benchmark:
        f"{RESULTS}/benchmarks/time_arms.tsv"
    conda:
        ENVIRONMENT
    threads: workflow.cores or 1
    resources:
        mem_mb=timing_memory,
        runtime="8h",
        gpu=GPU * max(CONFIG.arm(arm).processes for arm in ARMS),
    params:
        commands=timing_commands,
        model=json.dumps(part("model"), sort_keys=True),
        seed=CONFIG.seeds[0],
        rounds=CONFIG.timing.rounds if CONFIG.timing else 0,
        code=[decides("time_arms"), *(decides_training(CONFIG.model, CONFIG.arm(arm)) for arm in ARMS)],
    shell:
        'python "$LEGIBLE"/scripts/time_arms.py --commands {params.commands:q} --model {params.model:q} --seed {params.seed:q}'
        " --rounds {params.rounds:q} --output {output:q} 2>&1 | tee {log:q}"

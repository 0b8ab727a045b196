"""What a step of each arm costs, measured alone."""


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

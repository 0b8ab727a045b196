"""What training costs: seconds of a step of each arm, measured alone; memory, counted."""


rule time_arms:
    """Seconds of a step of every arm, in turn. It takes all cores, so that nothing of this workflow runs beside it."""
    input:
        cache=rules.encode_dataset.output,
        files=timing_inputs,
        programs=programs("time_arms", "train_arm"),
    output:
        TIMING,
    log:
        f"{RESULTS}/logs/time_arms.log",
    benchmark:
        f"{RESULTS}/benchmarks/time_arms.tsv"
    conda:
        ENVIRONMENT
    threads: timing_threads
    resources:
        mem_mb=timing_memory,
        runtime="8h",
        nodes=1,
        gpu=timing_gpus,
    params:
        commands=timing_commands,
        model=json.dumps(part("model"), sort_keys=True),
        seed=CONFIG.seeds[0],
        rounds=CONFIG.timing.rounds if CONFIG.timing else 0,
        code=[decides("time_arms"), *(decides_training(CONFIG.model, CONFIG.arm(arm)) for arm in ARMS)],
    shell:
        'python "$LEGIBLE"/scripts/time_arms.py --commands {params.commands:q} --model {params.model:q} --seed {params.seed:q}'
        " --rounds {params.rounds:q} --output {output:q} 2>&1 | tee {log:q}"


rule preflight:
    """Target: print what every arm will hold in memory; computes nothing, writes nothing."""
    input:
        config=f"{RESULTS}/config.yaml",
        programs=programs("preflight"),
    log:
        f"{RESULTS}/logs/preflight.log",
    conda:
        ENVIRONMENT
    shell:
        'python "$LEGIBLE"/scripts/preflight.py --config {input.config:q} 2>&1 | tee {log:q}'

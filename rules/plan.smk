"""What the jobs will need, told before the first of them starts."""


rule plan_memory:
    """How much memory the jobs that hold the model will ask a cluster for; nothing is loaded for it."""
    input:
        model=model_configs,
    output:
        MEMORY,
    log:
        f"{RESULTS}/logs/plan_memory.log",
    benchmark:
        f"{RESULTS}/benchmarks/plan_memory.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=4000,
        runtime="30m",
    params:
        config=as_json(model=part("model"), data=part("data", "height", "width")),
        trainings=as_json(**{arm: CONFIG.arm(arm).model_dump(mode="json", by_alias=True) for arm in ARMS}),
        code=decides("plan_memory", [SPEC.module], DIFFUSION),
    shell:
        'python "$LEGIBLE"/scripts/plan_memory.py --config {params.config:q} --trainings {params.trainings:q} --output {output:q}'
        " 2>&1 | tee {log:q}"


rule preflight:
    """Target: print what every arm will hold in memory; computes nothing, writes nothing."""
    input:
        f"{RESULTS}/config.yaml",
    log:
        f"{RESULTS}/logs/preflight.log",
    conda:
        ENVIRONMENT
    shell:
        'python "$LEGIBLE"/scripts/preflight.py --config {input:q} 2>&1 | tee {log:q}'

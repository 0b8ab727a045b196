"""Drawn pictures scored by rewards, and the guards that void a gain."""


rule score_rewards:
    """Every model's pictures scored by rewards, whether or not it was trained by them."""
    input:
        images=expand(f"{RESULTS}/images/{{model}}/{{prompt_set}}", model=MODELS, prompt_set=PROMPT_SETS),
        critics=[file for name in critics_of(CONFIG.reward_scores) for file in section_files(getattr(CONFIG, name))],
        unseen=section_files(UNSEEN) if UNSEEN else [],
        programs=programs("score_rewards"),
    output:
        table=f"{RESULTS}/scores/rewards.csv",
        pictures=f"{RESULTS}/scores/rewards_by_picture.parquet",
    log:
        f"{RESULTS}/logs/score_rewards.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_rewards.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(8000),
        runtime="4h",
    params:
        config=as_json(scoring=part("scoring"), **{name: part(name) for name in critics_of(CONFIG.reward_scores)}),
        rewards=list(CONFIG.reward_scores),
        unseen=unseen_option,
        trainings=trainings_without_defaults(),
        cache=f"{RESULTS}/cache/rewards",
        code=decides_rewards(CONFIG.reward_scores),
    shell:
        'python "$LEGIBLE"/scripts/score_rewards.py --config {params.config:q} --trainings {params.trainings:q}'
        " --rewards {params.rewards:q} {params.unseen:q}"
        " --images {input.images:q} --cache {params.cache:q} --threads {threads} --output {output.table:q} 2>&1 | tee {log:q}"


rule check_guards:
    """What voids a gain, arm by arm."""
    input:
        rewards=rules.score_rewards.output.table,
        scores=rules.score_readings.output.scores,
        drift=rules.score_drift.output.table if CONFIG.drift else [],
        programs=programs("check_guards"),
    output:
        f"{RESULTS}/scores/guards.csv",
    log:
        f"{RESULTS}/logs/check_guards.log",
    benchmark:
        f"{RESULTS}/benchmarks/check_guards.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2000),
        runtime="30m",
    params:
        drift=drift_option,
        trained=json.dumps({arm: sorted(CONFIG.arm(arm).reward.weights) for arm in ARMS}),
        code=decides("check_guards", packages=["numpy", "pandas", "pyarrow"]),
    shell:
        'python "$LEGIBLE"/scripts/check_guards.py --rewards {input.rewards:q} --scores {input.scores:q} {params.drift:q}'
        " --trained {params.trained:q} --output {output:q} 2>&1 | tee {log:q}"

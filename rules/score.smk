"""Scores and statistics."""


rule score_readings:
    """CER, WER, exact match and the rest, with intervals and paired differences to the control."""
    input:
        images=expand(
            f"{RESULTS}/images/{{model}}/{{prompt_set}}",
            model=[*MODELS, *CEILINGS],
            prompt_set=PROMPT_SETS,
        ),
        readings=expand(
            f"{RESULTS}/ocr/{{engine}}/{{model}}/{{prompt_set}}.jsonl",
            engine=ENGINES,
            model=[*MODELS, *CEILINGS],
            prompt_set=PROMPT_SETS,
        ),
        programs=programs("score_readings"),
    output:
        scores=f"{RESULTS}/scores/scores.parquet",
        summary=report(f"{RESULTS}/scores/summary.csv", caption="../resources/report/summary.rst", category="Scores"),
        seeds=f"{RESULTS}/scores/seeds.csv",
        characters=f"{RESULTS}/scores/characters.csv",
    log:
        f"{RESULTS}/logs/score_readings.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_readings.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4000),
        runtime="1h",
    params:
        config=as_json(**SCORED),
        folder=output_folder,
        code=decides("score_readings", packages=[*SCORING, "pyarrow"]),
    shell:
        'python "$LEGIBLE"/scripts/score_readings.py --config {params.config:q} --images {input.images:q}'
        " --readings {input.readings:q} --output-dir {params.folder:q} 2>&1 | tee {log:q}"


rule score_drift:
    """How far the pictures moved from the base model's on prompts without text."""
    input:
        images=drift_images,
        clip=section_files(CONFIG.clip),
        programs=programs("score_drift"),
    output:
        table=f"{RESULTS}/scores/drift.csv",
        prompts=f"{RESULTS}/scores/drift_by_prompt.parquet",
    log:
        f"{RESULTS}/logs/score_drift.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_drift.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(8000),
        runtime="2h",
    params:
        config=as_json(clip=part("clip"), **SCORED),
        code=decides("score_drift", [CRITICS["clip"].module], COMPARING),
    shell:
        'python "$LEGIBLE"/scripts/score_drift.py --config {params.config:q} --images {input.images:q} --output {output.table:q}'
        " 2>&1 | tee {log:q}"


rule score_attributes:
    """Do the pictures without text show what their prompts name?"""
    input:
        images=drift_images,
        prompts=[CONFIG.drift.prompts] if CONFIG.drift else [],
        programs=programs("score_attributes"),
    output:
        f"{RESULTS}/scores/attributes.csv",
    log:
        f"{RESULTS}/logs/score_attributes.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_attributes.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2000),
        runtime="1h",
    params:
        config=as_json(scoring=part("scoring")),
        code=decides("score_attributes", packages=SCORING),
    shell:
        'python "$LEGIBLE"/scripts/score_attributes.py --config {params.config:q} --prompts {input.prompts:q}'
        " --images {input.images:q} --output {output:q} 2>&1 | tee {log:q}"


include: "timing.smk"


rule score_curve:
    """CER against steps and seconds, from snapshots of the runs."""
    input:
        images=curve_images,
        readings=curve_readings,
        runs=curve_runs,
        metrics=curve_metrics,
        timing=rules.time_arms.output if CONFIG.timing else [],
        programs=programs("score_curve"),
    output:
        curve=f"{RESULTS}/scores/curve.csv",
        reached=f"{RESULTS}/scores/steps_to_levels.csv",
    log:
        f"{RESULTS}/logs/score_curve.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_curve.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4000),
        runtime="1h",
    params:
        config=as_json(**SCORED),
        levels=list(CONFIG.cer_levels),
        timing=timing_option,
        code=decides("score_curve", packages=SCORING),
    shell:
        'python "$LEGIBLE"/scripts/score_curve.py --config {params.config:q} --images {input.images:q} --readings {input.readings:q}'
        " --runs {input.runs:q} {params.timing:q} --output {output.curve:q} --levels {params.levels:q} --reached {output.reached:q} 2>&1 | tee {log:q}"


rule score:
    """Target: readings, scores and statistics."""
    input:
        rules.score_readings.output,
        [*rules.score_drift.output, *rules.score_attributes.output] if CONFIG.drift else [],
        f"{RESULTS}/scores/guards.csv" if CONFIG.reward_scores else [],
        rules.score_curve.output if SNAPSHOTS else [],
        letter_evidence,
        rules.time_arms.output if CONFIG.timing else [],

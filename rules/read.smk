"""OCR: what each judge gets wrong by itself, and its raw readings."""


rule check_judge:
    """What a judge gets wrong on our own clean renders of the prompts; one that gets too much wrong judges nothing."""
    input:
        images=expand(f"{RESULTS}/images/ceiling_render/{{prompt_set}}", prompt_set=PROMPT_SETS),
        network=engine_files,
        programs=programs("check_judge"),
    output:
        f"{RESULTS}/scores/judges/{{engine}}.csv",
    log:
        f"{RESULTS}/logs/check_judge_{{engine}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/check_judge_{{engine}}.tsv"
    priority: 10  # what it refuses, nobody should have trained for
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(6000),
        runtime="2h",
    params:
        config=judge_config,
        cache=f"{RESULTS}/cache/ocr/{{engine}}",
        code=judging_code,
    shell:
        'python "$LEGIBLE"/scripts/check_judge.py --engine {wildcards.engine:q} --config {params.config:q} --images {input.images:q}'
        " --cache {params.cache:q} --output {output:q} 2>&1 | tee {log:q}"


rule read_ocr:
    """Read the images of all models with one engine; the raw readings are kept, and only new pictures are read."""
    input:
        images=expand(f"{RESULTS}/images/{{model}}/{{{{prompt_set}}}}", model=READ_MODELS),
        network=engine_files,
        judge=rules.check_judge.output,  # whether, not what; what was read is in the store
        programs=programs("read_images"),
    output:
        expand(f"{RESULTS}/ocr/{{{{engine}}}}/{{model}}/{{{{prompt_set}}}}.jsonl", model=READ_MODELS),
    log:
        f"{RESULTS}/logs/read_{{engine}}.{{prompt_set}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/read_{{engine}}.{{prompt_set}}.tsv"
    wildcard_constraints:
        prompt_set="|".join(PROMPT_SETS),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(6000),
        runtime="8h",
    params:
        config=engine_config,
        cache=f"{RESULTS}/cache/ocr/{{engine}}",
        store=f"{RESULTS}/cache/readings/{{engine}}_{{prompt_set}}.jsonl",
        code=reading_code,
    shell:
        'python "$LEGIBLE"/scripts/read_images.py --engine {wildcards.engine:q} --config {params.config:q} --images {input.images:q}'
        " --cache {params.cache:q} --store {params.store:q} --output {output:q} 2>&1 | tee {log:q}"


rule read_base_without_text:
    """The lines that a detector finds in the base's pictures of prompts without text: many, and drift is no harm."""
    input:
        images=f"{RESULTS}/images/base/{DRIFT}",
        network=engine_files,
        programs=programs("read_images"),
    output:
        f"{RESULTS}/ocr/{{engine}}/base/{DRIFT}.jsonl",
    log:
        f"{RESULTS}/logs/read_{{engine}}_base.{DRIFT}.log",
    benchmark:
        f"{RESULTS}/benchmarks/read_{{engine}}_base.{DRIFT}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(6000),
        runtime="2h",
    params:
        config=detector_config,
        cache=f"{RESULTS}/cache/ocr/{{engine}}",
        code=reading_code,
    shell:
        'python "$LEGIBLE"/scripts/read_images.py --engine {wildcards.engine:q} --config {params.config:q} --images {input.images:q}'
        " --cache {params.cache:q} --output {output:q} 2>&1 | tee {log:q}"


include: "letters.smk"

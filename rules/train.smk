"""Fine-tuning: one job per arm and seed."""


rule train_arm:
    """Fine-tune one arm with one seed; checkpoints live outside the output so that a killed run resumes."""
    input:
        cache=rules.encode_dataset.output,
        models=arm_models,
    output:
        weights=directory(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/weights"),
        metrics=f"{RESULTS}/runs/{{arm}}/seed{{seed}}/metrics.jsonl",
        run=f"{RESULTS}/runs/{{arm}}/seed{{seed}}/run.json",
    log:
        f"{RESULTS}/logs/train_{{arm}}_seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_{{arm}}_seed{{seed}}.tsv"
    conda:
        ENVIRONMENT
    threads: arm_threads
    resources:
        gpu=GPU,
    params:
        config=arm_config,
        folder=output_folder,
        checkpoints=f"{RESULTS}/checkpoints",
        reader_cache=f"{RESULTS}/cache/ocr/reader",
        code=code("train_arm"),
    shell:
        "python scripts/train_arm.py --config {params.config:q} --arm {wildcards.arm} --seed {wildcards.seed}"
        " --cache {input.cache} --reader-cache {params.reader_cache} --checkpoints {params.checkpoints}"
        " --output-dir {params.folder} 2>&1 | tee {log}"


rule train:
    """Target: every arm with every seed."""
    input:
        expand(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/run.json", arm=ARMS, seed=CONFIG.seeds),

"""Fine-tuning: one job per arm and seed."""


def arm_config(wildcards):
    """The arm's own training section and what else decides a run; the control does not depend on the CLIP."""
    training = CONFIG.arm(wildcards.arm)
    clip = part("clip") if training.aux.loss == "clip_region" else {}
    return as_json(
        model=part("model"),
        clip=clip,
        training=training.model_dump(mode="json", by_alias=True),
        generation=part("generation", "steps"),
    )


def arm_models(wildcards):
    """Files of the base transformer and, for arms that use it, of VAE and CLIP."""
    files = folder_files(CONFIG.model.path, "transformer", "scheduler")
    if CONFIG.arm(wildcards.arm).aux.loss != "none":
        files += folder_files(CONFIG.model.path, "vae") + folder_files(CONFIG.clip.path)
    return files


def arm_threads(wildcards):
    """CPU threads of one training."""
    return CONFIG.arm(wildcards.arm).threads


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
        folder=f"{RESULTS}/runs/{{arm}}/seed{{seed}}",
        checkpoints=f"{RESULTS}/checkpoints",
        code=code("train_arm"),
    shell:
        "python scripts/train_arm.py --config {params.config:q} --arm {wildcards.arm} --seed {wildcards.seed}"
        " --cache {input.cache} --checkpoints {params.checkpoints} --output-dir {params.folder} 2>&1 | tee {log}"


rule train:
    """Target: every arm with every seed."""
    input:
        expand(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/run.json", arm=ARMS, seed=CONFIG.seeds),

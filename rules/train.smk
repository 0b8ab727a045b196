"""Fine-tuning: one job per arm and seed."""


rule train_segmenter:
    """The latent segmenter of the char_segmentation loss, from the dataset's own glyph masks."""
    input:
        cache=rules.encode_dataset.output,
        programs=programs("train_segmenter"),
    output:
        segmenter=SEGMENTER,
        about=Path(SEGMENTER).with_suffix(".json"),
    log:
        f"{RESULTS}/logs/train_segmenter.log",
    benchmark:
        f"{RESULTS}/benchmarks/train_segmenter.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(8000),
        runtime="8h",
    params:
        config=as_json(segmenter=part("segmenter")),
        code=decides("train_segmenter", [CRITICS["segmenter"].module], ["numpy", "torch"]),
    shell:
        'python "$LEGIBLE"/scripts/train_segmenter.py --config {params.config:q} --cache {input.cache:q} --output {output.segmenter:q}'
        " --threads {threads} 2>&1 | tee {log:q}"


rule measure_gradients:
    """How far each loss's gradient reaches at each noise level, on the base model."""
    input:
        cache=rules.encode_dataset.output,
        models=loss_models(USED_LOSSES),
        segmenter=[SEGMENTER] if "segmenter" in critics_of(USED_LOSSES) else [],
        programs=programs("measure_gradients"),
    output:
        f"{RESULTS}/gradients.csv",
    log:
        f"{RESULTS}/logs/measure_gradients.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_gradients.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory("gradients"),
        runtime="8h",
        gpu=gpus,
    params:
        config=as_json(
            model=part("model"),
            clip=part("clip"),
            reader=part("reader"),
            training=part("training"),
            generation=part("generation", "steps"),
            gradients=CONFIG.gradients,
        ),
        losses=USED_LOSSES,
        segmenter=segmenter_option,
        reader_cache=f"{RESULTS}/cache/ocr/reader",
        code=decides_gradients(CONFIG.model, CONFIG.training, USED_LOSSES),
    shell:
        'python "$LEGIBLE"/scripts/measure_gradients.py --config {params.config:q} --losses {params.losses:q} --cache {input.cache:q}'
        " {params.segmenter:q} --reader-cache {params.reader_cache:q} --output {output:q} 2>&1 | tee {log:q}"


rule record_anchor:
    """Sampling trajectories of the base model on prompts without text, for the velocity anchor."""
    input:
        prompts=CONFIG.anchor.prompts,
        drift=[CONFIG.drift.prompts] if CONFIG.drift else [],
        model=model_files("denoiser", "text", "autoencoder", "scheduler"),
        programs=programs("record_anchor"),
    output:
        ANCHOR,
    log:
        f"{RESULTS}/logs/record_anchor.log",
    benchmark:
        f"{RESULTS}/benchmarks/record_anchor.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory("sample"),
        runtime="8h",
        gpu=gpus,
    params:
        config=as_json(
            model=part("model"),
            generation=part("generation", "steps", "batch_size"),
            data=part("data", "height", "width"),
            anchor=part("anchor"),
        ),
        code=decides("record_anchor", [SPEC.module], DIFFUSION),
    shell:
        'python "$LEGIBLE"/scripts/record_anchor.py --config {params.config:q} --not-these {input.drift:q} --output {output:q}'
        " --threads {threads} 2>&1 | tee {log:q}"


rule train_arm:
    """Fine-tune one arm with one seed; checkpoints live outside the output so that a killed run resumes."""
    input:
        cache=rules.encode_dataset.output,
        models=arm_models,
        segmenter=arm_segmenter,
        anchor=arm_anchor,
        start=arm_start,
        programs=programs("train_arm"),
    output:
        weights=directory(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/weights"),
        snapshots=directory(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/snapshots"),
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
        mem_mb=memory("train_{arm}"),
        runtime="24h",
        nodes=1,
        gpu=arm_gpus,
    params:
        launcher=launcher,
        config=arm_config,
        folder=output_folder,
        segmenter=segmenter_option,
        anchor=anchor_option,
        start=start_option,
        checkpoints=f"{RESULTS}/checkpoints",
        reader_cache=f"{RESULTS}/cache/ocr/reader",
        code=arm_code,
    shell:
        '{params.launcher:q} "$LEGIBLE"/scripts/train_arm.py --config {params.config:q} --arm {wildcards.arm:q} --seed {wildcards.seed:q}'
        " --cache {input.cache:q} {params.segmenter:q} {params.anchor:q} {params.start:q} --reader-cache {params.reader_cache:q}"
        " --checkpoints {params.checkpoints:q} --output-dir {params.folder:q}"
        ' --ends "${{LEGIBLE_BEGAN:+$((LEGIBLE_BEGAN + 60 * {resources.runtime}))}}" 2>&1 | tee {log:q}'


rule train:
    """Target: every arm with every seed."""
    input:
        expand(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/run.json", arm=ARMS, seed=CONFIG.seeds),

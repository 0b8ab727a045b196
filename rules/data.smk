"""Fonts, dataset and the caches of what the frozen encoders say about it."""


include: "clock.smk"


rule inspect_fonts:
    """Find fonts and check that they really draw the characters we need."""
    input:
        programs=programs("inspect_fonts"),
    output:
        manifest=f"{RESULTS}/fonts/manifest.json",
        sheet=f"{RESULTS}/fonts/sheet.png",
    log:
        f"{RESULTS}/logs/inspect_fonts.log",
    benchmark:
        f"{RESULTS}/benchmarks/inspect_fonts.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2000),
        runtime="30m",
    params:
        config=as_json(fonts=part("fonts")),
        code=decides("inspect_fonts", packages=RENDERING) | state_of(CONFIG.fonts.folders),
    shell:
        'python "$LEGIBLE"/scripts/inspect_fonts.py --config {params.config:q} --output {output.manifest:q} --sheet {output.sheet:q}'
        " 2>&1 | tee {log:q}"


rule render_dataset:
    """Draw signs with words on them; no evaluation target occurs in the training text."""
    input:
        fonts=rules.inspect_fonts.output.manifest,
        prompts=[CONFIG.prompt_sets[name].path for name in PROMPT_SETS if CONFIG.prompt_sets[name].path],
        validation=[CONFIG.validation.prompts] if CONFIG.validation else [],
        words=word_files(),
        programs=programs("render_dataset"),
    output:
        train=f"{RESULTS}/data/train.parquet",
        test=f"{RESULTS}/data/test.parquet",
        summary=f"{RESULTS}/data/summary.json",
    log:
        f"{RESULTS}/logs/render_dataset.log",
    benchmark:
        f"{RESULTS}/benchmarks/render_dataset.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4000),
        runtime="4h",
    params:
        config=as_json(fonts=part("fonts"), data=part("data"), **ENGINE_PART),
        folder=output_folder,
        validation=["--validation", CONFIG.validation.prompts] if CONFIG.validation else [],
        code=decides_drawing("render_dataset", CONFIG),
    shell:
        'python "$LEGIBLE"/scripts/render_dataset.py --config {params.config:q} --fonts {input.fonts:q} --prompts {input.prompts:q}'
        " {params.validation:q} --output-dir {params.folder:q} --workers {threads} 2>&1 | tee {log:q}"


rule draw_showcase:
    """A picture of each script, for the figure of the dataset; trained on is none of them."""
    input:
        words=script_files(),
        sums=f"{HERE}resources/fonts/SHA256SUMS",
        fonts=own("resources/fonts"),
        programs=programs("draw_showcase"),
    output:
        f"{RESULTS}/data/showcase.parquet",
    log:
        f"{RESULTS}/logs/draw_showcase.log",
    benchmark:
        f"{RESULTS}/benchmarks/draw_showcase.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2000),
        runtime="30m",
    params:
        code=decides("draw_showcase", packages=["numpy", "pyarrow", *TEXT_ENGINE]),
    shell:
        'python "$LEGIBLE"/scripts/draw_showcase.py --output {output:q} 2>&1 | tee {log:q}'


rule encode_dataset:
    """Latents and caption embeddings, computed once and kept by content."""
    input:
        dataset=rules.render_dataset.output.train,
        summary=rules.render_dataset.output.summary,
        model=model_files("text", "autoencoder"),
        programs=programs("encode_dataset"),
    output:
        f"{RESULTS}/cache/train.safetensors",
    log:
        f"{RESULTS}/logs/encode_dataset.log",
    benchmark:
        f"{RESULTS}/benchmarks/encode_dataset.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory("encode"),
        runtime="8h",
        gpu=gpus,
    params:
        config=as_json(model=part("model")),
        store="results/cache",
        code=decides_encoding(CONFIG.model),
    shell:
        'python "$LEGIBLE"/scripts/encode_dataset.py --config {params.config:q} --dataset {input.dataset:q} --store {params.store:q}'
        " --output {output:q} --threads {threads} 2>&1 | tee {log:q}"


rule data:
    """Target: fonts, dataset and caches."""
    input:
        rules.inspect_fonts.output,
        rules.render_dataset.output,
        rules.encode_dataset.output,

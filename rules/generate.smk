"""Images: base and fine-tuned models on identical prompts and noise, and the ceilings of the scores."""


rule generate_baseline:
    """Images of the base model."""
    input:
        prompts=prompt_file,
        model=model_files("denoiser", "text", "autoencoder", "scheduler"),
        programs=programs("generate_images"),
    output:
        directory(f"{RESULTS}/images/base/{{prompt_set}}"),
    log:
        f"{RESULTS}/logs/generate_base.{{prompt_set}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate_base.{{prompt_set}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory("sample"),
        runtime="8h",
        gpu=gpus,
    params:
        config=sampling_config,
        options=prompt_options,
        store=f"{RESULTS}/cache/pictures",
        code=decides_sampling(CONFIG.model, adapters=False),
    shell:
        'python "$LEGIBLE"/scripts/generate_images.py --config {params.config:q} --prompts {input.prompts:q} {params.options:q}'
        " --model-name base --output-dir {output:q} --store {params.store:q} --threads {threads} 2>&1 | tee {log:q}"


rule generate_finetuned:
    """Images of one arm's models, of every training seed: same prompts, noise and settings as the base."""
    input:
        prompts=prompt_file,
        runs=expand(f"{RESULTS}/runs/{{{{arm}}}}/seed{{seed}}/run.json", seed=CONFIG.seeds),
        weights=expand(f"{RESULTS}/runs/{{{{arm}}}}/seed{{seed}}/weights", seed=CONFIG.seeds),
        model=model_files("denoiser", "text", "autoencoder", "scheduler"),
        programs=programs("generate_images"),
    output:
        directory(expand(f"{RESULTS}/images/{{{{arm}}}}-seed{{seed}}/{{{{prompt_set}}}}", seed=CONFIG.seeds)),
    log:
        f"{RESULTS}/logs/generate_{{arm}}.{{prompt_set}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate_{{arm}}.{{prompt_set}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory("sample"),
        runtime="24h",
        gpu=gpus,
    params:
        config=sampling_config,
        names=output_models,
        weights=tuned_weights,
        options=prompt_options,
        store=f"{RESULTS}/cache/pictures",
        code=sampling_code,
    shell:
        'python "$LEGIBLE"/scripts/generate_images.py --config {params.config:q} --prompts {input.prompts:q} {params.options:q}'
        " --weights {params.weights:q} --model-name {params.names:q} --output-dir {output:q} --store {params.store:q}"
        " --threads {threads} 2>&1 | tee {log:q}"


use rule generate_finetuned as generate_snapshot with:
    input:
        prompts=prompt_file,
        runs=[f"{RESULTS}/runs/{{arm}}/seed{{seed}}/run.json"],
        weights=[f"{RESULTS}/runs/{{arm}}/seed{{seed}}/snapshots"],
        model=model_files("denoiser", "text", "autoencoder", "scheduler"),
        programs=programs("generate_images"),
    output:
        directory(f"{RESULTS}/images/{{arm}}-seed{{seed}}-step{{step}}/{{prompt_set}}"),
    log:
        f"{RESULTS}/logs/generate_{{arm}}-seed{{seed}}-step{{step}}.{{prompt_set}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/generate_{{arm}}-seed{{seed}}-step{{step}}.{{prompt_set}}.tsv"


rule render_ceiling:
    """What a perfect model would draw: our own renders of the evaluation prompts."""
    input:
        prompts=prompt_file,
        fonts=rules.inspect_fonts.output.manifest,
        programs=programs("render_ceiling"),
    output:
        directory(f"{RESULTS}/images/ceiling_render/{{prompt_set}}"),
    log:
        f"{RESULTS}/logs/render_ceiling_{{prompt_set}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/render_ceiling_{{prompt_set}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2000),
        runtime="1h",
    params:
        config=as_json(fonts=part("fonts"), data=part("data"), **ENGINE_PART),
        options=prompt_options,
        code=decides_drawing("render_ceiling", CONFIG),
    shell:
        'python "$LEGIBLE"/scripts/render_ceiling.py --config {params.config:q} --fonts {input.fonts:q} --prompts {input.prompts:q}'
        " {params.options:q} --output-dir {output:q} 2>&1 | tee {log:q}"


rule round_trip_ceiling:
    """The renders after the VAE's encoder and decoder: what the decoder can show at best."""
    input:
        images=rules.render_ceiling.output[0],
        model=model_files("autoencoder"),
        programs=programs("round_trip_ceiling"),
    output:
        directory(f"{RESULTS}/images/ceiling_vae/{{prompt_set}}"),
    log:
        f"{RESULTS}/logs/round_trip_ceiling_{{prompt_set}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/round_trip_ceiling_{{prompt_set}}.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory("encode"),
        runtime="2h",
        gpu=gpus,
    params:
        config=as_json(model=part("model")),
        code=decides("round_trip_ceiling", [SPEC.module], [*DIFFUSION, "pillow"]),
    shell:
        'python "$LEGIBLE"/scripts/round_trip_ceiling.py --config {params.config:q} --images {input.images:q}'
        " --output-dir {output:q} --threads {threads} 2>&1 | tee {log:q}"


rule baseline:
    """Target: images of the base model."""
    input:
        [f"{RESULTS}/images/{BASE}/{name}" for name in PROMPT_SETS],


rule generate:
    """Target: images of every model, and the ceilings."""
    input:
        PICTURES,

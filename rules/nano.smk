"""Rebuild the shipped nano models. They are built below results/ and then installed, so that a run never retrains them."""


rule train_nano_part:
    """Train one nano model; checkpoints and curves stay in the work folder, so a killed training resumes."""
    input:
        needs=nano_needs,
        prompts=nano_prompts,
        words=[f"{HERE}resources/words/common.txt", f"{HERE}resources/words/rare.txt"],
        programs=programs("train_nano"),
    output:
        f"{NANO}/{{nano_part}}.json",
    log:
        f"{NANO}/logs/{{nano_part}}.log",
    benchmark:
        f"{NANO}/logs/{{nano_part}}.tsv"
    wildcard_constraints:
        nano_part="|".join(NANO_PARTS),
    conda:
        ENVIRONMENT
    threads: 2
    resources:
        mem_mb=memory(8000),
        runtime="24h",
    params:
        models=f"{NANO}/models",
        work=f"{NANO}/work",
        code=decides("train_nano", packages=[*DIFFUSION, "easyocr", "open_clip_torch"]),
    shell:
        'python "$LEGIBLE"/scripts/train_nano.py {wildcards.nano_part:q} --output {params.models:q} --work {params.work:q}'
        " --threads {threads} --provenance {output:q} 2>&1 | tee {log:q}"


rule install_nano:
    """Copy the finished models, with their provenance, to resources/nano/, and list their checksums."""
    input:
        expand(f"{NANO}/{{part}}.json", part=NANO_PARTS),
        programs=programs("write_checksums"),
    output:
        touch(f"{NANO}/installed"),
    log:
        f"{NANO}/logs/install.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(1000),
        runtime="30m",
    params:
        models=f"{NANO}/models",
    shell:
        'cp -r {params.models:q}/. "$LEGIBLE/resources/nano/" && python "$LEGIBLE/scripts/write_checksums.py" "$LEGIBLE/resources/nano"'
        " 2>&1 | tee {log:q}"


rule nano:
    """Target: retrain and install the models that this project ships."""
    input:
        rules.install_nano.output,

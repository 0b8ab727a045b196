"""Are the letters well formed? A judge of their shape, and a panel that says what readers overlook."""


rule judge_glyphs:
    """Look for malformed letters in the pictures of all models: at their shape only, whatever they spell."""
    input:
        images=expand(f"{RESULTS}/images/{{model}}/{{{{prompt_set}}}}", model=[*MODELS, *CEILINGS]),
        network=section_files(CONFIG.glyph_judge),
        programs=programs("judge_glyphs"),
    output:
        expand(f"{RESULTS}/glyphs/{{model}}/{{{{prompt_set}}}}.jsonl", model=[*MODELS, *CEILINGS]),
    log:
        f"{RESULTS}/logs/judge_glyphs_{{prompt_set}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/judge_glyphs_{{prompt_set}}.tsv"
    wildcard_constraints:
        prompt_set="|".join(PROMPT_SETS),
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(4000),
        runtime="2h",
    params:
        config=as_json(glyph_judge=CONFIG.glyph_judge and part("glyph_judge")),
        code=decides("judge_glyphs", packages=["numpy", "pillow", "torch"]),
    shell:
        'python "$LEGIBLE"/scripts/judge_glyphs.py --config {params.config:q} --images {input.images:q} --output {output:q}'
        " 2>&1 | tee {log:q}"


rule calibrate:
    """Which damage to a letter each judge overlooks: a panel drawn for that, read by all of them."""
    input:
        fonts=rules.inspect_fonts.output.manifest,
        words=word_files(),
        networks=[file for section in CONFIG.engines().values() for file in section_files(section)],
        glyphs=section_files(CONFIG.glyph_judge),
        programs=programs("calibrate_damage"),
    output:
        f"{RESULTS}/calibration/damage.csv",
    log:
        f"{RESULTS}/logs/calibrate.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibrate.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(6000),
        runtime="4h",
    params:
        config=as_json(
            calibration=CONFIG.calibration and part("calibration"),
            data=part("data"),
            glyph_judge=CONFIG.glyph_judge and part("glyph_judge"),
            ocr=part("ocr"),
        ),
        cache=f"{RESULTS}/cache/calibration",
        code=panel_code,
    shell:
        'python "$LEGIBLE"/scripts/calibrate_damage.py --config {params.config:q} --fonts {input.fonts:q} --cache {params.cache:q}'
        " --output {output:q} 2>&1 | tee {log:q}"


rule score_glyphs:
    """The share of pictures with a malformed letter, with intervals and paired differences to the arms' own controls."""
    input:
        glyphs=expand(
            f"{RESULTS}/glyphs/{{model}}/{{prompt_set}}.jsonl", model=[*MODELS, *CEILINGS], prompt_set=PROMPT_SETS
        ),
        programs=programs("score_glyphs"),
    output:
        f"{RESULTS}/scores/malformed.csv",
    log:
        f"{RESULTS}/logs/score_glyphs.log",
    benchmark:
        f"{RESULTS}/benchmarks/score_glyphs.tsv"
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2000),
        runtime="1h",
    params:
        config=as_json(scoring=part("scoring")),
        trainings=trainings_without_defaults(),
        code=decides("score_glyphs", packages=SCORING),
    shell:
        'python "$LEGIBLE"/scripts/score_glyphs.py --config {params.config:q} --trainings {params.trainings:q}'
        " --glyphs {input.glyphs:q} --output {output:q} 2>&1 | tee {log:q}"

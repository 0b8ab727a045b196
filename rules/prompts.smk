"""Prompts to draw: public sets, and the dataset's own test split."""


rule fetch_prompts:
    """A public prompt set at its pinned commit, checked by hash: cvtg_2k, flow_grpo_ocr, geneval or parti."""
    input:
        programs=programs("fetch_prompts"),
    output:
        "results/prompts/{public_set}.jsonl",
    log:
        "results/prompts/logs/{public_set}.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(1000),
        runtime="30m",
    params:
        copies=["--copies", CONFIG.benchmarks] if CONFIG.benchmarks else [],
    shell:
        'python "$LEGIBLE"/scripts/fetch_prompts.py --benchmark {wildcards.public_set:q} {params.copies:q} --output {output:q}'
        " 2>&1 | tee {log:q}"


rule list_test_prompts:
    """The test split as prompts: words and fonts that nothing was trained on."""
    input:
        shards=rules.render_dataset.output,  # train, test, and the summary with their checksums
        programs=programs("list_test_prompts"),
    output:
        f"{RESULTS}/data/test_prompts.jsonl",
    log:
        f"{RESULTS}/logs/list_test_prompts.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=memory(2000),
        runtime="30m",
    params:
        code=decides("list_test_prompts", packages=["pandas", "pyarrow"]),
    shell:
        'python "$LEGIBLE"/scripts/list_test_prompts.py --train {input.shards[0]:q} --test {input.shards[1]:q} --output {output:q}'
        " 2>&1 | tee {log:q}"

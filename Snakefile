"""Legible: fonts → signs → caches → fine-tuning → images → OCR → scores → figures → report."""

from snakemake.utils import min_version

min_version("9.11")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/data.smk"
include: "rules/train.smk"
include: "rules/generate.smk"
include: "rules/score.smk"
include: "rules/figures.smk"
include: "rules/nano.smk"


report: "resources/report/workflow.rst"


localrules:
    all,
    data,
    baseline,
    train,
    generate,
    score,
    figures,
    report,
    nano,


rule all:
    """Everything: the report needs all other stages."""
    default_target: True
    input:
        f"{RESULTS}/report.html",
        rules.figures.input,

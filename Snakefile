"""Legible: fonts → signs → caches → fine-tuning → images → OCR → scores → figures → report."""


# Beside this file, whatever the working directory; another workflow's `module` brings its own configuration.
configfile: workflow.current_basedir.join("config.yaml").get_path_or_uri(secret_free=True)


include: "rules/common.smk"
include: "rules/files.smk"
include: "rules/resources.smk"
include: "rules/inputs.smk"
include: "rules/result_inputs.smk"
include: "rules/data.smk"
include: "rules/prompts.smk"
include: "rules/train.smk"
include: "rules/generate.smk"
include: "rules/read.smk"
include: "rules/score.smk"
include: "rules/rewards.smk"
include: "rules/figures.smk"
include: "rules/nano.smk"


# A regime is this whole workflow once more, with its own configuration and its own folder under results/.
for name, settings in REGIMES.items():
    regime = f"{name}_"

    module:
        name: regime
        snakefile:
            "Snakefile"
        config:
            settings.model_dump(mode="json", by_alias=True)

    use rule * from regime exclude train_nano_part, install_nano, nano, fetch_prompts as regime*


localrules:
    all,
    data,
    baseline,
    preflight,
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
        rules.generate.input,  # or nobody would miss pictures from which a report has been made already
        [f"results/{settings.experiment}/report.html" for settings in REGIMES.values()],
        CONFIG.results_page or [],

"""Named input functions of reading, scores, figures and reports."""


def engine_config(wildcards):
    """The engine's own section."""
    section = CONFIG.engines()[wildcards.engine].model_dump(mode="json", by_alias=True)
    return json.dumps(section, sort_keys=True)


def judge_config(wildcards):
    """The engine's own section, and what its clean readings are held against."""
    ocr = {wildcards.engine: json.loads(engine_config(wildcards))}
    return as_json(ocr=ocr, scoring=part("scoring", "normalization", "judge_limit"))


def judging_code(wildcards):
    """The code and the versions that decide what one judge gets wrong."""
    return decides_judging(wildcards.engine)


def engine_files(wildcards):
    """Files of a judge's networks, so that a changed network reads again."""
    return section_files(CONFIG.engines()[wildcards.engine])


def reading_code(wildcards):
    """The code and the versions that decide what one judge reads."""
    return decides_reading(wildcards.engine)


def panel_code(wildcards):
    """The code and the versions that decide what the judges overlook."""
    judges = [JUDGES[engine] for engine in ENGINES]
    packages = [package for judge in judges for package in judge.packages]
    return decides("calibrate_damage", [judge.module for judge in judges], [*packages, *RENDERING, "pandas", "torch"])


def letter_evidence(wildcards):
    """Whether letters are well formed, and which damage to them each judge overlooks; what is configured of it."""
    malformed = [f"{RESULTS}/scores/malformed.csv"] if CONFIG.glyph_judge else []
    return malformed + ([f"{RESULTS}/calibration/damage.csv"] if CONFIG.calibration else [])


def figure_style(wildcards):
    """The style of one figure: changing it redraws this figure only."""
    style = getattr(CONFIG.figures, wildcards.figure).model_dump(mode="json")
    return json.dumps(style, sort_keys=True)


def figure_caption(wildcards):
    """The caption for Snakemake's own report."""
    return FIGURES[wildcards.figure].caption


def figure_code(wildcards):
    """The code and the versions that decide one figure: its own module, and what all of them share."""
    return decides("plot_figure", [FIGURES[wildcards.figure].module], DRAWING)


def figure_inputs(wildcards):
    """What one figure is drawn from."""
    sources = {
        "arms": [],
        "summary": [f"{RESULTS}/scores/summary.csv"],
        "seeds": [f"{RESULTS}/scores/seeds.csv"],
        "scores": [f"{RESULTS}/scores/scores.parquet"],
        "images": [path for name in PROMPT_SETS for path in pictures_of([*MODELS, *CEILINGS], name)],
        **dict.fromkeys(
            ("metrics", "validation"),
            expand(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/metrics.jsonl", arm=ARMS, seed=CONFIG.seeds),
        ),
        "curve": [f"{RESULTS}/scores/curve.csv"],
        "reached": [f"{RESULTS}/scores/steps_to_levels.csv"],
        "drift": [f"{RESULTS}/scores/drift.csv"],
        "malformed": [f"{RESULTS}/scores/malformed.csv"] if CONFIG.glyph_judge else [],
        "gradients": [f"{RESULTS}/gradients.csv"],
        "data": [f"{RESULTS}/data/train.parquet", f"{RESULTS}/data/summary.json"],
        "showcase": [f"{RESULTS}/data/showcase.parquet"],
    }
    return [path for need in FIGURES[wildcards.figure].needs for path in sources[need]]


def pictures_of(models, prompt_set):
    """Folders of these models' pictures."""
    return [f"{RESULTS}/images/{model}/{prompt_set}" for model in models]


def image_readings(models, prompt_set):
    """What every engine read in these models' images."""
    return [f"{RESULTS}/ocr/{engine}/{model}/{prompt_set}.jsonl" for engine in ENGINES for model in models]


def curve_models(wildcards):
    """The models of the learning curves: base, snapshots, the finished runs of the arms that have some, the control."""
    runs = {str(run_of(snapshot).finished) for snapshot in SNAPSHOTS} | {str(Run(CONTROL, s)) for s in CONFIG.seeds}
    return [BASE, *sorted(runs), *SNAPSHOTS]


def curve_images(wildcards):
    return [path for prompt_set in PROMPT_SETS for path in pictures_of(curve_models(wildcards), prompt_set)]


def curve_readings(wildcards):
    return [path for prompt_set in PROMPT_SETS for path in image_readings(curve_models(wildcards), prompt_set)]


def curve_runs(wildcards):
    """run.json of every run of the learning curves."""
    arms = [arm for arm in ARMS if CONFIG.arm(arm).snapshots or arm == CONTROL]
    return expand(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/run.json", arm=arms, seed=CONFIG.seeds)


def curve_metrics(wildcards):
    """The metrics.jsonl beside each of them."""
    return [run.replace("run.json", "metrics.jsonl") for run in curve_runs(wildcards)]


def drift_images(wildcards):
    """Images of every model on prompts without text."""
    return pictures_of(MODELS, DRIFT)


def unseen_option(wildcards):
    """`--unseen`: the EasyOCR judge's network as a reader that no arm listens to, where it is another one."""
    section = part("reader") | {"network": UNSEEN.network, "models": UNSEEN.models} if UNSEEN else {}
    return ["--unseen", json.dumps(section, sort_keys=True)] if UNSEEN else []


def page_files(wildcards):
    """What the results page is written from: all that the reports are, of this experiment and of its regimes."""
    reports = [f"results/{config.experiment}/report.html" for config in EXPERIMENTS]
    sources = [file for config in EXPERIMENTS for file in report_sources(config)]
    return [*reports, *sources, *([CONFIG.protocol] if CONFIG.protocol else [])]


def page_folders(wildcards, input):
    """This experiment's folder and those of its regimes."""
    return [folder_of(input, f"results/{config.experiment}") for config in EXPERIMENTS]


def results_folder(wildcards, input):
    """The experiment's folder, for scripts that read many of its files."""
    return folder_of(input, RESULTS)


def folder_of(files, folder):
    """Where a folder's files lie for the job: in it, or below the place to which a storage's were brought."""
    found = [str(file).partition(f"{folder}/") for file in files]
    return next((before + folder for before, inside, _ in found if inside), folder)

"""Named input functions: which files and which part of the configuration a job of a rule needs."""


def arm_config(wildcards):
    """The arm's own training section and what else decides a run; an arm depends on the models of its own loss only."""
    training = CONFIG.arm(wildcards.arm)
    return as_json(
        model=part("model"),
        clip=part("clip") if training.aux.loss == "clip_region" else {},
        reader=part("reader") if training.aux.loss == "ctc" else {},
        training=training.model_dump(mode="json", by_alias=True),
        generation=part("generation", "steps"),
    )


def arm_models(wildcards):
    """Files of the base transformer and, for arms with an auxiliary loss, of the VAE and of the loss's own model."""
    files = folder_files(CONFIG.model.path, "transformer", "scheduler")
    critics = {"clip_region": CONFIG.clip.path, "ctc": CONFIG.reader.network}
    if (loss := CONFIG.arm(wildcards.arm).aux.loss) in critics:
        files += folder_files(CONFIG.model.path, "vae") + folder_files(critics[loss])
    return files


def arm_threads(wildcards):
    """CPU threads of one training."""
    return CONFIG.arm(wildcards.arm).threads


def run_folder(wildcards):
    """Folder of a fine-tuned model."""
    arm, seed = wildcards.run.rsplit("-seed", 1)
    return f"{RESULTS}/runs/{arm}/seed{seed}"


def run_record(wildcards):
    """run.json of a fine-tuned model: it carries the hashes of its weights."""
    return str(Path(run_folder(wildcards)) / "run.json")


def run_weights(wildcards):
    """Weights of a fine-tuned model."""
    return str(Path(run_folder(wildcards)) / "weights")


def input_folder(wildcards, input):
    """The folder of the job's images: their manifest names the files in it."""
    return str(Path(input.images).parent)


def engine_config(wildcards):
    """The engine's own section."""
    section = CONFIG.engines()[wildcards.engine].model_dump(mode="json", by_alias=True)
    return json.dumps(section, sort_keys=True)


def engine_files(wildcards):
    """Files of a user network, so that a changed network reads again."""
    section = CONFIG.engines()[wildcards.engine]
    return folder_files(getattr(section, "network", ""))


def figure_style(wildcards):
    """The style of one figure: changing it redraws this figure only."""
    style = getattr(CONFIG.figures, wildcards.figure).model_dump(mode="json")
    return json.dumps(style, sort_keys=True)


def figure_caption(wildcards):
    """The caption for Snakemake's report, which cannot look for a file by wildcard."""
    return Path(workflow.basedir, "resources", "report", f"{wildcards.figure}.rst").read_text(encoding="utf-8").strip()


def figure_inputs(wildcards):
    """What one figure is drawn from."""
    metrics = expand(f"{RESULTS}/runs/{{arm}}/seed{{seed}}/metrics.jsonl", arm=ARMS, seed=CONFIG.seeds)
    scores = [f"{RESULTS}/scores/{name}" for name in ("scores.parquet", "summary.csv", "seeds.csv")]
    images = expand(
        f"{RESULTS}/images/{{model}}/{{prompt_set}}/manifest.jsonl", model=[*MODELS, *CEILINGS], prompt_set=PROMPT_SETS
    )
    sources = {
        "training_curves": metrics,
        "dataset": [f"{RESULTS}/data/train.parquet"],
        "samples": scores + images,
        "best_and_worst": scores + images,
    }
    return sources.get(wildcards.figure, scores)


def nano_needs(wildcards):
    """The transformer learns on the latents of the finished autoencoder."""
    return [f"{NANO}/vae.json"] if wildcards.nano_part == "transformer" else []


def prompt_file(wildcards):
    """The file of a prompt set."""
    return CONFIG.prompt_sets[wildcards.prompt_set].path


def prompt_limit(wildcards):
    """`--limit N` of a prompt set, or nothing."""
    limit = CONFIG.prompt_sets[wildcards.prompt_set].limit
    return f"--limit {limit}" if limit else ""


def output_folder(wildcards, output):
    """The folder of the first output: the scripts write several files into it."""
    return str(Path(output[0]).parent)


def results_folder(wildcards):
    """The experiment's folder, for scripts that read many of its files."""
    return RESULTS

"""Named input functions of data, training and generation: which files and which part of the configuration a job needs."""


def word_files():
    """Where the strings on plain signs, or in the text engine's pictures, come from."""
    if CONFIG.data.script == "latin" and not CONFIG.render:
        return [f"{HERE}resources/words/common.txt", f"{HERE}resources/words/rare.txt"]
    return script_files()


def arm_config(wildcards):
    """The arm's own training section and what else decides a run; an arm depends on the models of its own loss only."""
    return training_config(CONFIG.arm(wildcards.arm))


def training_config(training):
    """What a run with this training section is given."""
    critics = critics_of(training.heard)
    return as_json(
        model=part("model"),
        **{name: part(name) if name in critics else {} for name in ("clip", "reader")},
        **{name: part(name) for name in critics if name not in ("clip", "reader", "segmenter")},
        training=training.model_dump(mode="json", by_alias=True),
        generation=part("generation", *(["steps"] if not CONFIG.validation else WATCHED_GENERATION)),
        **watched_sections(),
    )


def arm_code(wildcards):
    """The code and the versions that decide one arm's training."""
    return decides_training(CONFIG.model, CONFIG.arm(wildcards.arm), CONFIG.validation)


def arm_start(wildcards):
    """The weights from which an arm goes on, and run.json of their run."""
    start = CONFIG.arm(wildcards.arm).start
    folder = Path(RESULTS, Run(start, int(wildcards.seed)).folder) if start else None
    return [str(folder / name) for name in ("weights", "run.json")] if folder else []


def start_option(wildcards, input):
    """`--start FOLDER`, or nothing."""
    return ["--start", str(input.start[0])] if input.start else []


def arm_models(wildcards):
    """Files of the base model, the assistant LoRA and, for an auxiliary loss, of what it looks with."""
    training = CONFIG.arm(wildcards.arm)
    text = model_files("text") if training.text_trained or training.start else []  # a start can have its own encoder
    assistant = [training.assistant_lora] if training.assistant_lora else []
    return loss_models(training.heard) + text + assistant + watched_files()


def loss_models(losses):
    """Files of the base's denoiser, and of the autoencoder and the critics that `losses` need."""
    decoded = ["autoencoder"] if any(HEARD[name].decodes for name in losses) else []
    files = model_files("denoiser", "scheduler", *decoded)
    return files + [file for critic in critics_of(losses) for file in section_files(getattr(CONFIG, critic))]


def arm_segmenter(wildcards):
    """The latent segmenter, for arms whose loss needs one."""
    return [SEGMENTER] if "segmenter" in critics_of(CONFIG.arm(wildcards.arm).heard) else []


def arm_anchor(wildcards):
    """Trajectories of the base, for arms with a velocity anchor that is held at them."""
    anchor = CONFIG.arm(wildcards.arm).anchor
    return [ANCHOR] if anchor.weight and anchor.reference == "recorded" else []


def anchor_option(wildcards, input):
    """`--anchor FILE`, or nothing."""
    return ["--anchor", *input.anchor] if input.anchor else []


def segmenter_option(wildcards, input):
    """`--segmenter FILE`, or nothing."""
    return ["--segmenter", *input.segmenter] if input.segmenter else []


def drift_option(wildcards, input):
    """`--drift FILE`, or nothing."""
    return ["--drift", str(input.drift)] if input.drift else []


def timing_option(wildcards, input):
    """`--timing FILE`, or nothing."""
    return ["--timing", str(input.timing)] if input.timing else []


def launcher(wildcards):
    """What starts the training: python, or torchrun for several processes; never where it could not do one step."""
    check_arm_time(wildcards)
    return trainer(wildcards)


def trainer(wildcards):
    """python, or torchrun for several processes."""
    processes = CONFIG.arm(wildcards.arm).processes
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return ["python", *(torchrun if processes > 1 else [])]


def output_models(wildcards, output):
    """The models whose pictures these are."""
    return [Path(folder).parent.name for folder in output]


def tuned_weights(wildcards, input, output):
    """The weights of each of them: of the run, or of one of its snapshots."""
    pairs = zip(input.runs, output_models(wildcards, output), strict=True)
    return [str(Path(run).parent / run_of(model).weights) for run, model in pairs]


def sampling_code(wildcards):
    """The code and the versions that decide the images of one arm's models."""
    return decides_sampling(CONFIG.model, CONFIG.arm(wildcards.arm).method == "lora")


def prompt_file(wildcards):
    """The file of a prompt set; that of the test split is made from it."""
    if wildcards.prompt_set == DRIFT:
        return CONFIG.drift.prompts
    return CONFIG.prompt_sets[wildcards.prompt_set].path or f"{RESULTS}/data/test_prompts.jsonl"


def sampling_config(wildcards):
    """What decides an image besides prompt and model; a prompt set may sample in its own way."""
    own = wildcards.prompt_set in CONFIG.prompt_sets
    generation = CONFIG.generation_of(wildcards.prompt_set) if own else CONFIG.generation
    generation = generation.model_dump(mode="json")
    return as_json(model=part("model"), generation=generation, data=part("data", "height", "width"))


def prompt_options(wildcards):
    """`--limit N` of a prompt set, and that it holds prompts without text, where this is so."""
    drift = wildcards.prompt_set == DRIFT
    limit = (CONFIG.drift if drift else CONFIG.prompt_sets[wildcards.prompt_set]).limit
    return [*(["--no-text"] if drift else []), *(["--limit", str(limit)] if limit else [])]


def output_folder(wildcards, output):
    """The folder of the first output: the scripts write several files into it."""
    return str(Path(output[0]).parent)


def detector_config(wildcards):
    """The engine's own section, set to find lines."""
    return CONFIG.detectors()[wildcards.engine].model_dump_json(by_alias=True)

"""What watches a training's spelling; what is timed; what nano needs."""

from types import SimpleNamespace

from legible.train.timing import timed


include: "cluster.smk"


WATCHED_GENERATION = ("steps", "guidance_scale", "tuned_steps", "scheduler", "batch_size")


def trainings_without_defaults():
    """Arm → its training section, short enough for an argument (128 KiB) with some hundred arms."""
    dumped = {"mode": "json", "by_alias": True, "exclude_defaults": True}
    return as_json(**{arm: CONFIG.arm(arm).model_dump(**dumped) for arm in ARMS})


def watched_sections():
    """What decides an evaluation while training, and trackers; nothing where they are off, so that no arm changes."""
    tracked = {"trackers": list(CONFIG.trackers)} if CONFIG.trackers else {}
    if not CONFIG.validation:
        return tracked
    judge = CONFIG.validation.judge
    ocr = dict.fromkeys(ENGINES) | {judge: getattr(CONFIG.ocr, judge).model_dump(mode="json")}
    return tracked | {"validation": part("validation"), "ocr": ocr, "scoring": part("scoring", "normalization")}


def watched_files():
    """What evaluations while training read: prompts, decoder, text encoders and the judge's networks."""
    if not CONFIG.validation:
        return []
    files = model_files("autoencoder", "text") + section_files(getattr(CONFIG.ocr, CONFIG.validation.judge))
    return [CONFIG.validation.prompts, *files]


def timed_arms():
    """Every arm with the training seed that is timed, as input functions know a job."""
    return [SimpleNamespace(arm=arm, seed=CONFIG.seeds[0]) for arm in ARMS]


def timing_threads(wildcards):
    """All cores of this machine; on a cluster those of the widest training."""
    return max(workflow.resource_settings.cores or 1, *(arm_threads(job) for job in timed_arms()))


def timing_gpus(wildcards):
    """GPUs of the training with most processes."""
    return max(arm_gpus(job) for job in timed_arms())


def timing_memory(wildcards, attempt, rulename):
    """MB of the largest training."""
    return max(memory(f"train_{arm}")(wildcards, attempt, rulename) for arm in ARMS)


def timing_inputs(wildcards):
    """What the trainings of all arms open."""
    needs = (arm_models, arm_segmenter, arm_anchor, arm_start)
    return list(dict.fromkeys(path for job in timed_arms() for files in needs for path in files(job)))


def timing_commands(wildcards, input):
    """Arm → the command that trains it for a few steps, as rule train_arm does, without the folders to write to."""
    commands = {}
    for job in timed_arms():
        training = timed(CONFIG.arm(job.arm), CONFIG.timing)
        config = {
            name: own for name, own in json.loads(training_config(training)).items() if name not in watched_sections()
        }
        # Defaults left out: all arms' commands together must fit into one argument (128 KiB).
        config["training"] = training.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        needs = {"segmenter": arm_segmenter(job), "anchor": arm_anchor(job), "start": arm_start(job)}
        own = SimpleNamespace(**{name: first_of(paths, input.files) for name, paths in needs.items()})
        files = [*segmenter_option(job, own), *anchor_option(job, own), *start_option(job, own)]
        command = [*trainer(job), str(CHECKOUT / "scripts" / "train_arm.py"), "--config", as_json(**config)]
        command += ["--arm", job.arm, "--seed", str(job.seed), "--cache", str(input.cache), *files]
        commands[job.arm] = [*command, "--reader-cache", f"{RESULTS}/cache/ocr/reader"]
    return json.dumps(commands)


def first_of(paths, files):
    """The first of some paths as a list of one, where it lies for a job with these files; an empty list without any."""
    return [str(file) for file in files if paths and str(file).endswith(paths[0])][:1]


def nano_needs(wildcards):
    """Denoisers learn on the latents of the finished autoencoder; CLIPs and twins of rewards grow out of others, too."""
    needs = dict.fromkeys(("denoiser", "unet", "glyph_judge"), ["vae"])
    needs |= {"scenery": ["denoiser"], "shapes": ["scenery"], "unet_clip": ["unet"]}
    needs |= dict.fromkeys(TWINS, ["caption_clip"])
    return [f"{NANO}/{part}.json" for part in needs.get(wildcards.nano_part, [])]


def nano_prompts(wildcards):
    """The evaluation prompts whose targets a part may not learn."""
    return f"{HERE}resources/prompts/{FURTHER_READERS.get(wildcards.nano_part, 'held_out')}.jsonl"

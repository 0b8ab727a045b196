"""What an arm is, in words, from its configuration and never from its name."""

from collections.abc import Mapping

from legible.config import Config
from legible.figures.labels import arm_label, engine_label

# Loss (training.aux.loss) → what it asks of the decoded picture.
LOSSES = {
    "clip_region": "cosine distance in CLIP between the crop of a text region and the string that should stand there",
    "clip_contrastive": "CLIP must prefer the right string for a region to strings one edit away",
    "recognizer_feature": "a region's features in a frozen text recogniser must be those of the clean picture's region",
    "ctc": "likelihood of the target string under a frozen text recogniser",
    "glyph_mask": "the diffusion loss once more, on the glyphs' pixels alone; nothing is decoded, no model judges",
    "char_segmentation": "a small frozen network must find each character in its place, in the latent itself",
    "self_reading": "placebo: a frozen text recogniser must be surer of what it reads there, whatever that is",
    "random_target": "placebo: a text region must look like a smooth random pattern of its own",
}
# Method (training.reward.method) that uses the rewards' values only → what it is.
METHODS = {
    "grpo": "by Flow-GRPO",
    "nft": "by DiffusionNFT",
    "dpo": "by Diffusion-DPO",
    "best_of_n": "by rejection sampling",
}
LETTERED = 0.1  # from this share of pictures with text on, a model that draws text everywhere cannot be harmed further
NEVER_NAMED = (
    "aux",
    "reward",
    "anchor",
    "threads",
    "checkpoint_every",
    "snapshots",
)  # they change no result, or have words of their own


def describe_arm(training: Mapping, control: Mapping) -> str:
    """An arm's auxiliary loss or rewards, and where its training differs from the control's beside that.

    Args:
        training: the `training` section of the arm's run.json.
        control: the same of the control.
    """
    rewards = training.get("reward", {})
    parts = [describe_rewards(rewards) if rewards.get("weights") else describe_aux(training.get("aux", {}))]
    anchor = training.get("anchor", {})
    if anchor.get("weight", 0):
        live = " of training's own, adapters off" if anchor.get("reference") == "adapter_off" else ""
        parts.append(f"velocity anchor of weight {anchor['weight']:g} on {anchor['batch_size']} points{live} per step")
    for key in sorted({*training, *control} - set(NEVER_NAMED)):
        if training.get(key) != control.get(key):
            parts.append(f"{key} = {training.get(key)} (control: {control.get(key)})")
    return "; ".join(parts)


def describe_aux(aux: Mapping) -> str:
    """An auxiliary loss as configured: which, how strong, how often, at which noise levels, towards which text."""
    loss, weight = aux.get("loss", "none"), float(aux.get("lambda", 0.0))
    if loss == "none" or weight == 0:
        return "no auxiliary loss"
    name = loss if isinstance(loss, str) else " + ".join(f"{share:g} · {part}" for part, share in loss.items())
    every = int(aux.get("every", 8))
    parts = [name, describe_lambda(aux, weight), "at every step" if every == 1 else f"every {every} steps"]
    low, high = aux.get("sigma_window", (0.0, 1.0))
    if (low, high) != (0.0, 1.0):
        parts.append(f"at noise levels {low:g} ≤ σ ≤ {high:g} only")
    if aux.get("sigma_sampling", "shared") == "window":
        parts.append("σ of its steps drawn evenly from there")
    if aux.get("sigma_weight", "none") == "signal":
        parts.append("weighted by (1−σ)²/((1−σ)²+σ²)")
    if aux.get("region", "image") == "crop":
        parts.append("decoding the text regions only")
    if aux.get("soft_range", False):
        parts.append("pixels limited softly")
    if aux.get("targets", "own") == "shuffled":
        parts.append("towards another sample's text")
    if aux.get("targets", "own") == "permuted":
        parts.append("towards its own letters in another order")
    if aux.get("conflict", "sum") == "project":
        parts.append("without what works against the diffusion loss, and the other way round (PCGrad)")
    if aux.get("clipping", "sum") == "each":
        parts.append("clipped by itself")
    return ", ".join(parts)


def describe_rewards(reward: Mapping) -> str:
    """Training by rewards as configured: which, on what pictures, through how many of the sampler's steps."""
    parts = ["rewards " + " + ".join(f"{weight:g} · {name}" for name, weight in reward["weights"].items())]
    if reward.get("method") == "direct":
        parts.append("on one prediction from noisy real pictures")
    elif reward.get("method") in METHODS:
        parts.append(f"{METHODS[reward['method']]}, {reward['group']} pictures a prompt in {reward['steps']} steps")
    else:
        parts.append(f"through the last {reward['last']} of {reward['steps']} sampling steps")
    if reward.get("guidance_scale", 0) > 0:
        parts.append(f"guidance {reward['guidance_scale']:g}")
    if "caption" in reward["weights"]:
        parts.append(f"{reward['clip_text']} text tower")
    if reward.get("targets") == "shuffled":
        parts.append("judged by another sample's caption")
    return ", ".join(parts)


def describe_lambda(aux: Mapping, weight: float) -> str:
    """How strong the loss is over the training."""
    balance = aux.get("balance", "constant")
    if balance in ("linear", "cosine"):
        return f"λ from {weight:g} to {float(aux.get('lambda_end', 0.0)):g} ({balance})"
    if balance == "gradient_norm":
        ratio = float(aux.get("target_ratio", 0.5))
        return f"λ from {weight:g} on such that its gradient is {ratio:g} of the diffusion loss's"
    if balance == "uncertainty":
        return f"λ from {weight:g} on by learnt uncertainty"
    return f"λ = {weight:g}"


def describe_judges(config: Config) -> str:
    """Which judges are independent of the losses' reader, and which one is only another network than it."""
    names = [engine_label(name) for name in config.engines()]
    if config.ocr.easyocr is None or config.ocr.easyocr.network == "standard":
        return f"Independent of the losses' reader: {', '.join(names)}."
    others = ", ".join(name for name in names if name != engine_label("easyocr")) or "none"
    return (
        f"The EasyOCR judge ({config.ocr.easyocr.network}) is separate from the losses' reader, not independent of it: "
        "networks that were trained on rendered signs, as nano's are, share renderer, words and augmentation. "
        f"Independent judges: {others}."
    )


def describe_drift(lettered: Mapping[str, tuple[int, int]]) -> str:
    """What drift on prompts without text can show, by the text that is found in the base's pictures of them.

    Args:
        lettered: engine → (pictures in which it finds text, all of them); empty: no engine that finds lines.
    """
    limit = "drift on a model that draws letters for every prompt cannot show collateral damage"
    if not lettered:
        return f"Whether the base model's pictures of the prompts without text hold text was not measured: {limit}."
    counts = ", ".join(f"{engine_label(engine)} in {some} of {total}" for engine, (some, total) in lettered.items())
    found = f"Text is found in the base model's own pictures of the prompts without text by {counts}"
    return f"{found}: {limit}." if any(some > LETTERED * total for some, total in lettered.values()) else f"{found}."


def describe_validation(config: Config, runs: Mapping[tuple[str, int], Mapping]) -> str:
    """What validation chose, and what follows for comparisons; empty where it chose nothing.

    Args:
        runs: (arm, training seed) → run.json.
    """
    settings = config.validation
    if settings is None or not settings.chooses:
        return ""
    judge = engine_label(settings.judge)
    key = "best_step" if settings.keep == "best" else "steps"
    steps: dict[str, list[str]] = {}
    for (arm, _), run in runs.items():
        steps.setdefault(arm, []).append(str(run.get(key, run["steps"])))
    chosen = "; ".join(f"{arm_label(arm)} {', '.join(own)}" for arm, own in steps.items())
    parts = [
        f"Validation chose, by the same rule for every arm, after how many steps its weights were taken ({chosen}): "
        "arms are compared at the steps where each of them spelled best on prompts of their own, not at equal steps."
        if settings.keep == "best"
        else f"Validation ended trainings early, by the same rule for every arm (steps: {chosen}): arms are not "
        "compared at equal steps.",
        f"{judge} read for that choice, so that of all judges it favours the chosen weights most.",
    ]
    if settings.patience and settings.keep == "best":
        parts.append("Trainings ended early, too, so that arms may have had unequal times to become better.")
    return " ".join(parts)

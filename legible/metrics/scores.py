"""Scores: one row per image and engine. Which text was asked for, what was read, and how far apart they are."""

import unicodedata
from collections.abc import Mapping, Sequence

import pandas as pd

from legible.config import Scoring
from legible.corpus.text import PROFILE_VERSIONS, characters, normalize, words
from legible.errors import UserError
from legible.metrics.text import edit_counts, extra_characters, joined_like, matched_ned, ned, word_scores
from legible.names import BASE, CEILINGS, CONTROL, Run, arm_and_seed
from legible.ocr import in_reading_order, to_reading
from legible.progress import progress

ANY_FONT = "any"  # of a prompt that names none
DTYPES = {
    "model": "str",
    "arm": "str",
    "training_seed": "Int64",
    "prompt_set": "str",
    "prompt_id": "str",
    "image_seed": "int64",
    "engine": "str",
    "engine_version": "str",
    "normalization": "str",
    "file": "str",
    "target": "str",
    "reading": "str",
    "kind": "str",
    "font": "str",
    "characters": "str",
    "length": "int64",
    "substitutions": "int64",
    "deletions": "int64",
    "insertions": "int64",
    "reference_length": "int64",
    "cer": "float64",
    "cer_capped": "float64",
    "words_reference": "int64",
    "word_errors": "int64",
    "wer": "float64",
    "word_precision": "float64",
    "word_recall": "float64",
    "word_f1": "float64",
    "exact": "bool",
    "ned": "float64",
    "matched_ned": "float64",
    "extra_characters": "int64",
    "extra_text": "bool",
    "no_detection": "bool",
}


def score_images(
    manifests: Mapping[tuple[str, str], Sequence[dict]],
    readings: Mapping[tuple[str, str, str], Sequence[dict]],
    scoring: Scoring,
) -> pd.DataFrame:
    """Compare what every engine read in every image with what its prompt asked for.

    Args:
        manifests: (model, prompt set) → rows with file, prompt_id, image_seed, targets and kind; with `font` where the
            prompt asks for one.
        readings: (engine, model, prompt set) → rows of scripts/read_images.py for the same files.
        scoring: normalisation profile and cap of the CER.

    Returns:
        One row per image and engine, columns and types as in DTYPES (described in docs/METRICS.md), in the order of
        `manifests`.

    Raises:
        UserError: an image without a reading or the other way round, a row without a needed key, a target without a
            character under the profile, a model whose name is not allowed, or a prompt whose targets differ by model.
    """
    engines = sorted({engine for engine, _, _ in readings})
    if not manifests or not engines:
        raise UserError("nothing to score: at least one manifest of images and one file of readings are needed")
    for engine, model, prompt_set in readings:
        if (model, prompt_set) not in manifests:
            raise UserError(f"readings of {engine}, {model}, {prompt_set}: there is no manifest of these images")
    rows: list[dict] = []
    for (model, prompt_set), images in progress(list(manifests.items()), "score", unit="image set"):
        arm, training_seed = arm_and_seed(model)
        for engine in engines:
            where = f"{model}/{prompt_set}, {engine}"
            if (engine, model, prompt_set) not in readings:
                raise UserError(f"{where}: there are no readings; run scripts/read_images.py for these images")
            identity = {"model": model, "arm": arm, "training_seed": training_seed}
            identity |= {"prompt_set": prompt_set, "engine": engine}
            for image, read in paired(images, readings[engine, model, prompt_set], where):
                rows.append(identity | score_image(image, read, scoring, where))
    scores = pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES)
    check_same_prompts(scores)
    return scores


def paired(images: Sequence[dict], read: Sequence[dict], where: str) -> list[tuple[dict, dict]]:
    """Each image of a manifest with its readings, by file name; nothing may be missing, doubled or left over."""
    by_file: list[dict[str, dict]] = []
    for rows, kind, keys in (
        (images, "manifest", {"file", "prompt_id", "image_seed", "targets", "kind"}),
        (read, "readings", {"file", "prompt_id", "image_seed", "engine_version", "readings"}),
    ):
        for row in rows:
            if missing := sorted(keys - set(row)):
                raise UserError(f"{where}: a row of the {kind} lacks the key {missing[0]}")
        by_file.append({row["file"]: row for row in rows})
        if len(by_file[-1]) < len(rows):
            raise UserError(f"{where}: a file occurs twice in the {kind}")
    listed, found = by_file
    if not listed:
        raise UserError(f"{where}: the manifest lists no image")
    if missing := sorted(set(listed) ^ set(found)):
        side = "readings" if missing[0] in listed else "manifest"
        raise UserError(f"{where}: {missing[0]} is missing in the {side}; every image is scored or none")
    for file, row in listed.items():
        if any(row[key] != found[file][key] for key in ("prompt_id", "image_seed")):
            raise UserError(f"{where}: {file}: prompt or seed differ between manifest and readings; read it again")
    return [(row, found[file]) for file, row in listed.items()]


def score_image(image: dict, read: dict, scoring: Scoring, where: str) -> dict:
    """The columns that follow from one image's targets and one engine's readings of it."""
    profile = scoring.normalization
    pieces = in_reading_order(to_reading(r["polygon"], r["text"], r["confidence"]) for r in read["readings"])
    target, reading = " ".join(image["targets"]), " ".join(piece.text for piece in pieces)
    reference, hypothesis = normalize(target, profile), normalize(reading, profile)
    if not reference:
        raise UserError(
            f"{where}: {image['prompt_id']}: nothing of the target {target!r} is left under the profile {profile}; "
            "set scoring.normalization to strict or change the target"
        )
    compared = joined_like(reference, hypothesis) if profile == "lenient" else hypothesis
    edits, length = edit_counts(characters(reference), characters(compared)), len(characters(reference))
    # A reading that is right but for its spaces has no wrong word either.
    spelled = reference if edits.distance == 0 else hypothesis
    word_errors = edit_counts(words(reference), words(spelled)).distance
    precision, recall, f1 = word_scores(reference, spelled)
    cer, extra = edits.distance / length, extra_characters(reference, hypothesis)
    # With a single target there is no order to be free of: all that was read belongs to it.
    parts = [compared] if len(image["targets"]) == 1 else [normalize(piece.text, profile) for piece in pieces]
    targets = [normalize(text, profile) for text in image["targets"]]
    return {
        "prompt_id": image["prompt_id"],
        "image_seed": image["image_seed"],
        "engine_version": read["engine_version"],
        "normalization": PROFILE_VERSIONS[profile],
        "file": image["file"],
        "target": target,
        "reading": reading,
        "kind": image["kind"],
        "font": image.get("font") or ANY_FONT,
        "characters": kind_of_characters(reference),
        "length": len(characters(reference.replace(" ", ""))),
        "substitutions": edits.substitutions,
        "deletions": edits.deletions,
        "insertions": edits.insertions,
        "reference_length": length,
        "cer": cer,
        "cer_capped": min(cer, scoring.cer_cap),
        "words_reference": len(words(reference)),
        "word_errors": word_errors,
        "wer": word_errors / len(words(reference)),
        "word_precision": precision,
        "word_recall": recall,
        "word_f1": f1,
        "exact": edits.distance == 0,
        "ned": ned(reference, compared),
        "matched_ned": matched_ned([text for text in targets if text], [text for text in parts if text]),
        "extra_characters": extra,
        "extra_text": extra > 0,
        "no_detection": not hypothesis,
    }


def kind_of_characters(text: str) -> str:
    """`letters` (accents are parts of letters), `digits`, or `mixed` for both or anything else; spaces do not count."""
    categories = {unicodedata.category(c)[0] for c in text if not c.isspace()}
    return "letters" if categories <= {"L", "M"} else "digits" if categories == {"N"} else "mixed"


def check_same_prompts(scores: pd.DataFrame) -> None:
    """A prompt asks every model for the same; otherwise some images are older than their prompt set."""
    asked = scores.groupby(["prompt_set", "prompt_id"], sort=False)[["target", "kind", "font"]].nunique().max(axis=1)
    if (asked > 1).any():
        prompt_set, prompt_id = asked[asked > 1].index[0]
        raise UserError(
            f"{prompt_set}: {prompt_id}: models were asked for different targets or fonts; generate them all again"
        )


def check_complete(scores: pd.DataFrame, arms: Sequence[str], seeds: Sequence[int]) -> None:
    """Every prompt set holds the base model and every arm × seed, and each of them the same prompts and image seeds.

    A ceiling needs the same prompts only: a render has no sampling noise.

    Raises:
        UserError: names the first model or image that is missing, doubled or not configured.
    """
    expected = {BASE, *(str(Run(arm, seed)) for arm in arms for seed in seeds)}
    if CONTROL not in arms:
        raise UserError(f"arms: {CONTROL} is missing: every claim is measured against it")
    for (prompt_set, engine), part in scores.groupby(["prompt_set", "engine"]):
        models = set(part["model"])
        where = f"{prompt_set}, {engine}"
        if missing := sorted(expected - models):
            raise UserError(f"{where}: images of {missing[0]} are missing; generate and read them first")
        if unknown := sorted(models - expected - set(CEILINGS)):
            raise UserError(f"{where}: {unknown[0]} is no configured arm and seed; leave it out or configure it")
        for model, images in part.groupby("model"):
            keys = ["prompt_id"] if model in CEILINGS else ["prompt_id", "image_seed"]
            wanted = set(part.loc[part["model"] == BASE, keys].itertuples(index=False, name=None))
            found = set(images[keys].itertuples(index=False, name=None))
            if missing := sorted(wanted ^ found):
                lacking = model if missing[0] in wanted else BASE
                raise UserError(f"{where}: {lacking} lacks an image of {' seed '.join(map(str, missing[0]))}")
            if len(found) < len(images):
                raise UserError(f"{where}: {model} has two images of one prompt and seed")

"""A small experiment's results, made by the real code: signs rendered as if models had spelt them, scored for real."""

import math
import string
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from legible.config import Config, Data, Fonts, Scoring
from legible.corpus.prompts import Excluded, Prompt
from legible.io import write_json, write_jsonl, write_text
from legible.metrics.scores import score_images
from legible.metrics.summary import by_training_seed, summarise
from legible.render.dataset import render_signs, write_dataset
from legible.render.fonts import find_fonts, select_fonts
from legible.render.sign import draw_prompt

WORDS = (
    "OPEN",
    "EXIT",
    "CAFE",
    "KNOCK",
    "TAXI",
    "BAR",
    "POLICE",
    "MU",
    "7",
    "4821",
    "DGB",
    "SALE",
    "QX",
    "HOTEL",
    "PARK",
)
COLORS = (("white", "dark green"), ("orange", "dark blue"), ("black", "white"), ("white", "black"))
ENGINES = ("easyocr", "rapidocr")
# Share of wrong characters that the "models" spell.
RATES = {"base": 0.35, "diffusion_only": 0.3, "clip_region": 0.12, "ceiling_render": 0.0, "ceiling_vae": 0.0}
ARMS = ("diffusion_only", "clip_region")
SEEDS = (0, 1)


def kind_of(word: str) -> str:
    return "digits" if word.isdigit() else "nonword" if word in ("DGB", "QX", "MU") else "word"


def make_prompts(extra: str = "") -> list[Prompt]:
    """One prompt a word; `extra` is written into the prompt text of the first one."""
    prompts = []
    for i, word in enumerate(WORDS):
        color, background = COLORS[i % len(COLORS)]
        text = f'a sign that says "{word}" in bold {color} letters on {background}' + (extra if i == 0 else "")
        prompts.append(Prompt(f"p{i:02d}", text, (word,), kind_of(word), "DejaVu Sans Bold", color, background))
    return prompts


def misspell(word: str, rate: float, rng: np.random.Generator) -> str:
    """Some characters replaced, and now and then one left out or doubled."""
    spelt = []
    for character in word:
        if rng.random() >= rate:
            spelt.append(character)
        elif (kind := rng.random()) < 0.7:
            spelt.append(str(rng.choice(list(string.ascii_uppercase))))
        elif kind < 0.85:
            spelt += [character, character]
    return "".join(spelt)


def spell_all(rates: dict[str, float], prompts: list[Prompt]) -> dict[str, list[dict]]:
    """Model → manifest rows with the spelt word in `spelt`."""
    models = {arm: arm for arm in rates if arm not in ARMS}
    models |= {f"{arm}-seed{seed}": arm for arm in ARMS for seed in SEEDS}
    spelling = {}
    for model, arm in models.items():
        rows = []
        for i, prompt in enumerate(prompts):
            for seed in (0,) if arm.startswith("ceiling") else (0, 1):
                rng = np.random.default_rng(
                    [i, seed, int(model[-1]) if model[-1].isdigit() else 9, list(rates).index(arm)]
                )
                row = {"file": f"{prompt.id}_s{seed}.png", "prompt_id": prompt.id, "image_seed": seed}
                row |= {"prompt": prompt.prompt, "targets": list(prompt.targets), "kind": prompt.kind, "model": model}
                rows.append(row | {"spelt": misspell(prompt.targets[0], rates[arm], rng)})
        spelling[model] = rows
    return spelling


def reading(row: dict, engine: str) -> dict:
    """What an engine "read": the spelt word, with a mistake of its own now and then."""
    rng = np.random.default_rng(
        [len(row["spelt"]), row["image_seed"], ENGINES.index(engine), int(row["prompt_id"][1:])]
    )
    text = row["spelt"] if rng.random() > 0.04 else row["spelt"][:-1]
    piece = {"polygon": [[0, 0], [64, 0], [64, 32], [0, 32]], "text": text, "confidence": 0.9}
    own = {key: row[key] for key in ("file", "prompt_id", "image_seed")}
    return own | {"engine": engine, "engine_version": f"{engine} 1.0", "readings": [piece] if text else []}


def write_scores(folder: Path, rates: dict[str, float], prompts: list[Prompt]) -> dict[str, list[dict]]:
    """scores/ of models that misspell so often; returns the manifest rows."""
    spelling = spell_all(rates, prompts)
    manifests = {(model, "held_out"): rows for model, rows in spelling.items()}
    readings = {
        (e, model, "held_out"): [reading(r, e) for r in rows] for model, rows in spelling.items() for e in ENGINES
    }
    scores = score_images(manifests, readings, Scoring(resamples=200))
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    scores.to_parquet(folder / "scores" / "scores.parquet", index=False)
    for name, table in (
        ("summary", summarise(scores, Scoring(resamples=200))),
        ("seeds", by_training_seed(scores)),
    ):
        table.to_csv(folder / "scores" / f"{name}.csv", index=False, float_format="%.6g")
    return spelling


def write_runs(folder: Path) -> None:
    """metrics.jsonl and run.json of every run."""
    for arm in ARMS:
        for seed in SEEDS:
            rng, rows = np.random.default_rng(seed), []
            for step in range(80):
                noise = float(rng.normal(0, 0.04))
                aux = 0.4 * math.exp(-step / 60) + noise if arm == "clip_region" and (step + 1) % 8 == 0 else None
                loss = 0.5 + 0.2 * math.exp(-step / 30) + noise + (0.004 if arm == "clip_region" else 0)
                row = {"step": step, "loss_total": loss + 0.2 * (aux or 0), "loss_diffusion": loss, "loss_aux": aux}
                row |= {"sigma_mean": 0.5, "grad_norm": 1 + 10 * abs(noise), "learning_rate": 2e-4}
                rows.append(row | {"seconds": 0.5 * (step + 1), "time": 1.7e9 + step})
            run = folder / "runs" / arm / f"seed{seed}"
            write_jsonl(run / "metrics.jsonl", rows)
            provenance = {"machine": "Test CPU (2 logical cores), Linux", "cores": 2, "versions": {"torch": "2.15.0"}}
            counts = {"parameters_total": 5_100_000, "parameters_trained": 4_900_000, "wall_seconds": 40.0}
            counts |= {"peak_memory_bytes": 1_500_000_000, "steps": 80, "key": "ab" * 32, "training": {}}
            write_json(run / "run.json", {"arm": arm, "seed": seed, **counts, **provenance})


def make_results(folder: Path, rates: dict[str, float] | None = None, extra: str = "", pictures: bool = True) -> Path:
    """The tree of results/{experiment} that figures and report read."""
    prompts = make_prompts(extra)
    spelling = write_scores(folder, rates or RATES, prompts)
    write_runs(folder)
    config = Config().model_dump(mode="json", by_alias=True)
    config["arms"] = {arm: config["arms"][arm] for arm in ARMS}
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    if not pictures:
        return folder
    data, fonts = Data(), select_fonts(find_fonts(Fonts()), ("DejaVu Sans Bold", "DejaVu Serif Bold"))
    for model, rows in spelling.items():
        for row in rows:
            prompt = prompts[int(row["prompt_id"][1:])]
            looks = (prompt.font, prompt.color, prompt.background)
            shown = Prompt(prompt.id, prompt.prompt, (row.pop("spelt")[:6] or "I",), prompt.kind, *looks)
            path = folder / "images" / model / "held_out" / row["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_prompt(shown, data, fonts).image).save(path)
        write_jsonl(folder / "images" / model / "held_out" / "manifest.jsonl", rows)
    train, rejected = render_signs(data, fonts, "train", 20, Excluded.of([]))
    test, rejected_test = render_signs(data, fonts, "test", 4, Excluded.of([]))
    write_dataset(folder / "data", train, test, {"train": rejected, "test": rejected_test}, Excluded.of([]))
    return folder

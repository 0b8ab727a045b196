"""A small experiment's results, made by the real code: signs rendered as if models had spelt them, scored for real."""

import math
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from legible.config import Config, Data, Fonts, Scoring, merge
from legible.corpus.prompts import Excluded, Prompt
from legible.figures.labels import is_placebo
from legible.io import write_json, write_jsonl, write_text
from legible.metrics.curve import steps_to_levels
from legible.metrics.scores import score_images
from legible.metrics.summary import by_training_seed, summarise
from legible.metrics.timing import SHARED
from legible.render.dataset import render_signs, write_dataset
from legible.render.fonts import find_fonts, select_fonts
from legible.render.showcase import write_showcase
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
SEEDS = (0, 1, 2)


def kind_of(word: str) -> str:
    return "digits" if word.isdigit() else "nonword" if word in ("DGB", "QX", "MU") else "word"


def make_prompts(extra: str = "", times: int = 1) -> list[Prompt]:
    """So many prompts a word; `extra` is written into the prompt text of the first one."""
    prompts = []
    for i, word in enumerate(WORDS * times):
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


def trained_arms(rates: dict[str, float]) -> list[str]:
    """The arms among the models, in order."""
    return [arm for arm in rates if arm != "base" and not arm.startswith("ceiling")]


def spell_all(rates: dict[str, float], prompts: list[Prompt]) -> dict[str, list[dict]]:
    """Model → manifest rows with the spelt word in `spelt`."""
    arms = trained_arms(rates)
    models = {arm: arm for arm in rates if arm not in arms}
    models |= {f"{arm}-seed{seed}": arm for arm in arms for seed in SEEDS}
    spelling = {}
    for model, arm in models.items():
        rows = []
        for i, prompt in enumerate(prompts):
            for seed in (0,) if arm.startswith("ceiling") else (0, 1):
                rng = np.random.default_rng([i, seed, int(model[-1]) if arm in arms else 9, list(rates).index(arm)])
                row = {"file": f"{prompt.id}_s{seed}.png", "prompt_id": prompt.id, "image_seed": seed}
                row |= {"prompt": prompt.prompt, "targets": list(prompt.targets), "kind": prompt.kind, "model": model}
                row["font"] = prompt.font
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


def write_runs(folder: Path, config: Config) -> None:
    """metrics.jsonl and run.json of every run; λ of the second arm grows, gradients are measured at every 8th step."""
    for place, arm in enumerate(config.arms):
        for seed in SEEDS:
            rng, rows = np.random.default_rng(seed), []
            for step in range(80):
                noise = float(rng.normal(0, 0.04))
                aux = 0.4 * math.exp(-step / 60) + noise if place and (step + 1) % 8 == 0 else None
                loss = 0.5 + 0.2 * math.exp(-step / 30) + noise + (0.004 if place else 0)
                row = {"step": step, "loss_total": loss + 0.2 * (aux or 0), "loss_diffusion": loss, "loss_aux": aux}
                row |= {"sigma_mean": 0.5, "grad_norm": 1 + 10 * abs(noise), "learning_rate": 2e-4}
                measured = place and (step + 1) % 8 == 0
                row["lambda"] = (0.2 + 0.01 * step if place == 1 else 0.2) if place else 0.0
                row["grad_norm_diffusion"] = 1 + abs(noise) if measured else None
                row["grad_norm_aux"] = 0.5 * place + abs(noise) if measured else None
                row["grad_cosine"] = noise + 0.02 * place if measured else None
                seconds = {"seconds": 0.5 * (step + 1), "processor_seconds": 0.75 * (step + 1)}
                rows.append(row | seconds | {"time": 1.7e9 + step})
                if step % 20 == 19:  # an evaluation is a row of its own
                    found = {"cer": 0.4 - 0.001 * step * place, "exact": 0.3, "prompts": 8}
                    rows.append(
                        {"step": step + 1, "seconds": 0.5 * (step + 1), "time": 1.7e9 + step, "validation": found}
                    )
            run = folder / "runs" / arm / f"seed{seed}"
            write_jsonl(run / "metrics.jsonl", rows)
            provenance = {"machine": "Test CPU (2 logical cores), Linux", "cores": 2, "versions": {"torch": "2.15.0"}}
            counts = {"parameters_total": 5_100_000, "parameters_trained": 4_900_000, "wall_seconds": 40.0 + 4 * place}
            counts |= {"peak_memory_bytes": 1_500_000_000, "steps": 80, "key": "ab" * 32, "device": "cpu"}
            counts |= {"processor_seconds": 60.0 + 6 * place, "started": f"2026-01-0{seed + 2}T00:00:0{place}+00:00"}
            counts |= {"data": "cd" * 32, "files": {"model": {}}, "weights": {"weights/a": "ef" * 32}}
            counts["training"] = config.arm(arm).model_dump(mode="json", by_alias=True)
            write_json(run / "run.json", {"arm": arm, "seed": seed, **counts, **provenance})


def write_drift(folder: Path, arms: Sequence[str]) -> None:
    """scores/drift.csv: every arm drifts a little further than the one before it."""
    rows = []
    for metric, unit in {"rmse": 0.01, "dssim": 0.02, "clip_distance": 0.015, "kid": 0.003}.items():
        control = 2 * unit
        for place, arm in enumerate((*arms, "base_other_seed")):
            value = 20 * unit if arm == "base_other_seed" else control + 0.3 * unit * place
            delta = [value - control + step * unit for step in (0, -0.2, 0.2)] if place else [math.nan] * 3
            row = {
                "arm": arm,
                "metric": metric,
                "value": value,
                "ci_low": value - unit / 2,
                "ci_high": value + unit / 2,
            }
            row |= dict(zip(("delta_vs_control", "delta_low", "delta_high"), delta, strict=True))
            rows.append(row | {"n_prompts": 20, "n_images": 40, "n_training_seeds": len(SEEDS)})
    drift = pd.DataFrame(rows)
    drift.to_csv(folder / "scores" / "drift.csv", index=False)
    values = drift.set_index(["arm", "metric"])["value"]
    singles = [
        {"arm": arm, "training_seed": seed, "prompt_set": "no_text", "prompt_id": f"n{prompt}"}
        | {metric: values[arm, metric] * (1 + 0.02 * (prompt - 9.5)) for metric in ("rmse", "dssim", "clip_distance")}
        | {"kid": values[arm, "kid"]}
        for arm in arms
        for seed in SEEDS
        for prompt in range(20)
    ]
    pd.DataFrame(singles).to_parquet(folder / "scores" / "drift_by_prompt.parquet", index=False)


def write_curve(folder: Path, arms: Sequence[str], rates: dict[str, float]) -> None:
    """scores/curve.csv: from the base model's rate to the arm's own; a step of a later arm takes longer."""
    rows = []
    for place, arm in enumerate(arms):
        for seed in SEEDS:
            for step in range(0, 81, 20):
                for i, engine in enumerate(ENGINES):
                    value = rates[arm] + (rates["base"] - rates[arm]) * math.exp(-step / 25) + 0.01 * seed + 0.02 * i
                    row = {"arm": arm, "training_seed": seed, "step": step, "seconds": step * (0.5 + 0.05 * place)}
                    row |= {"engine": engine, "prompt_set": "held_out", "value": value, "n_images": 30}
                    row["clock"] = SHARED
                    rows.append(row)
    table, keys = pd.DataFrame(rows), ["training_seed", "step", "engine"]
    control = table[table["arm"] == "diffusion_only"].set_index(keys)["value"]
    table["delta_vs_control"] = table["value"] - control.reindex(pd.MultiIndex.from_frame(table[keys])).to_numpy()
    table.to_csv(folder / "scores" / "curve.csv", index=False)
    steps_to_levels(table, [0.15, 0.01]).to_csv(folder / "scores" / "steps_to_levels.csv", index=False)


def write_gradients(folder: Path) -> None:
    """gradients.csv: the second loss does not reach high noise."""
    rows = []
    for sigma in (1.0, 0.95, 0.9, 0.83, 0.75, 0.64, 0.5, 0.3):
        for loss, reach in {"ctc": 1.0, "clip_region": 1 - sigma}.items():
            row = {"loss": loss, "sigma": sigma, "grad_norm_diffusion": 0.5, "grad_norm_aux": 2 * reach}
            rows.append(row | {"cosine": 0.1 * reach - 0.02, "loss_aux": 0.5})
    pd.DataFrame(rows).to_csv(folder / "gradients.csv", index=False)


def make_results(
    folder: Path,
    rates: dict[str, float] | None = None,
    extra: str = "",
    pictures: bool = True,
    evidence: bool = True,
    trainings: dict[str, dict] | None = None,
    times: int = 1,
) -> Path:
    """The tree of results/{experiment} that figures and report read; `evidence`: with drift, curve and gradients.

    `trainings`: arms' own keys of the configuration; by default those of config.yaml, or the ctc loss. `times`: prompts
    per word.
    """
    prompts, rates = make_prompts(extra, times), rates or RATES
    spelling, arms = write_scores(folder, rates, prompts), trained_arms(rates)
    raw = Config().model_dump(mode="json", by_alias=True)
    ctc = {"aux": {"loss": "ctc", "lambda": 1.0, "every": 1}}
    raw["seeds"] = list(SEEDS)
    raw["arms"] = {arm: (trainings or {}).get(arm) or raw["arms"].get(arm, ctc) for arm in arms}
    for arm in filter(is_placebo, arms):
        raw["arms"][arm] = merge(raw["arms"][arm], {"aux": {"targets": "shuffled"}})
    write_text(folder / "config.yaml", yaml.safe_dump(raw, sort_keys=False, allow_unicode=True))
    write_runs(folder, Config.model_validate(raw))
    if evidence:
        write_drift(folder, arms)
        write_curve(folder, arms, rates)
        write_gradients(folder)
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
    write_showcase(folder / "data" / "showcase.parquet")
    return folder

"""The model card of a run: what hubs read at the head of a folder's README.md, and what people read below it."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from legible.config import Config
from legible.errors import UserError
from legible.figures.labels import engine_label
from legible.fingerprint import ROOT
from legible.models.opening import LORA
from legible.models.spec import spec_of
from legible.names import BASE, CONTROL, Run
from legible.report.describe import describe_arm
from legible.report.experiment import Experiment, verdict_of
from legible.report.results_page import difference, pick, relative, table
from legible.report.verdict import explain
from legible.report.words import escaped, interval

OURS = "resources/nano"  # models of this folder are this project's
LICENCES = {  # of well-known bases, as hubs write them; of any other one the user says it
    "Tongyi-MAI/Z-Image-Turbo": "apache-2.0",
    "Qwen/Qwen-Image": "apache-2.0",
    "black-forest-labs/FLUX.1-schnell": "apache-2.0",
}
CALL = """picture = pipe(
    {prompt!r},
    height={height},
    width={width},
    num_inference_steps={steps},
    guidance_scale={guidance},
    generator=torch.Generator().manual_seed(0),
).images[0]
picture.save("open.png")"""


def licence_of(path: str) -> str:
    """The licence of a base model, as hubs write it.

    Raises:
        UserError: it is not known here.
    """
    if Path(path).resolve().is_relative_to(ROOT / OURS):
        return "apache-2.0"
    if path not in LICENCES:
        raise UserError(f"--licence: that of {path} is not known here; give it as hubs write it, such as apache-2.0")
    return LICENCES[path]


def example(weights: Path, base: str, config: Config) -> str:
    """How plain diffusers draws with these weights, as a program that runs beside them.

    Args:
        weights: the folder with what was tuned.
        base: what the pipeline is opened from.
    """
    spec, imports, replaced, added = spec_of(config.model.family), ["import torch"], [], []
    for folder in sorted(path.parent for path in weights.glob("*/config.json")):
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = about.get("_class_name") or about["architectures"][0]
        imports.append(f"from {'diffusers' if '_class_name' in about else 'transformers'} import {kind}")
        dtype = "torch_dtype" if "_class_name" in about else "dtype"
        opened = f'{kind}.from_pretrained(folder, subfolder="{folder.name}", {dtype}=torch.float32)'
        replaced.append((folder.name, opened))
    if (weights / LORA).is_file():
        added.append(f'pipe.load_lora_weights(folder, weight_name="{LORA}")')
    for folder in sorted(weights.glob("*_lora")):
        added.append(f'pipe.{folder.name.removesuffix("_lora")}.load_adapter(f"{{folder}}/{folder.name}")')
    parts = "".join(f", {name}={name}" for name, _ in replaced)
    call = CALL.format(
        prompt='a sign that says "OPEN" in bold white letters on dark green', height=config.data.height,
        width=config.data.width, steps=config.generation.steps, guidance=config.generation.guidance_scale,
    )  # fmt: skip
    lines = [
        *sorted({*imports, f"from diffusers import {spec.pipeline}"}, key=lambda line: (line != "import torch", line)),
        "",
        'folder = "."  # where this file lies, or its name at a hub',
        *(f"{name} = {opened}" for name, opened in replaced),
        f'pipe = {spec.pipeline}.from_pretrained("{base}"{parts}, torch_dtype=torch.float32)',
        *added,
        call,
    ]
    return "\n".join(lines)


def head(run: Run, about: dict[str, Any], licence: str, base: str | None, experiment: Experiment | None) -> str:
    """What hubs read (YAML).

    Args:
        about: the run's run.json.
        base: a hub id; None: the base lies at no hub.
        experiment: its scores; None: it was not scored.
    """
    lora = about["training"]["method"] == "lora"
    related = {"base_model_relation": "adapter" if lora else "finetune"} if base else {}
    results = None
    if experiment is not None:
        rows = experiment.summary[experiment.summary["stratum"] == "all"]
        rows = rows[(rows["metric"] == "cer_micro") & (rows["arm"] == run.arm)]
        results = [
            EvalResult(
                task_type="text-to-image", dataset_type="prompts", dataset_name=row.prompt_set, metric_type="cer",
                metric_name=f"Character error rate, read by {engine_label(row.engine)}",
                metric_value=round(float(row.value), 4),
            )
            for row in rows.itertuples()
        ]  # fmt: skip
    data = ModelCardData(
        license=licence, library_name="diffusers", pipeline_tag="text-to-image", base_model=base,
        tags=["legible", "text-rendering", *(["lora"] if lora else [])], model_name=str(run), eval_results=results,
        **related,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---"


def scores(run: Run, experiment: Experiment | None) -> list[str]:
    """The arm's errors with their intervals, against the base and its control; the verdict with its reason."""
    if experiment is None:
        return ["This run was not scored."]
    control = experiment.controls[run.arm].name if run.arm in experiment.controls else CONTROL
    lines = [
        f"Character error rate (0: everything is read right), all {len(experiment.config.seeds)} training seeds of the"
        f" arm together, with {experiment.config.scoring.confidence:.0%} intervals over prompts; differences and"
        f" changes, against its control `{control}`, over prompts and training seeds.",
    ]
    if run.step is not None:
        lines.append(f"\nThey are those of the runs' ends, not of step {run.step}.")
    for prompt_set in sorted(experiment.summary["prompt_set"].unique()):
        cer = pick(experiment.summary, prompt_set, "cer_micro")
        rows = []
        for arm, engine in cer.index:
            if arm in (run.arm, BASE, control):
                row = cer.loc[(arm, engine)]
                said = interval(row["value"], row["ci_low"], row["ci_high"])
                compared = [difference(row), relative(row)] if row["control"] == control else ["–", "–"]
                rows.append([engine_label(engine), arm, said, *compared])
        header = ["Judge", "Model", "CER", "Difference to the control", "Change"]
        lines += [f"\n### {prompt_set}\n", table(header, sorted(rows))]
        if run.arm != CONTROL:
            lines.append(
                f"\n{explain(verdict_of(experiment, run.arm, prompt_set), experiment.config.scoring.confidence)}"
            )
    return lines


def card(
    run: Run, about: dict[str, Any], weights: Path, config: Config, control: dict[str, Any], licence: str,
    base: str | None, experiment: Experiment | None,
) -> str:  # fmt: skip
    """README.md of the folder with a run's weights.

    Args:
        about: the run's run.json.
        weights: the folder with what was tuned.
        config: of the experiment.
        control: `training` of the control's run.json.
        licence: of the weights, as hubs write it.
        base: hub id of the base; None: it lies at no hub.
        experiment: its scores; None: it was not scored.
    """
    training, model = about["training"], about["model"]
    where = f"`{base or model['path']}`" + (f" at `{model['revision']}`" if model["revision"] else "")
    steps = about["steps"] if run.step is None else run.step
    rows = [
        ["What", escaped(describe_arm(training, control))],
        ["Base", where],
        [
            "Trained",
            f"{training['method']}, {about['parameters_trained']:,} of {about['parameters_total']:,} parameters",
        ],
        [
            "Steps",
            f"{steps} of {training['batch_size']} × {training['accumulation']} samples, learning rate"
            f" {training['learning_rate']:g}, {training['optimizer']}, training seed {run.seed}",
        ],
        [
            "Data",
            f"{config.data.train} synthetic signs, {config.data.width} × {config.data.height} pixels, drawn by Legible;"
            f" no pictures of others; SHA-256 of the encoded data: `{about['data'][:16]}…`",
        ],
        [
            "Where",
            f"{escaped(about['machine'])}, {about['device']}, {about['processor_seconds']:.0f} processor seconds",
        ],
        ["Versions", ", ".join(f"{name} {number}" for name, number in about["versions"].items())],
        ["Licence", licence],
    ]
    lines = [
        head(run, about, licence, base, experiment),
        f"\n# {config.experiment}: {run}\n",
        "Weights tuned with Legible so that the words in pictures can be read.\n",
        "## Use\n",
        f"```python\n{example(weights, base or model['path'], config)}\n```\n",
        "## Training\n",
        table(["", ""], rows),
        "\n## Scores\n",
        *scores(run, experiment),
        "\n## Limits\n",
        "A reading says which letters are read, not that they are well formed. What was measured holds for prompts like"
        " those of the prompt sets above. `run.json` and `config.yaml` say how to make these weights again;"
        " `sha256sum --check SHA256SUMS` says whether the files are whole.",
    ]
    return "\n".join(lines) + "\n"

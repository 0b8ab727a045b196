"""What every stage needs: the validated configuration and functions that hand each stage its own part of it only."""

import json
import sys
from pathlib import Path
from shlex import quote

from legible.config import validate
from legible.errors import UserError
from legible.provenance import code_fingerprint, has_gpu

try:
    CONFIG = validate(config, "config.yaml (or --configfile/--config)")
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{CONFIG.experiment}"
ARMS = sorted(CONFIG.arms, key=list(CONFIG.arms).index)
RUNS = [f"{arm}-seed{seed}" for arm in ARMS for seed in CONFIG.seeds]
CEILINGS = ["ceiling_render", "ceiling_vae"]
MODELS = ["base", *RUNS]
SNAPSHOTS = [
    f"{arm}-seed{seed}-step{step}"
    for arm in ARMS
    for seed in CONFIG.seeds
    for step in sorted(CONFIG.arm(arm).snapshots)
]
ENGINES = sorted(CONFIG.engines())
PROMPT_SETS = sorted(CONFIG.prompt_sets)
DRIFT = "no_text"  # the prompt set on which image drift is measured
LOSSES = sorted({loss for arm in ARMS for loss in CONFIG.arm(arm).aux.weights})
# Figures of measurements that not every experiment takes.
OPTIONAL = {
    "learning_curves": bool(SNAPSHOTS),
    "drift_tradeoff": CONFIG.drift is not None,
    "gradient_reach": bool(CONFIG.gradients and LOSSES),
    "adaptive_weights": any(CONFIG.arm(arm).aux.balance != "constant" for arm in ARMS),
}
FIGURES = sorted(name for name in type(CONFIG.figures).model_fields if OPTIONAL.get(name, True))
SEGMENTER = f"{RESULTS}/segmenter/segmenter.safetensors"
ANCHOR = f"{RESULTS}/cache/anchor.safetensors"
REGIMES = {name: CONFIG.regime(name) for name in CONFIG.regimes}
ENVIRONMENT = "../envs/legible.yaml"
NANO = "results/nano_models"
NANO_PARTS = ["clip", "denoiser", "recognizer_conv", "recognizer_crnn", "vae"]
# A job that could use a GPU asks for one only where there is one: on CPU machines it must not wait for a turn.
GPU = int(CONFIG.gpu if CONFIG.gpu is not None else has_gpu())


wildcard_constraints:
    arm="|".join(ARMS),
    seed=r"\d+",
    model="|".join([*SNAPSHOTS, *MODELS, *CEILINGS]),
    run="|".join([*SNAPSHOTS, *RUNS]),
    engine="|".join(ENGINES),
    prompt_set="|".join([DRIFT, *PROMPT_SETS]),
    figure="|".join(FIGURES),


# The jobs run this checkout's library with this interpreter, unless conda brings its own. glibc would give large
# tensors back to the system after every operation and fault them in again: keep them (4 % on nano, less noise).
# A prefix replaces Snakemake's own, without which `| tee` hides that a script failed.
prefix = f"set -euo pipefail; export PYTHONPATH={quote(str(workflow.basedir))}; "
prefix += "export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296; "
if "CONDA" not in {method.name for method in workflow.deployment_settings.deployment_method}:
    prefix += f"export PATH={quote(str(Path(sys.executable).parent))}:$PATH; "
shell.prefix(prefix)


def part(section, *keys):
    """One section (or only `keys` of it) as plain values."""
    plain = getattr(CONFIG, section).model_dump(mode="json", by_alias=True)
    return {key: plain[key] for key in keys} if keys else plain


def as_json(**sections):
    """Sections as one JSON argument with sorted keys: equal configurations are equal parameters."""
    return json.dumps(sections, sort_keys=True)


def code(script):
    """Fingerprint of a script and of the library modules that it imports: the stage reruns when they change."""
    return code_fingerprint(f"{workflow.basedir}/scripts/{script}.py")


def folder_files(path, *parts):
    """Files of a local model folder, so that a changed model reruns what uses it; nothing for a hub id."""
    if not path:  # Path("") would be the working directory
        return []
    root = Path(path)
    folders = [root / name for name in parts] if parts else [root]
    return sorted(str(file) for folder in folders if folder.is_dir() for file in folder.glob("*") if file.is_file())

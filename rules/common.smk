"""What every stage needs: the validated configuration and functions that hand each stage its own part of it only."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from shlex import quote

from snakemake.utils import min_version

min_version("9.27")
CHECKOUT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
sys.path.insert(0, str(CHECKOUT))  # the rules use the library that lies beside them, as their jobs do

from legible.admit import admitted, weights_of
from legible.config import CRITICS, FIGURES, HEARD, JUDGES, NO_TEXT, critics_of
from legible.corpus.benchmarks import BENCHMARKS
from legible.errors import UserError
from legible.io import sha256_file, sha256_json
from legible.manifests import damage, put_aside
from legible.models.spec import spec_of
from legible.names import BASE, CEILINGS, CONTROL, Run, run_of
from legible.provenance import (
    DIFFUSION,
    RENDERING,
    SCORING,
    TEXT_ENGINE,
    decides,
    decides_drawing,
    decides_encoding,
    decides_gradients,
    decides_judging,
    decides_reading,
    decides_rewards,
    decides_sampling,
    decides_training,
    has_gpu,
    state_of,
)
from legible.report.sources import page_copies, report_sources

try:
    CONFIG, REGIMES = admitted(config, CHECKOUT, map(Path, workflow.configfiles))
except UserError as error:
    raise WorkflowError(str(error)) from None

HERE = "" if Path.cwd() == CHECKOUT else f"{CHECKOUT}/"  # before the names of this project's own files
EXPERIMENTS = [CONFIG, *REGIMES.values()]
RESULTS = f"results/{CONFIG.experiment}"
PAGE = CONFIG.results_page or f"{RESULTS}/RESULTS.md"
ARMS = list(CONFIG.arms)
RUNS = [str(Run(arm, seed)) for arm in ARMS for seed in CONFIG.seeds]
MODELS = [BASE, *RUNS]
SNAPSHOTS = [
    str(Run(arm, seed, step)) for arm in ARMS for seed in CONFIG.seeds for step in sorted(CONFIG.arm(arm).snapshots)
]
READ_MODELS = [*MODELS, *CEILINGS, *SNAPSHOTS]
ENGINES = sorted(CONFIG.engines())
PROMPT_SETS = sorted(CONFIG.prompt_sets)
DRIFT = NO_TEXT  # the prompt set on which image drift is measured
DRAWN_SETS = {DRIFT: MODELS} if CONFIG.drift else {}  # prompt set → the models that draw it
DRAWN_SETS |= dict.fromkeys(PROMPT_SETS, READ_MODELS)
PICTURES = [f"{RESULTS}/images/{model}/{name}" for name, models in DRAWN_SETS.items() for model in models]
USED_LOSSES = sorted({loss for arm in ARMS for loss in CONFIG.arm(arm).aux.weights})
DRAWN = sorted(name for name, figure in FIGURES.items() if figure.when(CONFIG))
SEGMENTER = f"{RESULTS}/segmenter/segmenter.safetensors"
ANCHOR, TIMING = f"{RESULTS}/cache/anchor.safetensors", f"{RESULTS}/timing.csv"
SPEC = spec_of(CONFIG.model.family)
ENVIRONMENT = "../envs/legible.yaml"
# The EasyOCR judge's network as a reader that no arm listens to, where it is another one.
UNSEEN = (
    CONFIG.ocr.easyocr if CONFIG.ocr.easyocr and weights_of(CONFIG.ocr.easyocr) != weights_of(CONFIG.reader) else None
)
NANO = "results/nano_models"
TWINS = ["aesthetic", "hps", "pickscore"]  # of published rewards, on top of the caption CLIP
READERS = ["recognizer_conv", "recognizer_crnn"]
FURTHER_READERS = {"cyrillic_conv": "cyrillic", "cyrillic_crnn": "cyrillic"}  # of other alphabets
NANO_PARTS = [*TWINS, "caption_clip", "clip", "denoiser", "scenery", "shapes", *READERS, *FURTHER_READERS]
NANO_PARTS += ["glyph_judge", "unet", "unet_clip", "vae"]
# Packages whose versions decide what a stage writes: it reruns when they change.
COMPARING = [*SCORING, "open_clip_torch", "pillow", "pyarrow", "scikit-image", "torch"]  # pictures
DRAWING = ["matplotlib", "numpy", "pandas", "pillow"]


wildcard_constraints:
    arm="|".join(ARMS),
    seed=r"\d+",
    model="|".join([*SNAPSHOTS, *MODELS, *CEILINGS]),
    step=r"\d+",
    engine="|".join(ENGINES),
    prompt_set="|".join([DRIFT, *PROMPT_SETS]),
    figure="|".join(DRAWN),
    public_set="|".join(BENCHMARKS),


# Else packages in ~/.local would count as installed when conda makes its environment, and come before those in images.
os.environ.update(PYTHONNOUSERSITE="1")


# The jobs run this checkout's programs and library with this interpreter, unless conda brings its own. glibc would give
# large tensors back to the system after every operation and fault them in again: keep them (4 % on nano, less noise),
# in huge pages (3 % more).
# A prefix replaces Snakemake's own, without which `| tee` hides that a script failed.
prefix = f"set -euo pipefail; export LEGIBLE={quote(str(CHECKOUT))}; export PYTHONPATH=$LEGIBLE; "
prefix += "export MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296 THP_MEM_ALLOC_ENABLE=1; "
DEPLOYED = {method.name for method in workflow.deployment_settings.deployment_method}
if not DEPLOYED & {"CONDA", "APPTAINER"}:
    prefix += f"export PATH={quote(str(Path(sys.executable).parent))}:$PATH; "


# A folder of pictures in which one that its manifest names is gone, is put aside, so that they are drawn again.
if workflow.is_main_process:
    for folder in filter(Path.is_dir, map(Path, PICTURES)):
        if found := damage(folder):
            print(f"{folder}: {found}; these pictures are drawn again", file=sys.stderr)
            put_aside(folder)


def part(section, *keys):
    """One section (or only `keys` of it) as plain values."""
    plain = getattr(CONFIG, section).model_dump(mode="json", by_alias=True)
    return {key: plain[key] for key in keys} if keys else plain


# Datasets of the text engine depend on it, plain signs do not.
ENGINE_PART = {"render": part("render")} if CONFIG.render else {}
SCORED = {"scoring": part("scoring"), "arms": {arm: {} for arm in ARMS}, "seeds": list(CONFIG.seeds)}


def as_json(**sections):
    """Sections as one JSON argument with sorted keys: equal configurations are equal parameters."""
    return json.dumps(sections, sort_keys=True)

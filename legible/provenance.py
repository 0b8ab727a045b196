"""What produced a file: the code that decides its bytes, versions, hardware.

`decides` is what a job is rerun by, and what a training's key holds: both ask the same function, so that a training is
taken up again exactly when the workflow does not call for a new one.
"""

import os
import platform
import resource
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from legible.config import CRITICS, HEARD, JUDGES, SAMPLED, Config, Model, Training, Validation, critics_of
from legible.fingerprint import ROOT, code_fingerprint
from legible.io import sha256_json
from legible.models.spec import spec_of

# Written into provenance files.
PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "open_clip_torch",
    "peft",
    "torchao",
    "bitsandbytes",
    "easyocr",
    "rapidocr",
    "tesserocr",
    "pillow",
    "numpy",
)
PLACES = ("path", "network", "models")  # where a model lies does not decide; what its files hold does
SCORING = ("numpy", "pandas", "rapidfuzz", "regex", "scipy")
# What opens and runs a diffusion model, its text encoders included.
DIFFUSION = ("diffusers", "numpy", "tokenizers", "torch", "transformers")
RENDERING = ("fonttools", "matplotlib", "numpy", "pillow", "pyarrow")  # matplotlib brings the fonts
TEXT_ENGINE = ("uharfbuzz", "freetype-py", "python-bidi", "opencv-python-headless")


@cache
def version(package: str) -> str | None:
    """The installed version of a package, None where there is none."""
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return None


def versions(*packages: str) -> dict[str, str | None]:
    """The installed versions of packages, sorted by name."""
    return {package: version(package) for package in sorted(set(packages))}


def decides(script: str, modules: Iterable[str] = (), packages: Iterable[str] = ()) -> dict[str, str | None]:
    """What decides a script's output besides its inputs and its configuration: code, and versions of packages.

    Args:
        script: its name in scripts/, or its own `__file__`.
        modules: of this project that the script opens by name (a family's, a loss's, a critic's, a judge's).
        packages: distributions by whose version results differ.
    """
    return {"code": code_fingerprint(ROOT / "scripts" / f"{Path(script).stem}.py", *modules), **versions(*packages)}


def decides_drawing(script: str, config: Config) -> dict[str, str | None]:
    """`decides` of what draws signs by `fonts`, or by the text engine where there is a section `render`."""
    if not config.render:
        return decides(script, packages=RENDERING) | state_of(config.fonts.folders)
    drawn = decides(script, ["legible.render.pictures"], [*RENDERING, *TEXT_ENGINE])
    return drawn | state_of(config.render.places)


def state_of(places: Iterable[str]) -> dict[str, str]:
    """Names, sizes and dates of a user's font files and photographs, or of all below such folders, as one SHA-256.

    Not their content: folders of photographs are too large to be read whenever the workflow is.
    """
    files = [path for place in places for path in (Path(place), *sorted(Path(place).rglob("*"))) if path.is_file()]
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return {"files": sha256_json(states)} if states else {}


def decides_encoding(model: Model) -> dict[str, str | None]:
    """`decides` of encode_dataset."""
    return decides("encode_dataset", [spec_of(model.family).module], DIFFUSION)


def decides_training(model: Model, training: Training, validation: Validation | None = None) -> dict[str, str | None]:
    """`decides` of train_arm: an arm depends on its own losses only, and on what they look with.

    Where spelling is watched it depends on what that is done with, too.
    """
    judge = JUDGES[validation.judge] if validation else None
    watched = ["legible.train.validation", judge.module] if judge else []
    packages = [*judge.packages, *SCORING, "pillow"] if judge else []
    method = [SAMPLED[training.reward.method]] if training.reward.sampled else []
    return _decides_losses("train_arm", model, training, training.heard, [*watched, *method], packages)


def decides_gradients(model: Model, training: Training, losses: Iterable[str]) -> dict[str, str | None]:
    """`decides` of measure_gradients."""
    return _decides_losses("measure_gradients", model, training, losses)


def _decides_losses(
    script: str, model: Model, training: Training, losses: Iterable[str],
    further: Iterable[str] = (), packages: Iterable[str] = (),
) -> dict[str, str | None]:  # fmt: skip
    low = {training.optimizer, training.weights, training.quantization}
    needed = {
        "peft": training.method == "lora" or training.assistant_lora is not None,
        "torchao": bool(low & {"adamw_8bit", "bfloat16", "int8"}),
        "bitsandbytes": training.quantization == "nf4",
    }
    critics = [CRITICS[name] for name in critics_of(losses)]
    modules = [spec_of(model.family).module, *(HEARD[loss].module for loss in losses), *(c.module for c in critics)]
    packages = [*packages, *(package for critic in critics for package in critic.packages)]
    return decides(
        script, [*modules, *further], [*DIFFUSION, *packages, *(name for name, used in needed.items() if used)]
    )


def decides_sampling(model: Model, adapters: bool) -> dict[str, str | None]:
    """`decides` of generate_images; `adapters`: of models that were trained with LoRA."""
    packages = [*DIFFUSION, "pillow", *(["peft"] if adapters else [])]
    return decides("generate_images", [spec_of(model.family).module], packages)


def decides_rewards(rewards: Iterable[str]) -> dict[str, str | None]:
    """`decides` of score_rewards."""
    names = list(rewards)
    critics = [CRITICS[name] for name in critics_of(names)]
    modules = [*(HEARD[name].module for name in names), *(critic.module for critic in critics)]
    packages = [package for critic in critics for package in critic.packages]
    return decides(
        "score_rewards", modules, [*packages, "numpy", "pandas", "pillow", "pyarrow", "scikit-image", "torch"]
    )


def decides_reading(engine: str) -> dict[str, str | None]:
    """`decides` of read_images with one judge."""
    return decides("read_images", [JUDGES[engine].module], [*JUDGES[engine].packages, "numpy", "pillow"])


def decides_judging(engine: str) -> dict[str, str | None]:
    """`decides` of check_judge with one judge."""
    return decides("check_judge", [JUDGES[engine].module], [*JUDGES[engine].packages, "numpy", "pandas", "pillow"])


def placeless(section: Any, local: bool) -> dict[str, Any]:
    """A section's values without the device; of a model whose files are hashed without where it lies, too."""
    values = section.model_dump(mode="json", by_alias=True)
    return {key: value for key, value in values.items() if key != "device" and not (local and key in PLACES)}


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA device; asked without importing torch, which takes seconds."""
    return Path("/dev/nvidia0").exists()


def environment() -> dict[str, object]:
    """Versions and hardware, as they go into provenance files."""
    found = {package: number for package, number in versions(*PACKAGES).items() if number}
    return {"versions": {"python": platform.python_version(), **found}, "machine": machine(), "cores": os.cpu_count()}


def machine() -> str:
    """The processor's (and, where there is one, the GPU's) name."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = f"{lines[0]} ({len(lines)} logical cores)" if lines else name
    if os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        try:
            import torch

            if torch.cuda.is_available():
                name += f" + {torch.cuda.get_device_name()}"
        except ImportError:
            pass
    return f"{name}, {platform.system()}"

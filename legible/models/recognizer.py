"""Recognisers in EasyOCR's format, opened by EasyOCR itself: judges and the ctc loss share this code.

A user network is shipped as safetensors; EasyOCR's own downloaded networks serve where a machine has them.
"""

import hashlib
import importlib
import os
import sys
from pathlib import Path

import easyocr.config
import easyocr.easyocr as easyocr_module
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from legible.errors import UserError
from legible.integrity import check_sums
from legible.io import atomic_path, sha256_file, write_text

SETTINGS = {"network_params": dict, "imgH": int, "lang_list": list, "character_list": str}
NEEDED = "download EasyOCR's own networks once and set it to their folder"


def load_network(
    source: str, models: str | None, cache_dir: Path, detect: bool, section: str
) -> tuple[easyocr_module.Reader, int, str]:
    """EasyOCR's Reader of a network, the network's input height in pixels, and its name.

    Args:
        source: folder of a user network, or `standard`.
        models: folder of EasyOCR's downloaded networks; needed for `standard` and for detection.
        cache_dir: where user networks are written as EasyOCR reads them.
        section: the configuration section that asks for it, for error messages.

    Raises:
        UserError: files are missing, corrupt or do not fit together.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    storage = cache_dir
    if source == "standard" or detect:
        storage = downloaded(models, section)
    if source == "standard":
        network, height, label = "standard", easyocr.config.imgH, "standard english_g2"
    else:
        folder = Path(source)
        network, height, digest = materialize(folder, cache_dir)
        label = f"{folder.name} {digest}"
        if detect:
            # EasyOCR looks for detector and recogniser in one folder.
            for weights in storage.glob("craft*.pth"):
                link = cache_dir / f".{os.getpid()}-{weights.name}"
                link.symlink_to(weights.resolve())
                link.replace(cache_dir / weights.name)  # jobs of other models share this folder
            storage = cache_dir
    return build_reader(source, detect, network, cache_dir, storage, section), height, label


def downloaded(models: str | None, section: str) -> Path:
    """The folder of EasyOCR's own networks."""
    if models is None:
        raise UserError(f"{section}.models: not set; {NEEDED}")
    if not Path(models).is_dir():
        raise UserError(f"{section}.models: {models} is no folder; {NEEDED}")
    check_sums(models)
    return Path(models)


def materialize(folder: Path, cache_dir: Path) -> tuple[str, int, str]:
    """Write a user network (`name.py`, `name.yaml`, `name.safetensors` in the folder `name`) as EasyOCR reads it.

    EasyOCR imports the network's module by name and loads `name.pth` by unpickling. The copies in `cache_dir` carry the
    hash of their content in their name, so that two networks never share a module and stale weights are never read.

    Returns:
        EasyOCR's name of the network, its input height in pixels, and the hash (12 hex digits).

    Raises:
        UserError: a file is missing or unusable.
    """
    check_sums(folder)
    name = folder.name
    files = {ending: folder / f"{name}.{ending}" for ending in ("py", "yaml", "safetensors")}
    for path in files.values():
        if not path.is_file():
            raise UserError(f"{path}: no such file; a user network needs {name}.py, {name}.yaml and {name}.safetensors")
    if not name.isidentifier():
        raise UserError(f"{folder}: the name of a user network must be a Python identifier")
    settings = read_settings(files["yaml"])
    try:
        weights = load_file(files["safetensors"])
    except (SafetensorError, OSError) as error:
        raise UserError(f"{files['safetensors']}: corrupt weights ({error})") from error
    digest = hashlib.sha256("".join(sha256_file(path) for path in files.values()).encode()).hexdigest()[:12]
    network = f"{name}_{digest}"
    write_text(cache_dir / f"{network}.py", files["py"].read_text(encoding="utf-8"))
    # Written anew: EasyOCR's own loader accepts more of YAML than the safe one that has just read this.
    write_text(cache_dir / f"{network}.yaml", yaml.safe_dump(settings, allow_unicode=True))
    with atomic_path(cache_dir / f"{network}.pth") as path:
        # EasyOCR cuts seven characters off every key: its networks were saved from a DataParallel wrapper.
        torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    return network, settings["imgH"], digest


def read_settings(path: Path) -> dict:
    """The settings of a user network, checked."""
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    for key, kind in SETTINGS.items():
        if not isinstance(settings, dict) or not isinstance(settings.get(key), kind) or not settings[key]:
            raise UserError(f"{path}: {key}: a non-empty {kind.__name__} is needed")
    if "en" not in settings["lang_list"]:
        raise UserError(f"{path}: lang_list: it must contain en")
    return settings


def build_reader(
    source: str, detect: bool, network: str, networks: Path, storage: Path, section: str
) -> easyocr_module.Reader:
    """EasyOCR's Reader; its errors about missing or unfitting files become UserErrors."""
    path = list(sys.path)
    importlib.invalidate_caches()  # the module may have been written this very second
    try:
        return easyocr_module.Reader(
            ["en"],
            gpu=False,
            detector=detect,
            recog_network=network,
            user_network_directory=str(networks),
            model_storage_directory=str(storage),
            download_enabled=False,
            quantize=False,
            verbose=False,
        )
    except FileNotFoundError as error:
        raise UserError(f"{section}.models: {error}; {NEEDED}") from error
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: code, settings and weights do not fit together ({reason})") from error
    finally:
        sys.path[:] = path  # EasyOCR appends the folder of the networks and leaves it there

"""What Snakemake is given, as the workflow takes it: validated, its files found; or refused in one sentence.

python -m legible.admit mine.yaml [more.yaml …]     # asks the same without Snakemake, which reads files in its own way
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from legible.config import Config, EasyOcr, check_page, critics_of, in_usual_order, validate
from legible.config.inputs import FOLDERS, STANDARD, located, places
from legible.corpus.benchmarks import BENCHMARKS
from legible.corpus.prompt_files import check_prompt_file
from legible.errors import UserError, run_cli
from legible.fingerprint import ROOT
from legible.io import sha256_file
from legible.models.spec import spec_of
from legible.overlays import check_overlay, read_overlay
from legible.report.protocol import check_protocol, configurations
from legible.wording import shown

SOURCE = "config.yaml (or --configfile/--config)"
FETCHED = frozenset(f"results/prompts/{name}.jsonl" for name in BENCHMARKS)  # what the workflow itself will write
ODD = set("{}\n")  # Snakemake takes them for parts of a pattern
# Sections with a network of one file: the key that names the file, or the file's name.
WEIGHTS = {"aesthetic": "head", "hps": "weights", "imagereward": "weights"}


def admitted(raw: Mapping[str, Any], checkout: Path, files: Iterable[Path] = ()) -> tuple[Config, dict[str, Config]]:
    """The experiment and its regimes by name, from the configuration as Snakemake merged it.

    Args:
        checkout: the project's folder; relative paths are looked for in the working directory, then there.
        files: those that it was merged from, for what is lost in merging.

    Raises:
        UserError: one sentence that names the key, file or line and says what is allowed.
    """
    if ODD & set(str(checkout)):
        raise UserError(f"{checkout}: this project's path holds a brace or a line break; move or rename it")
    for path in files:
        check_overlay(path, raw)
    config = located(validate(in_usual_order(dict(raw), checkout / "config.yaml"), SOURCE), checkout, FETCHED)
    regimes = {name: located(config.regime(name), checkout, FETCHED, f"regimes.{name}.") for name in config.regimes}
    for prefix, each in [("", config), *((f"regimes.{name}.", regime) for name, regime in regimes.items())]:
        check_folders(each, prefix)
        check_readers(each, prefix)
        for path, text, limit in prompt_files(each):
            if path not in FETCHED:
                characters = each.fonts.characters if limit is not None and not each.render else None
                check_prompt_file(path, text=text, characters=characters, limit=limit or None)
    check_results(config)
    check_new_page(config)
    check_page(config)
    check_protocol_files(config, checkout)
    check_protocol([config, *regimes.values()], checkout)
    return config, regimes


def check_results(config: Config) -> None:
    """Refuse to begin anew beside results that are out of reach, and what cannot hold any.

    Raises:
        UserError: it names what is in the way: a file, a pipe, or a link to a disk that is not there.
    """
    for path in (Path("results"), Path("results", config.experiment)):
        if os.path.lexists(path) and not path.is_dir():
            what = "a link that leads to no folder" if path.is_symlink() else "no folder"
            raise UserError(f"{path}: it is {what}, and results are written there; mend it, or give it another name")


def check_new_page(config: Config) -> None:
    """Refuse a results page that cannot be a file.

    Raises:
        UserError: it is a folder, or below a file.
    """
    page = Path(config.results_page) if config.results_page else None
    if page and page.is_dir():
        raise UserError(f"results_page: {page} is a folder; give the name of a new file, such as docs/RESULTS.md")
    if page and (files := [folder for folder in page.parents if folder.is_file()]):
        raise UserError(f"results_page: {files[0]} is a file, no folder; give another name, such as docs/RESULTS.md")


def check_protocol_files(config: Config, checkout: Path) -> None:
    """Refuse a protocol that is no text, or names a configuration that is none.

    Raises:
        UserError: it names the file.
    """
    if not config.protocol:
        return
    files = [checkout / name for name in configurations(Path(config.protocol))]
    for path in (path for path in files if path.is_file()):
        try:
            found = read_overlay(path)
        except UserError as error:
            raise UserError(f"protocol: it names a configuration that is none: {error}") from error
        if not found:
            raise UserError(f"protocol: it names {path}, which holds no keys and values; name a configuration")


def prompt_files(config: Config) -> Iterator[tuple[str, bool, int | None]]:
    """(path, whether its prompts ask for text, how many are drawn with our fonts: 0 = all, None = not at all)."""
    for section in config.prompt_sets.values():
        if section.path:
            yield section.path, True, section.limit or 0
    if config.validation:
        yield config.validation.prompts, True, None
    if config.drift:
        yield config.drift.prompts, False, None
    if any(config.arm(name).anchor.weight for name in config.arms):
        yield config.anchor.prompts, False, None


def check_folders(config: Config, prefix: str) -> None:
    """Refuse folders that hold something else than what they are named for.

    Raises:
        UserError: it names the key, and the files that are needed.
    """
    spec, model = spec_of(config.model.family), Path(config.model.path)
    if model.is_dir():
        needed = spec.folders("denoiser", "text", "autoencoder", "scheduler")
        if (found := pipeline_of(model)) not in (None, spec.pipeline):
            raise UserError(
                f"{prefix}model.family: {config.model.family} needs a {spec.pipeline}, but {model} holds a "
                f"{shown(found)}; set model.family or model.path"
            )
        if missing := [name for name in needed if not (model / name).is_dir()]:
            raise UserError(f"{prefix}model.path: {model} has no folder `{missing[0]}`; needed are {', '.join(needed)}")
    for key, network in networks_of(config):
        if network != STANDARD and not Path(network).name.isidentifier():
            raise UserError(
                f"{prefix}{key}: {shown(network)} does not end in a name of letters, digits and '_', which the files "
                "in the folder must have, too; give the path with the folder's name, or rename it"
            )
    for pattern in FOLDERS:
        for holder, key, name in places(config.model_dump(mode="json", by_alias=True), pattern.split(".")):
            refuse_odd_names(Path(holder[key]), f"{prefix}{name}")
    for key, path, names in needed_files(config):
        if missing := [name for name in names if path.is_dir() and not (path / name).is_file()]:
            raise UserError(f"{prefix}{key}: {path} has no file {missing[0]}; needed are {', '.join(names)}")


def refuse_odd_names(folder: Path, key: str) -> None:
    """Refuse a folder with a file whose name Snakemake would take for a pattern: its files are inputs of jobs."""
    for path in [*folder.glob("*"), *folder.glob("*/*")] if folder.is_dir() else ():
        if ODD & set(path.name):
            raise UserError(f"{key}: {folder} holds {shown(path.name)}, with a brace or a line break; rename it")


def networks_of(config: Config) -> list[tuple[str, str]]:
    """(key, folder or `standard`) of every network in EasyOCR's format."""
    judges = [(f"ocr.{n}.network", e.network) for n, e in config.engines().items() if isinstance(e, EasyOcr)]
    return [("reader.network", config.reader.network), *judges]


def needed_files(config: Config) -> Iterator[tuple[str, Path, list[str]]]:
    """(key, folder, files that must lie in it)."""
    yield "clip.path", Path(config.clip.path), ["open_clip_config.json"]
    for key, network in networks_of(config):
        names = [f"{Path(network).name}.{ending}" for ending in ("py", "yaml", "safetensors")]
        yield key, Path(network), [] if network == STANDARD else names
    if config.glyph_judge:
        yield "glyph_judge.path", Path(config.glyph_judge.path), ["glyph_judge.safetensors"]
    for name, key in WEIGHTS.items():
        if section := getattr(config, name):
            yield f"{name}.{key}", Path(section.path), [getattr(section, key)]


def pipeline_of(model: Path) -> str | None:
    """The pipeline that a model's folder names; None: it names none.

    Raises:
        UserError: its model_index.json is not what it must be.
    """
    index = model / "model_index.json"
    try:
        return json.loads(index.read_text(encoding="utf-8")).get("_class_name") if index.is_file() else None
    except (ValueError, AttributeError, RecursionError, OSError) as error:
        raise UserError(f"{index}: not a JSON object with the key _class_name") from error


def check_readers(config: Config, prefix: str) -> None:
    """Refuse arms whose own reader is the only judge, or watches them, whatever its folder is called.

    Raises:
        UserError: it names the arm.
    """
    judges = {name: weights_of(engine) for name, engine in config.engines().items()}
    own = weights_of(config.reader)
    for name in config.arms:
        if "reader" not in critics_of(config.arm(name).heard):
            continue
        if set(judges.values()) == {own}:
            network = config.reader.network
            raise UserError(f"{prefix}arms.{name}: its own reader ({network}) is the only judge; add rapidocr")
        if config.validation and judges[config.validation.judge] == own:
            raise UserError(
                f"{prefix}validation.judge: arms.{name} listens to its network ({config.reader.network}); choose "
                "another one"
            )


def weights_of(section: Any) -> tuple:
    """What two networks have in common when they are the same one: the content of their weights."""
    network = getattr(section, "network", None)
    if network is None:
        return ()
    if not Path(network).is_dir():
        return (network, section.models)
    # Anything else than a file, and what has no size, as in /proc, may never end.
    files = [path for path in Path(network).glob("*.safetensors") if path.is_file() and path.stat().st_size]
    return tuple(sorted(map(sha256_file, files)))


def main() -> None:
    """Say whether these files, laid over config.yaml in this order, are a configuration."""
    from snakemake.utils import update_config

    files = [ROOT / "config.yaml", *map(Path, sys.argv[1:])]
    merged: dict = {}
    for path in files:
        update_config(merged, read_overlay(path))
    config, regimes = admitted(merged, ROOT, files)
    print(f"right: experiment {config.experiment}, arms {', '.join(config.arms)}", *(f"; regime {r}" for r in regimes))


if __name__ == "__main__":
    run_cli(main)

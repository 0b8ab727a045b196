"""Reading and validating: YAML files, and the parts that one stage is given."""

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import TypeAdapter, ValidationError

from legible.config.experiment import Config
from legible.errors import UserError, describe
from legible.wording import under, unknown_key


def validate(raw: dict, source: str) -> Config:
    """Validate a raw mapping; `source` names it in the error.

    Raises:
        UserError: one sentence naming the key, the value and what is allowed.
    """
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{source}: {describe(error)}") from error


def load(path: str | Path) -> Config:
    """Read a YAML file (safely) and validate it."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such configuration file") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: sections are needed, each with keys and values, such as training: {{steps: 64}}")
    return validate(raw, str(path))


NOTICE = "<!-- Written by scripts/write_results.py"  # how a results page begins


def check_page(config: Config) -> None:
    """The results page must be a new file, or an earlier results page, and its copies no originals.

    Raises:
        UserError: it would overwrite another file, or the tables that it shows: copies go to `results` beside it.
    """
    page = Path(config.results_page) if config.results_page else None
    if page and page.exists() and not (page.is_file() and NOTICE in page.read_text(encoding="utf-8", errors="replace")):
        raise UserError(
            f"results_page: {page} is another file, which would be overwritten; give the name of a new file"
        )
    if page and (len(page.parts) == 1 or page.parts[0] == "results"):
        why = "lies in no folder" if len(page.parts) == 1 else "lies among what it is made from"
        raise UserError(f"results_page: {page} {why}; give a folder, such as docs/RESULTS.md")


def in_usual_order(raw: dict, usual: str | Path) -> dict:
    """A raw configuration with its arms, prompt sets and regimes as a file sorts them, further ones last.

    Snakemake's merge puts those first that an overlay names; figures would be drawn in other colours.
    """
    order = yaml.load(Path(usual).read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    named = {key: raw[key] for key in ("arms", "prompt_sets", "regimes") if isinstance(raw.get(key), dict)}
    return raw | {
        key: {name: entries[name] for name in dict.fromkeys([*(order.get(key) or {}), *entries]) if name in entries}
        for key, entries in named.items()
    }


def source_of(text: str) -> str:
    """How errors name a `--config` argument: the file, or the argument itself when it is inline JSON."""
    return "--config" if text.lstrip().startswith("{") else text


def raw_sections(text: str) -> dict[str, Any]:
    """The JSON object that a `--config` argument holds (inline) or names (a file), not validated yet.

    Raises:
        UserError: no such file, or not a JSON object.
    """
    source = source_of(text)
    try:
        raw = json.loads(text if source == "--config" else Path(text).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such configuration file") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{source}: not valid JSON ({error.msg}, line {error.lineno})") from error
    if not isinstance(raw, dict):
        raise UserError(f'{source}: a group of keys and values is needed, such as {{"training": {{…}}}}')
    return raw


def sections(text: str, *required: str) -> dict[str, Any]:
    """The sections that one stage needs, from inline JSON or from a JSON file: name → validated section object.

    A stage is given only its own sections, so that it reruns when they change and not otherwise.

    Raises:
        UserError: no such file, not JSON, an unknown section, a value that is not allowed, or a missing section.
    """
    raw, source = raw_sections(text), source_of(text)
    if unknown := sorted(set(raw) - set(Config.model_fields)):
        raise UserError(f"{source}: {unknown_key(unknown[0], Config.model_fields)}")
    if missing := sorted(set(required) - set(raw)):
        raise UserError(f"{source}: the section {missing[0]} is missing")
    validated = {}
    for name, value in raw.items():
        field = Config.model_fields[name]
        kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        try:
            validated[name] = TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{source}: {under(name, describe(error))}") from error
    return validated

"""The documented default configuration and its JSON schema: this module's output, and tests keep them so.

python -m legible.document > config.yaml
python -m legible.document --schema > config.schema.json      # editors complete and check the keys by it
"""

import json
import sys
from typing import Any

import yaml
from pydantic import BaseModel

from legible.config import Config

HEADER = """# yaml-language-server: $schema=config.schema.json
# The default experiment: nano, on two CPU cores, in minutes.
# Every key with its default value; written by `python -m legible.document > config.yaml`, checked by a test.
# Change values here, in an overlay (snakemake --configfile configs/my.yaml) or with --config 'experiment="mine"'.
# Mind that YAML reads 1e-4 as text: write 1.0e-4.
"""


def scalar(value: Any) -> str:
    """A leaf value as YAML on one line."""
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else repr(value)
    return (
        json.dumps(value, ensure_ascii=False)
        if isinstance(value, str | list | dict)
        else yaml.safe_dump(value).split("\n")[0]
    )


def lines(model: BaseModel, indent: int = 0) -> list[str]:
    """The fields of `model` as YAML lines, each with its description as a comment."""
    space, written = "  " * indent, []
    for name, field in type(model).model_fields.items():
        value, key = getattr(model, name), field.alias or name
        comment = f"  # {field.description}" if field.description else ""
        if isinstance(value, BaseModel):
            if indent == 0:
                written.append("")
            about = comment or f"  # {(type(value).__doc__ or '').strip().splitlines()[0]}"
            written += [f"{space}{key}:{about}", *lines(value, indent + 1)]
        elif isinstance(value, dict) and value:
            written += ["", f"{space}{key}:{comment}"]
            for inner, entry in value.items():
                plain = entry.model_dump(mode="json", by_alias=True) if isinstance(entry, BaseModel) else entry
                written.append(f"{space}  {inner}: {json.dumps(plain, ensure_ascii=False)}")
        else:
            plain = list(value) if isinstance(value, tuple) else value
            written.append(f"{space}{key}: {scalar(plain)}{comment}")
    return written


def document() -> str:
    """The text of `config.yaml`."""
    return HEADER + "\n".join(lines(Config())) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of `config.yaml` and of overlays; every key may be left out.

    Arms are any part of `training`, regimes any part of the whole; null takes a default entry out.
    """
    found = Config.model_json_schema(by_alias=True)
    named = found["properties"]
    for key, kind in (("arms", "#/$defs/Training"), ("regimes", "#"), ("prompt_sets", "#/$defs/PromptSet")):
        allowed = {"anyOf": [{"$ref": kind}, {"type": "null"}]}
        named[key] = {"type": "object", "description": named[key]["description"], "additionalProperties": allowed}
    for definition in found["$defs"].values():
        definition.pop("required", None)  # an overlay names what it changes only
    return found | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


if __name__ == "__main__":
    if sys.argv[1:] == ["--schema"]:
        sys.stdout.write(json.dumps(schema(), indent=1, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(document())

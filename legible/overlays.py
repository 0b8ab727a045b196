"""Files of configuration, read with more care than Snakemake takes: what it loses silently, and what it fails on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from legible.config.allowed import readable
from legible.errors import UserError
from legible.wording import named, shown

FILE_BYTES = 8 * 2**20


class OnceEach:
    """For a loader: a key that stands twice in one place is an error, not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    line = key.start_mark.line + 1
                    raise UserError(f"line {line}: the key {shown(key.value)} is given twice; keep one of them")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def plain_number(loader: yaml.constructor.SafeConstructor, node: yaml.ScalarNode) -> int | float:
    """A number that means what people read in it: to YAML 1.1, 010 is eight and 1:30 is ninety."""
    is_float = node.tag.endswith(":float")
    number = loader.construct_yaml_float(node) if is_float else loader.construct_yaml_int(node)
    digits = node.value.lstrip("+-").replace("_", "")
    if ":" in digits or (digits.isdigit() and len(digits) > 1 and digits[0] == "0"):
        line = node.start_mark.line + 1
        raise UserError(f"line {line}: {node.value} is {number} in YAML; write {number}, or '{node.value}' for text")
    return number


class Careful(OnceEach, yaml.SafeLoader):
    """In Python: it refuses endless nesting, on which the faster one crashes."""


class Fast(OnceEach, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """For files that have been read once already."""


for each in (Careful, Fast):
    for kind in ("int", "float"):
        each.add_constructor(f"tag:yaml.org,2002:{kind}", plain_number)


def read_overlay(path: Path) -> dict:
    """The keys and values of a file.

    Raises:
        UserError: it names the file, the line where there is one, and what is needed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES + 1)  # a device has no size, and no end
        if len(content) > FILE_BYTES:
            raise UserError(f"{path}: more than {FILE_BYTES >> 20} MiB; a configuration is a short file")
        found = yaml.load(content.decode("utf-8-sig"), Careful) or {}
        if not isinstance(found, dict):
            raise UserError(f"{path}: keys and values are needed, such as training: {{steps: 64}}; got {shown(found)}")
        readable(found)
    except UserError as error:
        raise UserError(f"{path}, {error}" if str(error).startswith("line ") else str(error)) from error
    except OSError as error:
        raise UserError(f"{path}: it cannot be read ({error.strerror}); a file of YAML or JSON is needed") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text, from byte {error.start} on; save it as UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply; keys and values, a few levels deep, are needed") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        why = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{path}{line}: not valid YAML ({why})") from error
    except ValueError as error:
        too_long = "thousands of digits" in str(error) or "4300" in str(error)
        raise UserError(
            f"{path}: {'a number with thousands of digits; no key needs one' if too_long else error}"
        ) from error
    return found


def check_overlay(path: Path, merged: Mapping[str, Any]) -> None:
    """Refuse what Snakemake takes without a word: keys given twice, `{}` without effect, a file that is a program.

    Raises:
        UserError: it names the file and the line.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8-sig"), Fast)
    except UserError as error:
        raise UserError(f"{path.name}, {error}") from error
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        return  # Snakemake has read it in its own way, or says what is wrong
    if isinstance(found, dict) and "__use_yte__" in found:
        raise UserError(
            f"{path.name}: __use_yte__ makes a program of a configuration; only plain keys and values are allowed"
        )
    for name, value in without_effect(found, merged):
        raise UserError(f"{path.name}: {name}: {{}} changes nothing over {shown(value)}; give it at least one key")


def without_effect(laid: Any, merged: Any, where: tuple = ()) -> Iterator[tuple[str, Any]]:
    """(name, value that stayed) of every {} that was laid over what has no keys."""
    if isinstance(laid, dict) and not isinstance(merged, Mapping) and not laid:
        yield named(where), merged
    if isinstance(laid, dict) and isinstance(merged, Mapping):
        for key, value in laid.items():
            yield from without_effect(value, merged.get(key), (*where, key))

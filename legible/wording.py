"""Values and validation errors in words that a person uses."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

LONGEST = 120  # characters of a value that are shown
MANY = 16  # more keys than that are not listed
DIGITS = 30  # of a number
# Kinds of pydantic's errors by what is needed instead.
NEEDED = {
    "a whole number": ("int_type", "int_parsing", "int_parsing_size", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "a finite number": ("finite_number",),
    "true or false": ("bool_type", "bool_parsing"),
    "text": ("string_type", "string_unicode", "string_sub_type"),
    "a list": ("list_type", "tuple_type"),
    "a group of keys and values": ("dict_type", "model_type", "model_attributes_type", "mapping_type"),
}
KIND_NEEDED = {kind: needed for needed, kinds in NEEDED.items() for kind in kinds}
BOUNDS = {  # kind → (what is said, the bound in pydantic's context)
    "greater_than": ("it must be above {}", "gt"),
    "greater_than_equal": ("it must be {} or more", "ge"),
    "less_than": ("it must be below {}", "lt"),
    "less_than_equal": ("it must be at most {}", "le"),
}
# What cannot be seen, or changes how the rest is shown. Joiners stay: scripts are written with them.
UNSEEN = {*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0x2060, 0xFEFF}
KEY = re.compile(r"[a-z_]\w*(\.\w+|, entry \d+(, \w+)?)*: ")


def unseen(text: str) -> str:
    """The first character that nobody sees, or half of one, as a clause; empty: there is none."""
    for character in text:
        if ord(character) in UNSEEN or unicodedata.category(character) in ("Cc", "Cs"):
            name = f"U+{ord(character):04X}"
            known = {"\n": "a line break", "\r": "a line break", "\t": "a tab"}.get(character)
            what = f"{known} ({name})" if known else f"the character {name}, which nobody sees"
            return f"holds {what}; only printable text on one line is allowed"
    return ""


def shown(value: Any) -> str:
    """A value as a person wrote it, on one line, cut where it is long."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= 10**DIGITS:
        return f"a number of more than {DIGITS} digits"
    if isinstance(value, str):
        printable = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in value[: LONGEST + 1])
        return f"'{printable[:LONGEST]}…'" if len(printable) > LONGEST else f"'{printable}'"
    if isinstance(value, list | tuple):
        return listed(value)
    return "keys and values" if isinstance(value, Mapping) else str(value)


def listed(values: Iterable[Any]) -> str:
    """A list, cut where it is long."""
    text, inner = "", list(values)
    for number, value in enumerate(inner):
        text += (", " if number else "") + shown(value)
        if len(text) > LONGEST and number + 1 < len(inner):
            return f"[{text}, …]"
    return f"[{text}]"


def named(parts: Iterable[Any]) -> str:
    """A place in the configuration: training.seeds, entry 2."""
    text, places = "", list(parts)
    for number, part in enumerate(places):
        is_key = places[number + 1 : number + 2] == ["[key]"]
        if isinstance(part, int) and not isinstance(part, bool) and not is_key:
            text += f", entry {part + 1}"
        elif part != "[key]":
            word = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(part)[:LONGEST]) or "''"
            text += ("" if not text else ", " if ", entry" in text.rpartition(".")[2] else ".") + word
    return text


def under(key: str, sentence: str) -> str:
    """A sentence that begins with a key, or with none, as one below another key."""
    return sentence if not key else f"{key}.{sentence}" if KEY.match(sentence) else f"{key}: {sentence}"


def unknown_key(key: Any, allowed: Iterable[str], elsewhere: str = "") -> str:
    """What to say of a key that a section does not have."""
    names = list(allowed)
    place = named([str(key)])
    if elsewhere:
        return f"{place}: unknown key here; did you mean `{elsewhere}`?"
    if close := get_close_matches(str(key), names, 1):
        return f"{place}: unknown key; did you mean `{close[0]}`?"
    known = f"allowed are {', '.join(names)}" if len(names) <= MANY else "config.yaml lists all that there are"
    return f"{place}: unknown key; {known}"


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error as `key: what is wrong and what is allowed`."""
    problem = error.errors(include_url=False)[0]
    key, value, kind = named(problem["loc"]), problem.get("input"), problem["type"]
    context = problem.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{key}: unknown key; config.yaml lists all that there are"
    if kind == "missing":
        return under(key, "it is missing, and must be given")
    if kind == "unknown_key":
        return f"{key}.{problem['msg']}" if key else problem["msg"]
    if kind == "value_error":
        return under(key, problem["msg"].removeprefix("Value error, "))
    if kind in KIND_NEEDED:
        return under(key, of_another_kind(value, KIND_NEEDED[kind]))
    return under(key, f"{out_of_range(problem['msg'], value, kind, context)}")


def of_another_kind(value: Any, needed: str) -> str:
    """What to say of a value of another kind, with a hint where quotation marks are what is wrong."""
    if isinstance(value, str) and "number" in needed:
        return f"{shown(value)} is text, {needed} is needed{number_hint(value, needed)}"
    if isinstance(value, str) and needed in ("a list", "a group of keys and values") and value[:1] in ("[", "{"):
        return f"{needed} is needed, got the text {shown(value)}; give it in a file (--configfile) instead of --config"
    if needed == "a number" and isinstance(value, int) and abs(value) >= 10**DIGITS:
        needed = "a smaller number"
    hint = ""
    if needed == "text" and value is not None and not isinstance(value, list | Mapping):
        hint = "; put it in quotation marks"
    return f"{needed} is needed, got {shown(value)}{hint}"


def number_hint(text: str, needed: str) -> str:
    """How a number that YAML or Snakemake made text of is written."""
    try:
        number = float(text)
    except ValueError:
        return ""
    if "e" in text.lower() and "." not in text:
        whole = needed == "a whole number" and number.is_integer() and abs(number) < 10**DIGITS
        return f"; YAML 1.1 reads it as text, write {number:.0f}" if whole else (
            f"; YAML 1.1 reads it as text, write {number:.1e} with a decimal point"
        )  # fmt: skip
    # Snakemake's own --config makes text of every number inside a mapping.
    return "; take its quotation marks away, or give it in a file (--configfile) instead of --config"


def out_of_range(message: str, value: Any, kind: str, context: Mapping[str, Any]) -> str:
    """What to say of a value of the right kind that is not allowed."""
    if kind in BOUNDS:
        said, bound = BOUNDS[kind]
        return f"{said.format(f'{context[bound]:.12g}')}, got {shown(value)}"
    if kind == "literal_error":
        return f"allowed are {context['expected']}; got {shown(value)}"
    if kind == "string_too_short":
        return f"at least {context['min_length']} character is needed, got {shown(value)}"
    if kind == "string_too_long":
        return f"at most {context['max_length']} characters are allowed, got {len(value)}"
    if kind == "too_short":
        entries = "entry is" if context["min_length"] == 1 else "entries are"
        return f"at least {context['min_length']} {entries} needed, got {context['actual_length']}"
    if kind == "too_long":
        return f"at most {context['max_length']} entries are allowed, got {context['actual_length']}"
    return f"{message.replace('Input should', 'it should')}, got {shown(value)}"

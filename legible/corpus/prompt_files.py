"""Prompt files checked before anything is planned: what jobs would stumble over, or take without a word."""

import json
from pathlib import Path

from legible.corpus.prompts import KEYS, Prompt, folded, load_prompts, parse_prompt
from legible.corpus.text import normalize
from legible.errors import UserError
from legible.wording import shown, unseen

FILE_BYTES = 256 * 2**20
LINE_LENGTH = 100_000  # characters
ID_LENGTH = 100  # an id is part of a file name
PROMPT_LENGTH = 10_000
MOST_SHOWN = 3  # of what no font draws


def check_prompt_file(path: str, *, text: bool, characters: str | None = None, limit: int | None = None) -> None:
    """Refuse a prompt file that a job would stumble over later.

    Args:
        text: whether its prompts ask for text, as in `load_prompts`.
        characters: those that fonts are checked for; targets with others are refused. None: anything can be drawn.
        limit: only the first so many prompts are drawn.

    Raises:
        UserError: names the file, the line and what is allowed.
    """
    size = Path(path).stat().st_size
    if size > FILE_BYTES:
        raise UserError(f"{path}: {size >> 20} MiB; at most {FILE_BYTES >> 20} MiB of prompts are allowed")
    try:
        lines = Path(path).read_bytes().decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text, from byte {error.start} on; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: it cannot be read ({error.strerror}); a readable file is needed") from error
    if lines[0].startswith("\ufeff"):
        raise UserError(f"{path}, line 1: it begins with a byte order mark; save it as UTF-8 without one")
    prompts = [
        (number, check_line(line, f"{path}, line {number}", text))
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    load_prompts(path, text=text)  # what only the whole file can show
    if characters is not None:
        check_drawable(path, prompts[:limit], characters)


def check_line(line: str, where: str, text: bool) -> Prompt:
    """One prompt of a file, checked; `where` (file and line) begins every error."""
    if len(line) > LINE_LENGTH and not line.lstrip().startswith("{"):
        raise UserError(f"{where}: {len(line)} characters; not a JSON object, or nested too deeply")
    try:
        json.loads(line, object_pairs_hook=lambda pairs: once_each(pairs, where))
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply; a flat JSON object is needed, with {', '.join(KEYS)}") from error
    except json.JSONDecodeError as error:
        why = f"{error.msg}, at character {error.pos + 1}"
        raise UserError(f"{where}: not a JSON object ({why}); one is needed, with id, prompt and targets") from error
    except ValueError as error:
        raise UserError(f"{where}: a number with thousands of digits; `count` is the only number there is") from error
    prompt = parse_prompt(line, where, text)
    for key in ("prompt", "kind", "font"):
        check_text(getattr(prompt, key), f"{where}: `{key}`")
    for target in prompt.targets:
        check_text(target, f"{where}: `targets`")
    if len(prompt.id) > ID_LENGTH:
        raise UserError(f"{where}: the id has {len(prompt.id)} characters; at most {ID_LENGTH} are allowed")
    if not prompt.id[0].isalnum():
        raise UserError(f"{where}: the id {shown(prompt.id)} must begin with a letter or a digit")
    if len(prompt.prompt) > PROMPT_LENGTH:
        raise UserError(f"{where}: `prompt` has {len(prompt.prompt)} characters; at most {PROMPT_LENGTH} are allowed")
    read = [normalize(target, "strict") for target in prompt.targets]  # what no score tells apart is the same target
    if len(set(read)) < len(read):
        twice = next(target for target in read if read.count(target) > 1)
        raise UserError(f"{where}: the target {shown(twice)} is given twice; each may be asked for once only")
    asked = folded(prompt.prompt)
    if absent := [target for target in prompt.targets if folded(target) not in asked]:
        raise UserError(f"{where}: the target {shown(absent[0])} is not in its prompt, which must ask for it")
    return prompt


def once_each(pairs: list[tuple[str, object]], where: str) -> dict:
    """A JSON object whose keys all differ."""
    keys = [key for key, _ in pairs]
    for key in keys:
        check_text(key, f"{where}: a key")
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise UserError(f"{where}: the key {shown(twice)} is given twice; keep one of them")
    return dict(pairs)


def check_text(text: str | None, where: str) -> None:
    if found := unseen(text or ""):
        raise UserError(f"{where} {found}")


def check_drawable(path: str, prompts: list[tuple[int, Prompt]], characters: str) -> None:
    """Refuse targets that no font is checked for, all of them at once: no training should have begun before.

    Raises:
        UserError: names the first lines, how many there are, and what to set.
    """
    known = {character for character in characters if not character.isspace()}
    found = [
        (f"line {number}: '{target}'", set("".join(target.split())) - known)
        for number, prompt in prompts
        for target in prompt.targets
    ]
    if undrawn := [(place, missing) for place, missing in found if missing]:
        some = ", ".join(place for place, _ in undrawn[:MOST_SHOWN])
        more = f" and {len(undrawn) - MOST_SHOWN} more" if len(undrawn) > MOST_SHOWN else ""
        lacking = "".join(sorted(set().union(*(missing for _, missing in undrawn))))[:100]
        raise UserError(
            f"{path}, {some}{more}: fonts are not checked for {lacking}; add them to fonts.characters (with fonts that "
            "have them), or draw with a section render"
        )

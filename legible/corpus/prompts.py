"""Prompt sets (JSON lines: id, prompt, targets) and the guarantee that no target is trained on."""

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from legible.corpus.scenes import COUNTS, SHAPES
from legible.corpus.templates import PALETTE
from legible.errors import UserError
from legible.wording import shown

KEYS = ("id", "prompt", "targets", "kind", "font", "color", "background", "count", "shape")
ID = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Prompt:
    """One prompt and the strings that must be readable in its image (none where it asks for no text).

    `font` ("family style"), `color` and `background` (palette names), `count` and `shape` (of `legible.corpus.scenes`)
    say what the prompt asks for, where it does.
    """

    id: str
    prompt: str
    targets: tuple[str, ...]
    kind: str = "other"
    font: str | None = None
    color: str | None = None
    background: str | None = None
    count: int | None = None
    shape: str | None = None


def load_prompts(path: str | Path, limit: int | None = None, *, text: bool = True) -> tuple[Prompt, ...]:
    """Read a prompt set, at most `limit` prompts, in file order.

    Args:
        text: every prompt asks for text and has targets; without, none of them may: `targets` is an empty list.

    Raises:
        UserError: no such file, no prompt in it, a line that is no valid prompt, or an id that occurs twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # JSON may hold what splitlines cuts at
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such prompt file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text") from error
    prompts = [parse_prompt(line, f"{path}, line {n}", text) for n, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise UserError(f"{path}: no prompt in it; one JSON object a line is needed, with id, prompt and targets")
    seen: set[str] = set()
    for prompt in prompts:
        # Compared without case: two files that differ in case only are one file on some systems.
        if prompt.id.lower() in seen:
            raise UserError(f"{path}: the id '{prompt.id}' occurs twice (upper and lower case count as equal)")
        seen.add(prompt.id.lower())
    return tuple(prompts[:limit])


def parse_prompt(line: str, where: str, text: bool = True) -> Prompt:
    """One line of a prompt file, with or without text; `where` (file and line) begins every error."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not a JSON object ({error.msg})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is needed, with id, prompt and targets")
    if unknown := sorted(set(row) - set(KEYS)):
        raise UserError(f"{where}: unknown key '{unknown[0]}'; allowed are {', '.join(KEYS)}")
    targets = row.get("targets")
    if not text and targets != []:
        raise UserError(f"{where}: a prompt with a target; without text `targets` must be an empty list")
    listed = isinstance(targets, list) and bool(targets) and all(isinstance(t, str) and t.strip() for t in targets)
    if text and not listed:
        raise UserError(f"{where}: a prompt without a target; `targets` must be a list of non-empty texts")
    # An id becomes part of a file name.
    if not isinstance(row.get("id"), str) or not ID.fullmatch(row["id"]):
        raise UserError(f"{where}: the id {shown(row.get('id'))} must consist of letters, digits, '_' and '-'")
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise UserError(f"{where}: `prompt` must be a non-empty text")
    for key in ("kind", "font", "color", "background", "shape"):
        if row.get(key) is not None and not isinstance(row[key], str):
            raise UserError(f"{where}: `{key}` must be text, got {shown(row[key])}")
    for key in ("color", "background"):
        if row.get(key) is not None and row[key] not in PALETTE:
            raise UserError(f"{where}: unknown {key} '{row[key]}'; allowed are {', '.join(PALETTE)}")
    if row.get("shape") is not None and row["shape"] not in SHAPES:
        raise UserError(f"{where}: unknown shape '{row['shape']}'; allowed are {', '.join(SHAPES)}")
    count = row.get("count")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= len(COUNTS)):
        raise UserError(f"{where}: `count` must be a whole number from 1 to {len(COUNTS)}, got {shown(count)}")
    return Prompt(
        id=row["id"],
        prompt=row["prompt"],
        targets=tuple(targets),
        kind=row.get("kind") or "other",
        font=row.get("font"),
        color=row.get("color"),
        background=row.get("background"),
        count=count,
        shape=row.get("shape"),
    )


@lru_cache(2**16)  # the same words are compared with many targets
def folded(text: str) -> str:
    """Text as targets are looked for in it: whatever its case and white space, and however it is encoded.

    Composed or not, full-width or not, with invisible format characters (Cf) or without is the same, as for a score
    that is `lenient` (`legible.corpus.text`). Punctuation counts: of a target such as "?!" nothing would be left.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    shown = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", shown).split())


@dataclass(frozen=True)
class Excluded:
    """Evaluation targets (`folded`) that may not occur in training text, not even inside a longer string."""

    targets: frozenset[str]
    lengths: tuple[int, ...]

    @staticmethod
    def of(prompt_sets: Iterable[Iterable[Prompt]]) -> "Excluded":
        """The targets of all these prompt sets; without any set nothing is excluded."""
        targets = frozenset(folded(t) for prompts in prompt_sets for p in prompts for t in p.targets) - {""}
        return Excluded(targets, tuple(sorted({len(target) for target in targets})))

    def hit(self, text: str) -> str | None:
        """A target that occurs in `text` (both `folded`), or None."""
        searched = folded(text)
        # Looking up the few substrings of a short text beats trying every target.
        for length in self.lengths:
            for start in range(len(searched) - length + 1):
                if searched[start : start + length] in self.targets:
                    return searched[start : start + length]
        return None
